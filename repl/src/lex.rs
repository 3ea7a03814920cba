//! Where SQL statements end, without understanding them.
//!
//! A parser would refuse text that the server may accept, and has no word for a statement that is not finished, so
//! the shell knows only what can hide a `;`: strings, quoted names, comments and dollar quotes.

/// What a piece of text is, as far as the shell cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Word,
    Number,
    /// `'text'` or `$$text$$`.
    Text,
    /// `"name"` or `` `name` ``.
    Name,
    Comment,
    Space,
    Semicolon,
    /// Anything else, one character.
    Other,
}

/// A piece of text, `start..end` in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// False when the text ended inside it.
    pub(crate) closed: bool,
}

/// The tokens of `text`, without gaps.
pub(crate) fn tokens(text: &str) -> impl Iterator<Item = Token> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let token = token_at(text, start)?;
        start = token.end;
        Some(token)
    })
}

/// The token of `text` that starts at `start`.
fn token_at(text: &str, start: usize) -> Option<Token> {
    let rest = &text[start..];
    let (kind, length, closed) = token(rest, rest.chars().next()?);
    Some(Token { kind, start, end: start + length, closed })
}

fn token(rest: &str, first: char) -> (Kind, usize, bool) {
    let run = |allowed: fn(char) -> bool| rest.find(|c: char| !allowed(c)).unwrap_or(rest.len());
    match first {
        ';' => (Kind::Semicolon, 1, true),
        '\'' => quoted(rest, Kind::Text, '\'', 1, false),
        'e' | 'E' if rest[1..].starts_with('\'') => quoted(rest, Kind::Text, '\'', 2, true),
        '"' | '`' => quoted(rest, Kind::Name, first, 1, false),
        '-' if rest.starts_with("--") => (Kind::Comment, rest.find('\n').unwrap_or(rest.len()), true),
        '/' if rest.starts_with("/*") => block_comment(rest),
        '$' => dollar(rest),
        c if c.is_whitespace() => (Kind::Space, run(char::is_whitespace), true),
        c if c.is_ascii_digit() => (Kind::Number, run(|c| c.is_ascii_alphanumeric() || c == '.'), true),
        c if c.is_alphabetic() || c == '_' => (Kind::Word, run(is_word), true),
        c => (Kind::Other, c.len_utf8(), true),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Up to the closing quote; a doubled quote is a quote inside, and so is `\'` in an escape string.
fn quoted(rest: &str, kind: Kind, quote: char, open: usize, escapes: bool) -> (Kind, usize, bool) {
    let mut chars = rest[open..].char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if escapes && c == '\\' {
            chars.next();
        } else if c == quote {
            if chars.peek().is_some_and(|(_, next)| *next == quote) {
                chars.next();
            } else {
                return (kind, open + at + 1, true);
            }
        }
    }
    (kind, rest.len(), false)
}

/// Block comments nest.
fn block_comment(rest: &str) -> (Kind, usize, bool) {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return (Kind::Comment, at, true);
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    (Kind::Comment, rest.len(), false)
}

/// `$tag$ ... $tag$`; a lone `$`, as in the parameter `$1`, is itself.
fn dollar(rest: &str) -> (Kind, usize, bool) {
    let Some(end) = rest[1..].find('$').map(|at| at + 2) else { return (Kind::Other, 1, true) };
    let tag = &rest[1..end - 1];
    let is_tag = tag.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !tag.starts_with(|c: char| c.is_ascii_digit());
    if !is_tag {
        return (Kind::Other, 1, true);
    }
    match rest[end..].find(&rest[..end]) {
        Some(close) => (Kind::Text, end + close + end, true),
        None => (Kind::Text, rest.len(), false),
    }
}

/// One unit of input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A statement, without its end.
    Sql {
        text: String,
        /// Where it starts in the input, from 1.
        line: usize,
        /// What stands before it on that line.
        lead: String,
        /// Whether it ends in `\G` or `\gx`: show the rows vertically.
        vertical: bool,
        /// Whether its end was seen.
        ended: bool,
    },
    /// A command of the shell, `\d lake.flights` or `.tables`, without the first character.
    Command {
        text: String,
        /// Where it stands in the input, from 1.
        line: usize,
    },
}

