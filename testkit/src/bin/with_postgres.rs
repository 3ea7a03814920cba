//! Runs a command while a PostgreSQL server of its own runs: `with_postgres COMMAND ARGUMENTS...`

use std::process::ExitCode;

fn main() -> ExitCode {
    let command: Vec<_> = std::env::args_os().skip(1).collect();
    match skep_testkit::postgres::run_with(&command) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            eprintln!("with_postgres: {error}");
            ExitCode::from(2)
        }
    }
}
