//! Errors for people: what, where in the statement, what to do.

use std::fmt::Write;

use skep_common::{Error, Position};

use crate::render_width as width;

/// Whether to colour, and with what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint(pub(crate) bool);

impl Paint {
    pub(crate) fn red(self, text: &str) -> String {
        self.sgr("1;31", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.sgr("1", text)
    }

    fn sgr(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Where a statement came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    /// A file's name; absent for the command line and the terminal.
    pub(crate) file: Option<&'a str>,
    /// The line on which the statement starts, from 1.
    pub(crate) line: usize,
    pub(crate) sql: &'a str,
}

/// `error` as lines for stderr.
pub(crate) fn error(error: &Error, origin: Option<Origin<'_>>, paint: Paint) -> String {
    let mut out = format!("{} {}\n", paint.red("error:"), paint.bold(error.message()));
    let mut shown = error.message().to_owned();
    for cause in error.causes() {
        if !shown.ends_with(&cause) {
            let _ = writeln!(out, "  caused by: {cause}");
        }
        shown = cause;
    }
    if let Some(origin) = origin {
        place(&mut out, error.position(), origin, paint);
    }
    if let Some(hint) = error.hint_text() {
        let _ = writeln!(out, "{} {hint}", paint.bold("hint:"));
    }
    out
}

/// The line of the statement with a caret under the place, or the name of the file.
fn place(out: &mut String, at: Option<Position>, origin: Origin<'_>, paint: Paint) {
    let line_at = |at: Position| origin.sql.lines().nth(usize::try_from(at.line).ok()?.checked_sub(1)?);
    let found = at.and_then(|at| Some((at, line_at(at)?)));
    let number = origin.line + found.map_or(0, |(at, _)| usize::try_from(at.line - 1).unwrap_or(0));
    if let Some(file) = origin.file {
        let column = found.map(|(at, _)| format!(":{}", at.column)).unwrap_or_default();
        let _ = writeln!(out, " --> {file}:{number}{column}");
    }
    let Some((at, line)) = found else { return };
    let before: String =
        line.chars().take(usize::try_from(at.column.saturating_sub(1)).unwrap_or(0)).collect();
    // A tab takes one column in the caret line too.
    let padding: String = before
        .chars()
        .map(|c| if c == '\t' { "\t".to_owned() } else { " ".repeat(width(&c.to_string())) })
        .collect();
    let margin = number.to_string();
    let _ = writeln!(out, "{margin} | {line}");
    let _ = writeln!(out, "{} | {padding}{}", " ".repeat(margin.len()), paint.red("^"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(e: &Error, file: Option<&str>, line: usize, sql: &str) -> String {
        error(e, Some(Origin { file, line, sql }), Paint(false))
    }

    #[test]
    fn a_caret_stands_under_the_place() {
        let e = Error::not_found("table 'flihgts' does not exist")
            .at(Position { line: 2, column: 6 })
            .hint("did you mean 'flights'?");
        assert_eq!(
            render(&e, None, 1, "SELECT *\nFROM flihgts"),
            "error: table 'flihgts' does not exist\n\
             2 | FROM flihgts\n  |      ^\n\
             hint: did you mean 'flights'?\n"
        );
        assert!(
            render(&e, Some("a.sql"), 10, "SELECT *\nFROM flihgts").contains(" --> a.sql:11:6\n11 | FROM")
        );
    }

    #[test]
    fn places_outside_the_text_and_wide_characters_do_no_harm() {
        let e = Error::invalid("x").at(Position { line: 9, column: 1 });
        assert_eq!(render(&e, None, 1, "SELECT"), "error: x\n");
        let e = Error::invalid("x").at(Position { line: 1, column: 99 });
        assert_eq!(render(&e, None, 1, "SELECT"), "error: x\n1 | SELECT\n  |       ^\n");
        let e = Error::invalid("x").at(Position { line: 1, column: 3 });
        assert_eq!(render(&e, None, 1, "\t\u{4e00}x"), "error: x\n1 | \t\u{4e00}x\n  | \t  ^\n");
    }

    #[test]
    fn causes_are_shown_once() {
        let e = Error::invalid("bad row").source(std::io::Error::other("line 7"));
        assert_eq!(error(&e, None, Paint(false)), "error: bad row\n  caused by: line 7\n");
        assert!(error(&e, None, Paint(true)).contains("\x1b[1;31merror:\x1b[0m"));
    }
}
