//! Commands of the shell itself: `\d`, `.tables`, `\copy`, ...
//!
//! ```text
//! mod     names, help, settings of the shell      look    tables, columns, the connection
//! again   the last statement: \watch, \edit, \last
//! ```
//!
//! # Not here
//! Statements, which the server runs.

mod again;
mod look;

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use skep_common::{Error, nearest};

pub(crate) use look::{find_table, table_name, unquote};

use crate::args::Format;
use crate::connect::Login;
use crate::copy;
use crate::output::Pager;
use crate::shell::{Ended, Shell, Stop};

/// A command: its spellings, what follows them, and what it does.
struct Command {
    names: &'static [&'static str],
    arguments: &'static str,
    about: &'static str,
}

const fn command(names: &'static [&'static str], arguments: &'static str, about: &'static str) -> Command {
    Command { names, arguments, about }
}

/// The commands; each is known by the first of its names.
const COMMANDS: &[Command] = &[
    command(&["?", "help"], "", "this list"),
    command(&["q", "quit", "exit"], "", "leave"),
    command(&["d", "describe"], "[SCHEMA.]TABLE", "columns of a table; without a name the tables"),
    command(&["dt", "tables"], "[PATTERN]", "tables and views, by name or SCHEMA.NAME, with % and _"),
    command(&["dv", "views"], "[PATTERN]", "views"),
    command(&["dn", "schemas"], "", "schemas"),
    command(&["x", "expanded"], "[on|off]", "rows on end"),
    command(&["timing", "timer"], "[on|off]", "what a statement took"),
    command(&["format", "mode"], "[FORMAT]", "table, box, vertical, csv, tsv, json, ndjson, markdown, ..."),
    command(&["rows", "maxrows"], "[N]", "rows of a result that a terminal shows; 0: all"),
    command(&["width"], "[N]", "columns of the terminal; 0: as it says itself"),
    command(&["pager"], "[on|off|COMMAND]", "shows results that are longer than the screen"),
    command(&["o", "output"], "[FILE]", "rows into a file, as its name says; alone: back here"),
    command(&["last"], "", "the rows of the last statement, as \\format and \\o are now"),
    command(&["i", "read"], "FILE", "run the statements of a file"),
    command(&["e", "edit"], "[FILE]", "the last statement, or a file, in $VISUAL or $EDITOR"),
    command(&["watch"], "[SECONDS] [TIMES]", "the last statement again and again, until ctrl-c"),
    command(&["set"], "[NAME VALUE]", ":NAME is VALUE, :'NAME' a text, :\"NAME\" a name; alone: all"),
    command(&["unset"], "NAME", "forget a variable"),
    command(&["echo", "print"], "TEXT", "print a text"),
    command(&["copy"], "TABLE FROM 'FILE' ...", "a file of this machine into a table; (FORMAT csv, ...)"),
    command(&["copy"], "TABLE|(QUERY) TO 'FILE'", "rows into a file of this machine"),
    command(&["connect", "c", "open"], "[URL|PROFILE]", "another server; alone: this one again"),
    command(&["conninfo", "connection"], "", "what the session is connected to"),
];

/// How statements end, for the help.
const ENDINGS: &str = "A dot is as good as the backslash. Statements end in ; or \\g, in \\G to see rows on end, in \\watch\n\
                       to see them again and again. Ctrl-c cancels a running one.";

/// Completions for a command being typed.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().flat_map(|command| command.names.iter().copied())
}

