//! Which row of a file is wrong, found by reading the file again when a scan met an error.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::cast::as_string_array;
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use skep_common::{Error, Kind};

use super::decode::Rows;
use super::{Format, Layout, input};
use crate::{error, types};

/// Characters of a row that an error shows.
const SHOWN_MAX: usize = 80;

/// A file that cannot be read as it should.
pub(super) struct Suspect {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: Path,
    /// The file as people write it.
    pub(super) name: String,
    pub(super) format: Format,
    pub(super) schema: SchemaRef,
    pub(super) projection: Vec<usize>,
    pub(super) batch_size: usize,
}

impl Suspect {
    /// The error of a scan of this file, with the line of the first row that cannot be read.
    pub(super) async fn accuse(&self, found: ArrowError) -> Error {
        if let ArrowError::ExternalError(_) | ArrowError::IoError(..) = &found {
            return self.unreadable(error::from_datafusion(found.into()));
        }
        match self.search().await {
            Ok(Some(error)) => error,
            // The file changed, or the error is not of a row.
            Ok(None) => error::from_datafusion(found.into()).context(format!("cannot read '{}'", self.name)),
            Err(e) => self.unreadable(error::from_datafusion(e)),
        }
    }

    /// Bytes that cannot be fetched or unpacked.
    pub(super) fn unreadable(&self, error: Error) -> Error {
        let kind = match error.kind() {
            Kind::Internal => Kind::Corrupt,
            kind => kind,
        };
        Error::new(kind, format!("cannot read '{}'", self.name)).source(error.report())
    }

    /// Reads in batches up to the bad one, keeping its bytes, then row by row.
    async fn search(&self) -> datafusion::error::Result<Option<Error>> {
        let mut bytes = input::whole(&self.store, &self.path, self.format.compression).await?;
        let mut rows = self.rows(self.batch_size, true)?;
        let mut batch = BytesMut::new();
        let mut batch_line = 1;
        let mut first = true;
        loop {
            let next = bytes.try_next().await?;
            let end = next.is_none();
            let mut chunk = next.unwrap_or_default();
            loop {
                let result = rows.decode(&chunk).and_then(|taken| {
                    let full = taken == 0 || rows.full();
                    Ok((taken, if full { Some(rows.flush()?) } else { None }))
                });
                let (taken, flushed) = match result {
                    Ok(result) => result,
                    Err(_) => {
                        batch.extend_from_slice(&chunk);
                        while let Some(more) = bytes.try_next().await? {
                            // One row may go on for long, but the bad one ends in what the batch could hold.
                            batch.extend_from_slice(&more);
                            if batch.len() > BATCH_BYTES_MAX {
                                break;
                            }
                        }
                        return Ok(self.by_row(batch.freeze(), batch_line, first));
                    }
                };
                batch.extend_from_slice(&chunk[..taken]);
                chunk.advance(taken);
                if flushed.is_some() {
                    batch_line += count_lines(&batch);
                    batch.clear();
                    first = false;
                }
                if chunk.is_empty() && !(end && taken > 0) {
                    break;
                }
            }
            if end {
                return Ok(None);
            }
        }
    }

    /// The first row of `bytes` that cannot be read.
    fn by_row(&self, bytes: Bytes, line: usize, first: bool) -> Option<Error> {
        let mut line = line;
        let mut rest = bytes;
        let mut rows = self.rows(1, first).ok()?;
        loop {
            let before = rest.clone();
            let result = rows.decode(&rest).and_then(|taken| {
                // The end must be said for the last row to count.
                let last = taken == rest.len() && !rows.full();
                if last {
                    rows.decode(&[])?;
                }
                Ok((taken, rows.flush()?))
            });
            match result {
                Ok((0, None)) => return None,
                Ok((taken, _)) => {
                    line += count_lines(&before[..taken]);
                    rest.advance(taken);
                }
                Err(found) => {
                    let skipped = before.iter().take_while(|b| b.is_ascii_whitespace()).count();
                    let blank = count_lines(&before[..skipped]);
                    // A header was read together with the row behind it.
                    let header = self.header_lines(&before, first && line == 1);
                    return Some(self.describe(&before, line + blank + header, found, first && line == 1));
                }
            }
            if rest.is_empty() {
                return None;
            }
        }
    }

