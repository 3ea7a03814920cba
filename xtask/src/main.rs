//! Developer commands: `cargo xtask COMMAND`.
//!
//! ```text
//! check     what review would say without a reader: format, lints, crate graph, documents
//! fix       formats, applies lints, writes generated documents
//! test      every test; slow, services, tpch, tpcds, bench: what takes longer or needs more
//! ```
//!
//! Depends on nothing but the standard library, so that it compiles in a moment, and calls `cargo` with the whole
//! workspace always, so that every dependency is built with one set of features and once.

mod check;
mod docs;
mod graph;
mod run;
mod services;
mod suites;

use std::process::ExitCode;

const HELP: &str = "\
developer commands

usage: cargo xtask COMMAND

  check [--quick]  format, lints, crate graph, documents and links; never writes; quick compiles nothing
  fix              formats, applies lints, writes generated documents
  test [FILTER..]  unit tests, slt files on one node and on three workers, TPC-H and TPC-DS SF 0.01, processes
  bless            rewrites the expected results of slt files; read the diff
  services         the tests that need DuckDB, Python clients, S3 or HDFS, which it installs under the target folder
  services stores  those of S3 and HDFS alone
  slow             every test with larger limits, then TPC-H and TPC-DS SF 1; prints the commit and the figures
  tpch [--sf N]    TPC-H over three worker processes, compared with DuckDB and plain DataFusion
  tpcds [--sf N]   the same with TPC-DS
  bench [--save]   fixed queries; compares with the saved baseline
  bench catalog    planning on a table of 100,000 files, commits of 1,000; memory
  bench doors      rows a second through ADBC beside DuckDB's, and the time to the first row
  bench store      writes and reads with 1, 2, 3 replicas, plain files, HDFS; the repair after a lost worker
  bench elt        pipelines: the projects of flights and of TPC-H, beside DuckDB and Spark
  bench lanes      the three lanes: TPC-H, latency, a killed worker, many clients at once
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    let outcome = match command {
        "check" => check::check(rest.iter().any(|argument| argument == "--quick")),
        "fix" => check::fix(),
        "test" => suites::test(rest),
        "bless" => suites::bless(),
        "services" => services::services(rest.iter().any(|argument| argument == "stores")),
        "slow" => suites::slow(),
        "tpch" => suites::tpch(rest),
        "tpcds" => suites::tpcds(rest),
        "bench" => suites::bench(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => {
            eprint!("error: there is no command '{other}'\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}
