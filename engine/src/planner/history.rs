//! `system.snapshots` and `system.tags`: what was committed when.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use skep_catalog::{SnapshotInfo, Tag};
use skep_common::Result;

use super::Planner;
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
    vec![("snapshots", Arc::new(Schema::new(snapshots))), ("tags", Arc::new(Schema::new(tags)))]
}

/// The table of that name, if it is one of these.
pub(super) async fn table(planner: &Planner, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
    let Some((name, schema)) = schemas().into_iter().find(|(known, _)| *known == name) else {
        return Ok(None);
    };
    let catalog = &planner.environment.catalog;
    let columns = match name {
        "tags" => tags(&catalog.tags().await?),
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

fn texts<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
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
