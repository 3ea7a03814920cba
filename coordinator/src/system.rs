//! The tables of schema `system`: the cluster as it is now.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use skep_common::{ByteSize, Error, Result};
use skep_store::CacheStats;

use crate::admission::Line;
use crate::blocks;
use crate::coordinator::Shared;
use crate::extension::SystemTable;
use crate::filled::filled;
use crate::queries::{queries_schema, queries_table, stages_schema, stages_table, tasks_schema, tasks_table};

pub(crate) use skep_engine::names::SYSTEM_SCHEMA as SCHEMA;

/// The names of its tables with their columns.
pub(crate) fn schemas(shared: &Shared) -> Vec<(&'static str, SchemaRef)> {
    let mut all = skep_engine::planner::history_schemas();
    all.push(("caches", caches_schema()));
    all.push(("groups", groups_schema()));
    all.push(("maintenance", maintenance_schema()));
    all.push(("queries", queries_schema()));
    all.push(("stages", stages_schema()));
    all.push(("tasks", tasks_schema()));
    all.push(("workers", workers_schema()));
    all.extend(blocks::schemas());
    all.extend(added(shared).into_iter().map(|table| (table.name, table.schema)));
    all
}

/// Its tables, filled as of now.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) if a table does not fit its schema.
pub(crate) fn tables(shared: &Shared) -> Result<Vec<(String, Arc<dyn TableProvider>)>> {
    type Named = (String, Arc<dyn TableProvider>);
    let table =
        |name: &str, schema: SchemaRef, batch: datafusion::error::Result<RecordBatch>| -> Result<Named> {
            let table = batch.and_then(|batch| MemTable::try_new(schema, vec![vec![batch]]));
            let table = table
                .map_err(|e| Error::internal(format!("system.{name} does not fit its schema")).source(e))?;
            Ok((name.to_owned(), Arc::new(table)))
        };
    let (done, there, groups) = (maintenance_schema(), workers_schema(), groups_schema());
    let cached = caches_schema();
    let mut all = vec![
        table("caches", Arc::clone(&cached), caches(shared, &cached))?,
        table("groups", Arc::clone(&groups), groups_rows(shared, &groups))?,
        table("maintenance", Arc::clone(&done), maintenance(shared, &done))?,
        ("queries".to_owned(), queries_table(&shared.queries)?),
        ("stages".to_owned(), stages_table(&shared.queries)?),
        ("tasks".to_owned(), tasks_table(&shared.queries)?),
        table("workers", Arc::clone(&there), workers(shared, &there))?,
    ];
    if let Some(namespace) = &shared.blocks {
        all.extend(blocks::tables(namespace)?);
    }
    for SystemTable { name, schema, rows } in added(shared) {
        all.push((name.to_owned(), filled(schema, move || rows())?));
    }
    Ok(all)
}

/// The tables of extensions.
fn added(shared: &Shared) -> Vec<SystemTable> {
    shared.extensions.read().iter().flat_map(|extension| extension.tables()).collect()
}

fn maintenance_schema() -> SchemaRef {
    let zone = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("started_at", zone, false),
        Field::new("statement", DataType::Utf8, false),
        Field::new("took_ms", DataType::Int64, false),
        Field::new("count", DataType::UInt64, true),
        Field::new("error", DataType::Utf8, true),
    ]))
}

fn maintenance(shared: &Shared, schema: &SchemaRef) -> datafusion::error::Result<RecordBatch> {
    let all = shared.maintenance.entries();
    let started = all.iter().map(|entry| entry.started.timestamp_micros());
    let took = all.iter().map(|entry| i64::try_from(entry.took.as_millis()).unwrap_or(i64::MAX));
    let batch = RecordBatch::try_new(
        Arc::clone(schema),
        vec![
            Arc::new(TimestampMicrosecondArray::from_iter_values(started).with_timezone("UTC")),
            Arc::new(StringArray::from_iter_values(all.iter().map(|entry| &entry.statement))),
            Arc::new(Int64Array::from_iter_values(took)),
            Arc::new(all.iter().map(|entry| entry.count).collect::<UInt64Array>()),
            Arc::new(all.iter().map(|entry| entry.error.as_deref()).collect::<StringArray>()),
        ],
    )?;
    Ok(batch)
}

