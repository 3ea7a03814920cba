//! The test suites and the measurements.

use std::path::PathBuf;
use std::process::Command;

use crate::run::{Outcome, cargo, commit, run, target};

/// Every test of the workspace, or those whose names contain a filter.
pub(crate) fn test(filters: &[String]) -> Outcome {
    build()?;
    let mut command = cargo(&["test", "--workspace", "--no-fail-fast"]);
    if !filters.is_empty() {
        command.arg("--").args(filters);
    }
    run(command)
}

/// Rewrites the results that slt files expect by what one node answers.
pub(crate) fn bless() -> Outcome {
    build()?;
    let mut command = cargo(&["test", "--workspace", "--test", "it", "--", "--nocapture", "slt::local"]);
    command.env("SKEP_BLESS", "1");
    run(command)
}

/// Cases of a property test where no number is given.
const CASES: &str = "2000";

/// Every test with larger limits, and TPC-H and TPC-DS at scale factor 1.
pub(crate) fn slow() -> Outcome {
    println!("commit {}", commit());
    build()?;
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast"]);
    tests.env("SKEP_SLOW", "1").env("PROPTEST_CASES", CASES);
    run(tests)?;
    tpch(&["--sf".to_owned(), "1".to_owned()])?;
    tpcds(&["--sf".to_owned(), "1".to_owned()])
}

/// TPC-H over worker processes; `arguments` go to the program that measures.
pub(crate) fn tpch(arguments: &[String]) -> Outcome {
    measure("benchmark", &[&["tpch".to_owned()], arguments].concat())
}

/// The same with TPC-DS, once unless told otherwise: there are 99 queries.
pub(crate) fn tpcds(arguments: &[String]) -> Outcome {
    let once = ["tpcds", "--repeat", "1"].map(str::to_owned);
    measure("benchmark", &[&once, arguments].concat())
}

/// Pipelines, against DuckDB and Spark, which are installed if they are not there.
fn measure_elt(arguments: &[String]) -> Outcome {
    crate::services::install()?;
    let spark = crate::services::spark().inspect_err(|why| println!("Spark is skipped: {why}"));
    measure_with("elt_bench", arguments, spark.ok().map(|python| ("SKEP_SPARK", python)))
}

/// Runs a program that measures.
fn measure(program: &str, arguments: &[String]) -> Outcome {
    measure_with(program, arguments, None)
}

fn measure_with(program: &str, arguments: &[String], variable: Option<(&str, PathBuf)>) -> Outcome {
    build()?;
    println!("commit {}", commit());
    let mut command = Command::new(target()?.join("debug").join(program));
    command.args(arguments).envs(variable);
    if let Some(venv) = crate::services::installed()? {
        venv.set(&mut command);
    }
    if let Some(jars) = crate::services::installed_hadoop()? {
        command.env("SKEP_HADOOP", jars);
    }
    run(command)
}

/// The same, small and repeated, against a saved baseline.
pub(crate) fn bench(arguments: &[String]) -> Outcome {
    match arguments.split_first() {
        Some((first, rest)) if first == "catalog" => return measure("catalog_bench", rest),
        Some((first, rest)) if first == "doors" => return measure("doors_bench", rest),
        Some((first, rest)) if first == "elt" => return measure_elt(rest),
        Some((first, rest)) if first == "lanes" => return measure("lanes_bench", rest),
        Some((first, rest)) if first == "store" => return measure("store_bench", rest),
        _ => {}
    }
    let baseline = target()?.join("bench.csv");
    let save = arguments.iter().any(|argument| argument == "--save");
    let mut all: Vec<String> = ["--sf", "0.1", "--repeat", "3"].map(str::to_owned).to_vec();
    all.push(if save { "--save" } else { "--baseline" }.to_owned());
    all.push(baseline.display().to_string());
    tpch(&all)
}

/// Builds everything that tests need, the program itself too, in one go.
pub(crate) fn build() -> Outcome {
    run(cargo(&["build", "--workspace", "--all-targets"]))
}
