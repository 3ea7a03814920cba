//! Measures TPC-H or TPC-DS: `benchmark tpch|tpcds [--sf N] [--repeat N] [--only qN,..] [--save FILE | --baseline FILE]`.
//!
//! Run it by `cargo xtask tpch` and `cargo xtask tpcds`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use skep_testkit::benchmark::{self, Benchmark, LANES, Report};
use skep_testkit::tpcds::TPCDS;
use skep_testkit::tpch::TPCH;

struct Options {
    benchmark: Benchmark,
    scale: f64,
    repeat: usize,
    only: Option<String>,
    save: Option<PathBuf>,
    baseline: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("error: {problem}");
            return ExitCode::from(2);
        }
    };
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(e) => {
            eprintln!("error: no folder for the data: {e}");
            return ExitCode::FAILURE;
        }
    };
    println!("{} scale factor {}, best of {}", options.benchmark.name, options.scale, options.repeat);
    let how = benchmark::Options {
        scale: options.scale,
        repeat: options.repeat,
        lanes: &LANES,
        only: options.only.as_deref(),
        place: None,
    };
    let report =
        match options.benchmark.run(folder.path(), how, |timing| eprintln!("{}", timing.line())).await {
            Ok(report) => report,
            Err(error) => {
                eprintln!("error: {}", error.report());
                return ExitCode::FAILURE;
            }
        };
    print!("{}", report.text());
    if let Some(path) = &options.baseline {
        compare(&report, path);
    }
    if let Some(path) = &options.save
        && let Err(e) = std::fs::write(path, lines(&report))
    {
        eprintln!("error: cannot write '{}': {e}", path.display());
        return ExitCode::FAILURE;
    }
    if report.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn options() -> Result<Options, String> {
    let mut arguments = std::env::args().skip(1);
    let benchmark = match arguments.next().as_deref() {
        Some("tpch") => TPCH,
        Some("tpcds") => TPCDS,
        _ => return Err("the first argument is 'tpch' or 'tpcds'".to_owned()),
    };
    let mut options = Options { benchmark, scale: 1.0, repeat: 3, only: None, save: None, baseline: None };
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("'{name}' needs a value"))?;
        let number = || format!("'{value}' is not a number that {name} takes");
        match name.as_str() {
            "--sf" => options.scale = value.parse().ok().filter(|n| *n > 0.0).ok_or_else(number)?,
            "--repeat" => options.repeat = value.parse().ok().filter(|n| *n > 0).ok_or_else(number)?,
            "--only" => options.only = Some(value),
            "--save" => options.save = Some(value.into()),
            "--baseline" => options.baseline = Some(value.into()),
            _ => return Err(format!("there is no option '{name}'")),
        }
    }
    Ok(options)
}

/// One line for each query: its name, then the seconds of each lane.
fn lines(report: &Report) -> String {
    let seconds = |t: &Option<f64>| t.map_or_else(String::new, |s| s.to_string());
    let line = |t: &benchmark::Timing| {
        let lanes: Vec<String> = t.lanes.iter().map(seconds).collect();
        format!("{},{}\n", t.query, lanes.join(","))
    };
    report.timings.iter().map(line).collect()
}

/// Says how much slower or faster each lane became since the baseline was saved.
fn compare(report: &Report, path: &Path) {
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("no baseline yet: 'cargo xtask bench --save' keeps one");
        return;
    };
    let baseline: HashMap<&str, Vec<Option<f64>>> = text
        .lines()
        .filter_map(|line| line.split_once(','))
        .map(|(query, lanes)| (query, lanes.split(',').map(|seconds| seconds.parse().ok()).collect()))
        .collect();
    for (lane, name) in report.lanes.iter().enumerate() {
        let before = |t: &benchmark::Timing| *baseline.get(t.query.as_str())?.get(lane)?;
        match report.ratio(|t| t.lanes[lane], before) {
            Some(ratio) => {
                println!("{name} takes {ratio:.2} times as long as the saved baseline (geometric mean)");
            }
            None => println!(
                "the saved baseline says nothing about {name}: 'cargo xtask bench --save' writes it anew"
            ),
        }
    }
}
