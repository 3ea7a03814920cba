//! Rows of text files as they stand there, each with its line, for whoever decides row by row whether to take it.
//!
//! # Invariants
//! - Rows are cut where the decoders of [`super::decode`] cut them; blank lines, comments and headers are no rows.
//! - Of a file that does not end its last quote the rest is one row.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use datafusion::arrow::array::{ArrayRef, BooleanBuilder, Int64Builder, StringBuilder};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::error::Result;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::{Csv, Layout};

/// The line on which a row begins, from 1.
pub(crate) const LINE: &str = "$line";
/// The row without the end of its line; what is not text in it is replaced.
pub(crate) const RAW: &str = "$raw";
/// Whether all of the row is text.
pub(crate) const UTF8: &str = "$utf8";

/// Bytes of rows in a batch before it is handed on.
const BATCH_BYTES: usize = 4 << 20;

/// The columns.
pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(LINE, DataType::Int64, false),
        Field::new(RAW, DataType::Utf8, false),
        Field::new(UTF8, DataType::Boolean, false),
    ]))
}

/// The rows in `bytes`, which are all of a file.
pub(super) fn batches(
    bytes: BoxStream<'static, Result<Bytes>>,
    layout: &Layout,
    projection: Vec<usize>,
    batch_size: usize,
) -> BoxStream<'static, Result<RecordBatch>> {
    let state = (bytes, Splitter::new(layout), projection, false);
    stream::try_unfold(state, move |(mut bytes, mut splitter, projection, mut ended)| async move {
        loop {
            let full = splitter.rows.count >= batch_size || splitter.rows.bytes >= BATCH_BYTES;
            if (full || ended) && splitter.rows.count > 0 {
                let batch = splitter.rows.take(&projection)?;
                return Ok(Some((batch, (bytes, splitter, projection, ended))));
            }
            if ended {
                return Ok(None);
            }
            if splitter.step() {
                continue;
            }
            match bytes.try_next().await? {
                Some(chunk) => splitter.buffer.extend_from_slice(&chunk),
                None => {
                    splitter.end();
                    ended = true;
                }
            }
        }
    })
    .boxed()
}

#[derive(Default)]
struct RowBuilder {
    lines: Int64Builder,
    raw: StringBuilder,
    utf8: BooleanBuilder,
    count: usize,
    bytes: usize,
}

impl RowBuilder {
    fn add(&mut self, line: i64, row: &[u8]) {
        let text = String::from_utf8_lossy(row);
        self.lines.append_value(line);
        self.utf8.append_value(matches!(text, std::borrow::Cow::Borrowed(_)));
        self.raw.append_value(text);
        self.count += 1;
        self.bytes += row.len();
    }

    fn take(&mut self, projection: &[usize]) -> Result<RecordBatch> {
        let all: [ArrayRef; 3] =
            [Arc::new(self.lines.finish()), Arc::new(self.raw.finish()), Arc::new(self.utf8.finish())];
        let columns = projection.iter().map(|&at| Arc::clone(&all[at])).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.count));
        (self.count, self.bytes) = (0, 0);
        let schema = Arc::new(schema().project(projection)?);
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }
}

/// Where in a row of CSV the cursor is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    FieldStart,
    Field,
    Quoted,
    /// Behind the byte that escapes the next, in quotes.
    Escaped,
    /// Behind a quote that may end the field, or be the first of two.
    QuoteSeen,
    Comment,
}

/// Cuts bytes into rows.
struct Splitter {
    csv: Option<Csv>,
    buffer: BytesMut,
    /// Of the buffer, what was looked at.
    seen: usize,
    at: At,
    /// The line at the start of the buffer.
    line: i64,
    header: bool,
    rows: RowBuilder,
}

impl Splitter {
    fn new(layout: &Layout) -> Self {
        let csv = match layout {
            Layout::Csv(csv) => Some(csv.clone()),
            Layout::Json => None,
        };
        let header = csv.as_ref().is_some_and(|csv| csv.header);
        let (at, rows) = (At::FieldStart, RowBuilder::default());
        Self { csv, buffer: BytesMut::new(), seen: 0, at, line: 1, header, rows }
    }

    /// Takes one row from the buffer, if a whole one is in it.
    fn step(&mut self) -> bool {
        while let Some(&byte) = self.buffer.get(self.seen) {
            let ends = self.ends(byte);
            self.seen += 1;
            if ends {
                self.cut(1);
                return true;
            }
        }
        false
    }

