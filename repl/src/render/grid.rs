//! Rows in columns, and rows on end.

use std::io::{self, Write};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::cells::{Cells, fit, is_number, visible, width};
use super::{Remarks, Rows};

/// Rows and bytes that are held back to measure the columns.
const MEASURED_ROWS: usize = 1000;
const MEASURED_BYTES: usize = 1 << 20;
/// A column is not cut below this; when columns do not fit even so, rows are turned on end.
const NARROWEST: usize = 6;

/// The characters that a grid is drawn with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lines {
    horizontal: char,
    vertical: char,
    top: [char; 3],
    middle: [char; 3],
    bottom: [char; 3],
}

impl Lines {
    pub(crate) const ASCII: Lines =
        Lines { horizontal: '-', vertical: '|', top: ['+'; 3], middle: ['+'; 3], bottom: ['+'; 3] };
    pub(crate) const BOX: Lines = Lines {
        horizontal: '\u{2500}',
        vertical: '\u{2502}',
        top: ['\u{250c}', '\u{252c}', '\u{2510}'],
        middle: ['\u{251c}', '\u{253c}', '\u{2524}'],
        bottom: ['\u{2514}', '\u{2534}', '\u{2518}'],
    };
}

/// Rows in columns. Widths are those of the header and the first rows; a later value that is wider is cut on a
/// terminal, and otherwise pushes its line to the right.
pub(crate) struct Grid {
    names: Vec<String>,
    numbers: Vec<bool>,
    lines: Lines,
    terminal: Option<usize>,
    held: Vec<Vec<String>>,
    held_bytes: usize,
    state: State,
    remarks: Remarks,
}

enum State {
    Measuring,
    Drawing(Vec<usize>),
    Turned(Vertical),
}

impl Grid {
    pub(crate) fn new(schema: &SchemaRef, lines: Lines, terminal: Option<usize>) -> Self {
        Self {
            names: schema.fields().iter().map(|field| visible(field.name())).collect(),
            numbers: schema.fields().iter().map(|field| is_number(field.data_type())).collect(),
            lines,
            terminal,
            held: Vec::new(),
            held_bytes: 0,
            state: State::Measuring,
            remarks: Remarks::default(),
        }
    }

    /// The width of each column; nothing if the terminal is too narrow for all of them.
    fn measure(&self) -> Option<Vec<usize>> {
        let mut widths: Vec<usize> = self.names.iter().map(|name| width(name)).collect();
        for row in &self.held {
            for (known, cell) in widths.iter_mut().zip(row) {
                *known = (*known).max(width(cell));
            }
        }
        let Some(terminal) = self.terminal else { return Some(widths) };
        let room = terminal.checked_sub(3 * widths.len() + 1)?;
        if widths.iter().sum::<usize>() <= room {
            return Some(widths);
        }
        // The largest cap on every column under which they fit.
        let total = |cap: usize| widths.iter().map(|w| (*w).min(cap)).sum::<usize>();
        let cap = (NARROWEST..=terminal).rev().find(|cap| total(*cap) <= room)?;
        let mut spare = room - total(cap);
        for known in &mut widths {
            if *known > cap {
                let more = spare.min(*known - cap);
                *known = cap + more;
                spare -= more;
            }
        }
        Some(widths)
    }

    /// Ends measuring, and writes what was held.
    fn settle(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if !matches!(self.state, State::Measuring) {
            return Ok(());
        }
        match self.measure() {
            Some(widths) => {
                self.rule(out, &widths, self.lines.top)?;
                let names = std::mem::take(&mut self.names);
                self.row(out, &widths, &names, false)?;
                self.rule(out, &widths, self.lines.middle)?;
                for row in std::mem::take(&mut self.held) {
                    self.row(out, &widths, &row, true)?;
                }
                self.state = State::Drawing(widths);
            }
            None => {
                self.remarks.turned = true;
                let mut vertical = Vertical { names: self.names.clone(), row: 0 };
                for row in std::mem::take(&mut self.held) {
                    vertical.row(&row, out)?;
                }
                self.state = State::Turned(vertical);
            }
        }
        Ok(())
    }