/// Runs one command, written without its backslash or dot.
pub(crate) async fn run(shell: &mut Shell, command: &str) -> Result<(), Ended> {
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = rest.trim();
    let known = COMMANDS.iter().find(|command| command.names.contains(&name)).map(|command| command.names[0]);
    match known {
        Some("?") => help(shell),
        Some("q") => return Err(Ended::Quit),
        Some("d") if !rest.is_empty() => look::describe(shell, rest).await?,
        Some("d" | "dt") => look::tables(shell, rest, None).await?,
        Some("dv") => look::tables(shell, rest, Some("VIEW")).await?,
        Some("dn") => shell.statement("SHOW SCHEMAS", shell.effective_format()).await?,
        Some("x" | "timing" | "format" | "rows" | "width" | "pager") => setting(shell, known, rest)?,
        Some("i") => file(shell, rest).await?,
        Some("o") => shell.redirect((!rest.is_empty()).then(|| PathBuf::from(unquote(rest))).as_deref())?,
        Some("last") => again::last(shell)?,
        Some("e") => again::edit(shell, rest)?,
        Some("watch") => again::watch(shell, rest).await?,
        Some("set") => set(shell, rest)?,
        Some("unset") => unset(shell, rest)?,
        Some("echo") => echo(&shell.variables.expand(rest))?,
        Some("copy") => copy::run(shell, rest).await?,
        Some("connect") => connect(shell, rest).await?,
        Some("conninfo") => look::connection(shell).await?,
        _ => return Err(unknown(name).into()),
    }
    Ok(())
}

fn unknown(name: &str) -> Error {
    let error = Error::invalid(format!("unknown command '\\{name}'"));
    match nearest(name, names()) {
        Some(near) => error.hint(format!("did you mean '\\{near}'? \\? lists the commands")),
        None => error.hint("\\? lists the commands"),
    }
}

fn help(shell: &Shell) {
    for Command { names, arguments, about } in COMMANDS {
        let spelled = names.iter().map(|name| format!("\\{name}")).collect::<Vec<_>>().join(" ");
        let left = if arguments.is_empty() { spelled } else { format!("{spelled} {arguments}") };
        shell.say(&format!("  {left:<36} {about}"));
    }
    shell.say(ENDINGS);
}

fn switch(now: bool, to: &str) -> Result<bool, Error> {
    match to {
        "" => Ok(!now),
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(Error::invalid(format!("'{other}' is neither on nor off"))),
    }
}

/// Changes a setting of the shell, or says what it is.
fn setting(shell: &mut Shell, name: Option<&str>, to: &str) -> Result<(), Error> {
    match name {
        Some("x") => {
            shell.expanded = switch(shell.expanded, to)?;
            shell.say(if shell.expanded { "rows on end" } else { "rows in columns" });
        }
        Some("timing") => {
            shell.timing = switch(shell.timing, to)?;
            shell.say(if shell.timing { "timing on" } else { "timing off" });
        }
        Some("format") => format(shell, to)?,
        Some("rows") => {
            if !to.is_empty() {
                shell.rows_max = Some(number(to)?).filter(|rows| *rows > 0);
            }
            let rows = shell.rows_max.map_or_else(|| "all".to_owned(), |rows| rows.to_string());
            shell.say(&format!("rows {rows}"));
        }
        Some("width") => {
            if !to.is_empty() {
                shell.width = Some(number(to)?).filter(|width| *width > 0);
            }
            let width =
                shell.width.map_or_else(|| "as the terminal says".to_owned(), |width| width.to_string());
            shell.say(&format!("width {width}"));
        }
        _ => {
            match to {
                "" => {}
                "off" => shell.pager = Pager::Off,
                "on" => shell.pager = Pager::of_environment(),
                command => shell.pager = Pager::Command(unquote(command)),
            }
            shell.say(&match &shell.pager {
                Pager::Off => "pager off".to_owned(),
                Pager::Command(command) => format!("pager {command}"),
            });
        }
    }
    Ok(())
}

fn number(text: &str) -> Result<usize, Error> {
    text.parse().map_err(|e| Error::invalid(format!("'{text}' is not a number")).source(e))
}

