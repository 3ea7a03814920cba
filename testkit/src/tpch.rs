//! TPC-H: data, queries, and the comparison of engines on them.
//!
//! ```text
//! tpchgen -> Parquet files --SQL--> skep tables on three worker processes -> local, pipelined
//!                   \-> plain DataFusion, DuckDB: the same queries on the files themselves
//! ```
//!
//! # Source
//! TPC Benchmark H, standard specification, revision 3.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;

use arrow::array::{RecordBatch, RecordBatchReader};
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use skep_common::{Error, Result, clock};
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow,
    SupplierArrow,
};

use crate::client::Client;
use crate::duckdb::DuckDb;
use crate::process::Cluster;
use crate::rows;

/// The tables, each with the number of files that a larger scale factor gives it.
pub const TABLES: [(&str, i32); 8] = [
    ("region", 1),
    ("nation", 1),
    ("supplier", 1),
    ("customer", 3),
    ("part", 3),
    ("partsupp", 6),
    ("orders", 6),
    ("lineitem", 6),
];
/// How many queries there are.
pub const QUERIES: usize = 22;
/// What two engines may differ by in the last digit of an average of decimals.
const LAST_DIGIT: f64 = 2e-6;

/// Writes every table under `folder`, as `TABLE/N.parquet`.
///
/// # Errors
/// Those of writing files.
pub fn generate(folder: &Path, scale: f64) -> Result<()> {
    for (table, files) in TABLES {
        std::fs::create_dir_all(folder.join(table))
            .map_err(|e| Error::invalid("cannot write data").source(e))?;
        for part in 1..=files {
            let path = folder.join(table).join(format!("{part}.parquet"));
            match table {
                "region" => write(&path, RegionArrow::new(RegionGenerator::new(scale, part, files))),
                "nation" => write(&path, NationArrow::new(NationGenerator::new(scale, part, files))),
                "supplier" => write(&path, SupplierArrow::new(SupplierGenerator::new(scale, part, files))),
                "customer" => write(&path, CustomerArrow::new(CustomerGenerator::new(scale, part, files))),
                "part" => write(&path, PartArrow::new(PartGenerator::new(scale, part, files))),
                "partsupp" => write(&path, PartSuppArrow::new(PartSuppGenerator::new(scale, part, files))),
                "orders" => write(&path, OrderArrow::new(OrderGenerator::new(scale, part, files))),
                _ => write(&path, LineItemArrow::new(LineItemGenerator::new(scale, part, files))),
            }?;
        }
    }
    Ok(())
}

fn write(path: &Path, batches: impl RecordBatchReader) -> Result<()> {
    let failed = |e: String| Error::invalid(format!("cannot write '{}'", path.display())).source(e);
    // As Skep writes its tables, so that every engine reads files of one shape.
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(256 * 1024))
        .build();
    let file = File::create(path).map_err(|e| failed(e.to_string()))?;
    let mut writer =
        ArrowWriter::try_new(file, batches.schema(), Some(properties)).map_err(|e| failed(e.to_string()))?;
    for batch in batches {
        let batch: RecordBatch = batch.map_err(|e| failed(e.to_string()))?;
        writer.write(&batch).map_err(|e| failed(e.to_string()))?;
    }
    writer.close().map(drop).map_err(|e| failed(e.to_string()))
}

/// The text of query `number`, from 1.
///
/// # Errors
/// If its file cannot be read.
pub fn query(number: usize, scale: f64) -> Result<String> {
    let path = crate::testdata().join(format!("tpch/q{number}.sql"));
    let text = std::fs::read_to_string(&path)
        .map_err(|e| Error::not_found(format!("cannot read '{}'", path.display())).source(e))?;
    let fraction = format!("{:.10}", 0.0001 / scale);
    Ok(text.trim().trim_end_matches(';').replace("$fraction", &fraction))
}

