//! Values as text.

use std::fmt::Write;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, FieldRef};
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, make_encoder};
use arrow::util::display::{ArrayFormatter, DurationFormat, FormatOptions};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

const TIMESTAMP: &str = "%Y-%m-%d %H:%M:%S%.f";
const TIMESTAMP_ZONE: &str = "%Y-%m-%d %H:%M:%S%.f%:z";

fn options() -> FormatOptions<'static> {
    FormatOptions::new()
        .with_display_error(false)
        .with_null("NULL")
        .with_datetime_format(Some(TIMESTAMP))
        .with_timestamp_format(Some(TIMESTAMP))
        .with_timestamp_tz_format(Some(TIMESTAMP_ZONE))
        .with_duration_format(DurationFormat::Pretty)
}

/// The text of each value of a batch: NULL inside nested values as `NULL`, binary as hex, times as SQL writes them.
pub(crate) struct Cells<'a> {
    columns: Vec<Column<'a>>,
    rows: usize,
}

struct Column<'a> {
    array: &'a ArrayRef,
    formatter: ArrayFormatter<'a>,
}

impl<'a> Cells<'a> {
    /// # Errors
    /// A type that has no text form.
    pub(crate) fn new(batch: &'a RecordBatch) -> Result<Self, ArrowError> {
        let options = options();
        let columns = batch
            .columns()
            .iter()
            .map(|array| Ok(Column { array, formatter: ArrayFormatter::try_new(array.as_ref(), &options)? }))
            .collect::<Result<_, ArrowError>>()?;
        Ok(Self { columns, rows: batch.num_rows() })
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns.len()
    }

    /// The text of one value; nothing for NULL.
    ///
    /// # Errors
    /// A value that has no text form, such as a date out of range.
    pub(crate) fn text(&self, row: usize, column: usize) -> Result<Option<String>, ArrowError> {
        let Column { array, formatter } = &self.columns[column];
        if array.is_null(row) || array.data_type().is_null() {
            return Ok(None);
        }
        formatter.value(row).try_to_string().map(Some)
    }
}

/// Whether the values of a type are nested ones, which plain text formats write as JSON.
pub(crate) fn is_nested(ty: &DataType) -> bool {
    ty.is_nested()
}

/// Whether values of a type are aligned to the right.
pub(crate) fn is_number(ty: &DataType) -> bool {
    ty.is_numeric()
}

/// A nested value as JSON.
///
/// # Errors
/// A type that JSON cannot say.
pub(crate) fn json(field: &FieldRef, array: &ArrayRef, row: usize) -> Result<String, ArrowError> {
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let mut encoder = make_encoder(field, array.as_ref(), &options)?;
    let mut out = Vec::new();
    encoder.encode(row, &mut out);
    String::from_utf8(out).map_err(|e| ArrowError::ExternalError(Box::new(e)))
}

/// `text` on one line: control characters as escapes, so that no value moves the cursor.
pub(crate) fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Columns that `text` takes on a terminal.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// `text` cut to `columns` with an ellipsis; whether it was.
pub(crate) fn fit(text: &str, columns: usize) -> (String, bool) {
    if width(text) <= columns {
        return (text.to_owned(), false);
    }
    let mut out = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > columns {
            break;
        }
        out.push(c);
    }
    out.push('\u{2026}');
    (out, true)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, Decimal128Array, Int32Array, ListArray, StringArray, StructArray,
        TimestampMicrosecondArray,
    };
    use arrow::datatypes::{Field, Int32Type, Schema};

    use super::*;

    fn text(array: ArrayRef) -> Vec<Option<String>> {
        let schema = Schema::new(vec![Field::new("x", array.data_type().clone(), true)]);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![array]).unwrap();
        let cells = Cells::new(&batch).unwrap();
        (0..cells.rows()).map(|row| cells.text(row, 0).unwrap()).collect()
    }

    fn some(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|text| Some((*text).to_owned())).collect()
    }

    #[test]
    fn values_read_as_sql_writes_them() {
        let decimal = Decimal128Array::from(vec![12_345, -5]).with_precision_and_scale(10, 2).unwrap();
        assert_eq!(text(Arc::new(decimal)), some(&["123.45", "-0.05"]));
        assert_eq!(text(Arc::new(BinaryArray::from(vec![&b"\x00\xff"[..]]))), some(&["00ff"]));
        let times = TimestampMicrosecondArray::from(vec![1_357_017_300_000_000, 1_357_017_300_500_000]);
        assert_eq!(text(Arc::new(times.clone())), some(&["2013-01-01 05:15:00", "2013-01-01 05:15:00.500"]));
        let zoned = text(Arc::new(times.clone().with_timezone("+02:00")));
        assert_eq!(zoned[0].as_deref(), Some("2013-01-01 07:15:00+02:00"));
        let named = text(Arc::new(times.with_timezone("Europe/Paris")));
        assert_eq!(named[0].as_deref(), Some("2013-01-01 06:15:00+01:00"));
        assert_eq!(text(Arc::new(StringArray::from(vec![None, Some("")]))), [None, Some(String::new())]);
    }

    #[test]
    fn nested_values_show_their_nulls() {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None])]);
        assert_eq!(text(Arc::new(list)), some(&["[1, NULL]"]));
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        let field = Arc::new(Field::new("a", DataType::Int32, true));
        let nested: ArrayRef = Arc::new(StructArray::from(vec![(field, numbers)]));
        assert_eq!(text(Arc::clone(&nested)), some(&["{a: 1}"]));
        let outer = Arc::new(Field::new("s", nested.data_type().clone(), true));
        assert_eq!(json(&outer, &nested, 0).unwrap(), r#"{"a":1}"#);
    }

    #[test]
    fn widths_are_those_of_the_terminal() {
        assert_eq!(width("\u{4e00}\u{4e00}"), 4);
        assert_eq!(fit("\u{4e00}\u{4e00}\u{4e00}", 5), ("\u{4e00}\u{4e00}\u{2026}".to_owned(), true));
        assert_eq!(fit("abc", 3), ("abc".to_owned(), false));
        assert_eq!(visible("a\n\u{1b}[31m"), "a\\n\\u{1b}[31m");
    }
}
