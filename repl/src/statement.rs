//! One statement: run, watched, shown, cancelled.
//!
//! # Invariants
//! - The first ctrl-c asks the server to cancel and waits for its word; the second gives up waiting.
//! - What a terminal does not show of a result is said below it.
//!
//! # Not here
//! How rows look (`render`), where they go (`output`).

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use skep_common::{ByteSize, Error, Kind};

use crate::args::Format;
use crate::client::{Outcome, Reply, Rows, Work};
use crate::output::{Output, Sink, waiting};
use crate::progress::{Progress, workers};
use crate::render::{Remarks, Style, rows};
use crate::shell::{Ended, Shell};

/// Silence after which held rows are shown before the columns are fully measured.
const IDLE: Duration = Duration::from_millis(500);
/// Longest wait for a statement that was cancelled to end.
const CANCEL_WAIT: Duration = Duration::from_secs(10);
/// Bytes of a result that are kept for `\last`.
const KEPT_BYTES: usize = 64 << 20;

/// The statement that ran last, and the rows it gave.
#[derive(Debug, Default)]
pub(crate) struct Last {
    pub(crate) sql: Option<(String, Format)>,
    pub(crate) rows: Option<Kept>,
}

/// A result.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) schema: SchemaRef,
    pub(crate) batches: Vec<RecordBatch>,
    /// False if there were more rows than are kept.
    pub(crate) whole: bool,
}

/// What was shown of a result.
#[derive(Debug, Clone, Copy, Default)]
struct Shown {
    rows: u64,
    /// Those of them that were written.
    written: u64,
    remarks: Remarks,
    /// Whether the person left the pager before the end.
    left: bool,
    /// How long the person read in the pager.
    reading: Duration,
}

/// What the person was told who cancelled and did not wait.
const NOT_WAITED: &str = "the server ends it by itself; \\q or ctrl-d leaves the shell";

impl Shell {
    /// Runs one statement and shows what it gives.
    pub(crate) async fn statement(&mut self, sql: &str, format: Format) -> Result<(), Ended> {
        self.statement_as(sql, format, None).await
    }

    /// As [`Shell::statement`], of a query whose end is always said, as `word` and how many rows.
    pub(crate) async fn statement_as(
        &mut self,
        sql: &str,
        format: Format,
        word: Option<&str>,
    ) -> Result<(), Ended> {
        let started = self.instant();
        self.last = Last { sql: Some((sql.to_owned(), format)), rows: None };
        self.interrupts.forget();
        let progress = self.progress();
        match self.reply(sql).await? {
            Reply::Done(outcome, details) => {
                match details {
                    Some(details) => drop(self.show(details, format, progress).await?),
                    None => drop(progress),
                }
                self.names_changed |= changes_names(&outcome);
                let took = self.instant().saturating_duration_since(started);
                self.footer(&outcome.to_string(), took).await;
            }
            Reply::Rows(found) => {
                let shown = self.show(found, format, progress).await?;
                let took = self.instant().saturating_duration_since(started).saturating_sub(shown.reading);
                if let Some(word) = word {
                    self.footer(&format!("{word} {}", shown.rows), took).await;
                } else if io::stderr().is_terminal() {
                    self.remark(shown);
                    self.footer(&shown.text(), took).await;
                }
            }
        }
        Ok(())
    }

    fn progress(&self) -> Option<Progress> {
        let watched = io::stderr().is_terminal() && !crate::shell::dumb();
        watched.then(|| Progress::start(self.client.clone()))
    }

    /// The answer to a statement, or what became of it when the person cancels it.
    async fn reply(&mut self, sql: &str) -> Result<Reply, Ended> {
        let mut client = self.client.clone();
        let call = client.execute(sql);
        tokio::pin!(call);
        tokio::select! {
            reply = &mut call => return Ok(reply?),
            () = self.interrupts.next() => {}
        }
        if !self.client.cancel_running().await {
            return Err(Ended::Interrupted("it had not begun".to_owned()));
        }
        tokio::select! {
            reply = tokio::time::timeout(CANCEL_WAIT, call) => match reply {
                Ok(Err(failure)) if failure.error.kind() == Kind::Cancelled => {
                    Err(Ended::Interrupted(failure.error.report()))
                }
                Ok(Err(failure)) => Err(failure.into()),
                Ok(Ok(reply)) => {
                    self.say("it was too late to cancel it");
                    Ok(reply)
                }
                Err(_) => Err(Ended::Interrupted(NOT_WAITED.to_owned())),
            },
            () = self.interrupts.next() => Err(Ended::Interrupted(NOT_WAITED.to_owned())),
        }
    }

