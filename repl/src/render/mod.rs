//! Rows as text, written as they arrive.
//!
//! ```text
//! table, box   columns; widths come from the first rows (`grid`)
//! vertical     a line per value (`grid`)
//! csv, tsv, json, ndjson, markdown   row by row (`lines`)
//! ```

mod cells;
mod grid;
mod lines;

use std::io::{self, Write};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::json::writer::LineDelimited;

use crate::args::Format;

/// Where and how rows are shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    pub(crate) format: Format,
    /// Whether csv and tsv have a header line.
    pub(crate) header: bool,
    /// Columns of the terminal; absent when the output is not one.
    pub(crate) columns: Option<usize>,
}

/// What there is to say when the rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Remarks {
    /// Some values were cut to fit the terminal.
    pub(crate) cut: bool,
    /// The columns did not fit, so the rows are vertical.
    pub(crate) turned: bool,
}

/// Writes the rows of one result.
pub(crate) trait Rows {
    /// # Errors
    /// Those of `out`, and values without a text form.
    fn batch(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> io::Result<()>;

    /// Writes what is held back for measuring, because no row came for a while.
    ///
    /// # Errors
    /// Those of `out`.
    fn idle(&mut self, out: &mut dyn Write) -> io::Result<()>;

    /// Writes what is left.
    ///
    /// # Errors
    /// Those of `out`.
    fn end(&mut self, out: &mut dyn Write) -> io::Result<Remarks>;
}

/// The writer of rows of `schema` in `style`.
pub(crate) fn rows(schema: &SchemaRef, style: Style) -> Box<dyn Rows + Send> {
    match style.format {
        Format::Table => Box::new(grid::Grid::new(schema, grid::Lines::ASCII, style.columns)),
        Format::Box => Box::new(grid::Grid::new(schema, grid::Lines::BOX, style.columns)),
        Format::Vertical => Box::new(grid::Vertical::new(schema)),
        Format::Csv => Box::new(lines::Separated::csv(schema, style.header)),
        Format::Tsv => Box::new(lines::Separated::tsv(schema, style.header)),
        Format::Json => Box::new(lines::Json::<lines::Array>::new(schema)),
        Format::Ndjson => Box::new(lines::Json::<LineDelimited>::new(schema)),
        Format::Markdown => Box::new(lines::Markdown::new(schema)),
    }
}

#[cfg(test)]
mod tests;