/// Splits `input` into statements and shell commands. Empty statements are left out.
pub(crate) fn split(input: &str) -> Vec<Piece> {
    scan(input).0
}

/// The pieces of `input`, and whether it ends inside a text, a name or a comment.
fn scan(input: &str) -> (Vec<Piece>, bool) {
    let (mut pieces, mut open) = (Vec::new(), false);
    // Start of the statement being read, once it has a token that matters.
    let mut from: Option<usize> = None;
    let mut at = 0;
    // Not all tokens at once: a quote in a command means nothing behind its line.
    while let Some(found) = token_at(input, at) {
        at = found.end;
        open |= !found.closed;
        match found.kind {
            Kind::Space => {}
            Kind::Semicolon => {
                if let Some(start) = from.take() {
                    pieces.push(sql(input, start, found.start, false, true));
                }
            }
            Kind::Other if from.is_none() && is_command(input, found.start) => {
                at = line_end(input, found.start);
                pieces.push(command(input, found.start, at));
            }
            Kind::Other if input[found.start..].starts_with('\\') => {
                let word = token_at(input, found.end);
                match (from, word.map(|word| (&input[word.start..word.end], word.end))) {
                    (Some(start), Some((word @ ("g" | "G" | "gx"), end))) => {
                        pieces.push(sql(input, start, found.start, word != "g", true));
                        (from, at) = (None, end);
                    }
                    // It runs, and the command runs it again.
                    (Some(start), Some(("watch", _))) => {
                        pieces.push(sql(input, start, found.start, false, true));
                        (from, at) = (None, line_end(input, found.start));
                        pieces.push(command(input, found.start, at));
                    }
                    _ => {}
                }
            }
            Kind::Comment if from.is_none() && found.closed => {}
            _ => from = from.or(Some(found.start)),
        }
    }
    if let Some(start) = from {
        pieces.push(sql(input, start, input.len(), false, false));
    }
    (pieces, open)
}

fn line_end(input: &str, at: usize) -> usize {
    input[at..].find('\n').map_or(input.len(), |end| at + end)
}

/// Whether a shell command starts here: a backslash, or a dot before a letter.
fn is_command(input: &str, at: usize) -> bool {
    let mut chars = input[at..].chars();
    match chars.next() {
        Some('\\') => true,
        Some('.') => chars.next().is_some_and(char::is_alphabetic),
        _ => false,
    }
}

fn line_of(input: &str, at: usize) -> usize {
    input[..at].matches('\n').count() + 1
}

fn sql(input: &str, start: usize, end: usize, vertical: bool, ended: bool) -> Piece {
    let lead = input[..start].rsplit('\n').next().unwrap_or_default().to_owned();
    let (text, line) = (input[start..end].trim_end().to_owned(), line_of(input, start));
    Piece::Sql { text, line, lead, vertical, ended }
}

/// The command from its first character at `start` to the end of its line.
fn command(input: &str, start: usize, end: usize) -> Piece {
    let text = input[start + 1..end].trim().trim_end_matches(';').trim().to_owned();
    Piece::Command { text, line: line_of(input, start) }
}

