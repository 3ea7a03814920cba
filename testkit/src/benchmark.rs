//! Benchmarks that are data and queries, TPC-H and TPC-DS: how their files are written, and the comparison of engines on them.
//!
//! ```text
//! generator -> Parquet files --SQL--> skep tables on three worker processes -> local, pipelined, durable
//!                    \-> plain DataFusion, DuckDB: the same queries on the files themselves
//! ```
//!
//! Invariant: every query that is measured has all its rows compared, in every engine that ran it; one that fails in an engine is a
//! difference.
//!
//! # Not here
//! What the tables and the queries are: [`crate::tpch`], [`crate::tpcds`].

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;

use arrow::array::RecordBatchReader;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use skep_common::{Error, Result, clock};

use crate::client::Client;
use crate::duckdb::DuckDb;
use crate::process::Cluster;
use crate::rows;

/// Every lane, by the name that `SET skep.execution` takes.
pub const LANES: [&str; 3] = ["local", "pipelined", "durable"];
/// What two engines may differ by in the last digit of an average of decimals.
pub const LAST_DIGIT: f64 = 2e-6;

/// One query.
#[derive(Debug, Clone)]
pub struct Query {
    /// What it is called, `q7`.
    pub name: String,
    /// Its text, without a semicolon.
    pub sql: String,
    /// Whether its last ORDER BY leaves open which rows come first.
    pub ties: bool,
    /// What numbers of two engines may differ by.
    pub tolerance: f64,
}

/// Tables and queries.
#[derive(Debug, Clone, Copy)]
pub struct Benchmark {
    /// What it is called, `TPC-H`.
    pub name: &'static str,
    /// The tables, each with the number of its files.
    pub tables: &'static [(&'static str, i32)],
    /// Writes every table under a folder, as `TABLE/N.parquet`, at a scale factor.
    pub generate: fn(&Path, f64) -> Result<()>,
    /// The queries that DataFusion can plan, for a scale factor.
    pub queries: fn(f64) -> Result<Vec<Query>>,
    /// The names of those it cannot plan, and how its error begins.
    pub unplanned: &'static [(&'static str, &'static str)],
}

/// How to run a benchmark.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// The scale factor; 1 is about a GB.
    pub scale: f64,
    /// How often each query runs; the least time counts.
    pub repeat: usize,
    /// The lanes, some of [`LANES`].
    pub lanes: &'a [&'a str],
    /// The names of the queries to run, `q7,q12`; absent: all.
    pub only: Option<&'a str>,
    /// Where tables keep their files, a URL, and the tables of the config file that lead there; absent: on the workers.
    pub place: Option<(&'a str, &'a str)>,
}

/// What one query took in each engine, in seconds.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Its name.
    pub query: String,
    /// How many rows it has.
    pub rows: usize,
    /// Plain DataFusion on the Parquet files.
    pub datafusion: f64,
    /// Skep, in the order of [`Report::lanes`]; absent if it failed.
    pub lanes: Vec<Option<f64>>,
    /// DuckDB on the Parquet files, if it is there.
    pub duckdb: Option<f64>,
}

/// What a run found.
#[derive(Debug, Default)]
pub struct Report {
    /// The lanes that ran.
    pub lanes: Vec<String>,
    /// Seconds that loading took.
    pub load: f64,
    /// One for each query.
    pub timings: Vec<Timing>,
    /// The names of the queries that were not run, since they cannot be planned.
    pub unplanned: Vec<String>,
    /// Every difference between two engines; must be empty.
    pub differences: Vec<String>,
}

/// Writes `batches` to a file, as Skep writes its tables, so that every engine reads files of one shape.
///
/// # Errors
/// Those of the generator and of writing.
pub fn write(path: &Path, batches: impl RecordBatchReader) -> Result<()> {
    let failed = |e: String| Error::invalid(format!("cannot write '{}'", path.display())).source(e);
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(256 * 1024))
        .build();
    let file = File::create(path).map_err(|e| failed(e.to_string()))?;
    let mut writer =
        ArrowWriter::try_new(file, batches.schema(), Some(properties)).map_err(|e| failed(e.to_string()))?;
    for batch in batches {
        let batch = batch.map_err(|e| failed(e.to_string()))?;
        writer.write(&batch).map_err(|e| failed(e.to_string()))?;
    }
    writer.close().map(drop).map_err(|e| failed(e.to_string()))
}

