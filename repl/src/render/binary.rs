//! Rows as files that other programs read: Parquet and Arrow.
//!
//! # Invariants
//! - One result is one file: a second one behind it would not be found.
//!
//! # Not here
//! Rows as text, beside this file.

use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::writer::FileWriter;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::{Remarks, Rows};

/// `schema` without what drivers are told of its columns beside their types.
fn bare(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter();
    let fields: Vec<_> = fields.map(|f| f.as_ref().clone().with_metadata(Default::default())).collect();
    Arc::new(Schema::new(fields))
}

fn fitted(batch: &RecordBatch, schema: &SchemaRef) -> io::Result<RecordBatch> {
    RecordBatch::try_new(Arc::clone(schema), batch.columns().to_vec()).map_err(io::Error::other)
}

/// Parquet, compressed with Snappy, which every reader knows.
pub(crate) struct Parquet {
    schema: SchemaRef,
    /// Until the end, or an error.
    writer: Option<ArrowWriter<Vec<u8>>>,
}

impl Parquet {
    /// # Errors
    /// A type that Parquet does not have.
    pub(crate) fn new(schema: &SchemaRef) -> io::Result<Self> {
        let schema = bare(schema);
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties));
        Ok(Self { schema, writer: Some(writer.map_err(io::Error::other)?) })
    }
}

fn over() -> io::Error {
    io::Error::other("the file is finished")
}

impl Rows for Parquet {
    fn batch(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> io::Result<()> {
        let writer = self.writer.as_mut().ok_or_else(over)?;
        writer.write(&fitted(batch, &self.schema)?).map_err(io::Error::other)?;
        // The writer counts the bytes itself, and does not look back at them.
        let bytes = writer.inner_mut();
        out.write_all(bytes)?;
        bytes.clear();
        Ok(())
    }

    fn idle(&mut self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self, out: &mut dyn Write) -> io::Result<Remarks> {
        let writer = self.writer.take().ok_or_else(over)?;
        out.write_all(&writer.into_inner().map_err(io::Error::other)?)?;
        Ok(Remarks::default())
    }
}

/// Arrow's file format, which is Feather's second version too.
pub(crate) struct Arrow {
    schema: SchemaRef,
    writer: FileWriter<Vec<u8>>,
}

impl Arrow {
    /// # Errors
    /// A schema that does not encode.
    pub(crate) fn new(schema: &SchemaRef) -> io::Result<Self> {
        let schema = bare(schema);
        let writer = FileWriter::try_new(Vec::new(), &schema).map_err(io::Error::other)?;
        Ok(Self { schema, writer })
    }

    fn drain(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let bytes = self.writer.get_mut();
        out.write_all(bytes)?;
        bytes.clear();
        Ok(())
    }
}

impl Rows for Arrow {
    fn batch(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> io::Result<()> {
        self.writer.write(&fitted(batch, &self.schema)?).map_err(io::Error::other)?;
        self.drain(out)
    }

    fn idle(&mut self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self, out: &mut dyn Write) -> io::Result<Remarks> {
        self.writer.finish().map_err(io::Error::other)?;
        self.drain(out)?;
        Ok(Remarks::default())
    }
}
