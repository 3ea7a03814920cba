//! Bytes to batches, for both layouts.

use datafusion::arrow::csv::ReaderBuilder as CsvBuilder;
use datafusion::arrow::csv::reader::Decoder as CsvDecoder;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::ReaderBuilder as JsonBuilder;
use datafusion::arrow::json::reader::Decoder as JsonDecoder;
use datafusion::arrow::record_batch::RecordBatch;
use regex::Regex;
use std::sync::Arc;

use super::{Csv, Layout};

/// A decoder of rows: push bytes, take batches.
pub(crate) enum Rows {
    Csv(Box<CsvDecoder>),
    Json(JsonDecoder),
}

impl Rows {
    /// Decodes the columns `projection` of files with the columns `schema`.
    ///
    /// `first`: whether the bytes begin with the file, where the header is.
    pub(crate) fn new(
        layout: &Layout,
        schema: &SchemaRef,
        projection: &[usize],
        batch_size: usize,
        first: bool,
    ) -> Result<Self, ArrowError> {
        match layout {
            Layout::Csv(csv) => {
                let builder = builder(csv, schema, first)
                    .with_batch_size(batch_size)
                    .with_projection(projection.to_vec());
                Ok(Self::Csv(Box::new(builder.build_decoder())))
            }
            Layout::Json => {
                let projected = Arc::new(schema.project(projection)?);
                let builder = JsonBuilder::new(projected).with_batch_size(batch_size);
                Ok(Self::Json(builder.build_decoder()?))
            }
        }
    }

    /// Takes bytes until the batch is full; how many it took. Empty bytes are the end of the file.
    pub(crate) fn decode(&mut self, bytes: &[u8]) -> Result<usize, ArrowError> {
        match self {
            Self::Csv(decoder) => decoder.decode(bytes),
            Self::Json(decoder) => decoder.decode(bytes),
        }
    }

    /// The rows so far, if there are any.
    pub(crate) fn flush(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        match self {
            Self::Csv(decoder) => decoder.flush(),
            Self::Json(decoder) => decoder.flush(),
        }
    }

    /// Whole rows that were taken since the last flush, of `size` at most.
    pub(crate) fn pending(&self, size: usize) -> usize {
        match self {
            Self::Csv(decoder) => size - decoder.capacity(),
            Self::Json(decoder) => decoder.len(),
        }
    }

    /// Whether the batch is full, so that no more bytes would be taken.
    pub(crate) fn full(&self) -> bool {
        match self {
            Self::Csv(decoder) => decoder.capacity() == 0,
            // It takes no bytes when it is full.
            Self::Json(_) => false,
        }
    }
}

fn builder(csv: &Csv, schema: &SchemaRef, first: bool) -> CsvBuilder {
    let mut builder = CsvBuilder::new(Arc::clone(schema))
        .with_header(csv.header && first)
        .with_delimiter(csv.delimiter)
        .with_quote(csv.quote);
    if let Some(escape) = csv.escape {
        builder = builder.with_escape(escape);
    }
    if let Some(comment) = csv.comment {
        builder = builder.with_comment(comment);
    }
    if let Some(null) = null_pattern(csv) {
        builder = builder.with_null_regex(null);
    }
    builder
}

/// Matches the texts that are NULL, if not only the empty one is.
pub(crate) fn null_pattern(csv: &Csv) -> Option<Regex> {
    let null = csv.null.as_deref().filter(|null| !null.is_empty())?;
    // Escaped text between anchors is a pattern.
    Regex::new(&format!("^(?:{})?$", regex::escape(null))).ok()
}