/// What one query took in each engine, in seconds.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Its number.
    pub query: usize,
    /// Plain DataFusion on the Parquet files.
    pub datafusion: f64,
    /// Skep on one node.
    pub local: f64,
    /// Skep on the workers.
    pub pipelined: f64,
    /// DuckDB on the Parquet files, if it is there.
    pub duckdb: Option<f64>,
}

/// What a run found.
#[derive(Debug, Default)]
pub struct Report {
    /// Seconds that loading took.
    pub load: f64,
    /// One for each query.
    pub timings: Vec<Timing>,
    /// Every difference between two engines; must be empty.
    pub differences: Vec<String>,
}

/// Runs every query in every engine and compares all rows.
///
/// `folder` holds the data of the run: the Parquet files, and the cluster.
///
/// # Errors
/// The first error of an engine.
pub async fn run(folder: &Path, scale: f64, repeat: usize) -> Result<Report> {
    let data = folder.join("parquet");
    generate(&data, scale)?;
    let duckdb = DuckDb::find();
    let plain = plain_datafusion(&data).await?;
    let cluster = Cluster::start_sharing(&folder.join("cluster"), 3, &data);
    let mut client = Client::connect(cluster.flight()).await?;
    let mut report = Report::default();
    let clock = clock::system();
    let start = clock.instant();
    for (table, _) in TABLES {
        let files = data.join(table);
        client
            .update(&format!("CREATE TABLE {table} AS SELECT * FROM '{}/*.parquet'", files.display()))
            .await?;
    }
    report.load = (clock.instant() - start).as_secs_f64();

    for number in 1..=QUERIES {
        let sql = query(number, scale)?;
        let mut timing = Timing { query: number, datafusion: 0.0, local: 0.0, pipelined: 0.0, duckdb: None };
        let mut differ = |name: &str, difference: Option<String>| {
            report.differences.extend(difference.map(|text| format!("q{number}: {name}: {text}")));
        };

        let (batches, seconds) = best(repeat, async || {
            let frame = plain.sql(&sql).await;
            match frame {
                Ok(frame) => frame.collect().await.map_err(|e| Error::internal("plain DataFusion").source(e)),
                Err(e) => Err(Error::internal("plain DataFusion").source(e)),
            }
        })
        .await?;
        timing.datafusion = seconds;
        let expected = rows::text(&batches)?;

        for lane in ["local", "pipelined"] {
            client.update(&format!("SET skep.execution = '{lane}'")).await?;
            let context = |e: Error| e.context(format!("q{number} {lane}"));
            let (found, seconds) =
                best(repeat, async || client.clone().rows(&sql).await).await.map_err(context)?;
            differ(&format!("{lane} and DataFusion"), rows::difference(&found, &expected, LAST_DIGIT));
            if lane == "local" { timing.local = seconds } else { timing.pipelined = seconds }
        }

        if let Some(duckdb) = &duckdb {
            let views = duckdb_views(&data);
            let (found, seconds) = best(repeat, async || {
                duckdb.time(&views, &format!("{sql};")).map_err(|e| Error::internal("DuckDB").source(e))
            })
            .await
            .map(|((rows, seconds), _)| (rows, seconds))?;
            timing.duckdb = Some(seconds);
            differ("DuckDB and DataFusion", rows::difference(&found, &expected, LAST_DIGIT));
        }
        report.timings.push(timing);
    }
    Ok(report)
}

async fn plain_datafusion(data: &Path) -> Result<SessionContext> {
    let context = SessionContext::new();
    for (table, _) in TABLES {
        let path = data.join(table);
        context
            .register_parquet(table, path.to_string_lossy(), ParquetReadOptions::default())
            .await
            .map_err(|e| {
                Error::internal(format!("plain DataFusion cannot read '{}'", path.display())).source(e)
            })?;
    }
    Ok(context)
}

fn duckdb_views(data: &Path) -> String {
    let view = |table: &str| {
        format!(
            "CREATE VIEW {table} AS SELECT * FROM read_parquet('{}/*.parquet');\n",
            data.join(table).display()
        )
    };
    TABLES.iter().map(|(table, _)| view(table)).collect()
}