fn workers_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("worker", DataType::Utf8, false),
        Field::new("url", DataType::Utf8, false),
        Field::new("zone", DataType::Utf8, true),
        Field::new("free_bytes", DataType::UInt64, false),
        Field::new("silent_ms", DataType::Int64, false),
        Field::new("tasks", DataType::UInt64, false),
    ]))
}

fn workers(shared: &Shared, schema: &SchemaRef) -> datafusion::error::Result<RecordBatch> {
    let all = shared.members.all();
    let text = |f: &dyn Fn(&skep_store::NodeInfo) -> String| -> StringArray {
        all.iter().map(|(node, _)| Some(f(node))).collect()
    };
    let zones: StringArray = all.iter().map(|(node, _)| node.zone.clone()).collect();
    let silent = all.iter().map(|(_, silence)| i64::try_from(silence.as_millis()).unwrap_or(i64::MAX));
    let batch = RecordBatch::try_new(
        Arc::clone(schema),
        vec![
            Arc::new(text(&|node| node.id.to_string())),
            Arc::new(text(&|node| node.url.to_string())),
            Arc::new(zones),
            Arc::new(all.iter().map(|(node, _)| Some(node.free)).collect::<UInt64Array>()),
            Arc::new(silent.map(Some).collect::<Int64Array>()),
            Arc::new(all.iter().map(|(node, _)| Some(shared.tasks_of(&node.id))).collect::<UInt64Array>()),
        ],
    )?;
    Ok(batch)
}

fn caches_schema() -> SchemaRef {
    let count = |name| Field::new(name, DataType::UInt64, false);
    Arc::new(Schema::new(vec![
        Field::new("node", DataType::Utf8, false),
        Field::new("hit_rate", DataType::Float64, true),
        count("hits"),
        count("misses"),
        count("hit_bytes"),
        count("miss_bytes"),
        count("failures"),
    ]))
}

fn caches(shared: &Shared, schema: &SchemaRef) -> datafusion::error::Result<RecordBatch> {
    let all = shared.caches();
    let count = |of: &dyn Fn(&CacheStats) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(all.iter().map(|(_, stats)| of(stats))))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(all.iter().map(|(node, _)| node))),
        Arc::new(all.iter().map(|(_, stats)| stats.hit_rate()).collect::<Float64Array>()),
        count(&|stats| stats.hits),
        count(&|stats| stats.misses),
        count(&|stats| stats.hit_bytes),
        count(&|stats| stats.miss_bytes),
        count(&|stats| stats.failures),
    ];
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

fn groups_schema() -> SchemaRef {
    let count = |name, null| Field::new(name, DataType::UInt64, null);
    Arc::new(Schema::new(vec![
        Field::new("resource_group", DataType::Utf8, false),
        count("running", false),
        count("queued", false),
        count("concurrency", false),
        count("queue", false),
        count("queue_timeout_ms", false),
        count("run_timeout_ms", true),
        count("scan_bytes_max", true),
        count("memory_percent", false),
        count("memory_bytes_max", true),
    ]))
}

fn groups_rows(shared: &Shared, schema: &SchemaRef) -> datafusion::error::Result<RecordBatch> {
    let all = shared.admission.lines();
    let budget = shared.environment.memory.budget();
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let count = |of: &dyn Fn(&Line) -> Option<u64>| -> ArrayRef {
        Arc::new(all.iter().map(of).collect::<UInt64Array>())
    };
    let share = |line: &Line| {
        let of = |bytes: u64| u128::from(bytes) * u128::from(line.group.memory_percent) / 100;
        budget.and_then(|bytes| u64::try_from(of(bytes)).ok())
    };
    let columns = vec![
        Arc::new(StringArray::from_iter_values(all.iter().map(|line| &line.name))) as ArrayRef,
        count(&|line| Some(line.running)),
        count(&|line| Some(line.waiting)),
        count(&|line| Some(line.group.concurrency.get().into())),
        count(&|line| Some(line.group.queue.into())),
        count(&|line| Some(millis(line.group.queue_timeout))),
        count(&|line| line.group.run_timeout.map(millis)),
        count(&|line| line.group.scan_bytes_max.map(ByteSize::bytes)),
        count(&|line| Some(line.group.memory_percent.into())),
        count(&share),
    ];
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}
