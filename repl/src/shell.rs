//! The state of a shell, and how it runs its input.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use futures::TryStreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use skep_common::clock::{Clock, SystemClock};
use skep_common::{Error, Kind};

use crate::args::Format;
use crate::client::{Client, Failure, Outcome, Reply, Rows};
use crate::interrupt::Interrupts;
use crate::lex::{Piece, split};
use crate::render::{Style, rows};
use crate::report::{self, Origin, Paint};
use crate::{Exit, commands};

/// Silence after which held rows are shown before the columns are fully measured.
const IDLE: Duration = Duration::from_millis(500);
/// Time after which a running statement shows that it runs.
const SPINNER_AFTER: Duration = Duration::from_millis(400);

/// Why running input stopped before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// `\q`, or nobody reads the output any more.
    Quit,
    /// A statement failed.
    Failed,
    /// The connection is gone, or the server refuses the caller.
    Refused,
    /// The caller interrupted.
    Cancelled,
    /// A file named on the command line cannot be read.
    Usage,
}

/// How many statements did what.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) done: usize,
    pub(crate) failed: usize,
}

/// One shell: its connection, its settings, its output.
pub(crate) struct Shell {
    pub(crate) client: Client,
    pub(crate) format: Format,
    pub(crate) header: bool,
    /// `\x`: rows on end.
    pub(crate) expanded: bool,
    pub(crate) timing: bool,
    pub(crate) keep_going: bool,
    /// Whether a person types the statements.
    pub(crate) interactive: bool,
    pub(crate) paint: Paint,
    pub(crate) interrupts: Interrupts,
    pub(crate) tally: Tally,
    /// Set by statements that change names, for the completion.
    pub(crate) names_changed: bool,
    out: Output,
    clock: SystemClock,
}

enum Output {
    Stdout,
    File(BufWriter<File>),
}

impl Shell {
    pub(crate) fn new(client: Client, args: &crate::Args, interactive: bool, interrupts: Interrupts) -> Self {
        let stderr_terminal = io::stderr().is_terminal();
        Self {
            client,
            format: args.format,
            header: !args.no_header,
            expanded: false,
            timing: stderr_terminal,
            keep_going: args.keep_going,
            interactive,
            paint: Paint(stderr_terminal && no_color_unset()),
            interrupts,
            tally: Tally::default(),
            names_changed: false,
            out: Output::Stdout,
            clock: SystemClock,
        }
    }

    /// Runs statements and shell commands in order. Stops at the first that fails, unless told to keep going.
    pub(crate) async fn run(&mut self, input: &str, file: Option<&str>) -> Result<(), Stop> {
        for piece in split(input) {
            match piece {
                Piece::Command(command) => {
                    let ran = Box::pin(commands::run(self, &command)).await;
                    self.settle(ran, None)?;
                }
                Piece::Sql { text, line, vertical, .. } => {
                    let format = if vertical { Format::Vertical } else { self.effective_format() };
                    let ran = self.statement(&text, format).await;
                    self.settle(ran, Some(Origin { file, line, sql: &text }))?;
                }
            }
        }
        Ok(())
    }

    /// Counts and reports the end of one statement or command.
    fn settle(&mut self, ran: Result<(), Ended>, origin: Option<Origin<'_>>) -> Result<(), Stop> {
        match ran {
            Ok(()) => {
                self.tally.done += 1;
                Ok(())
            }
            Err(Ended::Quit) => Err(Stop::Quit),
            Err(Ended::Stop(stop)) => Err(stop),
            Err(Ended::Interrupted) => {
                self.tally.failed += 1;
                self.say(&format!("{} cancelled", self.paint.red("error:")));
                if self.interactive { Ok(()) } else { Err(Stop::Cancelled) }
            }
            Err(Ended::Failed(failure)) => {
                self.tally.failed += 1;
                self.report(&failure.error, origin);
                match failure.error.kind() {
                    _ if failure.lost => Err(Stop::Refused),
                    _ if self.interactive || self.keep_going => Ok(()),
                    Kind::Denied => Err(Stop::Refused),
                    Kind::Cancelled => Err(Stop::Cancelled),
                    _ => Err(Stop::Failed),
                }
            }
        }
    }

    pub(crate) fn effective_format(&self) -> Format {
        match self.format {
            Format::Table | Format::Box if self.expanded => Format::Vertical,
            format => format,
        }
    }

    /// Runs one statement and shows what it gives.
    pub(crate) async fn statement(&mut self, sql: &str, format: Format) -> Result<(), Ended> {
        let started = self.clock.instant();
        self.interrupts.forget();
        let spinner = self.spinner();
        let reply = tokio::select! {
            reply = self.client.execute(sql) => reply,
            () = self.interrupts.next() => return Err(Ended::Interrupted),
        };
        match reply? {
            Reply::Done(outcome, details) => {
                match details {
                    Some(details) => drop(self.show(details, format, spinner).await?),
                    None => drop(spinner),
                }
                self.names_changed |= changes_names(&outcome);
                self.say(&self.timed(&outcome.to_string(), started));
            }
            Reply::Rows(found) => {
                let count = self.show(found, format, spinner).await?;
                if io::stderr().is_terminal() {
                    let rows = if count == 1 { "1 row".to_owned() } else { format!("{count} rows") };
                    self.say(&self.timed(&rows, started));
                }
            }
        }
        Ok(())
    }

    /// `text`, and how long it took when that is shown.
    pub(crate) fn timed(&self, text: &str, started: std::time::Instant) -> String {
        let took = self.clock.instant().saturating_duration_since(started);
        if self.timing { format!("{text} ({:.3} s)", took.as_secs_f64()) } else { text.to_owned() }
    }