impl Benchmark {
    /// Runs every query in every engine and compares all rows; `progress` hears of each query when it is done.
    ///
    /// `folder` holds the data of the run: the Parquet files, and the cluster.
    ///
    /// # Errors
    /// If there is no data, no cluster or no answer of plain DataFusion or DuckDB.
    pub async fn run(
        &self,
        folder: &Path,
        options: Options<'_>,
        progress: impl Fn(&Timing),
    ) -> Result<Report> {
        let data = folder.join("parquet");
        (self.generate)(&data, options.scale)?;
        let duckdb = DuckDb::find();
        let plain = self.plain_datafusion(&data).await?;
        let cluster = match options.place {
            None => Cluster::start_sharing(&folder.join("cluster"), 3, &data),
            Some((place, settings)) => {
                let settings = format!("shared_paths = [{data:?}]\n{settings}");
                Cluster::start_at(&folder.join("cluster"), 3, place, &settings)
                    .map_err(|output| Error::internal(format!("there is no cluster: {output:?}")))?
            }
        };
        let mut client = Client::connect(cluster.flight()).await?;
        let mut report = Report {
            lanes: options.lanes.iter().map(|lane| (*lane).to_owned()).collect(),
            unplanned: self.unplanned.iter().map(|(name, _)| (*name).to_owned()).collect(),
            ..Report::default()
        };
        let clock = clock::system();
        let start = clock.instant();
        for (table, _) in self.tables {
            let files = data.join(table);
            client
                .update(&format!("CREATE TABLE {table} AS SELECT * FROM '{}/*.parquet'", files.display()))
                .await?;
        }
        report.load = (clock.instant() - start).as_secs_f64();

        let mut queries = (self.queries)(options.scale)?;
        queries
            .retain(|query| options.only.is_none_or(|names| names.split(',').any(|name| name == query.name)));
        for query in queries {
            let name = &query.name;
            let sql = query.in_total_order(&plain).await?;
            let mut differ = |between: &str, difference: Option<String>| {
                report.differences.extend(difference.map(|text| format!("{name}: {between}: {text}")));
            };
            let (batches, datafusion) = best(options.repeat, async || {
                let failed = |e| Error::internal(format!("{name}: plain DataFusion")).source(e);
                plain.sql(&sql).await.map_err(failed)?.collect().await.map_err(failed)
            })
            .await?;
            let expected = rows::text(&batches)?;
            let mut timing = Timing {
                query: query.name.clone(),
                rows: expected.len(),
                datafusion,
                lanes: Vec::new(),
                duckdb: None,
            };
            for lane in options.lanes {
                client.update(&format!("SET skep.execution = '{lane}'")).await?;
                let found = best(options.repeat, async || client.clone().rows(&sql).await).await;
                timing.lanes.push(found.as_ref().ok().map(|(_, seconds)| *seconds));
                let difference = match found {
                    Ok((found, _)) => rows::difference(&found, &expected, query.tolerance),
                    Err(error) => Some(error.report()),
                };
                differ(&format!("{lane} and DataFusion"), difference);
            }
            if let Some(duckdb) = &duckdb {
                let before = self.duckdb_views(&data);
                let mut least = f64::INFINITY;
                let (found, _) = best(options.repeat, async || {
                    let failed = |e| Error::internal(format!("{name}: DuckDB")).source(e);
                    let (found, seconds) = duckdb.time(&before, &format!("{sql};")).map_err(failed)?;
                    least = least.min(seconds);
                    Ok(found)
                })
                .await?;
                timing.duckdb = Some(least);
                differ("DuckDB and DataFusion", rows::difference(&found, &expected, query.tolerance));
            }
            progress(&timing);
            report.timings.push(timing);
        }
        Ok(report)
    }

    /// DataFusion itself, with the files that [`Benchmark::generate`] wrote to `data` as tables.
    ///
    /// # Errors
    /// If it cannot read them.
    pub async fn plain_datafusion(&self, data: &Path) -> Result<SessionContext> {
        let context = SessionContext::new();
        for (table, _) in self.tables {
            let path = data.join(table);
            context
                .register_parquet(*table, path.to_string_lossy(), ParquetReadOptions::default())
                .await
                .map_err(|e| {
                    Error::internal(format!("plain DataFusion cannot read '{}'", path.display())).source(e)
                })?;
        }
        Ok(context)
    }

    /// Statements that make those files DuckDB's tables, and let it put NULL where DataFusion does.
    pub fn duckdb_views(&self, data: &Path) -> String {
        let view = |(table, _): &(&str, i32)| {
            let files = data.join(table);
            format!("CREATE VIEW {table} AS SELECT * FROM read_parquet('{}/*.parquet');\n", files.display())
        };
        let views: String = self.tables.iter().map(view).collect();
        format!("SET default_null_order = 'nulls_last_on_asc_first_on_desc';\n{views}")
    }
}

impl Query {
    /// Whether its text, [in total order](Query::in_total_order), says in which order its rows come.
    pub fn is_limited(&self) -> bool {
        last_limit(&self.sql).is_some()
    }

    /// The text of query `number` in the file `folder`/qN.sql of the test data.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(folder: &str, number: usize) -> Result<Self> {
        let name = format!("q{number}");
        let path = crate::testdata().join(folder).join(format!("{name}.sql"));
        let text = std::fs::read_to_string(&path)
            .map_err(|e| Error::not_found(format!("cannot read '{}'", path.display())).source(e))?;
        Ok(Self {
            name,
            sql: text.trim().trim_end_matches(';').trim_end().to_owned(),
            ties: true,
            tolerance: LAST_DIGIT,
        })
    }

    /// Its text, in which all columns decide the order before a last `LIMIT`: else engines may keep other rows of those that
    /// its ORDER BY finds equal.
    ///
    /// # Errors
    /// If `context` cannot plan it.
    pub async fn in_total_order(&self, context: &SessionContext) -> Result<String> {
        let sql = &self.sql;
        let Some((body, limit)) = last_limit(sql).filter(|_| self.ties) else { return Ok(sql.clone()) };
        let plan = context.state().create_logical_plan(sql).await;
        let plan = plan.map_err(|e| Error::invalid(format!("cannot plan {}", self.name)).source(e))?;
        let columns: Vec<String> =
            (1..=plan.schema().fields().len()).map(|number| number.to_string()).collect();
        let join = if is_ordered(body) { "," } else { "\nORDER BY" };
        Ok(format!("{}{join} {}\n{limit}", body.trim_end(), columns.join(", ")))
    }
}

