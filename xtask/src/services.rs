//! The tests that judge Skep by programs nobody here wrote, DuckDB and Python clients of Arrow Flight SQL, and that type into
//! the shell on a pseudo-terminal, which Python has.
//!
//! They are installed from the Python package index into a folder under the target directory. Tests find them by
//! `SKEP_DUCKDB` (the program), `SKEP_DUCKDB_EXTENSIONS` (the folder of its extensions) and `SKEP_PYTHON`, and a PostgreSQL
//! server of this machine by `SKEP_POSTGRES_BIN` (the folder of `initdb` and `postgres`). Tests are named after what they
//! need: `duckdb`, `adbc`, `postgres` or, as a module, `pty`. `SKEP_REQUIRE_SERVICES` makes a test that misses them fail.
//!
//! The tests of the crates that keep tables in the metadata database run once more, on PostgreSQL (`SKEP_POSTGRES`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run::{Outcome, cargo, read, root, run, target};
use crate::suites;

/// The DuckDB packages are pinned to one another: an extension loads into exactly its own version.
const PACKAGES: [&str; 7] = [
    "duckdb-cli==1.5.5",
    "duckdb-extension-ducklake==1.5.5",
    "duckdb-extension-sqlite-scanner==1.5.5",
    "duckdb-extension-postgres-scanner==1.5.5",
    "adbc-driver-flightsql==1.13.0",
    "adbc-driver-manager==1.13.0",
    "pyarrow==26.0.1",
];
/// What the names of tests that need them contain.
const TESTS: [&str; 4] = ["duckdb", "adbc", "pty::", "postgres"];
/// The crates whose tables are in the metadata database, by their folders.
const ON_POSTGRES: [&str; 3] = ["metadb", "catalog", "store"];

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
    let postgres = postgres();
    match &postgres {
        Some(programs) => command.env("SKEP_POSTGRES_BIN", programs),
        None => command.args(["--skip", "postgres"]),
    };
    run(command)?;
    println!("services: ran the tests named after {} with {}", TESTS.join(", "), PACKAGES.join(", "));
    match postgres {
        Some(programs) => {
            on_postgres(&programs)?;
            println!("services: ran all tests of {} on PostgreSQL too", ON_POSTGRES.join(", "));
            println!("services: nothing was skipped");
        }
        None => println!(
            "services: skipped PostgreSQL, the tests named after it and those of {} on it: there is no initdb on the \
             PATH or under /usr/lib/postgresql",
            ON_POSTGRES.join(", ")
        ),
    }
    Ok(())
}

/// The folder of a server's programs, if this machine has them.
fn postgres() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut installed: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    installed.sort();
    folders.extend(installed.into_iter().rev());
    let complete = |folder: &PathBuf| ["initdb", "postgres"].iter().all(|name| folder.join(name).is_file());
    // A link to initdb alone would not find what lies beside it.
    folders
        .into_iter()
        .find(complete)
        .and_then(|folder| folder.join("initdb").canonicalize().ok()?.parent().map(Path::to_path_buf))
}

/// Runs all tests of the crates that keep tables in the metadata database, on a server.
fn on_postgres(programs: &Path) -> Outcome {
    let listing = read(cargo(&["test", "--workspace", "--no-run", "--message-format", "json"]))?;
    let value = |line: &str, key: &str| {
        let key = format!("\"{key}\":\"");
        let start = line.find(&key)? + key.len();
        Some(line[start..].split('"').next()?.to_owned())
    };
    for line in listing.lines().filter(|line| line.contains("\"reason\":\"compiler-artifact\"")) {
        let (Some(package), Some(program)) = (value(line, "package_id"), value(line, "executable")) else {
            continue;
        };
        let name = package.rsplit_once('#').map_or("", |(path, _)| path.rsplit('/').next().unwrap_or(""));
        if !ON_POSTGRES.contains(&name) {
            continue;
        }
        let mut command = Command::new(target()?.join("debug").join("with_postgres"));
        command.arg(program).env("SKEP_POSTGRES_BIN", programs).current_dir(root().join(name));
        run(command)?;
    }
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