    /// Writes rows as they arrive.
    async fn show(
        &mut self,
        found: Rows,
        format: Format,
        progress: Option<Progress>,
    ) -> Result<Shown, Ended> {
        let mut out = std::mem::take(&mut self.out);
        let shown = self.write(found, format, progress, &mut out).await;
        self.out = out;
        shown
    }

    async fn write(
        &mut self,
        found: Rows,
        format: Format,
        mut progress: Option<Progress>,
        out: &mut Output,
    ) -> Result<Shown, Ended> {
        let Rows { schema, mut batches } = found;
        let terminal = out.is_terminal();
        let mut sink = out.begin(format, self.screen_of(format, terminal))?;
        let mut writer = Writer::new(self, &schema, format, terminal)?;
        let mut cancelled: Option<Instant> = None;
        loop {
            let next = tokio::select! {
                next = tokio::time::timeout(IDLE, batches.try_next()) => next,
                () = self.interrupts.next() => {
                    if cancelled.is_some() || !self.client.cancel_running().await {
                        return Err(Ended::Interrupted(NOT_WAITED.to_owned()));
                    }
                    cancelled = Some(self.instant());
                    continue;
                }
            };
            if cancelled.is_some_and(|since| self.instant().saturating_duration_since(since) > CANCEL_WAIT) {
                return Err(Ended::Interrupted(NOT_WAITED.to_owned()));
            }
            match next {
                Err(_) => wrote(waiting(|| writer.rows.idle(&mut sink)))?,
                Ok(Ok(None)) => break,
                Ok(Ok(Some(_))) if cancelled.is_some() => {}
                Ok(Ok(Some(batch))) => {
                    if sink.shows() && !writer.full() {
                        drop(progress.take());
                    }
                    let begun = self.instant();
                    let written = waiting(|| writer.batch(&batch, &mut sink));
                    if sink.paged() {
                        writer.shown.reading += self.instant().saturating_duration_since(begun);
                    }
                    if left(&written, &sink) {
                        drop(batches);
                        self.client.cancel_running().await;
                        return Ok(Shown { left: true, ..writer.shown });
                    }
                    wrote(written)?;
                    // The rest is only counted, which may take as long as it likes.
                    if writer.full() && sink.shows() && !sink.paged() && progress.is_none() {
                        wrote(waiting(|| writer.rows.idle(&mut sink)))?;
                        progress = self.progress();
                    }
                }
                Ok(Err(failure)) => {
                    drop(progress.take());
                    writer.break_off(sink)?;
                    if cancelled.is_some() && failure.error.kind() == Kind::Cancelled {
                        return Err(Ended::Interrupted(failure.error.report()));
                    }
                    return Err(failure.into());
                }
            }
        }
        drop(progress);
        let shown = writer.end(sink, self)?;
        // Ctrl-c in a pager is meant for the pager.
        self.interrupts.forget();
        Ok(shown)
    }

    fn screen_of(&self, format: Format, terminal: bool) -> crate::output::Screen {
        let height = terminal_size::terminal_size_of(io::stdout()).map(|(_, height)| usize::from(height.0));
        let height = height.filter(|_| self.interactive && terminal && format.for_people());
        crate::output::Screen::new(&self.pager, height)
    }

    /// Shows rows that are here already, as `format`.
    pub(crate) fn show_batches(
        &mut self,
        schema: &SchemaRef,
        batches: &[RecordBatch],
        format: Format,
    ) -> Result<(), Ended> {
        let mut out = std::mem::take(&mut self.out);
        let shown = self.write_batches(schema, batches, format, &mut out);
        self.out = out;
        self.remark(shown?);
        Ok(())
    }

    fn write_batches(
        &mut self,
        schema: &SchemaRef,
        batches: &[RecordBatch],
        format: Format,
        out: &mut Output,
    ) -> Result<Shown, Ended> {
        let terminal = out.is_terminal();
        let mut sink = out.begin(format, self.screen_of(format, terminal))?;
        let mut writer = Writer::new(self, schema, format, terminal)?;
        writer.keep = false;
        for batch in batches {
            let written = waiting(|| writer.batch(batch, &mut sink));
            if left(&written, &sink) {
                return Ok(Shown { left: true, ..writer.shown });
            }
            wrote(written)?;
        }
        let shown = writer.end(sink, self);
        self.interrupts.forget();
        shown
    }

