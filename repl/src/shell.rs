//! The state of a shell, and how it runs its input.
//!
//! # Not here
//! Running one statement (`statement`), the shell's own commands (`commands`), reading lines (`editor`).

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use skep_common::clock::{Clock, SystemClock};
use skep_common::{Error, Kind, Result};

use crate::args::{Args, Format};
use crate::client::{Client, Failure};
use crate::config::{Config, PagerSetting};
use crate::connect::Login;
use crate::interrupt::Interrupts;
use crate::lex::{Piece, split};
use crate::output::{Output, Pager, RowFile};
use crate::render::screen_columns;
use crate::report::{self, Origin, Paint};
use crate::statement::Last;
use crate::variables::Variables;
use crate::{Exit, commands};

/// Rows that a terminal shows of one result unless `\rows` says otherwise.
const ROWS_SHOWN: usize = 1000;

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
    pub(crate) login: Login,
    pub(crate) config: Config,
    pub(crate) variables: Variables,
    pub(crate) format: Format,
    pub(crate) header: bool,
    /// `\x`: rows on end.
    pub(crate) expanded: bool,
    pub(crate) timing: bool,
    /// Rows that a terminal shows of one result; absent: all.
    pub(crate) rows_max: Option<usize>,
    /// Columns of the terminal, if not as it says.
    pub(crate) width: Option<usize>,
    pub(crate) pager: Pager,
    pub(crate) keep_going: bool,
    /// Whether a person types the statements.
    pub(crate) interactive: bool,
    pub(crate) paint: Paint,
    pub(crate) interrupts: Interrupts,
    pub(crate) tally: Tally,
    /// Set by statements that change names, for the completion.
    pub(crate) names_changed: bool,
    /// The statement that ran last, and its rows.
    pub(crate) last: Last,
    /// What `\edit` left for the next line.
    pub(crate) edited: Option<String>,
    pub(crate) out: Output,
    clock: SystemClock,
}

impl Shell {
    pub(crate) fn new(
        client: Client,
        login: Login,
        config: Config,
        args: &Args,
        interactive: bool,
        interrupts: Interrupts,
    ) -> Result<Self> {
        let stderr_terminal = io::stderr().is_terminal();
        let mut shell = Self {
            client,
            login,
            variables: Variables::default(),
            format: args.format.unwrap_or(Format::Table),
            header: !args.no_header,
            expanded: false,
            timing: stderr_terminal,
            rows_max: None,
            width: None,
            pager: Pager::Off,
            keep_going: args.keep_going,
            interactive,
            paint: Paint(stderr_terminal && colours()),
            interrupts,
            tally: Tally::default(),
            names_changed: false,
            last: Last::default(),
            edited: None,
            out: Output::Stdout,
            clock: SystemClock,
            config,
        };
        for (name, value) in
            shell.config.variables.clone().iter().chain(args.variables.iter().map(|(n, v)| (n, v)))
        {
            shell.variables.set(name, value)?;
        }
        if interactive {
            shell.settle_in(args.format);
        }
        if let Some(path) = &args.output {
            let mut file = RowFile::create(path, None)?;
            // What was asked for in so many words.
            file.format = args.format.or(file.format);
            shell.out = Output::File(Box::new(file));
        }
        Ok(shell)
    }

    /// What the configuration says of shells that people type into.
    fn settle_in(&mut self, format: Option<Format>) {
        let settings = self.config.shell.clone();
        self.format = format.or(settings.format.map(|name| name.0)).unwrap_or(Format::Table);
        self.expanded = settings.expanded;
        self.timing = settings.timing.unwrap_or(self.timing);
        self.rows_max = match settings.rows {
            None => Some(ROWS_SHOWN),
            Some(rows) => Some(rows).filter(|rows| *rows > 0),
        };
        self.width = settings.width;
        self.pager = match settings.pager {
            _ if dumb() => Pager::Off,
            Some(PagerSetting::Switch(false)) => Pager::Off,
            Some(PagerSetting::Command(command)) => Pager::Command(command),
            Some(PagerSetting::Switch(true)) | None => Pager::of_environment(),
        };
    }

