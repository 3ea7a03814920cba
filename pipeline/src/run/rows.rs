//! Statements of a run and what they give.
//!
//! # Not here
//! The texts of the statements (`statements`).

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;
use skep_common::{Error, Result};
use skep_coordinator::{Outcome, Session};
use skep_engine::error::from_datafusion;

/// Runs one statement to its end. Returns the rows that it wrote, or all that it gave.
///
/// # Errors
/// Those of the statement.
pub(super) async fn run(session: &Session, sql: &str) -> Result<(Option<u64>, Vec<RecordBatch>)> {
    match session.execute(sql, Vec::new()).await? {
        Outcome::Done(done) => Ok((done.rows, done.details.into_iter().collect())),
        Outcome::Rows(rows) => Ok((None, rows.stream.try_collect().await.map_err(from_datafusion)?)),
    }
}

/// The one number of a statement that gives one.
///
/// # Errors
/// Those of the statement; [`Kind::Internal`](skep_common::Kind::Internal) for anything but a number.
pub(super) async fn number(session: &Session, sql: &str) -> Result<u64> {
    let (_, batches) = run(session, sql).await?;
    let wrong = || Error::internal(format!("'{sql}' gave no number"));
    let batch = batches.iter().find(|batch| batch.num_rows() > 0).ok_or_else(wrong)?;
    let column = cast(batch.column(0), &DataType::Int64).map_err(|e| wrong().source(e))?;
    let value = column.as_primitive::<Int64Type>().iter().next().flatten();
    value.and_then(|value| u64::try_from(value).ok()).ok_or_else(wrong)
}

/// The first column of all rows, as text, without NULL.
///
/// # Errors
/// Those of the statement, and of showing its values.
pub(super) async fn texts(session: &Session, sql: &str) -> Result<Vec<String>> {
    let (_, batches) = run(session, sql).await?;
    let mut all = Vec::new();
    for batch in batches {
        let column = cast(batch.column(0), &DataType::Utf8)
            .map_err(|e| Error::internal("a column does not read as text").source(e))?;
        all.extend(column.as_string::<i32>().iter().flatten().map(str::to_owned));
    }
    Ok(all)
}

/// Rows for people: `a = 1, b = x; a = 2, b = y`.
///
/// # Errors
/// Those of the statement, and of showing its values.
pub(super) async fn shown(session: &Session, sql: &str) -> Result<String> {
    let (_, batches) = run(session, sql).await?;
    let failed = |e: arrow::error::ArrowError| Error::internal("a row cannot be shown").source(e);
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in &batches {
        let schema = batch.schema();
        let columns: Vec<ArrayFormatter<'_>> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        for row in 0..batch.num_rows() {
            let values: Vec<String> = schema
                .fields()
                .iter()
                .zip(&columns)
                .map(|(field, column)| format!("{} = {}", field.name(), column.value(row)))
                .collect();
            rows.push(values.join(", "));
        }
    }
    Ok(rows.join("; "))
}
