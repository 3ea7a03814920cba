//! Rows as lines for other programs.

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::WriterBuilder;
use arrow::json::writer::{JsonFormat, Writer};

use super::cells::{Cells, is_nested, is_number, json, visible};
use super::{Remarks, Rows};

/// csv and tsv.
pub(crate) struct Separated {
    schema: SchemaRef,
    separator: &'static str,
    null: &'static str,
    escape: fn(&str) -> String,
    header: bool,
}

impl Separated {
    /// RFC 4180, with `\n` at the end of lines. NULL is nothing, an empty string `""`.
    pub(crate) fn csv(schema: &SchemaRef, header: bool) -> Self {
        Self { schema: Arc::clone(schema), separator: ",", null: "", escape: quote, header }
    }

    /// Tab-separated; tab, newline and backslash escaped with a backslash, NULL `\N`.
    pub(crate) fn tsv(schema: &SchemaRef, header: bool) -> Self {
        Self { schema: Arc::clone(schema), separator: "\t", null: "\\N", escape, header }
    }

    fn head(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if std::mem::take(&mut self.header) {
            let names = self.schema.fields().iter().map(|field| (self.escape)(field.name()));
            writeln!(out, "{}", names.collect::<Vec<_>>().join(self.separator))?;
        }
        Ok(())
    }
}

fn quote(text: &str) -> String {
    let special = |c: char| matches!(c, ',' | '"' | '\n' | '\r');
    if text.is_empty() || text.contains(special) || text.starts_with(' ') || text.ends_with(' ') {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}

impl Rows for Separated {
    fn batch(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> io::Result<()> {
        self.head(out)?;
        let cells = Cells::new(batch).map_err(io::Error::other)?;
        let nested: Vec<bool> =
            self.schema.fields().iter().map(|field| is_nested(field.data_type())).collect();
        let mut line = String::new();
        for row in 0..cells.rows() {
            line.clear();
            for (column, nested) in nested.iter().enumerate() {
                if column > 0 {
                    line.push_str(self.separator);
                }
                match cells.text(row, column).map_err(io::Error::other)? {
                    None => line.push_str(self.null),
                    Some(_) if *nested => {
                        let text = json(&self.schema.fields()[column], batch.column(column), row);
                        line.push_str(&(self.escape)(&text.map_err(io::Error::other)?));
                    }
                    Some(text) => line.push_str(&(self.escape)(&text)),
                }
            }
            line.push('\n');
            out.write_all(line.as_bytes())?;
        }
        Ok(())
    }

    fn idle(&mut self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self, out: &mut dyn Write) -> io::Result<Remarks> {
        self.head(out)?;
        Ok(Remarks::default())
    }
}

/// An array of objects, one per line.
#[derive(Debug, Default)]
pub(crate) struct Array;

impl JsonFormat for Array {
    fn start_stream<W: Write>(&self, writer: &mut W) -> Result<(), ArrowError> {
        Ok(writer.write_all(b"[")?)
    }

    fn start_row<W: Write>(&self, writer: &mut W, is_first_row: bool) -> Result<(), ArrowError> {
        if !is_first_row {
            writer.write_all(b",\n ")?;
        }
        Ok(())
    }

    fn end_stream<W: Write>(&self, writer: &mut W) -> Result<(), ArrowError> {
        Ok(writer.write_all(b"]\n")?)
    }
}

/// json and ndjson: numbers as numbers, binary as hex text, times as text, NULL as null.
pub(crate) struct Json<F: JsonFormat> {
    /// With names that differ: an object cannot have two keys of one name.
    schema: SchemaRef,
    writer: Writer<Vec<u8>, F>,
}

impl<F: JsonFormat> Json<F> {
    pub(crate) fn new(schema: &SchemaRef) -> Self {
        let writer = WriterBuilder::new().with_explicit_nulls(true).build(Vec::new());
        Self { schema: distinct(schema), writer }
    }
}

fn distinct(schema: &SchemaRef) -> SchemaRef {
    let mut seen = HashSet::new();
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| {
            let mut name = field.name().clone();
            let mut n = 1;
            while !seen.insert(name.clone()) {
                name = format!("{}:{n}", field.name());
                n += 1;
            }
            field.as_ref().clone().with_name(name)
        })
        .collect();
    Arc::new(Schema::new(fields))
}

impl<F: JsonFormat> Rows for Json<F> {
    fn batch(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> io::Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), batch.columns().to_vec());
        self.writer.write(&batch.map_err(io::Error::other)?).map_err(io::Error::other)?;
        drain(self.writer.get_mut(), out)
    }

    fn idle(&mut self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self, out: &mut dyn Write) -> io::Result<Remarks> {
        self.writer.finish().map_err(io::Error::other)?;
        drain(self.writer.get_mut(), out)?;
        Ok(Remarks::default())
    }
}

fn drain(bytes: &mut Vec<u8>, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(bytes)?;
    bytes.clear();
    Ok(())
}

/// A Markdown table.
pub(crate) struct Markdown {
    schema: SchemaRef,
    started: bool,
}

impl Markdown {
    pub(crate) fn new(schema: &SchemaRef) -> Self {
        Self { schema: Arc::clone(schema), started: false }
    }

    fn head(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if std::mem::replace(&mut self.started, true) {
            return Ok(());
        }
        let fields = self.schema.fields().iter();
        let names: Vec<String> = fields.clone().map(|field| pipe(field.name())).collect();
        let rules: Vec<&str> =
            fields.map(|field| if is_number(field.data_type()) { "---:" } else { "---" }).collect();
        writeln!(out, "| {} |\n| {} |", names.join(" | "), rules.join(" | "))
    }
}

fn pipe(text: &str) -> String {
    visible(&text.replace("\r\n", "\n")).replace('|', "\\|").replace("\\n", "<br>")
}

impl Rows for Markdown {
    fn batch(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> io::Result<()> {
        self.head(out)?;
        let cells = Cells::new(batch).map_err(io::Error::other)?;
        for row in 0..cells.rows() {
            let text = |column| {
                let text = cells.text(row, column).map_err(io::Error::other)?;
                Ok(text.map_or_else(|| "NULL".to_owned(), |text| pipe(&text)))
            };
            let texts = (0..cells.columns()).map(text).collect::<io::Result<Vec<_>>>()?;
            writeln!(out, "| {} |", texts.join(" | "))?;
        }
        Ok(())
    }

    fn idle(&mut self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self, out: &mut dyn Write) -> io::Result<Remarks> {
        self.head(out)?;
        Ok(Remarks::default())
    }
}