    /// Runs statements and shell commands in order. Stops at the first that is cancelled, and in what a person did not type
    /// at the first that fails, unless told to keep going.
    pub(crate) async fn run(&mut self, input: &str, file: Option<&str>) -> Result<(), Stop> {
        for piece in split(input) {
            match piece {
                Piece::Command { text, line } => {
                    let ran = Box::pin(commands::run(self, &text)).await;
                    let origin = file.map(|file| Origin { file: Some(file), line, lead: "", sql: "" });
                    self.settle(ran, origin, file.is_none())?;
                }
                Piece::Sql { text, line, lead, vertical, .. } => {
                    let sql = self.variables.expand(&text);
                    let format = if vertical { Format::Vertical } else { self.effective_format() };
                    let ran = self.statement(&sql, format).await;
                    self.settle(ran, Some(Origin { file, line, lead: &lead, sql: &sql }), file.is_none())?;
                }
            }
        }
        Ok(())
    }

    /// Counts and reports the end of one statement or command.
    fn settle(
        &mut self,
        ran: Result<(), Ended>,
        origin: Option<Origin<'_>>,
        typed: bool,
    ) -> Result<(), Stop> {
        match ran {
            Ok(()) => {
                self.tally.done += 1;
                Ok(())
            }
            Err(Ended::Quit) => Err(Stop::Quit),
            Err(Ended::Stop(stop)) => Err(stop),
            Err(Ended::Interrupted(word)) => {
                self.tally.failed += 1;
                self.say(&format!("{} {word}", self.paint.red("cancelled:")));
                Err(Stop::Cancelled)
            }
            Err(Ended::Failed(failure)) => {
                self.tally.failed += 1;
                self.report(&failure.error, origin);
                match failure.error.kind() {
                    _ if failure.lost => Err(Stop::Refused),
                    _ if self.interactive && typed || self.keep_going => Ok(()),
                    Kind::Denied => Err(Stop::Refused),
                    Kind::Cancelled => Err(Stop::Cancelled),
                    _ => Err(Stop::Failed),
                }
            }
        }
    }

    /// How the rows of the next result are written where nothing else is said.
    pub(crate) fn effective_format(&self) -> Format {
        match self.out.format(self.format) {
            Format::Table | Format::Box if self.expanded => Format::Vertical,
            format => format,
        }
    }

    /// `text`, and how long it took when that is shown.
    pub(crate) fn timed(&self, text: &str, started: std::time::Instant) -> String {
        let took = self.clock.instant().saturating_duration_since(started);
        if self.timing { format!("{text} ({:.3} s)", took.as_secs_f64()) } else { text.to_owned() }
    }

    pub(crate) fn instant(&self) -> std::time::Instant {
        self.clock.instant()
    }

    /// Sends rows to a file from here on, or back to stdout.
    pub(crate) fn redirect(&mut self, path: Option<&Path>) -> Result<(), Ended> {
        if let Output::File(file) = std::mem::take(&mut self.out) {
            file.close()?;
        }
        if let Some(path) = path {
            let file = RowFile::create(path, None)?;
            let format = file.format.unwrap_or(self.format).name();
            self.say(&format!("rows go to '{}' as {format}", path.display()));
            self.out = Output::File(Box::new(file));
        }
        Ok(())
    }

    /// A line for the person, on stderr.
    pub(crate) fn say(&self, text: &str) {
        // Nobody reads stderr: there is nowhere left to say so.
        let _ = writeln!(io::stderr(), "{text}");
    }

    pub(crate) fn report(&self, error: &Error, origin: Option<Origin<'_>>) {
        let _ = write!(io::stderr(), "{}", report::error(error, origin, self.paint, screen_columns()));
    }

    /// Opens a session with `login` in the place of the one there is.
    ///
    /// # Errors
    /// Those of connecting; then the session that was there stays.
    pub(crate) async fn connect(&mut self, mut login: Login) -> Result<(), Failure> {
        let client = login.connect().await?;
        std::mem::replace(&mut self.client, client).close().await;
        self.login = login;
        self.names_changed = true;
        Ok(())
    }

    /// What the process says at its end.
    pub(crate) fn exit(&mut self, stopped: Result<(), Stop>) -> Exit {
        let unwritten = match std::mem::take(&mut self.out) {
            Output::File(file) => file.close().err(),
            Output::Stdout => None,
        };
        if let Some(error) = &unwritten {
            self.report(error, None);
        }
        match stopped {
            Err(Stop::Refused) => Exit::Refused,
            Err(Stop::Cancelled) => Exit::Cancelled,
            Err(Stop::Usage) => Exit::Usage,
            Err(Stop::Failed) => Exit::Failed,
            _ if unwritten.is_some() => Exit::Failed,
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
    /// The person cancelled it; what became of it.
    Interrupted(String),
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

/// Whether the person wants colours and the terminal has some.
pub(crate) fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && !dumb()
}

/// Whether the terminal can do nothing but print.
pub(crate) fn dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}
