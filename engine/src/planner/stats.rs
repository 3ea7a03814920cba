//! `system.column_stats`: how many different values columns have, and whether that is still so.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, UInt64Array};
use skep_catalog::{Column, Distinct, Sketch, TableDef};
use skep_common::{Kind, Result};

use super::Planner;
use super::history::texts;

/// Rows that went, in hundredths of those that are there, from which on an estimate is too large to be good.
const GONE_MAX: u64 = 20;

/// Nothing is to be done.
pub(super) const GOOD: &str = "good";

/// How much a state matters, more than those before it.
pub(super) fn badness(state: &str) -> usize {
    [GOOD, "too large", "stale", "missing"].iter().position(|other| *other == state).unwrap_or(0)
}

/// What is known about the different values of one column of a table with `rows` rows, the newest of whose files came with
/// snapshot `newest`.
pub(super) fn state(known: Option<&Distinct>, rows: u64, newest: Option<i64>) -> &'static str {
    match known {
        None if rows == 0 => GOOD,
        None => "missing",
        Some(known) if newest.is_some_and(|newest| newest > known.snapshot) => "stale",
        Some(known) if known.rows > rows + rows / 100 * GONE_MAX && known.rows > rows + 1 => "too large",
        Some(_) => GOOD,
    }
}

/// The columns of `table` whose values are counted.
pub(super) fn counted(table: &TableDef) -> impl Iterator<Item = &Column> {
    let schema = table.arrow_schema();
    table
        .columns
        .iter()
        .enumerate()
        .filter(move |(at, _)| Sketch::takes(schema.field(*at).data_type()))
        .map(|(_, c)| c)
}

struct Row {
    table: Arc<TableDef>,
    column: String,
    known: Option<Distinct>,
    count: Option<u64>,
    state: &'static str,
}

/// The columns of the table.
pub(super) async fn columns(planner: &Planner) -> Result<Vec<ArrayRef>> {
    let (snapshot, catalog) = (planner.snapshot(), &planner.environment.catalog);
    let mut rows = Vec::new();
    let tables: Vec<Arc<TableDef>> = snapshot
        .schemas()
        .flat_map(|schema| snapshot.tables(&schema.name))
        .filter(|table| table.external.is_none())
        .cloned()
        .collect();
    for table in tables {
        let known = catalog.distinct(table.id).await?;
        let files = match catalog.files(snapshot, table.id).await {
            Ok(files) => files,
            // A table that another engine left so that it is not read here has nothing to say.
            Err(error) if error.kind() == Kind::Unsupported => continue,
            Err(error) => return Err(error),
        };
        let newest = files.iter().filter(|file| file.id >= 0).map(|file| file.begin).max();
        let there: u64 = files.iter().map(|file| file.rows).sum();
        for column in counted(&table) {
            let known = known.get(&column.id).copied();
            rows.push(Row {
                table: Arc::clone(&table),
                column: column.name.clone(),
                known,
                count: known.map(|known| known.count.min(there)),
                state: state(known.as_ref(), there, newest),
            });
        }
    }
    let numbers = |number: fn(&Row) -> Option<u64>| -> ArrayRef {
        Arc::new(rows.iter().map(number).collect::<UInt64Array>())
    };
    Ok(vec![
        texts(rows.iter().map(|row| Some(row.table.schema_name.as_str()))),
        texts(rows.iter().map(|row| Some(row.table.name.as_str()))),
        texts(rows.iter().map(|row| Some(row.column.as_str()))),
        numbers(|row| row.count),
        numbers(|row| row.known.map(|known| known.rows)),
        Arc::new(rows.iter().map(|row| row.known.map(|known| known.snapshot)).collect::<Int64Array>()),
        texts(rows.iter().map(|row| Some(row.state))),
    ])
}
