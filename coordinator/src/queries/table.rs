//! `system.queries`.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use chrono::{DateTime, Utc};
use datafusion::catalog::TableProvider;
use skep_common::Result;

use super::Queries;
use super::state::Query;
use crate::filled::{batch, filled};

const ZONE: &str = "UTC";

fn time(name: &str, null: bool) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some(ZONE.into())), null)
}

/// Its columns.
pub(crate) fn queries_schema() -> SchemaRef {
    let text = |name, null| Field::new(name, DataType::Utf8, null);
    let count = |name| Field::new(name, DataType::UInt64, true);
    Arc::new(Schema::new(vec![
        text("query_id", false),
        text("state", false),
        text("statement", false),
        text("user_name", false),
        text("session_id", false),
        text("resource_group", true),
        text("lane", true),
        time("created_at", false),
        time("started_at", true),
        time("ended_at", true),
        Field::new("elapsed_ms", DataType::Int64, false),
        Field::new("progress", DataType::Float64, true),
        Field::new("remaining_ms", DataType::Int64, true),
        count("rows"),
        count("bytes"),
        count("memory_bytes"),
        count("attempts"),
        text("error_kind", true),
        text("error", true),
        text("coordinator", true),
    ]))
}

/// The table.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) if it does not fit its schema.
pub(crate) fn queries_table(queries: &Arc<Queries>) -> Result<Arc<dyn TableProvider>> {
    let queries = Arc::clone(queries);
    filled(queries_schema(), move || {
        let queries = Arc::clone(&queries);
        Box::pin(async move {
            let all = queries.list().await?;
            let now = queries.catalog.now();
            batch(&queries_schema(), rows(&all, now))
        })
    })
}

fn rows(all: &[Query], now: DateTime<Utc>) -> Vec<ArrayRef> {
    let text = |of: &dyn Fn(&Query) -> Option<String>| -> ArrayRef {
        Arc::new(all.iter().map(of).collect::<StringArray>())
    };
    let count = |of: &dyn Fn(&Query) -> Option<u64>| -> ArrayRef {
        Arc::new(all.iter().map(of).collect::<UInt64Array>())
    };
    let time = |of: &dyn Fn(&Query) -> Option<DateTime<Utc>>| -> ArrayRef {
        let micros = all.iter().map(|query| of(query).map(|time| time.timestamp_micros()));
        Arc::new(micros.collect::<TimestampMicrosecondArray>().with_timezone(ZONE))
    };
    let elapsed = |query: &Query| (query.ended.unwrap_or(now) - query.created).num_milliseconds().max(0);
    vec![
        text(&|query| Some(query.id.to_string())),
        text(&|query| Some(query.state.name().to_owned())),
        text(&|query| Some(query.text.clone())),
        text(&|query| Some(query.user.clone())),
        text(&|query| Some(query.session.clone())),
        text(&|query| query.group.clone()),
        text(&|query| query.lane.clone()),
        time(&|query| Some(query.created)),
        time(&|query| query.started),
        time(&|query| query.ended),
        Arc::new(all.iter().map(|query| Some(elapsed(query))).collect::<Int64Array>()),
        Arc::new(all.iter().map(|query| query.progress).collect::<Float64Array>()),
        Arc::new(all.iter().map(|query| query.remaining_ms(now)).collect::<Int64Array>()),
        count(&|query| query.rows),
        count(&|query| query.bytes),
        count(&|query| query.memory),
        count(&|query| query.attempts),
        text(&|query| query.error.as_ref().map(|(kind, _)| kind.clone())),
        text(&|query| query.error.as_ref().map(|(_, text)| text.clone())),
        text(&|query| query.coordinator.as_deref().map(str::to_owned)),
    ]
}
