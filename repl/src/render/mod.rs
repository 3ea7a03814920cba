//! Rows as text, written as they arrive.
//!
//! ```text
//! table, box   columns; widths come from the first rows (`grid`)
//! vertical     a line per value (`grid`)
//! csv, tsv, json, ndjson, markdown   row by row (`lines`)
//! parquet, arrow   files for other programs (`binary`)
//! ```

mod binary;
mod cells;
mod grid;
mod lines;

use std::io::{self, Write};

pub(crate) use cells::fit;

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
///
/// # Errors
/// A schema that the format cannot say.
pub(crate) fn rows(schema: &SchemaRef, style: Style) -> io::Result<Box<dyn Rows + Send>> {
    Ok(match style.format {
        Format::Table => Box::new(grid::Grid::new(schema, grid::Lines::ASCII, style.columns)),
        Format::Box => Box::new(grid::Grid::new(schema, grid::Lines::BOX, style.columns)),
        Format::Vertical => Box::new(grid::Vertical::new(schema)),
        Format::Csv => Box::new(lines::Separated::csv(schema, style.header)),
        Format::Tsv => Box::new(lines::Separated::tsv(schema, style.header)),
        Format::Json => Box::new(lines::Json::<lines::Array>::new(schema)),
        Format::Ndjson => Box::new(lines::Json::<LineDelimited>::new(schema)),
        Format::Markdown => Box::new(lines::Markdown::new(schema)),
        Format::Parquet => Box::new(binary::Parquet::new(schema)?),
        Format::Arrow => Box::new(binary::Arrow::new(schema)?),
    })
}

/// Columns of the terminal that stderr or stdout is.
pub(crate) fn screen_columns() -> Option<usize> {
    let of_stdout = terminal_size::terminal_size_of(io::stdout());
    let size = of_stdout.or_else(|| terminal_size::terminal_size_of(io::stderr()));
    size.map(|(width, _)| usize::from(width.0))
}

#[cfg(test)]
mod tests;
