//! Measures the catalog: `catalog_bench [--files N]`. Run it by `cargo xtask bench catalog`.
//!
//! A table of 20 columns gets N files, a thousand in each commit; the files are not there, their statistics are. A second
//! process then opens the catalog and plans queries that need a few of them: the first has to read the statistics, the
//! others do not. DuckDB, if it is there, runs the query that needs no file on the same catalog.

use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::execution::runtime_env::RuntimeEnv;
use skep_catalog::{
    Catalog, Change, Column, ColumnStats, CommitInfo, NewFile, OpenOptions, columns_from_arrow,
};
use skep_common::{Error, Result, clock};
use skep_engine::sql::{Statement, parse};
use skep_engine::{Environment, Nowhere, Planner, Settings, error};
use skep_testkit::duckdb::DuckDb;

const PER_COMMIT: u64 = 1_000;
const ROWS: u64 = 1_000;
const REPEAT: usize = 9;
/// 2020-01-01, in seconds since 1970; every row is a second later than the one before.
const START: i64 = 1_577_836_800;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        [] => measure(100_000).await,
        ["--files", files] => match files.parse() {
            Ok(files) if files >= PER_COMMIT => measure(files).await,
            _ => Err(Error::invalid(format!("--files takes a number from {PER_COMMIT} on, not '{files}'"))),
        },
        ["plan", folder, files] => plan(Path::new(folder), files.parse().unwrap_or(0)).await,
        _ => Err(Error::invalid("usage: catalog_bench [--files N]")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.report());
            ExitCode::FAILURE
        }
    }
}

async fn measure(files: u64) -> Result<()> {
    let folder = tempfile::tempdir().map_err(|e| Error::internal("no folder for the catalog").source(e))?;
    println!("a table of 20 columns and {files} files of {ROWS} rows, on SQLite");
    let catalog = open(folder.path()).await?;
    let columns = columns_from_arrow(&schema())?;
    let table = Change::CreateTable {
        id: -1,
        schema: "main".to_owned(),
        name: "t".to_owned(),
        columns: columns.clone(),
        comment: None,
    };
    commit(&catalog, vec![table]).await?;
    let table = catalog.snapshot().await?.table("main", "t").map(|table| table.id).unwrap_or_default();
    let mut times = Vec::new();
    for first in (0..files).step_by(PER_COMMIT as usize) {
        let added = (first..(first + PER_COMMIT).min(files)).map(|at| file(at, &columns)).collect();
        times.push(commit(&catalog, vec![Change::Append { table, files: added }]).await?);
    }
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let third = times.len().div_ceil(3);
    println!(
        "commit of {PER_COMMIT} files: median {:.0} ms of the first third, {:.0} ms of the last, {:.0} ms at most (aim: 1000)",
        ms(median(&mut times[..third].to_vec())),
        ms(median(&mut times[2 * third..].to_vec())),
        ms(times.iter().copied().max().unwrap_or_default()),
    );
    let one = vec![Change::Append { table, files: vec![file(files, &columns)] }];
    println!("commit of 1 file more: {:.0} ms", ms(commit(&catalog, one).await?));
    catalog.db().close().await;
    drop(catalog);

    let program = std::env::current_exe().map_err(|e| Error::internal("the program is gone").source(e))?;
    let status = Command::new(program)
        .args(["plan", &folder.path().display().to_string(), &files.to_string()])
        .status()
        .map_err(|e| Error::internal("cannot start the program again").source(e))?;
    if !status.success() {
        return Err(Error::internal("planning failed"));
    }
    Ok(())
}

