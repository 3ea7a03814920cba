//! Batches as rows of text, to compare.

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use skep_common::{Error, Result};

/// How values read: as SQL people write them, NULL by name.
const FORMAT: FormatOptions<'static> = FormatOptions::new()
    .with_display_error(false)
    .with_null("NULL")
    .with_date_format(Some("%Y-%m-%d"))
    .with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"));

/// Every value of `batches` as text, row by row.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) for a type that has no text.
pub fn text(batches: &[RecordBatch]) -> Result<Vec<Vec<String>>> {
    let unprintable = |e| Error::internal("a value has no text").source(e);
    let mut rows = Vec::new();
    for batch in batches {
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &FORMAT));
        let columns = columns.collect::<Result<Vec<_>, _>>().map_err(unprintable)?;
        for row in 0..batch.num_rows() {
            let values = columns.iter().map(|column| column.value(row).try_to_string());
            rows.push(values.collect::<Result<Vec<_>, _>>().map_err(unprintable)?);
        }
    }
    Ok(rows)
}

/// The first difference between two results as a line that says where, or `None`.
///
/// Rows may come in any order. Numbers are equal when they differ by less than one part in 10^9, which is what the order of
/// a sum may change, or by no more than `tolerance`, which is what two engines may see in the last digit of a quotient.
pub fn difference(left: &[Vec<String>], right: &[Vec<String>], tolerance: f64) -> Option<String> {
    if left.len() != right.len() {
        return Some(format!("{} rows and {} rows", left.len(), right.len()));
    }
    let sorted = |rows: &[Vec<String>]| {
        let mut rows: Vec<Vec<Value>> =
            rows.iter().map(|row| row.iter().map(|text| Value::new(text)).collect()).collect();
        rows.sort_by(|a, b| a.iter().map(|v| &v.sorts_as).cmp(b.iter().map(|v| &v.sorts_as)));
        rows
    };
    let (left, right) = (sorted(left), sorted(right));
    let differ = left
        .iter()
        .zip(&right)
        .find(|(a, b)| a.len() != b.len() || a.iter().zip(b.iter()).any(|(a, b)| !a.is_like(b, tolerance)))?;
    let shown = |row: &[Value]| row.iter().map(|v| v.text.as_str()).collect::<Vec<_>>().join(" | ");
    Some(format!("'{}' and '{}'", shown(differ.0), shown(differ.1)))
}

/// The first difference between two results whose rows must come in one order, else as [`difference`].
pub fn difference_in_order(left: &[Vec<String>], right: &[Vec<String>], tolerance: f64) -> Option<String> {
    let at = |row| difference(&left[row..=row], &right[row..=row], tolerance);
    difference(left, right, tolerance)
        .or_else(|| (0..left.len()).find_map(|row| at(row).map(|text| format!("row {row}: {text}"))))
}

struct Value {
    text: String,
    number: Option<f64>,
    /// Rounded, so that nearly equal numbers sort alike.
    sorts_as: String,
}

impl Value {
    fn new(text: &str) -> Self {
        let number = text.parse::<f64>().ok();
        let sorts_as = number.map_or_else(|| text.to_owned(), |number| format!("{number:.6e}"));
        Self { text: text.to_owned(), number, sorts_as }
    }

    fn is_like(&self, other: &Self, tolerance: f64) -> bool {
        match (self.number, other.number) {
            (Some(a), Some(b)) => {
                a == b
                    || (a - b).abs() <= tolerance.max(1e-9 * a.abs().max(b.abs()))
                    || (a.is_nan() && b.is_nan())
            }
            _ => self.text == other.text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|v| (*v).to_owned()).collect()).collect()
    }

    #[test]
    fn order_and_the_last_digits_of_numbers_do_not_matter() {
        let left = rows(&[&["a", "1.0000000000001"], &["b", "2"]]);
        assert_eq!(difference(&left, &rows(&[&["b", "2.00"], &["a", "1"]]), 0.0), None);
    }

    #[test]
    fn order_matters_where_it_is_asked_for() {
        let (left, right) = (rows(&[&["a"], &["b"]]), rows(&[&["b"], &["a"]]));
        assert_eq!(difference_in_order(&left, &left, 0.0), None);
        assert_eq!(difference(&left, &right, 0.0), None);
        assert_eq!(difference_in_order(&left, &right, 0.0).as_deref(), Some("row 0: 'a' and 'b'"));
    }

    #[test]
    fn what_differs_is_named() {
        let left = rows(&[&["a", "1"]]);
        assert_eq!(difference(&left, &[], 0.0).as_deref(), Some("1 rows and 0 rows"));
        assert_eq!(difference(&left, &rows(&[&["a", "1.1"]]), 0.0).as_deref(), Some("'a | 1' and 'a | 1.1'"));
        assert_eq!(
            difference(&left, &rows(&[&["NULL", "1"]]), 0.0).as_deref(),
            Some("'a | 1' and 'NULL | 1'")
        );
    }
}
