//! Rows that are missing, and rows that nobody expected: in any order, each as often as it is there.
//!
//! Pure.
//!
//! # Not here
//! Running the query (`bench`).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use skep_common::{Error, Result};

/// Rows of each sort that are shown.
const SHOWN_MAX: usize = 20;
/// Letters of a value that are shown.
const LETTERS_MAX: usize = 60;

/// A value as text; `None` is NULL.
type Row = Vec<Option<String>>;

/// How rows differ from those that were expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    columns: Vec<String>,
    missing: Vec<Row>,
    unexpected: Vec<Row>,
}

impl Difference {
    pub(super) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty()
    }

    /// Both sorts of rows as one table.
    pub(super) fn error(&self) -> Error {
        let count = |rows: usize, what: &str| match rows {
            0 => None,
            1 => Some(format!("1 row is {what}")),
            rows => Some(format!("{rows} rows are {what}")),
        };
        let counts = [count(self.missing.len(), "missing"), count(self.unexpected.len(), "not expected")];
        let counts: Vec<String> = counts.into_iter().flatten().collect();
        Error::invalid(format!("{}\n{}", counts.join(", "), self.table()))
    }

    fn table(&self) -> String {
        let shown = |value: &Option<String>| match value {
            None => "NULL".to_owned(),
            Some(text) if text.is_empty() || text == "NULL" => format!("'{text}'"),
            Some(text) if text.chars().count() > LETTERS_MAX => {
                text.chars().take(LETTERS_MAX - 3).chain("...".chars()).collect()
            }
            Some(text) => text.replace('\n', "\\n"),
        };
        let mut lines = vec![std::iter::once(String::new()).chain(self.columns.iter().cloned()).collect()];
        for (what, rows) in [("missing", &self.missing), ("not expected", &self.unexpected)] {
            for row in rows.iter().take(SHOWN_MAX) {
                let line: Vec<String> =
                    std::iter::once(what.to_owned()).chain(row.iter().map(shown)).collect();
                lines.push(line);
            }
            if rows.len() > SHOWN_MAX {
                lines.push(vec![what.to_owned(), format!("... and {} more", rows.len() - SHOWN_MAX)]);
            }
        }
        let width = |at: usize| {
            lines
                .iter()
                .filter_map(|line: &Vec<String>| line.get(at))
                .map(|text| text.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..=self.columns.len()).map(width).collect();
        let mut text = String::new();
        for line in &lines {
            let cells: Vec<String> =
                line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            let _ = writeln!(text, "  {}", cells.join("  ").trim_end());
        }
        text.trim_end().to_owned()
    }
}

/// Compares the columns that `expected` has.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) for values that cannot be shown.
pub(super) fn compare(expected: &RecordBatch, found: &RecordBatch) -> Result<Difference> {
    let columns: Vec<String> = expected.schema().fields().iter().map(|field| field.name().clone()).collect();
    let places = columns.iter().map(|name| found.schema().index_of(name)).collect::<Result<Vec<_>, _>>();
    let found = places
        .and_then(|places| found.project(&places))
        .map_err(|e| Error::internal("a column is not there").source(e))?;
    let mut counts: BTreeMap<Row, i64> = BTreeMap::new();
    for row in rows(expected)? {
        *counts.entry(row).or_default() += 1;
    }
    for row in rows(&found)? {
        *counts.entry(row).or_default() -= 1;
    }
    let (mut missing, mut unexpected) = (Vec::new(), Vec::new());
    for (row, count) in counts {
        let rows = if count > 0 { &mut missing } else { &mut unexpected };
        let times = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
        rows.extend(std::iter::repeat_n(row, times));
    }
    Ok(Difference { columns, missing, unexpected })
}

fn rows(batch: &RecordBatch) -> Result<Vec<Row>> {
    let options = FormatOptions::default();
    let failed = |e: arrow::error::ArrowError| Error::internal("a value cannot be shown").source(e);
    let mut rows = vec![Row::new(); batch.num_rows()];
    for column in batch.columns() {
        let formatter = ArrayFormatter::try_new(column, &options).map_err(failed)?;
        for (at, row) in rows.iter_mut().enumerate() {
            let value = match column.data_type() {
                _ if column.is_null(at) => None,
                DataType::Float64 => Some(float(column.as_primitive::<Float64Type>().value(at), 12)),
                DataType::Float32 => Some(float(column.as_primitive::<Float32Type>().value(at).into(), 6)),
                _ => Some(formatter.value(at).try_to_string().map_err(failed)?),
            };
            row.push(value);
        }
    }
    Ok(rows)
}

/// A number by its first digits: sums depend on the order in which they are made.
fn float(value: f64, digits: usize) -> String {
    let short: f64 = format!("{value:.*e}", digits - 1).parse().unwrap_or(value);
    // Of the two zeros one is enough.
    format!("{}", if short == 0.0 { 0.0 } else { short })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, StringArray};

    use super::*;

    fn batch(names: &[Option<&str>], numbers: &[f64]) -> RecordBatch {
        let columns: [(&str, ArrayRef); 2] = [
            ("name", Arc::new(StringArray::from(names.to_vec()))),
            ("number", Arc::new(Float64Array::from(numbers.to_vec()))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
    }

    #[test]
    fn rows_are_compared_in_any_order_and_counted() {
        let expected = batch(&[Some("a"), None, Some("a")], &[0.3, -0.0, 0.3]);
        let found = batch(&[Some("a"), Some("a"), None], &[0.1 + 0.2, 0.3, 0.0]);
        assert!(compare(&expected, &found).unwrap().is_empty());
        let fewer = batch(&[Some("a"), Some("NULL")], &[0.3, 0.0]);
        let difference = compare(&expected, &fewer).unwrap();
        insta::assert_snapshot!(difference.error().message(), @r"
        2 rows are missing, 1 row is not expected
                        name    number
          missing       NULL    0
          missing       a       0.3
          not expected  'NULL'  0
        ");
        // Only the columns that are expected count.
        let names = expected.project(&[0]).unwrap();
        assert!(compare(&names, &batch(&[None, Some("a"), Some("a")], &[1.0, 2.0, 3.0])).unwrap().is_empty());
    }
}
