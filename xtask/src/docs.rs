//! Documents that are generated, and facts in written ones that can be checked.

use std::fs;
use std::path::Path;

use crate::check::tracked;
use crate::graph::{folder, members};
use crate::run::{Outcome, root};

const ERRORS: &str = "docs/errors.md";
const QUERY: &str = "docs/query.md";

/// Generated documents that are stale, links that lead nowhere, names that no source has.
pub(crate) fn problems() -> Outcome<Vec<String>> {
    let mut problems = Vec::new();
    for (path, expected) in generated()? {
        if fs::read_to_string(root().join(path)).unwrap_or_default() != expected {
            problems.push(format!("{path} is stale: run 'cargo xtask fix'"));
        }
    }
    for path in tracked("md")? {
        let text = read(&path)?;
        problems.extend(broken_links(&path, &text));
    }
    problems.extend(unknown_names(QUERY)?);
    Ok(problems)
}

/// Writes every generated document.
pub(crate) fn write() -> Outcome {
    for (path, text) in generated()? {
        fs::write(root().join(path), text).map_err(|e| format!("cannot write '{path}': {e}"))?;
    }
    Ok(())
}

fn generated() -> Outcome<Vec<(&'static str, String)>> {
    let source = read(Path::new("common/src/error.rs"))?;
    Ok(vec![(ERRORS, errors(&source)?)])
}

/// `errors.md` from the source of `Kind`: its variants, their comments, and the matches beside it.
fn errors(source: &str) -> Outcome<String> {
    let body = between(source, "pub enum Kind {", "\n}").ok_or("error.rs has no 'pub enum Kind'")?;
    let names = between(source, "pub fn name(self)", "\n    }").ok_or("Kind has no 'name'")?;
    let codes = between(source, "fn grpc(self)", "\n    }").ok_or("Kind has no 'grpc'")?;
    let retry = between(source, "pub fn retryable(self)", "\n    }").ok_or("Kind has no 'retryable'")?;
    let arm = |matches: &str, kind: &str| -> Option<String> {
        let line = matches.lines().find(|line| line.trim().starts_with(&format!("Kind::{kind} =>")))?;
        let value = line.split("=>").nth(1)?.trim().trim_end_matches(',').trim_matches('"');
        Some(value.rsplit("::").next()?.to_owned())
    };
    let mut text = String::from(
        "# Errors\n\n\
         <!-- Generated from common/src/error.rs by 'cargo xtask fix'. -->\n\n\
         Every error has a kind, which says what the caller can do, a message, and where they are known: the position in the\n\
         statement, a hint, and the causes. All of it travels in the gRPC status, over Flight SQL and between nodes.\n\
         \"Retry\" means that the same request, sent again unchanged, may succeed.\n\n\
         | Kind | Means | Retry | gRPC code |\n|---|---|---|---|\n",
    );
    let mut meaning = Vec::new();
    for line in body.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("///") {
            meaning.push(comment.trim());
        } else if let Some(kind) = line.strip_suffix(',') {
            let name = arm(names, kind).ok_or_else(|| format!("Kind::{kind} has no name"))?;
            let code = arm(codes, kind).ok_or_else(|| format!("Kind::{kind} has no gRPC code"))?;
            let again = if retry.contains(&format!("Kind::{kind}")) { "yes" } else { "no" };
            text += &format!("| `{name}` | {} | {again} | {code} |\n", meaning.join(" "));
            meaning.clear();
        }
    }
    Ok(text)
}

/// Relative links of a document that name no file.
fn broken_links(path: &Path, text: &str) -> Vec<String> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files = links.map(|link| link.split('#').next().unwrap_or_default());
    let local =
        files.filter(|file| !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:"));
    local
        .filter(|file| fs::metadata(root().join(folder).join(file)).is_err())
        .map(|file| format!("{}: the link '{file}' leads nowhere", path.display()))
        .collect()
}

/// Names in code spans such as `engine::sql::parse` that their crate does not define.
fn unknown_names(document: &str) -> Outcome<Vec<String>> {
    let text = read(Path::new(document))?;
    let crates = members()?;
    let mut problems = Vec::new();
    for span in text.split('`').skip(1).step_by(2).filter(|span| span.contains("::")) {
        let parts: Vec<&str> = span.trim_end_matches("()").split("::").collect();
        let plain = |part: &&str| part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let Some(krate) = crates.iter().find(|name| name.as_str() == parts[0]) else { continue };
        if !parts.iter().all(plain) {
            continue;
        }
        let source = sources(krate)?;
        for part in &parts[1..] {
            if !source.iter().any(|file| file.defines(part)) {
                problems.push(format!("{document}: `{span}`: crate '{krate}' defines no '{part}'"));
            }
        }
    }
    Ok(problems)
}

struct Source {
    module: String,
    text: String,
}

impl Source {
    fn defines(&self, name: &str) -> bool {
        let keywords = ["fn", "struct", "enum", "trait", "mod", "const", "type", "static"];
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        self.module == name
            || keywords.iter().any(|keyword| {
                self.text
                    .match_indices(&format!("{keyword} {name}"))
                    .any(|(at, found)| ends(&self.text[at + found.len()..]))
            })
            || self.text.lines().any(|line| {
                let line = line.trim().trim_start_matches("pub ");
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with([',', '(', '{', ':']) || rest.starts_with(" {"))
            })
    }
}

fn sources(krate: &str) -> Outcome<Vec<Source>> {
    let inside = Path::new(folder(krate)).join("src");
    let inside = inside.strip_prefix(".").unwrap_or(&inside).to_path_buf();
    let files = tracked("rs")?.into_iter().filter(|path| path.starts_with(&inside));
    files
        .map(|path| {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let parent = path.parent().and_then(Path::file_name).unwrap_or_default();
            let module = if stem == "mod" { parent.to_string_lossy().into_owned() } else { stem };
            Ok(Source { module, text: read(&path)? })
        })
        .collect()
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let rest = &text[text.find(open)? + open.len()..];
    Some(&rest[..rest.find(close)?])
}

fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(root().join(path)).map_err(|e| format!("cannot read '{}': {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_list_every_kind() {
        let text = errors(&read(Path::new("common/src/error.rs")).unwrap()).unwrap();
        assert!(text.contains("| `invalid` | The statement, argument or configuration is wrong."), "{text}");
        assert!(text.contains("| `conflict` |") && text.contains("| yes | Aborted |"), "{text}");
    }

    #[test]
    fn a_link_that_leads_nowhere_is_found() {
        let text = "see [this](Cargo.toml#x), [that](https://example.invalid) and [none](nowhere.md)";
        let problems = broken_links(Path::new("README.md"), text);
        assert_eq!(problems, ["README.md: the link 'nowhere.md' leads nowhere"]);
    }

    #[test]
    fn a_definition_is_found_by_its_whole_name() {
        let source =
            Source { module: "lanes".into(), text: "pub fn run_all() {}\nenum A {\n    Local,\n}".into() };
        assert!(source.defines("run_all") && source.defines("lanes") && source.defines("Local"));
        assert!(!source.defines("run"));
    }
}
