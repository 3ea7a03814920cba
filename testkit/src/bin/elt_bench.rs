//! Measures pipelines: `elt_bench [--sf N] [--repeat N]`. Run it by `cargo xtask bench elt`.
//!
//! The project of flights, and that of TPC-H with its six marts, from raw files and an empty warehouse. The same models are run by
//! DuckDB in the process of a Python program and by PySpark on two threads (`testkit/python/elt_peers.py`), whose marts are compared
//! row by row with ours. Ours run with their tests and in one transaction, and are timed with the start of the client; theirs are
//! timed without starting the engine.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use datafusion::prelude::{ParquetReadOptions, SessionContext};
use skep_common::{Error, Result, clock};
use skep_testkit::benchmark::{LANES, LAST_DIGIT};
use skep_testkit::client::Client;
use skep_testkit::process::{Output, Server, output, skep};
use skep_testkit::{root, rows, testdata, tpch};

/// An engine beside ours: its name, and the Python that has it.
struct Peer {
    name: &'static str,
    python: OsString,
}

/// A project, and the folder of its raw files.
struct Project {
    folder: PathBuf,
    raw: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let (mut scale, mut repeat) = (1.0, 1u32);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    for pair in arguments.chunks(2) {
        match pair {
            [name, value] if name == "--sf" => scale = value.parse().unwrap_or(0.0),
            [name, value] if name == "--repeat" => repeat = value.parse().unwrap_or(0),
            _ => scale = 0.0,
        }
    }
    if scale <= 0.0 || repeat == 0 {
        eprintln!("usage: elt_bench [--sf N] [--repeat N]");
        return ExitCode::from(2);
    }
    match measure(scale, repeat).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", error.report());
            ExitCode::FAILURE
        }
    }
}

fn peers() -> Vec<Peer> {
    let peers = [("duckdb", "SKEP_PYTHON"), ("spark", "SKEP_SPARK")];
    let found = |(name, variable)| {
        let python = std::env::var_os(variable);
        if python.is_none() {
            println!("{name} is skipped: {variable} does not name a Python that has it");
        }
        Some(Peer { name, python: python? })
    };
    peers.into_iter().filter_map(found).collect()
}

async fn measure(scale: f64, repeat: u32) -> Result<bool> {
    let folder = tempfile::tempdir().map_err(|e| Error::internal("no folder for the data").source(e))?;
    let peers = peers();
    let flights = Project { folder: root().join("examples/flights"), raw: testdata().join("flights/raw") };
    println!("flights: a month, 27,004 rows");
    let mut equal = compare(&flights, &folder.path().join("flights"), &peers, repeat).await?;
    let star = folder.path().join("tpch");
    copy(&root().join("examples/tpch"), &star).map_err(|e| Error::internal("no copy").source(e))?;
    let tpch = Project { raw: star.join("raw"), folder: star };
    tpch::generate(&tpch.raw, scale)?;
    println!("\nTPC-H at scale factor {scale}, a star with six marts");
    equal &= compare(&tpch, &folder.path().join("star"), &peers, repeat).await?;
    Ok(equal)
}

/// Runs a project in every lane and in every other engine, in folders below `work`. Whether all rows are equal.
async fn compare(project: &Project, work: &Path, peers: &[Peer], repeat: u32) -> Result<bool> {
    std::fs::create_dir_all(work).map_err(|e| Error::internal("no folder for the data").source(e))?;
    let path = project.folder.display().to_string();
    let graph = work.join("graph.json");
    let drawn = ended(output(skep(&["pipeline", "graph", &path, "--format", "json"])))?;
    std::fs::write(&graph, drawn).map_err(|e| Error::internal("no graph").source(e))?;
    let mut marts = Vec::new();
    let mut ours = Vec::new();
    for lane in LANES {
        let (mut first, mut second) = (f64::INFINITY, f64::INFINITY);
        for turn in 0..repeat {
            let data = work.join(format!("{lane}-{turn}"));
            let server = up(&data)?;
            let arguments = ["pipeline", "run", &path, "--url", server.flight(), "--execution", lane];
            first = first.min(timed(&arguments)?);
            second = second.min(timed(&arguments)?);
            if marts.is_empty() {
                marts = read(server.flight()).await?;
            }
            drop(server);
            std::fs::remove_dir_all(&data).map_err(|e| Error::internal("cannot clean up").source(e))?;
        }
        println!("  skep, {lane:<12} {first:>8.2} s; again, with nothing to do {second:.2} s");
        ours.push((lane, first));
    }
    let mut equal = true;
    for peer in peers {
        let mut least = f64::INFINITY;
        for turn in 0..repeat {
            let out = work.join(format!("{}-{turn}", peer.name));
            least = least.min(theirs(peer, project, &graph, &out)?);
            if turn == 0 {
                equal &= same(&marts, peer, &out).await?;
            }
        }
        println!("  {:<18} {least:>8.2} s", peer.name);
        for (lane, took) in &ours {
            println!("    its time divided by that of {lane:<10} {:>6.2}", least / took);
        }
    }
    Ok(equal)
}