    /// Shows a batch that the shell made itself.
    pub(crate) fn show_batch(&mut self, batch: &RecordBatch) -> Result<(), Ended> {
        let format = match self.effective_format() {
            Format::Vertical => Format::Table,
            format => format,
        };
        self.show_batches(&batch.schema(), std::slice::from_ref(batch), format)
    }

    /// Says what a terminal did not show.
    fn remark(&self, shown: Shown) {
        let Remarks { cut, turned } = shown.remarks;
        if cut {
            self.say("some values are cut to fit the terminal; \\x or --format vertical shows them whole");
        }
        if turned {
            self.say("the columns do not fit the terminal, so the rows are on end");
        }
        if shown.written < shown.rows {
            let (written, all) = (shown.written, shown.rows);
            self.say(&format!(
                "the first {written} of {all} rows are shown; \\rows 0 shows all, \\o FILE writes them to a file"
            ));
        }
        if shown.left {
            self.say("the rest was not read");
        }
    }

    /// Says what was done, and what it took.
    async fn footer(&mut self, what: &str, took: Duration) {
        let status =
            if self.timing && io::stderr().is_terminal() { self.client.status().await } else { None };
        let columns = crate::render::screen_columns();
        let text = if self.timing { footer(what, took, status.as_ref(), columns) } else { what.to_owned() };
        self.say(&text);
    }
}

/// Writes the rows of one result, counts them, and keeps them for `\last`.
struct Writer {
    schema: SchemaRef,
    rows: Box<dyn crate::render::Rows + Send>,
    /// Rows to write; absent: all.
    most: Option<usize>,
    shown: Shown,
    keep: bool,
    kept: Vec<RecordBatch>,
    bytes: usize,
    whole: bool,
    to_file: bool,
}

impl Writer {
    fn new(shell: &Shell, schema: &SchemaRef, format: Format, terminal: bool) -> Result<Self, Ended> {
        let columns = if terminal { shell.width.or_else(crate::render::screen_columns) } else { None };
        let style = Style { format, header: shell.header, columns };
        let rows = rows(schema, style).map_err(|e| {
            Error::unsupported(format!("the rows cannot be written as {}", format.name())).source(e)
        })?;
        Ok(Self {
            schema: SchemaRef::clone(schema),
            rows,
            most: shell.rows_max.filter(|_| terminal && format.for_people()),
            shown: Shown::default(),
            keep: shell.interactive,
            kept: Vec::new(),
            bytes: 0,
            whole: true,
            to_file: !terminal,
        })
    }

    fn batch(&mut self, batch: &RecordBatch, sink: &mut Sink<'_>) -> io::Result<()> {
        use std::io::Write;
        let before = usize::try_from(self.shown.rows).unwrap_or(usize::MAX);
        self.shown.rows += batch.num_rows() as u64;
        self.remember(batch);
        let room =
            self.most.map_or(batch.num_rows(), |most| most.saturating_sub(before).min(batch.num_rows()));
        if room > 0 {
            self.shown.written += room as u64;
            self.rows.batch(&batch.slice(0, room), sink)?;
        }
        sink.flush()
    }

    /// Whether no more rows are written.
    fn full(&self) -> bool {
        self.most.is_some_and(|most| self.shown.written >= most as u64)
    }

    fn remember(&mut self, batch: &RecordBatch) {
        self.bytes += batch.get_array_memory_size();
        if !self.keep || self.bytes > KEPT_BYTES {
            self.whole = false;
            return;
        }
        self.kept.push(batch.clone());
    }

    /// Shows what came before an error, so that the error has its context.
    fn break_off(mut self, mut sink: Sink<'_>) -> Result<(), Ended> {
        if self.shown.rows > 0 {
            wrote(waiting(|| self.rows.idle(&mut sink)))?;
        }
        wrote(waiting(|| sink.close()).map(drop))
    }

