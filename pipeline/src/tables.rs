//! The tables of schema `system` about pipelines.
//!
//! # Not here
//! What the ledger means (`ledger`).

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, Utc};
use futures::FutureExt;
use futures::future::BoxFuture;
use skep_common::{Error, Result};
use skep_coordinator::extension::SystemTable;

use crate::backfill::Backfills;
use crate::deploy::{VersionLine, Versions};
use crate::ledger::Ledger;

const ZONE: &str = "UTC";
/// Runs that are shown at most.
const RUNS_MAX: i64 = 100_000;

pub(crate) fn text(name: &str, null: bool) -> Field {
    Field::new(name, DataType::Utf8, null)
}

pub(crate) fn number(name: &str, null: bool) -> Field {
    Field::new(name, DataType::Int64, null)
}

pub(crate) fn time(name: &str, null: bool) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some(ZONE.into())), null)
}

pub(crate) fn schema(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

pub(crate) fn table<S, F>(of: &S, name: &'static str, schema: SchemaRef, columns: F) -> SystemTable
where
    S: Clone + Send + Sync + 'static,
    F: Fn(S) -> BoxFuture<'static, Result<Vec<ArrayRef>>> + Send + Sync + 'static,
{
    let (of, shape) = (of.clone(), Arc::clone(&schema));
    let rows = move || {
        let (columns, shape) = (columns(of.clone()), Arc::clone(&shape));
        async move {
            RecordBatch::try_new(shape, columns.await?)
                .map_err(|e| Error::internal("a system table does not fit its schema").source(e))
        }
        .boxed()
    };
    SystemTable { name, schema, rows: Arc::new(rows) }
}

pub(crate) fn texts<'a>(all: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(all.collect::<StringArray>())
}

pub(crate) fn numbers(all: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(all.collect::<Int64Array>())
}

pub(crate) fn times(all: impl Iterator<Item = Option<DateTime<Utc>>>) -> ArrayRef {
    let micros = all.map(|time| time.map(|time| time.timestamp_micros()));
    Arc::new(micros.collect::<TimestampMicrosecondArray>().with_timezone(ZONE))
}

/// All of them.
pub(crate) fn all(ledger: &Ledger) -> Vec<SystemTable> {
    vec![runs(ledger), models(ledger), tests(ledger), intervals(ledger)]
}

fn runs(ledger: &Ledger) -> SystemTable {
    let schema = schema(vec![
        number("run_id", false),
        text("pipeline", false),
        text("environment", false),
        text("version", false),
        text("author", false),
        text("state", false),
        time("began_at", false),
        time("ended_at", true),
        number("snapshot_id", true),
        text("error", true),
    ]);
    table(ledger, "pipeline_runs", schema, |ledger: Ledger| {
        async move {
            let all = ledger.runs(RUNS_MAX).await?;
            Ok(vec![
                numbers(all.iter().map(|line| Some(line.run))),
                texts(all.iter().map(|line| Some(line.of.pipeline.as_str()))),
                texts(all.iter().map(|line| Some(line.of.environment.as_str()))),
                texts(all.iter().map(|line| Some(line.version.as_str()))),
                texts(all.iter().map(|line| Some(line.author.as_str()))),
                texts(all.iter().map(|line| Some(line.state.as_str()))),
                times(all.iter().map(|line| Some(line.began))),
                times(all.iter().map(|line| line.ended)),
                numbers(all.iter().map(|line| line.snapshot)),
                texts(all.iter().map(|line| line.error.as_deref())),
            ])
        }
        .boxed()
    })
}

/// Those that make ranges again.
pub(crate) fn backfills(backfills: &Backfills) -> SystemTable {
    let schema = schema(vec![
        number("backfill_id", false),
        text("pipeline", false),
        text("environment", false),
        text("state", false),
        text("start_at", false),
        text("end_at", false),
        number("chunks", false),
        number("chunks_done", false),
        text("author", false),
        time("began_at", false),
        time("ended_at", true),
        text("error", true),
    ]);
    table(backfills, "pipeline_backfills", schema, |backfills: Backfills| {
        async move {
            let all = backfills.all().await?;
            Ok(vec![
                numbers(all.iter().map(|line| Some(line.backfill))),
                texts(all.iter().map(|line| Some(line.of.pipeline.as_str()))),
                texts(all.iter().map(|line| Some(line.of.environment.as_str()))),
                texts(all.iter().map(|line| Some(line.state.as_str()))),
                texts(all.iter().map(|line| Some(line.start.as_str()))),
                texts(all.iter().map(|line| Some(line.end.as_str()))),
                numbers(all.iter().map(|line| Some(line.chunks))),
                numbers(all.iter().map(|line| Some(line.done))),
                texts(all.iter().map(|line| Some(line.author.as_str()))),
                times(all.iter().map(|line| Some(line.began))),
                times(all.iter().map(|line| line.ended)),
                texts(all.iter().map(|line| line.error.as_deref())),
            ])
        }
        .boxed()
    })
}

fn models(ledger: &Ledger) -> SystemTable {
    let schema = schema(vec![
        number("run_id", false),
        text("model", false),
        number("position", false),
        text("kind", false),
        text("state", false),
        Field::new("row_count", DataType::UInt64, true),
        number("took_ms", true),
        text("note", true),
    ]);
    table(ledger, "pipeline_models", schema, |ledger: Ledger| {
        async move {
            let all = ledger.models(None).await?;
            let took = |time: std::time::Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
            Ok(vec![
                numbers(all.iter().map(|line| Some(line.run))),
                texts(all.iter().map(|line| Some(line.model.as_str()))),
                numbers(all.iter().map(|line| Some(line.position))),
                texts(all.iter().map(|line| Some(line.kind.as_str()))),
                texts(all.iter().map(|line| Some(line.state.name()))),
                Arc::new(all.iter().map(|line| line.rows).collect::<UInt64Array>()),
                numbers(all.iter().map(|line| line.took.map(took))),
                texts(all.iter().map(|line| line.note.as_deref())),
            ])
        }
        .boxed()
    })
}

fn tests(ledger: &Ledger) -> SystemTable {
    let schema = schema(vec![
        number("run_id", false),
        text("model", false),
        text("test", false),
        text("state", false),
        Field::new("failures", DataType::UInt64, false),
        text("note", true),
    ]);
    table(ledger, "pipeline_tests", schema, |ledger: Ledger| {
        async move {
            let all = ledger.tests().await?;
            Ok(vec![
                numbers(all.iter().map(|line| Some(line.run))),
                texts(all.iter().map(|line| Some(line.model.as_str()))),
                texts(all.iter().map(|line| Some(line.test.as_str()))),
                texts(all.iter().map(|line| Some(line.state.name()))),
                Arc::new(UInt64Array::from_iter_values(all.iter().map(|line| line.failures))),
                texts(all.iter().map(|line| line.note.as_deref())),
            ])
        }
        .boxed()
    })
}

fn intervals(ledger: &Ledger) -> SystemTable {
    let schema = schema(vec![
        text("pipeline", false),
        text("environment", false),
        text("model", false),
        text("start_at", false),
        text("end_at", false),
        number("run_id", false),
        number("snapshot_id", false),
    ]);
    table(ledger, "pipeline_intervals", schema, |ledger: Ledger| {
        async move {
            let all = ledger.all_intervals().await?;
            Ok(vec![
                texts(all.iter().map(|line| Some(line.0.as_str()))),
                texts(all.iter().map(|line| Some(line.1.as_str()))),
                texts(all.iter().map(|line| Some(line.2.as_str()))),
                texts(all.iter().map(|line| Some(line.3.as_str()))),
                texts(all.iter().map(|line| Some(line.4.as_str()))),
                numbers(all.iter().map(|line| Some(line.5))),
                numbers(all.iter().map(|line| Some(line.6))),
            ])
        }
        .boxed()
    })
}

/// What was deployed.
pub(crate) fn versions(versions: &Versions) -> SystemTable {
    let schema = schema(vec![
        text("pipeline", false),
        number("version", false),
        text("fingerprint", false),
        text("folder", false),
        text("author", false),
        time("deployed_at", false),
        text("current_in", true),
    ]);
    table(versions, "pipeline_versions", schema, |versions| {
        async move {
            let all = versions.all().await?;
            let current =
                |line: &VersionLine| (!line.environments.is_empty()).then(|| line.environments.join(", "));
            let current: Vec<Option<String>> = all.iter().map(current).collect();
            Ok(vec![
                texts(all.iter().map(|line| Some(line.pipeline.as_str()))),
                numbers(all.iter().map(|line| Some(line.number))),
                texts(all.iter().map(|line| Some(line.version.as_str()))),
                texts(all.iter().map(|line| Some(line.directory.as_str()))),
                texts(all.iter().map(|line| Some(line.author.as_str()))),
                times(all.iter().map(|line| Some(line.created))),
                texts(current.iter().map(Option::as_deref)),
            ])
        }
        .boxed()
    })
}
