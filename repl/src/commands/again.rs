//! Commands about the last statement: `\last`, `\edit`, `\watch`.
//!
//! # Not here
//! Running a statement (`shell`).

use std::io::{IsTerminal, Write};
use std::process::Command;
use std::time::Duration;

use skep_common::Error;

use super::path;
use crate::output::{Output, Pager, waiting};
use crate::shell::{Ended, Shell};

/// Seconds between two runs of `\watch` that names none.
const WATCH_SECONDS: f64 = 2.0;
/// The editor of those who have not said which.
const EDITOR: &str = "vi";

/// Shows the rows of the last statement again.
pub(super) fn last(shell: &mut Shell) -> Result<(), Ended> {
    let Some(kept) = shell.last.rows.take() else {
        return Err(Error::invalid("no rows are kept")
            .hint("a shell on a terminal keeps those of the last statement")
            .into());
    };
    let shown = if !kept.whole && matches!(shell.out, Output::File(_)) {
        Err(Error::invalid("only the first of the rows are kept, which would make a file without the rest")
            .hint("run the statement again")
            .into())
    } else {
        let shown = shell.show_batches(&kept.schema, &kept.batches, shell.effective_format());
        if !kept.whole {
            shell.say("only the first of the rows are kept; run the statement again to see all");
        }
        shown
    };
    shell.last.rows = Some(kept);
    shown
}

/// Opens the last statement, or a file, in the person's editor; the text is what the next line begins with.
pub(super) fn edit(shell: &mut Shell, file: &str) -> Result<(), Ended> {
    if !shell.interactive || !std::io::stdout().is_terminal() {
        return Err(Error::invalid("\\edit needs a terminal").into());
    }
    let failed = |e: std::io::Error| Error::invalid("the statement cannot be edited").source(e);
    let mut own = None;
    let path = match path(file) {
        Some(path) => path,
        None => {
            // Only its owner reads it; it goes when it is dropped.
            let mut text =
                tempfile::Builder::new().prefix("skep-").suffix(".sql").tempfile().map_err(failed)?;
            if let Some((sql, _)) = &shell.last.sql {
                writeln!(text, "{sql};").map_err(failed)?;
            }
            own.insert(text.into_temp_path()).to_path_buf()
        }
    };
    let set = |name| std::env::var(name).ok().filter(|value: &String| !value.trim().is_empty());
    let editor = set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| EDITOR.to_owned());
    let status =
        waiting(|| Command::new("sh").args(["-c", &format!("{editor} \"$1\""), "sh"]).arg(&path).status());
    let status = status.map_err(failed)?;
    shell.interrupts.forget();
    if !status.success() {
        return Err(Error::invalid(format!("'{editor}' ended with {status}"))
            .hint("$VISUAL or $EDITOR names another")
            .into());
    }
    let text = std::fs::read_to_string(&path).map_err(failed)?;
    shell.edited = Some(text.trim_end().to_owned()).filter(|text| !text.is_empty());
    Ok(())
}

/// Runs the last statement again and again.
pub(super) async fn watch(shell: &mut Shell, rest: &str) -> Result<(), Ended> {
    let (pause, times) = parse(rest)?;
    let Some((sql, format)) = shell.last.sql.clone() else {
        return Err(Error::invalid("there is no statement to run again").into());
    };
    // Nobody turns the pages.
    let pager = std::mem::replace(&mut shell.pager, Pager::Off);
    let mut ended = Ok(());
    for run in 1..=times.unwrap_or(u64::MAX) {
        shell.interrupts.forget();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shell.interrupts.next() => break,
        }
        shell.say(
            &shell.paint.dim(&format!("again after {} s, {run} so far; ctrl-c ends it", pause.as_secs_f64())),
        );
        ended = Box::pin(shell.statement(&sql, format)).await;
        if ended.is_err() {
            break;
        }
    }
    shell.pager = pager;
    ended
}

/// Reads `[SECONDS] [TIMES]`.
fn parse(text: &str) -> Result<(Duration, Option<u64>), Error> {
    let wrong = || {
        Error::invalid(format!("\\watch: '{text}' is not a number of seconds and of times"))
            .hint("\\watch 5, or \\watch 0.5 10")
    };
    let mut words = text.split_whitespace();
    let seconds = match words.next() {
        Some(word) => word.trim_end_matches('s').parse::<f64>().map_err(|_| wrong())?,
        None => WATCH_SECONDS,
    };
    let times = words.next().map(str::parse::<u64>).transpose().map_err(|_| wrong())?;
    let pause = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    if words.next().is_some() { Err(wrong()) } else { Ok((pause, times)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_seconds() {
        assert_eq!(parse("").unwrap(), (Duration::from_secs(2), None));
        assert_eq!(parse("0.5 10").unwrap(), (Duration::from_millis(500), Some(10)));
        assert_eq!(parse("5s").unwrap(), (Duration::from_secs(5), None));
        for wrong in ["x", "-1", "1 2 3", "1 x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
