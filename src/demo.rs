//! `skep demo`: real files to a lake, a warehouse and a mart, by a project of SQL that the workers run.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use include_dir::{Dir, include_dir};
use skep_common::{Error, Result, clock};
use skep_repl::{Args, Exit, Format, Input, Inputs, Session, Target};
use tonic::transport::Channel;

use crate::cli::Demo;
use crate::cluster::{Cluster, Options};
use crate::node::{Doors, bind};
use crate::pipeline;
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

/// The project that is run, and what is asked then.
static PROJECT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/examples/flights");
const QUESTIONS: &str = include_str!("../examples/flights/questions.sql");
/// Where the project looks for raw files, in the sources and in a data folder.
const DIRECTORY: [&str; 2] = ["directory = \"../../testdata/flights\"", "directory = \"..\""];

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
        schedules: args.stay,
    };
    let cluster = Cluster::start(options).await?;
    let project = cluster.folder().path().join("flights");
    write_raw(&cluster.folder().path().join("raw"))?;
    write_project(&project)?;
    let doors = Doors::open(cluster.coordinator(), Default::default(), flight, http)?;
    cluster.folder().publish(&doors.endpoint(cluster.listen()))?;
    let workers = cluster.coordinator().members().all().len();
    println!("A cluster of a coordinator and {workers} workers runs in this process.\n");
    let ended = show(&cluster, &project).await;
    if matches!(ended, Ok(ExitCode::SUCCESS)) {
        summary(&cluster, &args, &doors, clock.instant() - begin);
        if args.stay {
            let mut stop = Stop::listen()?;
            println!("{}", doors.ready_line());
            stop.requested().await;
        }
    }
    doors.close().await;
    cluster.stop().await;
    ended
}

/// Runs the project, and asks what it built.
async fn show(cluster: &Cluster, project: &Path) -> Result<ExitCode> {
    let (channel, _door) = skep_server::flight::in_memory(cluster.coordinator().clone())?;
    let mut session = Session::open(&Target::Channel(channel.clone())).await?;
    let ran = pipeline::run_in(&mut session, project).await?;
    drop(session);
    if ran != ExitCode::SUCCESS {
        return Ok(ran);
    }
    println!();
    Ok(ExitCode::from(shell(&channel, ["SET skep.execution = 'pipelined';", QUESTIONS]).await as u8))
}

async fn shell(channel: &Channel, scripts: [&str; 2]) -> Exit {
    let inputs = Inputs(scripts.map(|sql| Input::Command(sql.to_owned())).to_vec());
    let args = Args { inputs, format: Some(Format::Box), no_rc: true, ..Args::default() };
    skep_repl::run(args, Some(Target::Channel(channel.clone()))).await
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
        let path = folder.join(name);
        // One that was written again would be loaded again.
        if !std::fs::read(&path).is_ok_and(|there| there == bytes) {
            std::fs::write(path, bytes).map_err(failed)?;
        }
    }
    Ok(())
}

/// Writes the project for whoever wants to change it; what is there already is left as it is.
fn write_project(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let failed = |e: std::io::Error| {
        Error::invalid(format!("cannot write the project to '{}'", folder.display())).source(e)
    };
    std::fs::create_dir_all(folder).and_then(|()| PROJECT.extract(folder)).map_err(failed)?;
    let settings = folder.join("pipeline.toml");
    let text = std::fs::read_to_string(&settings).map_err(failed)?;
    std::fs::write(&settings, text.replace(DIRECTORY[0], DIRECTORY[1])).map_err(failed)
}

fn summary(cluster: &Cluster, args: &Demo, doors: &Doors, time: Duration) {
    let tasks = cluster.coordinator().tasks();
    let each: Vec<String> = tasks.iter().map(|(node, count)| format!("{node} {count}")).collect();
    let data = args.data.display();
    println!("Tasks that each worker ran: {}.", each.join(", "));
    println!("Everything took {}.\n", seconds(time));
    println!("The data lies in {}:", cluster.folder().path().display());
    println!("  raw/             the files that were loaded");
    println!(
        "  flights/         the project: change a model, and 'skep pipeline run {data}/flights --data {data}'"
    );
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
