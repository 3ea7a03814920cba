//! Measures how fast rows leave through Flight SQL: `doors_bench [--rows N] [--repeat N]`. Run it by `cargo xtask bench doors`.
//!
//! One server, and a Python program that fetches through ADBC and, in the same run, from DuckDB: `testkit/python/doors_bench.py`.

use std::process::{Command, ExitCode};

use skep_common::{Error, Result};
use skep_testkit::process::Server;
use skep_testkit::root;

fn main() -> ExitCode {
    let (mut rows, mut repeat) = (5_000_000u64, 3u64);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    for pair in arguments.chunks(2) {
        match pair {
            [name, value] if name == "--rows" => rows = value.parse().unwrap_or(0),
            [name, value] if name == "--repeat" => repeat = value.parse().unwrap_or(0),
            _ => rows = 0,
        }
    }
    if rows == 0 || repeat == 0 {
        eprintln!("usage: doors_bench [--rows N] [--repeat N]");
        return ExitCode::from(2);
    }
    match measure(rows, repeat) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.report());
            ExitCode::FAILURE
        }
    }
}

fn measure(rows: u64, repeat: u64) -> Result<()> {
    let python = std::env::var_os("SKEP_PYTHON")
        .ok_or_else(|| Error::invalid("SKEP_PYTHON is not set").hint("run 'cargo xtask services' once"))?;
    let folder = tempfile::tempdir().map_err(|e| Error::internal("no folder for the data").source(e))?;
    let data = folder.path().join("data");
    let arguments =
        ["up", "--data", &data.to_string_lossy(), "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let server = Server::start(&arguments)
        .map_err(|output| Error::unavailable(format!("the server did not start: {}", output.stderr)))?;
    let mut script = Command::new(python);
    script.arg(root().join("testkit/python/doors_bench.py")).arg(server.flight());
    let status = script.args([rows.to_string(), repeat.to_string()]).status();
    let status = status.map_err(|e| Error::unavailable("Python does not start").source(e))?;
    if status.success() { Ok(()) } else { Err(Error::internal(format!("the measurement failed: {status}"))) }
}