/// The text before the `LIMIT` that ends a query, and from there.
fn last_limit(sql: &str) -> Option<(&str, &str)> {
    let at = sql.to_ascii_uppercase().rfind("LIMIT ")?;
    let (body, limit) = sql.split_at(at);
    limit["LIMIT ".len()..].trim().parse::<u64>().is_ok().then_some((body, limit))
}

/// Whether the outermost query, and not one in parentheses, has an order.
fn is_ordered(body: &str) -> bool {
    let upper = body.to_ascii_uppercase();
    let Some(at) = upper.rfind("ORDER BY") else { return false };
    let open = |text: &str, c| text.matches(c).count();
    let rest = &upper[at..];
    open(rest, '(') == open(rest, ')')
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

impl Timing {
    /// One line of the table that [`Report::text`] makes.
    pub fn line(&self) -> String {
        let cell = |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), |s| format!("{s:.3}"));
        let mut line = format!("{:<5}  {:>10.3}", self.query, self.datafusion);
        for seconds in self.lanes.iter().chain([&self.duckdb]) {
            let _ = write!(line, " {:>10}", cell(*seconds));
        }
        format!("{line} {:>8}", self.rows)
    }
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
        let mut text = format!("loaded in {:.2} s\nquery  datafusion", self.load);
        for name in self.lanes.iter().map(String::as_str).chain(["duckdb"]) {
            let _ = write!(text, " {name:>10}");
        }
        text += "     rows   (seconds)\n";
        for timing in &self.timings {
            let _ = writeln!(text, "{}", timing.line());
        }
        let sum = |of: &dyn Fn(&Timing) -> Option<f64>| self.timings.iter().filter_map(of).sum::<f64>();
        let _ = write!(text, "total  {:>10.3}", sum(&|t| Some(t.datafusion)));
        for lane in 0..self.lanes.len() {
            let _ = write!(text, " {:>10.3}", sum(&|t| t.lanes[lane]));
        }
        let _ = writeln!(text, " {:>10.3}", sum(&|t| t.duckdb));
        for (lane, name) in self.lanes.iter().enumerate() {
            if let Some(ratio) = self.ratio(|t| t.lanes[lane], |t| Some(t.datafusion)) {
                let _ = writeln!(
                    text,
                    "{name} took {ratio:.2} times as long as plain DataFusion (geometric mean)"
                );
            }
            if let Some(ratio) = self.ratio(|t| t.lanes[lane], |t| t.duckdb) {
                let _ = writeln!(text, "{name} took {ratio:.2} times as long as DuckDB (geometric mean)");
            }
        }
        if self.timings.iter().all(|t| t.duckdb.is_none()) {
            text += "DuckDB was not there: run 'cargo xtask services' once to install it\n";
        }
        let empty: Vec<&str> =
            self.timings.iter().filter(|t| t.rows == 0).map(|t| t.query.as_str()).collect();
        if !empty.is_empty() {
            let _ = writeln!(text, "without a row: {}", empty.join(", "));
        }
        if !self.unplanned.is_empty() {
            let _ = writeln!(text, "cannot be planned: {}", self.unplanned.join(", "));
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

    #[tokio::test]
    async fn only_a_last_limit_gets_a_total_order() {
        let context = SessionContext::new();
        for (sql, expected) in [
            ("SELECT 1 AS a, 2 AS b", "SELECT 1 AS a, 2 AS b"),
            ("SELECT 1 AS a, 2 AS b ORDER BY b\nLIMIT 3", "SELECT 1 AS a, 2 AS b ORDER BY b, 1, 2\nLIMIT 3"),
            ("SELECT 1 AS a LIMIT 3", "SELECT 1 AS a\nORDER BY 1\nLIMIT 3"),
            (
                "SELECT * FROM (SELECT 1 AS a ORDER BY a) LIMIT 3",
                "SELECT * FROM (SELECT 1 AS a ORDER BY a)\nORDER BY 1\nLIMIT 3",
            ),
            ("SELECT * FROM (SELECT 1 AS a LIMIT 3)", "SELECT * FROM (SELECT 1 AS a LIMIT 3)"),
        ] {
            let query = Query { name: "q0".to_owned(), sql: sql.to_owned(), ties: true, tolerance: 0.0 };
            assert_eq!(query.in_total_order(&context).await.unwrap(), expected);
            assert_eq!(Query { ties: false, ..query }.in_total_order(&context).await.unwrap(), sql);
        }
    }
}
