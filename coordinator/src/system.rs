//! The tables of schema `system`: the cluster as it is now.

use std::sync::Arc;

use arrow::array::{Int64Array, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use skep_common::{Error, Result};

use crate::coordinator::Shared;

pub(crate) use skep_engine::names::SYSTEM_SCHEMA as SCHEMA;

/// The names of its tables with their columns.
pub(crate) fn schemas() -> Vec<(&'static str, SchemaRef)> {
    let mut all = skep_engine::planner::history_schemas();
    all.push(("workers", workers_schema()));
    all
}

/// Its tables, filled as of now.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) if a table does not fit its schema.
pub(crate) fn tables(shared: &Shared) -> Result<Vec<(String, Arc<dyn TableProvider>)>> {
    let schema = workers_schema();
    let table = workers(shared, &schema)
        .and_then(|batch| MemTable::try_new(schema, vec![vec![batch]]))
        .map_err(|e| Error::internal("system.workers does not fit its schema").source(e))?;
    Ok(vec![("workers".to_owned(), Arc::new(table) as Arc<dyn TableProvider>)])
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