fn format(shell: &mut Shell, name: &str) -> Result<(), Error> {
    if !name.is_empty() {
        shell.format = Format::from_str(name, true).map_err(|_| {
            let all = Format::names();
            let error = Error::invalid(format!("unknown format '{name}'"));
            match nearest(name, all.iter().map(String::as_str)) {
                Some(near) => error.hint(format!("did you mean '{near}'?")),
                None => error.hint(format!("choose one of {}", all.join(", "))),
            }
        })?;
    }
    shell.say(&format!("format {}", shell.format.name()));
    Ok(())
}

async fn file(shell: &mut Shell, path: &str) -> Result<(), Ended> {
    let path = unquote(path);
    if path.is_empty() {
        return Err(Error::invalid("which file?").hint("\\i FILE").into());
    }
    let text = tokio::fs::read_to_string(&path)
        .await
        .map_err(|e| Error::not_found(format!("cannot read '{path}'")).source(e))?;
    match shell.run(&text, Some(&path)).await {
        Ok(()) => Ok(()),
        Err(Stop::Quit) => Err(Ended::Quit),
        // Why is on the screen.
        Err(Stop::Failed) if shell.interactive => {
            shell.say(&format!("the rest of '{path}' did not run"));
            Ok(())
        }
        Err(stop) => Err(Ended::Stop(stop)),
    }
}

/// `\set`, `\set NAME`, `\set NAME VALUE`.
fn set(shell: &mut Shell, rest: &str) -> Result<(), Error> {
    let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if name.is_empty() {
        let all: Vec<String> = shell
            .variables
            .all()
            .map(|(name, value)| format!("{name} = '{}'", value.replace('\'', "''")))
            .collect();
        if all.is_empty() {
            shell.say("no variable is set");
        }
        all.iter().for_each(|line| shell.say(line));
        return Ok(());
    }
    let value = shell.variables.expand(value);
    shell.variables.set(name, &unquote(&value))
}

fn unset(shell: &mut Shell, name: &str) -> Result<(), Error> {
    if shell.variables.unset(name) {
        return Ok(());
    }
    let error = Error::invalid(format!("variable '{name}' is not set"));
    Err(match nearest(name, shell.variables.names()) {
        Some(near) => error.hint(format!("did you mean '{near}'?")),
        None => error.hint("\\set lists those that are"),
    })
}

fn echo(text: &str) -> Result<(), Ended> {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{}", unquote(text)) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(Ended::Quit),
        Err(e) => Err(Error::invalid("the text cannot be written").source(e).into()),
        Ok(()) => Ok(()),
    }
}

async fn connect(shell: &mut Shell, to: &str) -> Result<(), Ended> {
    let login = match unquote(to) {
        name if name.is_empty() => shell.login.clone(),
        name => Login::named(&name, &shell.config)?,
    };
    shell.connect(login).await.map_err(|failure| {
        // The session that is there stays.
        crate::client::Failure { lost: false, ..failure }
    })?;
    shell.say(&format!("connected to {}", shell.login.server()));
    Ok(())
}

/// The path of an argument.
fn path(text: &str) -> Option<PathBuf> {
    let text = unquote(text);
    (!text.is_empty()).then(|| Path::new(&text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_switch() {
        assert!(switch(false, "").unwrap());
        assert!(!switch(true, "off").unwrap());
        assert!(switch(true, "maybe").is_err());
    }

    #[test]
    fn unknown_commands_come_with_the_nearest() {
        assert_eq!(unknown("tabels").hint_text(), Some("did you mean '\\tables'? \\? lists the commands"));
        assert_eq!(unknown("nonsense").hint_text(), Some("\\? lists the commands"));
    }

    /// A name that two commands had would reach one of them only.
    #[test]
    fn names_are_of_one_command() {
        let mut seen = std::collections::HashMap::new();
        for command in COMMANDS {
            for name in command.names {
                let first = seen.entry(name).or_insert(command.names[0]);
                assert_eq!(*first, command.names[0], "{name}");
            }
        }
    }
}
