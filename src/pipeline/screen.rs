//! What people see of a run and of lists.
//!
//! # Not here
//! What the events mean (`skep_pipeline::event`).

use std::io::{IsTerminal, Write as _};

use skep_common::{Error, Kind, Result};
use skep_pipeline::Bundle;
use skep_pipeline::event::{Event, Finding, State};
use skep_pipeline::log::Line;

/// Prints what is wrong with a file, with its line.
pub(super) fn wrong(finding: &Finding, bundle: &Bundle) {
    let mut error = Error::invalid(finding.message.clone());
    if let Some(hint) = &finding.hint {
        error = error.hint(hint.clone());
    }
    if let Some(span) = finding.span {
        error = error.at(span);
    }
    let text = bundle.files.get(&finding.file).map(String::as_str).unwrap_or_default();
    skep_repl::report_in(&error, &finding.file, text);
}

/// What a person sees of a run: a line for each model and test, as they end.
pub(super) struct Screen {
    json: bool,
    colours: bool,
    bundle: Bundle,
    models: usize,
    ended: usize,
    interrupted: &'static str,
}

impl Screen {
    pub(super) fn new(json: bool, bundle: Bundle) -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let interrupted = "interrupted: nothing of the run is published; skep pipeline retry goes on with it";
        Self { json, colours, bundle, models: 0, ended: 0, interrupted }
    }

    /// Tells something else when a person interrupts what is shown.
    pub(super) fn interrupted(self, interrupted: &'static str) -> Self {
        Self { interrupted, ..self }
    }

    pub(super) fn when_interrupted(&self) -> &'static str {
        self.interrupted
    }

    pub(super) fn show(&mut self, event: &Event, raw: &[u8]) -> Result<()> {
        if self.json {
            return print(&[raw, b"\n"]);
        }
        if let Event::Wrong(finding) = event {
            wrong(finding, &self.bundle);
            return Ok(());
        }
        let text = self.text(event);
        print(&[text.as_bytes()])
    }

    /// A line of a run that may be long over.
    pub(super) fn show_line(&mut self, line: &Line, raw: &[u8]) -> Result<()> {
        if self.json {
            return print(&[raw, b"\n"]);
        }
        let text = self.text(&line.event);
        let time = line.time.format("%Y-%m-%dT%H:%M:%S%.3fZ ").to_string();
        let text: String = text.lines().map(|line| format!("{time}{line}\n")).collect();
        print(&[text.as_bytes()])
    }

    fn text(&mut self, event: &Event) -> String {
        match event {
            Event::Begun { run, pipeline, environment, models } => {
                self.models = models.len();
                format!("run {run} of {pipeline} in {environment}: {} models\n", models.len())
            }
            Event::Model { model, kind, range } => match range {
                Some(range) if !range.is_empty() => format!("       {model} ({kind}): {range}\n"),
                _ => String::new(),
            },
            Event::Ended { model, state, rows, took_ms, note } => {
                self.ended += 1;
                let rows = rows.filter(|_| *state == State::Done).map(|rows| format!(" {rows} rows"));
                let note = note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
                let place = match self.models {
                    0 => String::new(),
                    models => format!("[{}/{models}] ", self.ended),
                };
                format!(
                    "{} {place}{model}{} ({:.1} s){note}\n",
                    self.state(*state),
                    rows.unwrap_or_default(),
                    *took_ms as f64 / 1000.0
                )
            }
            Event::Tested { state: State::Done, .. } => String::new(),
            Event::Tested { model, test, state, failures, note } => {
                let note = note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
                format!("{}   {model} {test}, {failures} rows{note}\n", self.state(*state))
            }
            Event::Backfill { backfill, chunks, done, .. } => {
                format!("backfill {backfill}: {chunks} chunks, {done} of them made\n")
            }
            Event::Chunk { chunk, chunks, range, run, took_ms, left_ms, message, .. } => {
                let left = match *left_ms {
                    0 => String::new(),
                    left => format!(", about {:.0} s left", left as f64 / 1000.0),
                };
                format!(
                    "{} [{chunk}/{chunks}] {range}: run {run} {message} ({:.1} s){left}\n",
                    self.state(State::Done),
                    *took_ms as f64 / 1000.0
                )
            }
            Event::Wrong(finding) => {
                let place = finding.span.map(|span| format!(":{}:{}", span.start.line, span.start.column));
                let place = place.unwrap_or_default();
                let hint = finding.hint.as_ref().map(|hint| format!("; hint: {hint}")).unwrap_or_default();
                let state = self.state(State::Failed);
                format!("{state} {}{place}: {}{hint}\n", finding.file, finding.message)
            }
            Event::Warning { message } => format!("{} {message}\n", self.state(State::Warned)),
            Event::Over { state, took_ms, message, .. } => {
                format!("{} {message} ({:.1} s)\n", self.state(*state), *took_ms as f64 / 1000.0)
            }
        }
    }

    fn state(&self, state: State) -> String {
        let (word, colour) = match state {
            State::Running => ("...   ", "36"),
            State::Done => ("ok    ", "32"),
            State::Unchanged => ("same  ", "2"),
            State::Warned => ("warn  ", "33"),
            State::Failed => ("FAILED", "1;31"),
            State::Skipped => ("skip  ", "33"),
        };
        if self.colours { format!("\x1b[{colour}m{word}\x1b[0m") } else { word.to_owned() }
    }
}

fn print(parts: &[&[u8]]) -> Result<()> {
    let gone = |e: std::io::Error| Error::new(Kind::Cancelled, "nobody reads what is printed").source(e);
    let mut out = std::io::stdout().lock();
    for part in parts {
        out.write_all(part).map_err(gone)?;
    }
    out.flush().map_err(gone)
}

/// Texts below each other, each column as wide as its widest.
pub(super) fn columns<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |line: &[String; N]| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}
