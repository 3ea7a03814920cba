//! `skep demo`: real files to a lake, a warehouse and a mart, by SQL that the workers run.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use skep_common::{Error, Result, clock};
use skep_repl::{Args, Exit, Format, Input, Inputs, Target};
use tonic::transport::Channel;

use crate::cli::Demo;
use crate::cluster::{Cluster, Options};
use crate::node::{Doors, bind};
use crate::signal::Stop;

/// The raw files, as `testdata/flights` keeps them.
const RAW: [(&str, &[u8]); 8] = [
    ("airlines.csv", include_bytes!("../testdata/flights/raw/airlines.csv")),
    ("airports.csv", include_bytes!("../testdata/flights/raw/airports.csv")),
    ("flights_2013-01-01_08.csv.gz", include_bytes!("../testdata/flights/raw/flights_2013-01-01_08.csv.gz")),
    ("flights_2013-01-09_16.csv.gz", include_bytes!("../testdata/flights/raw/flights_2013-01-09_16.csv.gz")),
    ("flights_2013-01-17_24.csv.gz", include_bytes!("../testdata/flights/raw/flights_2013-01-17_24.csv.gz")),
    ("flights_2013-01-25_31.csv.gz", include_bytes!("../testdata/flights/raw/flights_2013-01-25_31.csv.gz")),
    ("planes.jsonl", include_bytes!("../testdata/flights/raw/planes.jsonl")),
    ("weather_2013-01.jsonl.gz", include_bytes!("../testdata/flights/raw/weather_2013-01.jsonl.gz")),
];

/// What is built, in order: a title and a script of `demo/flights`.
const LAYERS: [(&str, &str); 3] = [
    ("lake: the raw files as they came", include_str!("../demo/flights/01_lake.sql")),
    ("warehouse: typed, deduplicated, joined", include_str!("../demo/flights/02_warehouse.sql")),
    ("mart: answers, ready to read", include_str!("../demo/flights/03_mart.sql")),
];
const QUESTIONS: &str = include_str!("../demo/flights/04_questions.sql");

pub(crate) async fn run(args: Demo) -> Result<ExitCode> {
    let clock = clock::system();
    let begin = clock.instant();
    let flight = bind("--flight", args.flight).await?;
    let http = bind("--http", args.http).await?;
    let options = Options {
        data: args.data.clone(),
        workers: None,
        store: args.store,
        memory: None,
        memory_limit: None,
        catalog: None,
    };
    let cluster = Cluster::start(options).await?;
    let folder = cluster.folder().path().to_owned();
    write_raw(&folder.join("raw"))?;
    let doors = Doors::open(cluster.coordinator(), Default::default(), flight, http)?;
    cluster.folder().publish(&doors.endpoint(cluster.listen()))?;
    let workers = cluster.coordinator().members().all().len();
    println!("A cluster of a coordinator and {workers} workers runs in this process.\n");

    let (channel, door) = skep_server::flight::in_memory(cluster.coordinator().clone())?;
    let setting = format!(
        "SET skep.execution = 'pipelined'; SET skep.directory = '{}';",
        folder.display().to_string().replace('\'', "''")
    );
    let mut exit = Exit::Done;
    for (title, script) in LAYERS {
        let started = clock.instant();
        let tasks = total_tasks(&cluster);
        exit = shell(&channel, [setting.as_str(), script]).await;
        if exit != Exit::Done {
            break;
        }
        let (tasks, time) = (total_tasks(&cluster) - tasks, seconds(clock.instant() - started));
        println!("== {title} ({time}, {tasks} tasks on the workers)\n");
    }
    if exit == Exit::Done {
        exit = shell(&channel, [setting.as_str(), QUESTIONS]).await;
    }
    if exit != Exit::Done {
        drop(door);
        doors.close().await;
        cluster.stop().await;
        return Ok(ExitCode::from(exit as u8));
    }
    drop(door);
    summary(&cluster, &args, &doors, clock.instant() - begin);
    if args.stay {
        let mut stop = Stop::listen()?;
        println!("{}", doors.ready_line());
        stop.requested().await;
    }
    doors.close().await;
    cluster.stop().await;
    Ok(ExitCode::SUCCESS)
}

async fn shell(channel: &Channel, scripts: [&str; 2]) -> Exit {
    let inputs = Inputs(scripts.map(|sql| Input::Command(sql.to_owned())).to_vec());
    let args = Args { inputs, format: Some(Format::Box), no_rc: true, ..Args::default() };
    skep_repl::run(args, Some(Target::Channel(channel.clone()))).await
}

fn total_tasks(cluster: &Cluster) -> u64 {
    cluster.coordinator().tasks().values().sum()
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn write_raw(folder: &Path) -> Result<()> {
    let failed = |e: std::io::Error| {
        Error::invalid(format!("cannot write the raw files to '{}'", folder.display())).source(e)
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    for (name, bytes) in RAW {
        std::fs::write(folder.join(name), bytes).map_err(failed)?;
    }
    Ok(())
}

fn summary(cluster: &Cluster, args: &Demo, doors: &Doors, time: Duration) {
    let tasks = cluster.coordinator().tasks();
    let each: Vec<String> = tasks.iter().map(|(node, count)| format!("{node} {count}")).collect();
    let data = args.data.display();
    println!("Tasks that each worker ran: {}.", each.join(", "));
    println!("Everything took {}.\n", seconds(time));
    println!("The data lies in {}:", cluster.folder().path().display());
    println!("  raw/             the files that were loaded");
    println!("  catalog.sqlite   tables, columns, statistics, snapshots (DuckLake 1.0)");
    match cluster.folder().store() {
        crate::config::StoreKind::Skep => {
            println!("  worker-N/        Parquet blocks, each on as many workers as blocks.sqlite says\n");
        }
        crate::config::StoreKind::File => println!("  files/           Parquet files\n"),
    }
    println!("Try next:");
    if args.stay {
        println!("  skep sql --url {}", doors.endpoint(cluster.listen()).flight);
    } else {
        println!("  skep sql --data {data}");
        println!("  skep up --data {data}      then connect a BI tool to Flight SQL");
    }
    println!("  SELECT * FROM mart.weather_delays ORDER BY late_percent DESC;");
    println!("  EXPLAIN SELECT count(*) FROM warehouse.flights WHERE cancelled;");
}