    /// What is left without an end of line is a row too.
    fn end(&mut self) {
        if !self.buffer.is_empty() {
            self.cut(0);
        }
    }

    /// Whether `byte`, the next, ends the row.
    fn ends(&mut self, byte: u8) -> bool {
        let Some(csv) = &self.csv else { return byte == b'\n' };
        let line_end = byte == b'\n' || byte == b'\r';
        self.at = match self.at {
            At::Quoted if csv.escape == Some(byte) => At::Escaped,
            At::Quoted if byte == csv.quote => At::QuoteSeen,
            At::Quoted if line_end && !csv.multiline => return true,
            At::Quoted | At::Escaped => At::Quoted,
            _ if line_end => return true,
            At::Comment => At::Comment,
            At::QuoteSeen if byte == csv.quote => At::Quoted,
            At::FieldStart if byte == csv.quote => At::Quoted,
            At::FieldStart if self.seen == 0 && csv.comment == Some(byte) => At::Comment,
            _ if byte == csv.delimiter => At::FieldStart,
            _ => At::Field,
        };
        false
    }

    /// Ends a row at the cursor, of which the last `end` bytes are no part of it.
    fn cut(&mut self, end: usize) {
        let row = self.buffer.split_to(self.seen).freeze();
        let line = self.line;
        self.line += i64::try_from(row.iter().filter(|&&b| b == b'\n').count()).unwrap_or(0);
        let comment = self.at == At::Comment;
        (self.seen, self.at) = (0, At::FieldStart);
        let mut text = &row[..row.len() - end];
        let blank = match &self.csv {
            Some(_) => text.is_empty(),
            None => {
                text = text.strip_suffix(b"\r").unwrap_or(text);
                text.iter().all(u8::is_ascii_whitespace)
            }
        };
        if blank || comment {
            return;
        }
        if std::mem::take(&mut self.header) {
            return;
        }
        self.rows.add(line, text);
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::Int64Type;

    use super::*;

    async fn rows(layout: &Layout, text: &[u8], piece: usize) -> Vec<String> {
        let pieces: Vec<Result<Bytes>> =
            text.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let bytes = stream::iter(pieces).boxed();
        let all: Vec<RecordBatch> = batches(bytes, layout, vec![0, 1, 2], 2).try_collect().await.unwrap();
        let row = |batch: &RecordBatch, at: usize| {
            let line = batch.column(0).as_primitive::<Int64Type>().value(at);
            let raw = batch.column(1).as_string::<i32>().value(at).replace('\n', "\\n");
            let mark = if batch.column(2).as_boolean().value(at) { "" } else { "!" };
            format!("{line}:{raw}{mark}")
        };
        all.iter()
            .flat_map(|batch| (0..batch.num_rows()).map(|at| row(batch, at)).collect::<Vec<_>>())
            .collect()
    }

    /// However the bytes come, the rows are those that a reader of the whole file would see.
    #[tokio::test]
    async fn rows_are_cut_as_they_are_decoded() {
        let csv = Layout::Csv(Csv { comment: Some(b'#'), ..Csv::default() });
        let text =
            b"a,b\r\n1,\"x\ny\"\n\n# no, row\n2,5\" pipe\r\n3,\"say \"\"hi\"\"\n\"\n4,\xff\n5,\"open\n6,x\n";
        let wanted = [
            "2:1,\"x\\ny\"",
            "6:2,5\" pipe",
            "7:3,\"say \"\"hi\"\"\\n\"",
            "9:4,\u{fffd}!",
            "10:5,\"open\\n6,x\\n",
        ];
        for piece in [1, 2, 3, 7, 100] {
            assert_eq!(rows(&csv, text, piece).await, wanted, "in pieces of {piece}");
        }
        let escaped = Layout::Csv(Csv { escape: Some(b'\\'), header: false, ..Csv::default() });
        assert_eq!(rows(&escaped, b"\"a\\\"\nb\",1\nc,2", 1).await, ["1:\"a\\\"\\nb\",1", "3:c,2"]);
        let lines = Layout::Csv(Csv { multiline: false, header: false, ..Csv::default() });
        assert_eq!(rows(&lines, b"1,\"open\n2,x\n", 4).await, ["1:1,\"open", "2:2,x"]);
        assert_eq!(
            rows(&Layout::Json, b"{\"a\":1}\n \n{\"a\":\r\n{}", 3).await,
            ["1:{\"a\":1}", "3:{\"a\":", "4:{}"]
        );
    }
}