    fn header_lines(&self, bytes: &[u8], first: bool) -> usize {
        match &self.format.layout {
            Layout::Csv(csv) if csv.header && first => {
                bytes.iter().position(|&b| b == b'\n').map_or(0, |_| 1)
            }
            _ => 0,
        }
    }

    fn describe(&self, bytes: &[u8], line: usize, found: ArrowError, header: bool) -> Error {
        let start = match &self.format.layout {
            Layout::Csv(csv) if header && csv.header => {
                bytes.iter().position(|&b| b == b'\n').map_or(0, |at| at + 1)
            }
            _ => 0,
        };
        let error = row_error(&self.format.layout, &self.schema, &self.projection, &bytes[start..], found);
        let placed = Error::invalid(format!("'{}', line {line}: {}", self.name, error.message()));
        match error.hint_text() {
            Some(hint) => placed.hint(hint),
            None => placed,
        }
    }

    fn rows(&self, batch_size: usize, first: bool) -> Result<Rows, ArrowError> {
        Rows::new(&self.format.layout, &self.schema, &self.projection, batch_size, first)
    }
}

/// What is wrong with the row that `bytes` begin with, in which `found` was met, and what to do.
pub(crate) fn row_error(
    layout: &Layout,
    schema: &SchemaRef,
    projection: &[usize],
    bytes: &[u8],
    found: ArrowError,
) -> Error {
    let known = match layout {
        Layout::Csv(_) => csv_error(layout, schema, projection, bytes),
        Layout::Json => None,
    };
    known.unwrap_or_else(|| {
        let cause = error::from_datafusion(found.into());
        Error::invalid(cause.message())
            .hint("every line must be one JSON object whose fields have the types of the columns")
    })
}

fn csv_error(layout: &Layout, schema: &SchemaRef, projection: &[usize], bytes: &[u8]) -> Option<Error> {
    let wanted = schema.fields().len();
    let text: Vec<Field> =
        schema.fields().iter().map(|f| Field::new(f.name(), DataType::Utf8, true)).collect();
    let text: SchemaRef = Arc::new(Schema::new(text));
    let all: Vec<usize> = (0..wanted).collect();
    let row = shown(bytes);
    let fields = match one(layout, &text, &all, bytes) {
        Ok(Some(batch)) => batch,
        Ok(None) => return None,
        Err(e) if e.to_string().contains("UTF-8") => {
            return Some(Error::invalid("the row is not UTF-8 text").hint("convert the file to UTF-8"));
        }
        Err(_) => {
            return Some(
                Error::invalid(format!("the row does not have {wanted} fields: {row}"))
                    .hint("check the delimiter and the quotes of this row, or the columns of the table"),
            );
        }
    };
    for &index in projection {
        if one(layout, schema, &[index], bytes).is_err() {
            let field = schema.field(index);
            let values = as_string_array(fields.column(index)).ok()?;
            let ty = types::sql_name(field.data_type());
            let error = Error::invalid(format!(
                "'{}' is not a value of column '{}', which is {ty}",
                cut(values.value(0)),
                field.name()
            ));
            return Some(error.hint(
                "correct the row, read the column as VARCHAR, or say what stands for NULL with the option NULL",
            ));
        }
    }
    None
}

/// The first row of `bytes`.
fn one(
    layout: &Layout,
    schema: &SchemaRef,
    projection: &[usize],
    bytes: &[u8],
) -> Result<Option<RecordBatch>, ArrowError> {
    let mut rows = Rows::new(layout, schema, projection, 1, false)?;
    let taken = rows.decode(bytes)?;
    if taken == bytes.len() && !rows.full() {
        rows.decode(&[])?;
    }
    rows.flush()
}

/// Bytes of a batch that are read again row by row.
const BATCH_BYTES_MAX: usize = 256 << 20;

fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&b| b == b'\n').count()
}

/// The first line of `bytes` in quotes.
fn shown(bytes: &[u8]) -> String {
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    format!("'{}'", cut(String::from_utf8_lossy(line).trim_end()))
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}
