//! What review would say without a reader.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Outcome, cargo, read, root, run};
use crate::{docs, graph};

/// Longest source file, unit tests aside.
const LINES_MAX: usize = 800;

/// Everything that can be checked without running a test. Reports all problems, not the first.
///
/// `quick` leaves out what compiles.
pub(crate) fn check(quick: bool) -> Outcome {
    let mut problems = graph::problems()?;
    problems.extend(sources()?);
    problems.extend(docs::problems()?);
    problems.extend(features()?);
    let mut lints = cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    lints.env("CARGO_TERM_COLOR", "auto");
    let mut rustdoc = cargo(&["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"]);
    rustdoc.env(
        "RUSTDOCFLAGS",
        "-D warnings -A rustdoc::private_intra_doc_links -A rustdoc::redundant_explicit_links",
    );
    let format = cargo(&["fmt", "--all", "--check"]);
    let commands = if quick { vec![format] } else { vec![format, lints, rustdoc] };
    for command in commands {
        if let Err(problem) = run(command) {
            problems.push(problem);
        }
    }
    for problem in &problems {
        eprintln!("problem: {problem}");
    }
    match problems.len() {
        0 => {
            eprintln!("check: all is well");
            Ok(())
        }
        1 => Err("check found 1 problem".to_owned()),
        count => Err(format!("check found {count} problems")),
    }
}

/// Makes what can be made right without thought.
pub(crate) fn fix() -> Outcome {
    docs::write()?;
    let lints = ["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"];
    run(cargo(&lints))?;
    run(cargo(&["fmt", "--all"]))
}

/// Rules of the house for source files that no lint knows.
fn sources() -> Outcome<Vec<String>> {
    let mut problems = Vec::new();
    for path in tracked("rs")? {
        let text =
            fs::read_to_string(root().join(&path)).map_err(|e| format!("cannot read {path:?}: {e}"))?;
        let name = path.display();
        if let Some(line) = text.lines().position(|line| !line.is_ascii()) {
            problems.push(format!("{name}:{}: sources are ASCII; write \\u{{..}}", line + 1));
        }
        let ignored = concat!("#[", "ignore");
        if let Some(line) = text.lines().position(|line| line.trim_start().starts_with(ignored)) {
            problems.push(format!("{name}:{}: a test runs or does not exist; nothing is ignored", line + 1));
        }
        let tests = text.lines().position(|line| line.starts_with("mod tests")).unwrap_or(usize::MAX);
        let lines = text.lines().count().min(tests);
        if lines > LINES_MAX && !path.components().any(|part| part.as_os_str() == "tests") {
            problems.push(format!("{name}: {lines} lines; split it (at most {LINES_MAX}, unit tests aside)"));
        }
    }
    Ok(problems)
}

/// Dependencies that would be built twice: once for `cargo run`, once for `cargo test --workspace`.
fn features() -> Outcome<Vec<String>> {
    let tree = |which: &[&str]| -> Outcome<Vec<String>> {
        let mut arguments =
            vec!["tree", "--edges", "normal,build", "--prefix", "none", "--format", "{p} [{f}]"];
        arguments.extend(which);
        let text = read(cargo(&arguments))?;
        let lines = text.lines().map(|line| line.trim_end_matches(" (*)").to_owned());
        let mut lines: Vec<String> = lines.filter(|line| !line.starts_with("skep")).collect();
        lines.sort();
        lines.dedup();
        Ok(lines)
    };
    let whole = tree(&["--workspace"])?;
    let own = tree(&["--package", "skep"])?;
    let differ = own.into_iter().filter(|line| whole.binary_search(line).is_err());
    Ok(differ
        .map(|line| {
            format!("'{line}' has other features in the workspace: name them all in the root Cargo.toml, so that it is built once")
        })
        .collect())
}

/// Files under version control with this extension, and new ones that are not ignored.
pub(crate) fn tracked(extension: &str) -> Outcome<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.current_dir(root()).args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let files = read(git)?;
    let files =
        files.lines().map(PathBuf::from).filter(|path| path.extension().is_some_and(|e| e == extension));
    Ok(files.filter(|path: &PathBuf| is_file(path)).collect())
}

fn is_file(path: &Path) -> bool {
    fs::metadata(root().join(path)).is_ok_and(|file| file.is_file())
}
