//! Measures the lanes: `lanes_bench [--sf N] [--repeat N] [--only killed]`. Run it by `cargo xtask bench lanes`.
//!
//! Three worker processes and TPC-H. Every query in each lane, with ratios to the local one in the same run; how long a
//! trivial and a small query take; what one killed worker costs; how many queries finish, and how evenly, when many
//! clients ask at once.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use skep_common::{Error, Result};
use skep_testkit::client::Client;
use skep_testkit::process::Cluster;
use skep_testkit::{rows, tpch};

const LANES: [&str; 3] = ["local", "pipelined", "durable"];
const LATENCY_RUNS: usize = 500;
/// Long enough that a worker can be killed in its middle.
const KILLED: [usize; 4] = [5, 9, 18, 21];
const CLIENTS: [usize; 3] = [1, 8, 64];
/// How long clients ask.
const LOAD: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    let (mut scale, mut repeat, mut only_killed) = (0.1, 3, false);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    for pair in arguments.chunks(2) {
        match pair {
            [name, value] if name == "--only" && value == "killed" => only_killed = true,
            [name, value] if name == "--sf" => scale = value.parse().unwrap_or(0.0),
            [name, value] if name == "--repeat" => repeat = value.parse().unwrap_or(0),
            _ => scale = 0.0,
        }
    }
    if scale <= 0.0 || repeat == 0 {
        eprintln!("usage: lanes_bench [--sf N] [--repeat N] [--only killed]");
        return ExitCode::from(2);
    }
    match measure(scale, repeat, only_killed).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.report());
            ExitCode::FAILURE
        }
    }
}

async fn measure(scale: f64, repeat: usize, only_killed: bool) -> Result<()> {
    let folder = tempfile::tempdir().map_err(|e| Error::internal("no folder for the data").source(e))?;
    let data = folder.path().join("parquet");
    tpch::generate(&data, scale)?;
    let mut cluster = Cluster::start_hasty(&folder.path().join("cluster"), 3);
    let mut client = Client::connect(cluster.flight()).await?;
    for (table, _) in tpch::TABLES {
        let files = data.join(table);
        client
            .update(&format!("CREATE TABLE {table} AS SELECT * FROM '{}/*.parquet'", files.display()))
            .await?;
    }
    println!("TPC-H scale factor {scale} on 3 worker processes, best of {repeat}, seconds");
    if only_killed {
        return killed(&mut cluster, scale).await;
    }
    queries(&mut client, scale, repeat).await?;
    latency(&mut client).await?;
    killed(&mut cluster, scale).await?;
    load(&cluster, scale).await
}

async fn queries(client: &mut Client, scale: f64, repeat: usize) -> Result<()> {
    println!("query      local  pipelined    durable");
    let mut logs = [0.0; LANES.len()];
    for number in 1..=tpch::QUERIES {
        let sql = tpch::query(number, scale)?;
        let (mut line, mut base, mut expected) = (format!("q{number:<4}"), 0.0, Vec::new());
        for (i, lane) in LANES.iter().enumerate() {
            client.update(&format!("SET skep.execution = {lane}")).await?;
            let mut least = f64::INFINITY;
            for _ in 0..repeat {
                let start = now();
                let found = client.rows(&sql).await.map_err(|e| e.context(format!("q{number} {lane}")))?;
                least = least.min(start.elapsed().as_secs_f64());
                if i == 0 {
                    expected = found;
                } else if let Some(difference) = rows::difference(&expected, &found, 1e-9) {
                    return Err(Error::internal(format!("q{number} {lane}: {difference}")));
                }
            }
            if i == 0 {
                base = least;
            }
            logs[i] += (least / base.max(1e-6)).ln();
            line += &format!(" {least:>10.3}");
        }
        println!("{line}");
    }
    let ratio = |i: usize| (logs[i] / tpch::QUERIES as f64).exp();
    println!(
        "geometric mean, to local: pipelined {:.2}x, durable {:.2}x; all rows equal",
        ratio(1),
        ratio(2)
    );
    Ok(())
}

/// The median and the 99th of a hundred.
fn quantiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    (at(50), at(99))
}