/// Whether more lines are needed before `input` can be run.
pub(crate) fn incomplete(input: &str) -> bool {
    let (pieces, open) = scan(input);
    open || matches!(pieces.last(), Some(Piece::Sql { ended: false, .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(input: &str) -> Vec<String> {
        let pieces = split(input).into_iter();
        pieces
            .map(|piece| match piece {
                Piece::Sql { text, .. } => text,
                Piece::Command { text, .. } => format!("\\{text}"),
            })
            .collect()
    }

    #[test]
    fn semicolons_end_statements_where_sql_says() {
        assert_eq!(statements("SELECT 1; SELECT 2"), ["SELECT 1", "SELECT 2"]);
        assert_eq!(statements("SELECT ';' , \"a;b\", `c;d`;"), ["SELECT ';' , \"a;b\", `c;d`"]);
        assert_eq!(statements("SELECT 'it''s; fine'; x"), ["SELECT 'it''s; fine'", "x"]);
        assert_eq!(statements(r"SELECT E'a\'; b'; x"), [r"SELECT E'a\'; b'", "x"]);
        assert_eq!(statements("SELECT 1 -- no; end\n; x"), ["SELECT 1 -- no; end", "x"]);
        assert_eq!(statements("SELECT /* a; /* b; */ c; */ 1; x"), ["SELECT /* a; /* b; */ c; */ 1", "x"]);
        assert_eq!(statements("SELECT $$a;b$$, $t$c;$$;d$t$; x"), ["SELECT $$a;b$$, $t$c;$$;d$t$", "x"]);
        assert_eq!(statements("SELECT $1, $2; x"), ["SELECT $1, $2", "x"]);
        assert_eq!(statements(";; \n -- only a comment\n ; /* and */"), Vec::<String>::new());
    }

    #[test]
    fn lines_are_those_of_the_input() {
        let pieces = split("-- head\nSELECT 1;\n\n  SELECT\n2");
        let lines: Vec<(usize, bool)> = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Sql { line, ended, .. } => (*line, *ended),
                Piece::Command { .. } => unreachable!(),
            })
            .collect();
        assert_eq!(lines, [(2, true), (4, false)]);
    }

    #[test]
    fn shell_commands_take_their_line() {
        assert_eq!(statements("\\d lake.t\nSELECT 1;\n.tables\n"), ["\\d lake.t", "SELECT 1", "\\tables"]);
        assert_eq!(statements("\\copy t FROM 'a;b.csv';\nSELECT 1"), ["\\copy t FROM 'a;b.csv'", "SELECT 1"]);
        assert_eq!(statements("\\set who O'Neil\nSELECT 1;"), ["\\set who O'Neil", "SELECT 1"]);
        let sql = |text: &str, lead: &str, vertical| Piece::Sql {
            text: text.into(),
            line: 1,
            lead: lead.into(),
            vertical,
            ended: true,
        };
        assert_eq!(
            split("SELECT 1 \\G SELECT 2 \\g"),
            [sql("SELECT 1", "", true), sql("SELECT 2", "SELECT 1 \\G ", false)]
        );
        assert_eq!(
            split("SELECT 1 \\watch 2"),
            [sql("SELECT 1", "", false), Piece::Command { text: "watch 2".into(), line: 1 }]
        );
    }

    #[test]
    fn unfinished_input_waits_for_more() {
        for text in ["SELECT 1", "SELECT 'a;", "/* x;", "SELECT 1; SELECT 2", "SELECT $$ ;"] {
            assert!(incomplete(text), "{text}");
        }
        for text in ["", "SELECT 1;", "\\d", "\\echo it's", "-- nothing", "SELECT 1 \\G", "SELECT 1; -- done"]
        {
            assert!(!incomplete(text), "{text}");
        }
    }

    #[test]
    fn any_text_is_covered_without_gaps() {
        for text in [
            "a\u{e9}\u{4e00}'\u{1f600}'$",
            "$$",
            "/*",
            "--",
            "E'",
            "e",
            "'''",
            "\"",
            "$a$b$",
            "\\",
            "\u{a0};",
        ] {
            let mut end = 0;
            for token in tokens(text) {
                assert_eq!(token.start, end);
                assert!(token.end > token.start);
                end = token.end;
            }
            assert_eq!(end, text.len());
            let _ = split(text);
        }
    }
}