    pub(crate) fn instant(&self) -> std::time::Instant {
        self.clock.instant()
    }

    /// Writes rows as they arrive; how many.
    async fn show(&mut self, found: Rows, format: Format, spinner: Option<Spinner>) -> Result<u64, Ended> {
        let Rows { schema, mut batches, info } = found;
        let style = Style { format, header: self.header, columns: self.columns() };
        let mut writer = rows(&schema, style);
        let mut spinner = spinner;
        let mut count = 0u64;
        loop {
            let next = tokio::select! {
                next = tokio::time::timeout(IDLE, batches.try_next()) => next,
                () = self.interrupts.next() => {
                    drop(batches);
                    self.client.cancel(info).await;
                    return Err(Ended::Interrupted);
                }
            };
            let out = &mut self.out;
            match next {
                Err(_) => out.with(|out| writer.idle(out))?,
                Ok(Ok(None)) => break,
                Ok(Ok(Some(batch))) => {
                    drop(spinner.take());
                    count += batch.num_rows() as u64;
                    out.with(|out| writer.batch(&batch, out))?;
                }
                Ok(Err(failure)) => {
                    // What came before the error is shown, so that the error has its context.
                    drop(spinner.take());
                    if count > 0 {
                        out.with(|out| writer.idle(out))?;
                    }
                    return Err(failure.into());
                }
            }
        }
        drop(spinner);
        let mut remarks = crate::render::Remarks::default();
        self.out.with(|out| {
            remarks = writer.end(out)?;
            Ok(())
        })?;
        if remarks.cut {
            self.say("some values are cut to fit the terminal; \\x or --format vertical shows them whole");
        }
        Ok(count)
    }

    /// Shows a batch that the shell made itself.
    pub(crate) fn show_batch(&mut self, batch: &arrow::array::RecordBatch) -> Result<(), Ended> {
        let format = match self.effective_format() {
            Format::Vertical => Format::Table,
            format => format,
        };
        let style = Style { format, header: self.header, columns: self.columns() };
        let mut writer = rows(&batch.schema(), style);
        self.out.with(|out| {
            writer.batch(batch, out)?;
            writer.end(out).map(drop)
        })
    }

    /// Columns of the terminal that rows go to.
    fn columns(&self) -> Option<usize> {
        if !matches!(self.out, Output::Stdout) || !io::stdout().is_terminal() {
            return None;
        }
        terminal_size::terminal_size().map(|(width, _)| usize::from(width.0))
    }

    /// Sends rows to a file from here on, or back to stdout.
    pub(crate) fn redirect(&mut self, path: Option<PathBuf>) -> Result<(), Ended> {
        self.out = match path {
            None => Output::Stdout,
            Some(path) => {
                let file = File::create(&path)
                    .map_err(|e| Error::invalid(format!("cannot write to '{}'", path.display())).source(e))?;
                Output::File(BufWriter::new(file))
            }
        };
        Ok(())
    }

    /// A line for the person, on stderr.
    pub(crate) fn say(&self, text: &str) {
        // Nobody reads stderr: there is nowhere left to say so.
        let _ = writeln!(io::stderr(), "{text}");
    }

    pub(crate) fn report(&self, error: &Error, origin: Option<Origin<'_>>) {
        let _ = write!(io::stderr(), "{}", report::error(error, origin, self.paint));
    }

    fn spinner(&self) -> Option<Spinner> {
        (self.interactive && io::stderr().is_terminal()).then(Spinner::start)
    }

    /// What the process says at its end.
    pub(crate) fn exit(&self, stopped: Result<(), Stop>) -> Exit {
        match stopped {
            Err(Stop::Refused) => Exit::Refused,
            Err(Stop::Cancelled) => Exit::Cancelled,
            Err(Stop::Usage) => Exit::Usage,
            Err(Stop::Failed) => Exit::Failed,
            _ if self.interactive || self.tally.failed == 0 => Exit::Done,
            _ if self.tally.done == 0 => Exit::Failed,
            _ => Exit::Partly,
        }
    }
}

/// How a statement or command ended, other than well.
#[derive(Debug)]
pub(crate) enum Ended {
    Failed(Failure),
    Interrupted,
    Quit,
    Stop(Stop),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Ended::Failed(failure)
    }
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Ended::Failed(error.into())
    }
}

impl Output {
    /// Writes, and flushes what was written.
    fn with(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Ended> {
        let written = match self {
            Output::Stdout => {
                let mut out = BufWriter::new(io::stdout().lock());
                write(&mut out).and_then(|()| out.flush())
            }
            Output::File(file) => write(file).and_then(|()| file.flush()),
        };
        written.map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => Ended::Quit,
            _ => Error::invalid("cannot write the rows").source(e).into(),
        })
    }
}

/// Whether the statement may have changed what completion offers.
fn changes_names(outcome: &Outcome) -> bool {
    ["CREATE", "DROP", "ALTER"].iter().any(|verb| outcome.tag.starts_with(verb))
}

fn no_color_unset() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Shows that a statement runs, once it has run for a while.
struct Spinner {
    bar: ProgressBar,
    _start: skep_common::task::Task<()>,
}

impl Spinner {
    fn start() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} (ctrl-c cancels)") {
            bar.set_style(style);
        }
        let ticking = bar.clone();
        let start = skep_common::task::spawn("spinner", async move {
            tokio::time::sleep(SPINNER_AFTER).await;
            ticking.enable_steady_tick(Duration::from_millis(100));
        });
        Self { bar, _start: start }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