async fn latency(client: &mut Client) -> Result<()> {
    // About a MiB of one table.
    client
        .update(
            "CREATE TABLE point AS SELECT o_orderkey, o_comment FROM orders ORDER BY o_orderkey LIMIT 15000",
        )
        .await?;
    for (what, sql) in
        [("SELECT 1", "SELECT 1"), ("a row of 1 MB", "SELECT o_comment FROM point WHERE o_orderkey = 7")]
    {
        for lane in LANES {
            client.update(&format!("SET skep.execution = {lane}")).await?;
            let mut times = Vec::with_capacity(LATENCY_RUNS);
            for _ in 0..LATENCY_RUNS {
                let start = now();
                client.query(sql).await?;
                times.push(start.elapsed());
            }
            let (half, most) = quantiles(times);
            println!("{what}, {lane}: p50 {half:.1?}, p99 {most:.1?}, over {LATENCY_RUNS}");
        }
    }
    Ok(())
}

async fn killed(cluster: &mut Cluster, scale: f64) -> Result<()> {
    println!("a worker killed in the middle of a durable query (found after at most 3 s of silence)");
    for number in KILLED {
        let sql = tpch::query(number, scale)?;
        let mut client = Client::connect(cluster.flight()).await?;
        client.update("SET skep.execution = durable").await?;
        client.rows(&sql).await?;
        let start = now();
        let expected = client.rows(&sql).await?;
        let undisturbed = start.elapsed();
        let (start, query) = (now(), sql.clone());
        let running = skep_common::task::spawn("query", async move { client.rows(&query).await });
        tokio::time::sleep(undisturbed / 2).await;
        let pid = cluster.workers[1].pid().to_string();
        let sent = Command::new("kill").args(["-KILL", &pid]).status();
        sent.map_err(|e| Error::internal("no worker can be killed").source(e))?;
        let Ok(found) = tokio::time::timeout(Duration::from_secs(60), running).await else {
            let mut client = Client::connect(cluster.flight()).await?;
            for table in ["workers", "stages", "tasks"] {
                println!("system.{table}");
                for row in client.rows(&format!("SELECT * FROM system.{table}")).await? {
                    println!("  {}", row.join(" | "));
                }
            }
            return Err(Error::deadline(format!("q{number} with a killed worker does not end")));
        };
        let found = found??;
        let disturbed = start.elapsed();
        if let Some(difference) = rows::difference(&expected, &found, 1e-9) {
            return Err(Error::internal(format!("q{number} with a killed worker: {difference}")));
        }
        println!(
            "q{number:<4} undisturbed {undisturbed:.2?}, killed {disturbed:.2?}: {:.2}x, {:.2?} more",
            disturbed.as_secs_f64() / undisturbed.as_secs_f64(),
            disturbed.saturating_sub(undisturbed)
        );
        cluster.restart_worker(1);
    }
    Ok(())
}

/// Resident memory of a process, in MiB.
fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib >> 10)
}

async fn load(cluster: &Cluster, scale: f64) -> Result<()> {
    println!("clients at once, TPC-H 1, 3, 6 and 13 in turn for {LOAD:?}");
    for lane in LANES {
        for count in CLIENTS {
            let mut clients = Vec::with_capacity(count);
            let begun = now();
            for number in 0..count {
                let mut client = Client::connect(cluster.flight()).await?;
                client.update(&format!("SET skep.execution = {lane}")).await?;
                clients.push(skep_common::task::spawn("client", async move {
                    let mut times = Vec::new();
                    while begun.elapsed() < LOAD {
                        let query = [1, 3, 6, 13][(times.len() + number) % 4];
                        let start = now();
                        client.rows(&tpch::query(query, scale)?).await?;
                        times.push(start.elapsed());
                    }
                    Ok::<_, Error>(times)
                }));
            }
            let (mut all, mut each, mut failures) = (Vec::new(), Vec::new(), 0);
            for client in clients {
                match client.join().await? {
                    Ok(times) => {
                        each.push(times.len());
                        all.extend(times);
                    }
                    Err(error) => {
                        failures += 1;
                        eprintln!("{lane}, {count} clients: {}", error.report());
                    }
                }
            }
            let seconds = begun.elapsed().as_secs_f64();
            let (total, (half, most)) = (all.len(), quantiles(all));
            let (fewest, mostly) = (each.iter().min().unwrap_or(&0), each.iter().max().unwrap_or(&0));
            let memory = resident(cluster.coordinator.pid()).unwrap_or(0);
            println!(
                "{lane}, {count} clients: {:.1} queries/s, p50 {half:.1?}, p99 {most:.1?}, {fewest} to {mostly} a client, \
                 {failures} failed, coordinator {memory} MiB",
                total as f64 / seconds
            );
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "it measures time that passes")]
fn now() -> Instant {
    Instant::now()
}
