//! The tests that judge Skep by programs nobody here wrote, DuckDB and Python clients of Arrow Flight SQL, and that type into
//! the shell on a pseudo-terminal, which Python has.
//!
//! They are installed from the Python package index into a folder under the target directory. Tests find them by
//! `SKEP_DUCKDB` (the program), `SKEP_DUCKDB_EXTENSIONS` (the folder of `ducklake.duckdb_extension` and
//! `sqlite_scanner.duckdb_extension`) and `SKEP_PYTHON`, and are named after what they need, `duckdb`, `adbc` or, as a module, `pty`. `SKEP_REQUIRE_SERVICES` makes a test that misses them fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run::{Outcome, cargo, run, target};
use crate::suites;

/// The DuckDB packages are pinned to one another: an extension loads into exactly its own version.
const PACKAGES: [&str; 6] = [
    "duckdb-cli==1.5.5",
    "duckdb-extension-ducklake==1.5.5",
    "duckdb-extension-sqlite-scanner==1.5.5",
    "adbc-driver-flightsql==1.13.0",
    "adbc-driver-manager==1.13.0",
    "pyarrow==26.0.1",
];
/// What the names of tests that need them contain.
const TESTS: [&str; 3] = ["duckdb", "adbc", "pty::"];

/// Where the programs are.
pub(crate) struct Venv {
    folder: PathBuf,
}

impl Venv {
    /// Tells a program where they are.
    pub(crate) fn set(&self, command: &mut Command) {
        command
            .env("SKEP_DUCKDB", self.folder.join("bin/duckdb"))
            .env("SKEP_DUCKDB_EXTENSIONS", self.folder.join("extensions"))
            .env("SKEP_PYTHON", self.folder.join("bin/python"));
    }
}

/// Installs the programs if they are not there yet, and runs the tests that need them.
pub(crate) fn services() -> Outcome {
    let venv = install()?;
    suites::build()?;
    let mut command = cargo(&["test", "--workspace", "--no-fail-fast", "--"]);
    command.args(TESTS).env("SKEP_REQUIRE_SERVICES", "1");
    venv.set(&mut command);
    run(command)?;
    println!("services: ran the tests named after {} with {}", TESTS.join(", "), PACKAGES.join(", "));
    println!("services: nothing was skipped");
    Ok(())
}

/// The programs, if an earlier run installed them.
pub(crate) fn installed() -> Outcome<Option<Venv>> {
    let folder = target()?.join("services");
    let complete = fs::read_to_string(folder.join("installed")).is_ok_and(|list| list == PACKAGES.join("\n"));
    if complete { found(folder).map(Some) } else { Ok(None) }
}

fn install() -> Outcome<Venv> {
    if let Some(venv) = installed()? {
        return Ok(venv);
    }
    let folder = target()?.join("services");
    let why = |problem: String| {
        format!(
            "services: every test was skipped, since DuckDB and the Python clients could not be installed: {problem}; \
             this needs python3 with its venv module and a Python package index that pip can reach"
        )
    };
    let mut create = Command::new("python3");
    create.args(["-m", "venv", "--clear"]).arg(&folder);
    run(create).map_err(why)?;
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES);
    run(pip).map_err(why)?;
    gather_extensions(&folder)?;
    let venv = found(folder.clone())?;
    fs::write(folder.join("installed"), PACKAGES.join("\n"))
        .map_err(|e| format!("cannot write {folder:?}: {e}"))?;
    Ok(venv)
}

fn found(folder: PathBuf) -> Outcome<Venv> {
    works(&folder.join("bin/duckdb"))?;
    works(&folder.join("bin/python"))?;
    Ok(Venv { folder })
}

/// Collects the DuckDB extensions, each deep in a package of its own, into one folder.
fn gather_extensions(folder: &Path) -> Outcome {
    let to = folder.join("extensions");
    fs::create_dir_all(&to).map_err(|e| format!("cannot create '{}': {e}", to.display()))?;
    let mut open = vec![folder.join("lib")];
    while let Some(path) = open.pop() {
        let entries = fs::read_dir(&path).map_err(|e| format!("cannot read '{}': {e}", path.display()))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let Some(name) = path.file_name() else { continue };
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "duckdb_extension") {
                fs::copy(&path, to.join(name))
                    .map_err(|e| format!("cannot copy '{}': {e}", path.display()))?;
            }
        }
    }
    Ok(())
}

fn works(program: &Path) -> Outcome {
    let mut command = Command::new(program);
    let status = command.arg("--version").stdout(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("'{}' does not run ({status})", program.display())),
        Err(e) => Err(format!("'{}' does not run: {e}", program.display())),
    }
}
