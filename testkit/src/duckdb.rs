//! DuckDB as a subprocess: a second engine that nobody here wrote, to judge what ours writes and answers.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program and its extensions, where `cargo xtask services` put them.
#[derive(Debug, Clone)]
pub struct DuckDb {
    program: OsString,
    extensions: Option<PathBuf>,
}

impl DuckDb {
    /// From `SKEP_DUCKDB` and `SKEP_DUCKDB_EXTENSIONS`; `None` if it is not there.
    pub fn find() -> Option<Self> {
        let program = std::env::var_os("SKEP_DUCKDB")?;
        Some(Self { program, extensions: std::env::var_os("SKEP_DUCKDB_EXTENSIONS").map(PathBuf::from) })
    }

    /// Statements that attach the catalog database `path` as `skep`.
    ///
    /// # Panics
    /// If the extensions are not there.
    pub fn attach(&self, path: &Path, read_only: bool) -> String {
        let extensions =
            self.extensions.as_ref().expect("SKEP_DUCKDB_EXTENSIONS names the extensions' folder");
        let load = |name: &str| format!("LOAD '{}/{name}.duckdb_extension';\n", extensions.display());
        let options = if read_only { " (READ_ONLY)" } else { "" };
        format!(
            "{}{}ATTACH 'ducklake:sqlite:{}' AS skep{options};\n",
            load("sqlite_scanner"),
            load("ducklake"),
            path.display()
        )
    }

    /// Statements that attach the catalog in a PostgreSQL database, which `connection` names, as `skep`.
    ///
    /// # Panics
    /// If the extensions are not there.
    pub fn attach_postgres(&self, connection: &str) -> String {
        let extensions =
            self.extensions.as_ref().expect("SKEP_DUCKDB_EXTENSIONS names the extensions' folder");
        let load = |name: &str| format!("LOAD '{}/{name}.duckdb_extension';\n", extensions.display());
        format!(
            "{}{}ATTACH 'ducklake:postgres:{connection}' AS skep;\n",
            load("postgres_scanner"),
            load("ducklake")
        )
    }

    /// Runs a script and returns the rows of its queries, as text.
    ///
    /// # Errors
    /// What DuckDB said.
    pub fn run(&self, script: &str) -> Result<Vec<Vec<String>>, String> {
        // Values come apart at a character that no test data has.
        let mut child = Command::new(&self.program)
            .args(["-noheader", "-list", "-separator", "\u{1f}", "-nullvalue", "NULL", "-bail", "-batch"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("cannot start {:?}: {e}", self.program))?;
        let mut stdin = child.stdin.take().ok_or("stdin is piped")?;
        let text = script.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
        let output = child.wait_with_output().map_err(|e| e.to_string())?;
        let _ = writer.join();
        let stderr = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || !stderr.trim().is_empty() {
            return Err(stderr.into_owned());
        }
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(stdout.lines().map(|line| line.split('\u{1f}').map(str::to_owned).collect()).collect())
    }

    /// Runs one query after `before`, and returns its rows and how many seconds it took by DuckDB's own clock.
    ///
    /// # Errors
    /// What DuckDB said.
    pub fn time(&self, before: &str, query: &str) -> Result<(Vec<Vec<String>>, f64), String> {
        const MARK: &str = "Run Time (s): real ";
        let mut rows = self.run(&format!("{before}\n.timer on\n{query}\n.timer off\n"))?;
        let seconds = rows.iter().flatten().rev().find_map(|value| value.strip_prefix(MARK));
        let seconds = seconds.and_then(|rest| rest.split(' ').next()?.parse().ok());
        rows.retain(|row| !row.first().is_some_and(|value| value.starts_with(MARK)));
        Ok((rows, seconds.ok_or("DuckDB did not say how long the query took")?))
    }
}