/// The last result and the least time of `repeat` runs.
async fn best<T>(repeat: usize, mut work: impl AsyncFnMut() -> Result<T>) -> Result<(T, f64)> {
    let clock = clock::system();
    let mut least = f64::INFINITY;
    let mut last = None;
    for _ in 0..repeat.max(1) {
        let start = clock.instant();
        last = Some(work().await?);
        least = least.min((clock.instant() - start).as_secs_f64());
    }
    last.map(|value| (value, least)).ok_or_else(|| Error::internal("nothing ran"))
}

impl Report {
    /// How many times as long `of` took as `than`, as the geometric mean over all queries that have both.
    pub fn ratio(
        &self,
        of: impl Fn(&Timing) -> Option<f64>,
        than: impl Fn(&Timing) -> Option<f64>,
    ) -> Option<f64> {
        let pairs = self.timings.iter().filter_map(|t| Some((of(t)?, than(t)?)));
        let logs: Vec<f64> = pairs.map(|(a, b)| (a.max(1e-6) / b.max(1e-6)).ln()).collect();
        if logs.is_empty() { None } else { Some((logs.iter().sum::<f64>() / logs.len() as f64).exp()) }
    }

    /// A table of all times, and the ratios.
    pub fn text(&self) -> String {
        let mut text = format!("loaded in {:.2} s\n", self.load);
        text += "query  datafusion      local  pipelined     duckdb   (seconds)\n";
        for t in &self.timings {
            let duckdb = t.duckdb.map_or_else(|| "-".to_owned(), |s| format!("{s:.3}"));
            let _ = writeln!(
                text,
                "q{:<4}  {:>10.3} {:>10.3} {:>10.3} {duckdb:>10}",
                t.query, t.datafusion, t.local, t.pipelined
            );
        }
        let sum = |of: fn(&Timing) -> f64| self.timings.iter().map(of).sum::<f64>();
        let _ = writeln!(
            text,
            "total  {:>10.3} {:>10.3} {:>10.3}",
            sum(|t| t.datafusion),
            sum(|t| t.local),
            sum(|t| t.pipelined)
        );
        let datafusion = |t: &Timing| Some(t.datafusion);
        for lane in ["local", "pipelined"] {
            let of = |t: &Timing| Some(if lane == "local" { t.local } else { t.pipelined });
            if let Some(ratio) = self.ratio(of, datafusion) {
                let _ = writeln!(
                    text,
                    "{lane} took {ratio:.2} times as long as plain DataFusion (geometric mean)"
                );
            }
            if let Some(ratio) = self.ratio(of, |t| t.duckdb) {
                let _ = writeln!(text, "{lane} took {ratio:.2} times as long as DuckDB (geometric mean)");
            }
        }
        if self.timings.iter().all(|t| t.duckdb.is_none()) {
            text += "DuckDB was not there: run 'cargo xtask services' once to install it\n";
        }
        for difference in &self.differences {
            let _ = writeln!(text, "DIFFERENT {difference}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data and the queries themselves, before any engine of ours sees them.
    #[tokio::test]
    async fn plain_datafusion_runs_every_query_and_agrees_with_duckdb() {
        let folder = tempfile::tempdir().unwrap();
        generate(folder.path(), 0.005).unwrap();
        let plain = plain_datafusion(folder.path()).await.unwrap();
        let duckdb = DuckDb::find();
        for number in 1..=QUERIES {
            let sql = query(number, 0.005).unwrap();
            let batches = plain.sql(&sql).await.unwrap().collect().await.unwrap();
            let found = rows::text(&batches).unwrap();
            if let Some(duckdb) = &duckdb {
                let (expected, seconds) =
                    duckdb.time(&duckdb_views(folder.path()), &format!("{sql};")).unwrap();
                assert_eq!(rows::difference(&found, &expected, LAST_DIGIT), None, "q{number}");
                assert!(seconds > 0.0);
            }
        }
    }
}