fn up(data: &Path) -> Result<Server> {
    let data = data.display().to_string();
    Server::start(&["up", "--data", &data, "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .map_err(|output| Error::unavailable(format!("the server did not start: {}", output.stderr)))
}

fn ended(output: Output) -> Result<String> {
    if output.code == Some(0) {
        return Ok(output.stdout);
    }
    Err(Error::internal(format!("{}{}", output.stdout, output.stderr)))
}

/// Seconds that a command of the program takes.
fn timed(arguments: &[&str]) -> Result<f64> {
    let clock = clock::system();
    let start = clock.instant();
    ended(output(skep(arguments)))?;
    Ok((clock.instant() - start).as_secs_f64())
}

/// A table: its name, its columns and its rows.
struct Mart {
    name: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

async fn read(url: &str) -> Result<Vec<Mart>> {
    let mut client = Client::connect(url).await?;
    let names = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'mart' ORDER BY 1";
    let mut marts = Vec::new();
    for name in client.rows(names).await?.into_iter().flatten() {
        let (schema, batches) = client.query(&format!("SELECT * FROM mart.{name}")).await?;
        let columns = schema.fields().iter().map(|field| field.name().clone()).collect();
        marts.push(Mart { name: format!("mart.{name}"), columns, rows: rows::text(&batches)? });
    }
    Ok(marts)
}

/// Seconds that another engine takes for the models of a project. Its marts are below `out`.
fn theirs(peer: &Peer, project: &Project, graph: &Path, out: &Path) -> Result<f64> {
    std::fs::create_dir_all(out).map_err(|e| Error::internal("no folder for the data").source(e))?;
    let mut script = Command::new(&peer.python);
    script.arg(root().join("testkit/python/elt_peers.py")).arg(peer.name);
    script.args([&project.folder, &project.raw, graph, out]).current_dir(out);
    let said = ended(output(script))?;
    let total = said.lines().find_map(|line| line.strip_prefix("TOTAL\t")?.trim().parse().ok());
    total.ok_or_else(|| Error::internal(format!("{} did not say how long it took: {said}", peer.name)))
}

/// Whether `peer` has the same rows in every mart.
async fn same(marts: &[Mart], peer: &Peer, out: &Path) -> Result<bool> {
    let failed = |e| Error::internal(format!("the rows of {} cannot be read", peer.name)).source(e);
    let mut equal = !marts.is_empty();
    for mart in marts {
        let folder = out.join(&mart.name).display().to_string();
        let context = SessionContext::new();
        let table = context.read_parquet(folder, ParquetReadOptions::default()).await.map_err(failed)?;
        let columns: Vec<&str> = mart.columns.iter().map(String::as_str).collect();
        let found = table.select_columns(&columns).map_err(failed)?.collect().await.map_err(failed)?;
        if let Some(difference) = rows::difference(&mart.rows, &rows::text(&found)?, LAST_DIGIT) {
            println!("  DIFFERENT from {} in {}: {difference}", peer.name, mart.name);
            equal = false;
        }
    }
    if equal {
        println!("  {} has the same rows in all {} marts", peer.name, marts.len());
    }
    Ok(equal)
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (path, target) =
            (entry.as_ref().map(std::fs::DirEntry::path), entry.as_ref().map(|e| to.join(e.file_name())));
        let (Ok(path), Ok(target)) = (path, target) else { continue };
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            std::fs::copy(path, target)?;
        }
    }
    Ok(())
}
