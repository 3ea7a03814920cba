//! The interactive shell and `skep sql`: a Flight SQL client and the rendering of its results.
//!
//! ```text
//! args        -c, -f, --format              config     $XDG_CONFIG_HOME/skep/shell.toml
//! lex         where statements end          commands   \d, \watch, ...       variables   :name
//! shell       runs input, one session       editor     the terminal: history, completion, colours
//! statement   one of them, watched          progress   what it does           output      stdout, pager, file
//! client      Flight SQL                    connect    which server, as whom  copy        files and tables
//! render      rows as text                  report     errors, underlined, with a hint
//! session     statements of a program, with whole answers
//! ```
//!
//! Rows go to stdout, everything else to stderr. The shell knows no SQL beyond where a statement ends.
//!
//! # Not here
//! The server: the shell is handed an address or a channel.

mod args;
mod client;
mod commands;
mod complete;
mod config;
mod connect;
mod copy;
mod editor;
mod interrupt;
mod lex;
mod output;
mod progress;
mod render;
mod report;
mod session;
mod shell;
mod statement;
mod variables;

use std::io::{IsTerminal, Read, Write};

pub use args::{Args, Format, Input, Inputs};
pub use session::{Answer, Session, Statement, statements};
use skep_common::{Error, Kind};
use tonic::transport::Channel;

use crate::client::Failure;
use crate::connect::Login;
use crate::interrupt::Interrupts;
use crate::report::{Origin, Paint};
use crate::shell::{Shell, Stop, colours};

/// Where `skep sql` connects when it is told nothing.
pub const DEFAULT_URL: &str = "grpc://127.0.0.1:8815";

/// The server to speak to.
#[derive(Debug, Clone)]
pub enum Target {
    /// `grpc://HOST:PORT`.
    Url(String),
    /// A channel, such as one inside the process.
    Channel(Channel),
}

/// What the process says when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Every statement succeeded.
    Done = 0,
    /// A statement failed.
    Failed = 1,
    /// The options or a file named in them are wrong.
    Usage = 2,
    /// The server cannot be reached, or does not let the caller in.
    Refused = 3,
    /// The caller interrupted it.
    Cancelled = 4,
    /// With `--keep-going`: some statements failed, others succeeded.
    Partly = 5,
}

impl Exit {
    /// The number for the operating system.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// Runs what `args` say against `target`, or else the server of their profile, or the default one: rows to stdout,
/// everything else to stderr.
///
/// With neither `-c` nor `-f` it reads statements from stdin, or opens the shell when stdin is a terminal.
///
/// A thread of the runtime may wait on stdin, which cannot be stopped: end the process with the returned code
/// rather than dropping the runtime.
pub async fn run(args: Args, target: Option<Target>) -> Exit {
    let interactive = args.inputs.0.is_empty() && std::io::stdin().is_terminal();
    let config = if args.no_rc { Ok(config::Config::default()) } else { config::load(args.rc.as_deref()) };
    let config = match config {
        Ok(config) => config,
        Err(wrong) => return misconfigured(&wrong),
    };
    let mut login = match Login::new(&args, &config, target) {
        Ok(login) => login,
        Err(error) => {
            report(&error);
            return Exit::Usage;
        }
    };
    let mut interrupts = Interrupts::listen();
    let connected = tokio::select! {
        connected = login.connect() => connected,
        () = interrupts.next() => return Exit::Cancelled,
    };
    let client = match connected {
        Ok(client) => client,
        Err(failure) => return refused(&failure),
    };
    let mut shell = match Shell::new(client, login, config, &args, interactive, interrupts) {
        Ok(shell) => shell,
        Err(error) => {
            report(&error);
            return Exit::Usage;
        }
    };
    let stopped =
        if interactive { editor::interact(&mut shell).await } else { inputs(&mut shell, &args).await };
    let exit = shell.exit(stopped);
    shell.client.close().await;
    exit
}

/// Prints `error` on stderr as the shell prints errors, for whoever fails before there is a shell.
pub fn report(error: &Error) {
    report_at(error, None);
}

/// The same for what is wrong in a file, whose text is shown with it.
pub fn report_in(error: &Error, file: &str, text: &str) {
    report_at(error, Some(Origin { file: Some(file), line: 1, lead: "", sql: text }));
}

fn report_at(error: &Error, origin: Option<Origin<'_>>) {
    let paint = Paint(std::io::stderr().is_terminal() && colours());
    let text = report::error(error, origin, paint, render::screen_columns());
    let _ = write!(std::io::stderr(), "{text}");
}

/// The exit of a process whose file of configuration is wrong.
fn misconfigured(wrong: &config::Wrong) -> Exit {
    let file = wrong.path.display().to_string();
    report_at(&wrong.error, Some(Origin { file: Some(&file), line: 1, lead: "", sql: &wrong.text }));
    Exit::Usage
}

/// The exit of a process that cannot open a session.
fn refused(failure: &Failure) -> Exit {
    report(&failure.error);
    match failure.error.kind() {
        Kind::Invalid | Kind::Unsupported if !failure.lost => Exit::Usage,
        _ => Exit::Refused,
    }
}

async fn inputs(shell: &mut Shell, args: &Args) -> Result<(), Stop> {
    let stdin = [Input::File("-".into())];
    let inputs = if args.inputs.0.is_empty() { &stdin[..] } else { &args.inputs.0 };
    for input in inputs {
        let ran = match input {
            Input::Command(sql) => shell.run(sql, None).await,
            Input::File(path) => {
                let name = path.display().to_string();
                let text = read(shell, path.clone()).await?;
                shell.run(&text, (name != "-").then_some(&name)).await
            }
        };
        ran?;
    }
    Ok(())
}

/// The text of a file, or of stdin for `-`.
async fn read(shell: &mut Shell, path: std::path::PathBuf) -> Result<String, Stop> {
    let name = path.display().to_string();
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        if path.as_os_str() == "-" {
            std::io::stdin().lock().read_to_string(&mut text)?;
        } else {
            std::fs::File::open(&path)?.read_to_string(&mut text)?;
        }
        Ok::<_, std::io::Error>(text)
    });
    let text = tokio::select! {
        text = reading => text,
        () = shell.interrupts.next() => return Err(Stop::Cancelled),
    };
    let failed = match text {
        Ok(Ok(text)) => return Ok(text),
        Ok(Err(error)) => Error::invalid(format!("cannot read '{name}'")).source(error),
        Err(error) => Error::internal(format!("reading '{name}' panicked")).source(error),
    };
    shell.report(&failed, None);
    Err(Stop::Usage)
}