    fn rule(&self, out: &mut dyn Write, widths: &[usize], corners: [char; 3]) -> io::Result<()> {
        let mut line = String::new();
        line.push(corners[0]);
        for (i, width) in widths.iter().enumerate() {
            if i > 0 {
                line.push(corners[1]);
            }
            line.extend(std::iter::repeat_n(self.lines.horizontal, width + 2));
        }
        line.push(corners[2]);
        writeln!(out, "{line}")
    }

    fn row(
        &mut self,
        out: &mut dyn Write,
        widths: &[usize],
        cells: &[String],
        align: bool,
    ) -> io::Result<()> {
        let mut line = String::new();
        for (i, (cell, columns)) in cells.iter().zip(widths).enumerate() {
            let (cell, cut) =
                if self.terminal.is_some() { fit(cell, *columns) } else { (cell.clone(), false) };
            self.remarks.cut |= cut;
            let padding = " ".repeat(columns.saturating_sub(width(&cell)));
            line.push(self.lines.vertical);
            line.push(' ');
            let (before, after) =
                if align && self.numbers[i] { (padding.as_str(), "") } else { ("", padding.as_str()) };
            line.extend([before, cell.as_str(), after, " "]);
        }
        line.push(self.lines.vertical);
        writeln!(out, "{line}")
    }
}

impl Rows for Grid {
    fn batch(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> io::Result<()> {
        let cells = Cells::new(batch).map_err(io::Error::other)?;
        for i in 0..cells.rows() {
            let row = texts(&cells, i)?;
            match std::mem::replace(&mut self.state, State::Measuring) {
                State::Measuring => {
                    self.held_bytes += row.iter().map(String::len).sum::<usize>();
                    self.held.push(row);
                    if self.held.len() >= MEASURED_ROWS || self.held_bytes >= MEASURED_BYTES {
                        self.settle(out)?;
                    }
                }
                State::Drawing(widths) => {
                    self.row(out, &widths, &row, true)?;
                    self.state = State::Drawing(widths);
                }
                State::Turned(mut vertical) => {
                    vertical.row(&row, out)?;
                    self.state = State::Turned(vertical);
                }
            }
        }
        Ok(())
    }

    fn idle(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        self.settle(out)
    }

    fn end(&mut self, out: &mut dyn Write) -> io::Result<Remarks> {
        self.settle(out)?;
        if let State::Drawing(widths) = &self.state {
            self.rule(out, widths, self.lines.bottom)?;
        }
        Ok(self.remarks)
    }
}

fn texts(cells: &Cells<'_>, row: usize) -> io::Result<Vec<String>> {
    let text = |column| {
        let text = cells.text(row, column).map_err(io::Error::other)?;
        Ok(text.map_or_else(|| "NULL".to_owned(), |text| visible(&text)))
    };
    (0..cells.columns()).map(text).collect()
}

/// One line per value.
pub(crate) struct Vertical {
    names: Vec<String>,
    row: usize,
}

/// Length of the line above a row.
const RULE: usize = 40;

impl Vertical {
    pub(crate) fn new(schema: &SchemaRef) -> Self {
        let names = schema.fields().iter().map(|field| visible(field.name())).collect();
        Self { names, row: 0 }
    }

    fn row(&mut self, cells: &[String], out: &mut dyn Write) -> io::Result<()> {
        self.row += 1;
        let head = format!("-[ row {} ]", self.row);
        writeln!(out, "{head}{}", "-".repeat(RULE.saturating_sub(head.len())))?;
        let widest = self.names.iter().map(|name| width(name)).max().unwrap_or(0);
        for (name, cell) in self.names.iter().zip(cells) {
            writeln!(out, "{name}{} | {cell}", " ".repeat(widest - width(name)))?;
        }
        Ok(())
    }
}

impl Rows for Vertical {
    fn batch(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> io::Result<()> {
        let cells = Cells::new(batch).map_err(io::Error::other)?;
        (0..cells.rows()).try_for_each(|row| {
            let texts = texts(&cells, row)?;
            self.row(&texts, out)
        })
    }

    fn idle(&mut self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self, _out: &mut dyn Write) -> io::Result<Remarks> {
        Ok(Remarks::default())
    }
}
