//! Errors for people: what, where in the statement, what to do.
//!
//! # Not here
//! What an error is, and how it travels (`skep_common::Error`).

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin as Place, Renderer, Snippet};
use skep_common::{Error, Position, Span};

use crate::lex::{Kind, tokens};

/// Columns that are used where nobody knows how many there are.
const COLUMNS: usize = 120;
/// A terminal may be narrower; with less than this nothing could be shown of a line.
const COLUMNS_MIN: usize = 40;

/// Whether to colour, and with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Paint(pub(crate) bool);

impl Paint {
    pub(crate) fn red(self, text: &str) -> String {
        self.sgr("1;31", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.sgr("2", text)
    }

    pub(crate) fn sgr(self, code: &str, text: &str) -> String {
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
    /// What stands before it on that line.
    pub(crate) lead: &'a str,
    pub(crate) sql: &'a str,
}

/// `error` as lines for stderr, cut to fit `columns`.
pub(crate) fn error(
    error: &Error,
    origin: Option<Origin<'_>>,
    paint: Paint,
    columns: Option<usize>,
) -> String {
    let mut group = Group::with_title(Level::ERROR.primary_title(error.message()));
    // The statement from the start of its first line, so that columns are those of the file.
    let source = origin.map(|origin| format!("{}{}", origin.lead, origin.sql)).unwrap_or_default();
    let range = |span: Span| origin.and_then(|origin| range(&source, origin.lead, span));
    let at = error.span().and_then(range);
    if let (Some(origin), Some(at)) = (origin, &at) {
        let mut snippet = Snippet::source(source.as_str())
            .line_start(origin.line)
            .annotation(AnnotationKind::Primary.span(at.clone()));
        if let Some(file) = origin.file {
            snippet = snippet.path(file);
        }
        for note in error.notes() {
            if let Some(at) = note.at.and_then(range) {
                snippet = snippet.annotation(AnnotationKind::Context.span(at).label(note.message.as_str()));
            }
        }
        group = group.element(snippet);
    } else if let Some((file, line)) = origin.and_then(|origin| Some((origin.file?, origin.line))) {
        group = group.element(Place::path(file).line(line));
    }
    let mut shown = vec![error.message().to_owned()];
    for cause in error.causes() {
        if !shown.iter().any(|before| before.ends_with(&cause)) {
            group = group.element(Level::NOTE.with_name("caused by").message(cause.clone()));
        }
        shown.push(cause);
    }
    for note in error.notes() {
        if at.is_none() || note.at.and_then(range).is_none() {
            group = group.element(Level::NOTE.message(note.message.as_str()));
        }
    }
    if let Some(hint) = error.hint_text() {
        group = group.element(Level::HELP.with_name("hint").message(hint));
    }
    let renderer = if paint.0 { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.term_width(columns.unwrap_or(COLUMNS).max(COLUMNS_MIN));
    format!("{}\n", renderer.render(&[group]))
}

/// The bytes of `source` that `span` means, `lead` being what stands before the statement. `None` for a place outside of it.
fn range(source: &str, lead: &str, span: Span) -> Option<Range<usize>> {
    let start = offset(source, lead, span.start)?;
    let end = match span.end == span.start {
        true => start + named(&source[start..]),
        false => offset(source, lead, span.end)?,
    };
    Some(start..end.max(start))
}

/// Where a place is in bytes. Behind the end of a line is its end.
fn offset(source: &str, lead: &str, at: Position) -> Option<usize> {
    let line = usize::try_from(at.line).ok()?.checked_sub(1)?;
    let column = usize::try_from(at.column).ok()?.saturating_sub(1);
    let column = if line == 0 { column + lead.chars().count() } else { column };
    let start = match line {
        0 => 0,
        line => source.match_indices('\n').nth(line - 1)?.0 + 1,
    };
    let text = source[start..].split('\n').next().unwrap_or_default();
    let within = text.char_indices().nth(column).map_or(text.trim_end().len(), |(at, _)| at);
    Some(start + within)
}

/// Bytes of the word, text or dotted name that `text` begins with.
fn named(text: &str) -> usize {
    let mut end = 0;
    let mut dot = true;
    for token in tokens(text) {
        let is_dot = text[token.start..token.end] == *".";
        match token.kind {
            Kind::Word | Kind::Name if dot => dot = false,
            Kind::Other if is_dot && !dot => dot = true,
            Kind::Space if end == 0 => return 0,
            _ if end == 0 => return token.end,
            _ => break,
        }
        end = token.end;
    }
    // The dot of a name that is not finished is none of it.
    text[..end].trim_end_matches('.').len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: u64, column: u64) -> Position {
        Position { line, column }
    }

    fn render(e: &Error, file: Option<&str>, line: usize, lead: &str, sql: &str) -> String {
        error(e, Some(Origin { file, line, lead, sql }), Paint(false), None)
    }

    #[test]
    fn the_place_is_underlined_with_its_file_and_hint() {
        let e = Error::not_found("table 'lake.flihgts' does not exist")
            .at(at(2, 6))
            .hint("did you mean 'lake.flights'?");
        insta::assert_snapshot!(render(&e, None, 1, "", "SELECT *\nFROM lake.flihgts WHERE x"), @r"
        error: table 'lake.flihgts' does not exist
          |
        2 | FROM lake.flihgts WHERE x
          |      ^^^^^^^^^^^^
          |
          = hint: did you mean 'lake.flights'?
        ");
        insta::assert_snapshot!(render(&e, Some("a.sql"), 10, "", "SELECT *\nFROM lake.flihgts"), @r"
        error: table 'lake.flihgts' does not exist
          --> a.sql:11:6
           |
        11 | FROM lake.flihgts
           |      ^^^^^^^^^^^^
           |
           = hint: did you mean 'lake.flights'?
        ");
        // A statement that does not begin its line.
        let e = Error::invalid("expected a statement, found 'SELEC'").at(at(1, 1));
        insta::assert_snapshot!(render(&e, Some("a.sql"), 3, "SELECT 1; ", "SELEC 2"), @r"
        error: expected a statement, found 'SELEC'
         --> a.sql:3:11
          |
        3 | SELECT 1; SELEC 2
          |           ^^^^^
        ");
    }

    #[test]
    fn several_places_have_words_of_their_own() {
        let span = |start, end| Span { start: at(1, start), end: at(1, end) };
        let e = Error::invalid("queries of UNION have different numbers of columns")
            .at(span(1, 26))
            .note("this side has 1 column", Some(span(1, 9)))
            .note("this side has 2 columns", Some(span(16, 26)))
            .note("columns are matched by position", None);
        insta::assert_snapshot!(render(&e, None, 1, "", "SELECT 1 UNION SELECT 1,2"), @r"
        error: queries of UNION have different numbers of columns
          |
        1 | SELECT 1 UNION SELECT 1,2
          | --------^^^^^^^----------
          | |              |
          | |              this side has 2 columns
          | this side has 1 column
          |
          = note: columns are matched by position
        ");
    }

    #[test]
    fn wide_characters_tabs_and_long_lines_keep_the_place() {
        let e = Error::invalid("x").at(at(1, 4));
        let shown = render(&e, None, 1, "", "\t\u{4e00}\u{4e8c}abc d");
        assert_eq!(shown, "error: x\n  |\n1 |     \u{4e00}\u{4e8c}abc d\n  |         ^^^\n");
        let long = format!("SELECT {} nosuch {}", "a, ".repeat(100), "b, ".repeat(100));
        let e = Error::invalid("x").at(at(1, 309));
        insta::assert_snapshot!(error(&e, Some(Origin { file: None, line: 1, lead: "", sql: &long }), Paint(false), Some(60)), @r"
        error: x
          |
        1 | ...a, a, a, a, a, a, a,  nosuch b, b, b, b, b, b, b, ...
          |                          ^^^^^^
        ");
    }

    #[test]
    fn places_outside_of_the_text_do_no_harm() {
        let e = Error::invalid("x").at(at(9, 1));
        insta::assert_snapshot!(render(&e, None, 1, "", "SELECT"), @r"error: x");
        insta::assert_snapshot!(render(&e, Some("a.sql"), 7, "", "SELECT"), @r"
        error: x
        --> a.sql:7
        ");
        let e = Error::invalid("x").at(at(1, 99));
        insta::assert_snapshot!(render(&e, None, 1, "", "SELECT "), @r"
        error: x
          |
        1 | SELECT 
          |       ^
        ");
    }

    #[test]
    fn causes_are_shown_once() {
        let e = Error::invalid("bad row").source(std::io::Error::other("line 7"));
        insta::assert_snapshot!(error(&e, None, Paint(false), None), @r"
        error: bad row
         |
         = caused by: line 7
        ");
        assert!(error(&e, None, Paint(true), None).contains("\x1b["));
    }

    #[test]
    fn names_are_underlined_as_a_whole() {
        for (text, length) in
            [("lake.flights f", 12), ("\"A b\".c, d", 7), ("x. ", 1), ("'text' x", 6), ("", 0), (", x", 1)]
        {
            assert_eq!(named(text), length, "{text}");
        }
    }
}
