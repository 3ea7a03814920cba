//! `system.snapshots`, `system.tags`, `system.loads` and `system.table_health`: what was committed when, from which files, and in
//! how many.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use skep_catalog::{LedgerEntry, Snapshot, SnapshotInfo, Tag};
use skep_common::Result;

use super::{Planner, health, stats};
use crate::error;

const ZONE: &str = "UTC";

/// The tables with their columns.
pub fn schemas() -> Vec<(&'static str, SchemaRef)> {
    let number = |name| Field::new(name, DataType::Int64, false);
    let time = |name| Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some(ZONE.into())), false);
    let text = |name| Field::new(name, DataType::Utf8, true);
    let snapshots = vec![
        number("snapshot_id"),
        time("snapshot_time"),
        number("schema_version"),
        text("author"),
        text("message"),
        text("changes"),
        text("tags"),
    ];
    let tags = vec![text("tag"), number("snapshot_id"), time("created_at")];
    let count = |name| Field::new(name, DataType::UInt64, false);
    let health = vec![
        text("table_schema"),
        text("table_name"),
        count("files"),
        count("small_files"),
        count("rows"),
        count("bytes"),
        count("largest_file_bytes"),
        count("median_file_bytes"),
        count("partitions"),
        count("largest_partition_bytes"),
        count("median_partition_bytes"),
        count("delete_files"),
        text("column_stats"),
        text("advice"),
    ];
    let loads = vec![
        text("table_schema"),
        text("table_name"),
        text("file"),
        count("size_bytes"),
        time("modified_at"),
        count("rows_loaded"),
        count("rows_rejected"),
        number("snapshot_id"),
        time("loaded_at"),
    ];
    let columns = vec![
        text("table_schema"),
        text("table_name"),
        text("column_name"),
        Field::new("distinct_count", DataType::UInt64, true),
        Field::new("rows_seen", DataType::UInt64, true),
        Field::new("snapshot_id", DataType::Int64, true),
        text("state"),
    ];
    vec![
        ("column_stats", Arc::new(Schema::new(columns))),
        ("loads", Arc::new(Schema::new(loads))),
        ("snapshots", Arc::new(Schema::new(snapshots))),
        ("table_health", Arc::new(Schema::new(health))),
        ("tags", Arc::new(Schema::new(tags))),
    ]
}

/// The table of that name, if it is one of these.
pub(super) async fn table(planner: &Planner, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
    let Some((name, schema)) = schemas().into_iter().find(|(known, _)| *known == name) else {
        return Ok(None);
    };
    let catalog = &planner.environment.catalog;
    let columns = match name {
        "tags" => tags(&catalog.tags().await?),
        "column_stats" => stats::columns(planner).await?,
        "loads" => loads(planner.snapshot(), &catalog.loads(None).await?),
        "table_health" => health::columns(&planner.health().await?),
        _ => snapshots(&catalog.history().await?, &catalog.tags().await?),
    };
    let batch =
        RecordBatch::try_new(Arc::clone(&schema), columns).map_err(|e| error::from_datafusion(e.into()))?;
    let table = MemTable::try_new(schema, vec![vec![batch]]).map_err(error::from_datafusion)?;
    Ok(Some(Arc::new(table)))
}

fn times(values: impl Iterator<Item = DateTime<Utc>>) -> ArrayRef {
    let micros = values.map(|time| time.timestamp_micros());
    Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone(ZONE))
}

pub(super) fn texts<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn snapshots(all: &[SnapshotInfo], tags: &[Tag]) -> Vec<ArrayRef> {
    let names = by_snapshot(tags);
    vec![
        Arc::new(Int64Array::from_iter_values(all.iter().map(|info| info.id))),
        times(all.iter().map(|info| info.time)),
        Arc::new(Int64Array::from_iter_values(all.iter().map(|info| info.schema_version))),
        texts(all.iter().map(|info| info.author.as_deref())),
        texts(all.iter().map(|info| info.message.as_deref())),
        texts(all.iter().map(|info| Some(info.changes.as_str()))),
        texts(all.iter().map(|info| names.get(&info.id).map(String::as_str))),
    ]
}

/// The files that were loaded into tables that are there.
fn loads(snapshot: &Snapshot, all: &[LedgerEntry]) -> Vec<ArrayRef> {
    let found = all.iter().filter_map(|entry| Some((snapshot.table_by_id(entry.table)?, entry)));
    let found: Vec<_> = found.collect();
    let entries = || found.iter().map(|(_, entry)| *entry);
    let numbers = |number: fn(&LedgerEntry) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(entries().map(number)))
    };
    vec![
        texts(found.iter().map(|(table, _)| Some(table.schema_name.as_str()))),
        texts(found.iter().map(|(table, _)| Some(table.name.as_str()))),
        texts(entries().map(|entry| Some(entry.load.path.as_str()))),
        numbers(|entry| entry.load.version.bytes),
        times(entries().map(|entry| entry.load.version.modified)),
        numbers(|entry| entry.load.rows),
        numbers(|entry| entry.load.rejected),
        Arc::new(Int64Array::from_iter_values(entries().map(|entry| entry.snapshot))),
        times(entries().map(|entry| entry.time)),
    ]
}

fn tags(all: &[Tag]) -> Vec<ArrayRef> {
    vec![
        texts(all.iter().map(|tag| Some(tag.name.as_str()))),
        Arc::new(Int64Array::from_iter_values(all.iter().map(|tag| tag.snapshot))),
        times(all.iter().map(|tag| tag.time)),
    ]
}

/// The tags of each snapshot, in one text.
fn by_snapshot(tags: &[Tag]) -> BTreeMap<i64, String> {
    let mut names: BTreeMap<i64, String> = BTreeMap::new();
    for tag in tags {
        let text = names.entry(tag.snapshot).or_default();
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&tag.name);
    }
    names
}

impl Planner {
    /// The rows of SHOW SNAPSHOTS.
    pub(crate) async fn snapshots(&self) -> Result<Vec<Vec<Option<String>>>> {
        let catalog = &self.environment.catalog;
        let names = by_snapshot(&catalog.tags().await?);
        let all = catalog.history().await?.into_iter();
        Ok(all
            .map(|info| {
                let tags = names.get(&info.id).cloned();
                let time = shown(info.time);
                vec![
                    Some(info.id.to_string()),
                    Some(time),
                    info.author,
                    info.message,
                    Some(info.changes),
                    tags,
                ]
            })
            .collect())
    }

    /// The rows of SHOW TAGS.
    pub(crate) async fn tags(&self) -> Result<Vec<Vec<Option<String>>>> {
        let all = self.environment.catalog.tags().await?.into_iter();
        Ok(all
            .map(|tag| vec![Some(tag.name), Some(tag.snapshot.to_string()), Some(shown(tag.time))])
            .collect())
    }
}

fn shown(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S%.6fZ").to_string()
}