    /// Writes the end, and waits for the person who reads in a pager.
    fn end(mut self, mut sink: Sink<'_>, shell: &mut Shell) -> Result<Shown, Ended> {
        use std::io::Write;
        let ended = waiting(|| {
            let remarks = self.rows.end(&mut sink)?;
            sink.flush()?;
            Ok(remarks)
        });
        if left(&ended.as_ref().map(|_| ()).map_err(|e: &io::Error| io::Error::from(e.kind())), &sink) {
            self.shown.left = true;
        } else {
            match ended {
                Ok(remarks) => self.shown.remarks = remarks,
                Err(error) => wrote(Err(error))?,
            }
        }
        let begun = shell.instant();
        let closed = waiting(|| sink.close());
        self.shown.reading += shell.instant().saturating_duration_since(begun);
        match closed {
            Ok(Some(failed)) => shell.say(&format!("the pager did not start: {failed}; \\pager off")),
            Ok(None) => {}
            Err(error) => wrote(Err(error))?,
        }
        if self.keep {
            shell.last.rows = Some(Kept { schema: self.schema, batches: self.kept, whole: self.whole });
        }
        debug_assert!(!self.to_file || self.shown.written == self.shown.rows);
        Ok(self.shown)
    }
}

/// Whether the person closed the pager.
fn left(written: &io::Result<()>, sink: &Sink<'_>) -> bool {
    let broken = written.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
    broken && sink.paged()
}

fn wrote(written: io::Result<()>) -> Result<(), Ended> {
    written.map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Ended::Quit,
        _ => Error::invalid("the rows cannot be written").source(e).into(),
    })
}

impl Shown {
    fn text(self) -> String {
        let rows = if self.rows == 1 { "1 row".to_owned() } else { format!("{} rows", self.rows) };
        let rows = if self.left { format!("{rows} up to there") } else { rows };
        if self.written < self.rows { format!("{rows}, {} shown", self.written) } else { rows }
    }
}

/// `what (0.840 s, 1.2 GiB read, 93 % locally, pipelined on 3 workers, query 0193...)`.
///
/// The id has a line of its own where the terminal is too narrow.
fn footer(what: &str, took: Duration, status: Option<&Work>, columns: Option<usize>) -> String {
    let mut parts = vec![format!("{:.3} s", took.as_secs_f64())];
    if let Some(status) = status {
        parts.extend(status.scan_bytes.map(|bytes| format!("{} read", ByteSize(bytes))));
        parts.extend(status.local.map(|share| format!("{:.0} % locally", share * 100.0)));
        parts.extend(status.lane.as_ref().map(|lane| match status.workers {
            0 => lane.clone(),
            count => format!("{lane} on {}", workers(count)),
        }));
    }
    let text = format!("{what} ({}", parts.join(", "));
    let Some(id) = status.map(|status| format!("query {}", status.query)) else { return format!("{text})") };
    let narrow = columns.is_some_and(|columns| text.len() + id.len() + 3 > columns);
    if narrow { format!("{text},\n{id})") } else { format!("{text}, {id})") }
}

/// Whether the statement may have changed what completion offers.
fn changes_names(outcome: &Outcome) -> bool {
    ["CREATE", "DROP", "ALTER", "RESTORE", "UNDROP", "ROLLBACK", "COPY"]
        .iter()
        .any(|verb| outcome.tag.starts_with(verb))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn footers_say_what_is_known() {
        let took = Duration::from_millis(840);
        assert_eq!(footer("INSERT 2", took, None, None), "INSERT 2 (0.840 s)");
        let local = Work { query: "01".into(), lane: Some("local".into()), ..Work::default() };
        assert_eq!(footer("1 row", took, Some(&local), Some(80)), "1 row (0.840 s, local, query 01)");
        let spread = Work {
            lane: Some("pipelined".into()),
            workers: 3,
            scan_bytes: Some(3 << 29),
            local: Some(0.931),
            ..local
        };
        let text = "1 row (0.840 s, 1.5 GiB read, 93 % locally, pipelined on 3 workers, query 01)";
        assert_eq!(footer("1 row", took, Some(&spread), None), text);
        assert_eq!(footer("1 row", took, Some(&spread), Some(40)).lines().last(), Some("query 01)"));
    }

    #[test]
    fn rows_that_are_not_shown_are_counted() {
        let shown = Shown { rows: 120, written: 40, ..Shown::default() };
        assert_eq!(shown.text(), "120 rows, 40 shown");
        assert_eq!(Shown { rows: 1, written: 1, ..Shown::default() }.text(), "1 row");
    }
}