fn queries(files: u64) -> [(&'static str, String); 4] {
    let row = files / 2 * ROWS + 17;
    let second = |row: u64| START + i64::try_from(row).unwrap_or(0);
    let time = |row: u64| time_text(second(row));
    [
        ("one file by a number", format!("SELECT * FROM skep.main.t WHERE id = {row}")),
        (
            "a hundred files by a time",
            format!(
                "SELECT sum(n1) FROM skep.main.t WHERE ts >= TIMESTAMP '{}' AND ts < TIMESTAMP '{}'",
                time(row),
                time(row + 100 * ROWS)
            ),
        ),
        (
            "one file by two texts",
            format!("SELECT count(*) FROM skep.main.t WHERE key = 'k{row:012}' AND n2 > 3"),
        ),
        ("no file", "SELECT n3, n4 FROM skep.main.t WHERE id < 0".to_owned()),
    ]
}

/// The text of a time that is so many seconds after the start of 1970.
fn time_text(seconds: i64) -> String {
    let text = skep_catalog::text::encode(
        &skep_catalog::LakeType::Timestamp,
        &skep_catalog::text::Bound::Timestamp(seconds * 1_000_000),
    );
    text.unwrap_or_default()
}

async fn plan(folder: &Path, files: u64) -> Result<()> {
    let catalog = open(folder).await?;
    let environment = Environment {
        catalog,
        runtime: Arc::new(RuntimeEnv::default()),
        stores: skep_store::Stores::new(),
        memory: skep_engine::memory::Memory::default(),
        shared_paths: Vec::new(),
        locate: Arc::new(Nowhere),
        facts: Arc::default(),
        partitions: NonZeroUsize::MIN,
    };
    let environment = Arc::new(environment);
    let before = resident();
    let duckdb = DuckDb::find();
    let mut cold = None;
    for (name, sql) in queries(files) {
        let first = once(&environment, &sql).await?;
        cold.get_or_insert(first.0);
        let mut times = Vec::new();
        let mut kept = (0, 0);
        for _ in 0..REPEAT {
            let (time, found) = once(&environment, &sql).await?;
            times.push(time);
            kept = found;
        }
        let ours = median(&mut times);
        // It chooses files when it runs a query, and these files are not there.
        let theirs = match &duckdb {
            Some(duckdb) if kept.0 == 0 => {
                let attach = duckdb.attach(&folder.join("catalog.sqlite"), true);
                let query = format!("{sql};");
                let (_, seconds) = duckdb
                    .time(&format!("{attach}{query}"), &query)
                    .map_err(|e| Error::internal(format!("DuckDB: {e}")))?;
                format!(
                    ", DuckDB to the end of it {:.0} ms (ratio {:.2})",
                    seconds * 1e3,
                    ours.as_secs_f64() / seconds
                )
            }
            _ => String::new(),
        };
        println!(
            "plan, {name}: {} of {} files, median {:.1} ms of {REPEAT}{theirs} (aim: 100)",
            kept.0,
            kept.1,
            ours.as_secs_f64() * 1e3
        );
    }
    let cold = cold.unwrap_or_default();
    println!("plan, the first after opening: {:.1} s", cold.as_secs_f64());
    println!(
        "memory: {:.0} MiB more than before the first plan, {:.1} KiB for each file",
        (resident() - before) as f64 / 1024.0,
        (resident() - before) as f64 / files as f64
    );
    Ok(())
}

/// Plans a query from its text to what would run; how long it took, and how many files are read of how many.
async fn once(environment: &Arc<Environment>, sql: &str) -> Result<(Duration, (usize, usize))> {
    let clock = clock::system();
    let begin = clock.instant();
    let parsed = parse(sql)?;
    let Some(Statement::Query(query)) = parsed.first().map(|parsed| &parsed.statement) else {
        return Err(Error::internal("not a query"));
    };
    let snapshot = environment.catalog.snapshot().await?;
    let planner = Planner::new(Arc::clone(environment), snapshot, &Settings::default()).await?;
    let logical = planner.logical(query).await?;
    let physical = planner.state().create_physical_plan(&logical).await.map_err(error::from_datafusion)?;
    let time = clock.instant() - begin;
    drop(physical);
    let found = planner.reports().iter().map(|report| (report.files_kept, report.files_total)).next_back();
    Ok((time, found.unwrap_or_default()))
}

async fn open(folder: &Path) -> Result<Catalog> {
    let data = format!("{}/data/", folder.display());
    Catalog::open(folder.join("catalog.sqlite"), OpenOptions::new(data)).await
}

async fn commit(catalog: &Catalog, changes: Vec<Change>) -> Result<Duration> {
    let clock = clock::system();
    let begin = clock.instant();
    let transaction = catalog.begin(catalog.snapshot().await?, CommitInfo::anonymous());
    transaction.apply(changes)?;
    transaction.commit().await?;
    Ok(clock.instant() - begin)
}

fn schema() -> Schema {
    let mut fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("key", DataType::Utf8, true),
        Field::new("amount", DataType::Decimal128(12, 2), true),
    ];
    fields.extend((1..=8).map(|n| Field::new(format!("n{n}"), DataType::Int64, true)));
    fields.extend((1..=4).map(|n| Field::new(format!("f{n}"), DataType::Float64, true)));
    fields.extend((1..=4).map(|n| Field::new(format!("s{n}"), DataType::Utf8, true)));
    Schema::new(fields)
}

/// The file number `at`: rows in the order of `id`, `ts` and `key`.
fn file(at: u64, columns: &[Column]) -> NewFile {
    let (first, last) = (at * ROWS, at * ROWS + ROWS - 1);
    let seconds = |row: u64| START + i64::try_from(row).unwrap_or(0);
    let stats = columns.iter().map(|column| {
        let (min, max) = match column.name.as_str() {
            "id" => (first.to_string(), last.to_string()),
            "ts" => (time_text(seconds(first)), time_text(seconds(last))),
            "key" => (format!("k{first:012}"), format!("k{last:012}")),
            "amount" => ("0.01".to_owned(), "99999.99".to_owned()),
            name if name.starts_with('f') => ("0.5".to_owned(), format!("{}.25", 1000 + at % 97)),
            name if name.starts_with('s') => ("alpha".to_owned(), "omega".to_owned()),
            _ => ("0".to_owned(), (at % 1009).to_string()),
        };
        let nan = column.name.starts_with('f').then_some(false);
        ColumnStats {
            column: column.id,
            bytes: 4_000,
            values: ROWS,
            nulls: 0,
            min: Some(min),
            max: Some(max),
            nan,
        }
    });
    NewFile {
        path: format!("skep-{at:08}.parquet"),
        rows: ROWS,
        bytes: 80_000,
        footer: 2_000,
        partition: Vec::new(),
        stats: stats.collect(),
        moved: false,
        sketches: Default::default(),
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// KiB of memory that the process has.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
