//! Measures TPC-H: `tpch [--sf N] [--repeat N] [--save FILE | --baseline FILE]`. Run it by `cargo xtask tpch`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use skep_testkit::tpch::{self, Report};

struct Options {
    scale: f64,
    repeat: usize,
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
    println!("TPC-H scale factor {}, best of {}", options.scale, options.repeat);
    let report = match tpch::run(folder.path(), options.scale, options.repeat).await {
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
    let mut options = Options { scale: 1.0, repeat: 3, save: None, baseline: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("'{name}' needs a value"))?;
        let number = || format!("'{value}' is not a number that {name} takes");
        match name.as_str() {
            "--sf" => options.scale = value.parse().ok().filter(|n| *n > 0.0).ok_or_else(number)?,
            "--repeat" => options.repeat = value.parse().ok().filter(|n| *n > 0).ok_or_else(number)?,
            "--save" => options.save = Some(value.into()),
            "--baseline" => options.baseline = Some(value.into()),
            _ => return Err(format!("there is no option '{name}'")),
        }
    }
    Ok(options)
}

fn lines(report: &Report) -> String {
    report.timings.iter().map(|t| format!("{},{},{}\n", t.query, t.local, t.pipelined)).collect()
}

/// Says how much slower or faster each lane became since the baseline was saved.
fn compare(report: &Report, path: &std::path::Path) {
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("no baseline yet: 'cargo xtask bench --save' keeps one");
        return;
    };
    let baseline: HashMap<usize, (f64, f64)> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(',');
            let query = fields.next()?.parse().ok()?;
            Some((query, (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?)))
        })
        .collect();
    let local = report.ratio(|t| Some(t.local), |t| baseline.get(&t.query).map(|b| b.0));
    let pipelined = report.ratio(|t| Some(t.pipelined), |t| baseline.get(&t.query).map(|b| b.1));
    for (lane, ratio) in [("local", local), ("pipelined", pipelined)] {
        if let Some(ratio) = ratio {
            println!("{lane} takes {ratio:.2} times as long as the saved baseline (geometric mean)");
        }
    }
}
