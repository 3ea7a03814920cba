//! Completion, colours and the end of input for the line editor.

use std::borrow::Cow;
use std::sync::Arc;

use parking_lot::Mutex;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper};

use crate::args::Format;
use crate::client::Table;
use crate::commands;
use crate::config::Color;
use crate::lex::{Kind, incomplete, tokens};

/// Words that are coloured and completed.
const KEYWORDS: &[&str] = &[
    "ALL",
    "ALTER",
    "ANALYZE",
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "COLUMN",
    "COLUMNS",
    "COPY",
    "CREATE",
    "CROSS",
    "DELETE",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "DROP",
    "ELSE",
    "END",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "EXTERNAL",
    "EXTRACT",
    "FALSE",
    "FORMAT",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "IF",
    "IN",
    "INNER",
    "INSERT",
    "INTERSECT",
    "INTERVAL",
    "INTO",
    "IS",
    "JOIN",
    "KILL",
    "LEFT",
    "LIKE",
    "LIMIT",
    "LOCATION",
    "NOT",
    "NULL",
    "NULLS",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OUTER",
    "OVER",
    "PARTITION",
    "PARTITIONED",
    "QUERY",
    "REPLACE",
    "RIGHT",
    "SCHEMA",
    "SCHEMAS",
    "SELECT",
    "SEMI",
    "SET",
    "SHOW",
    "TABLE",
    "TABLES",
    "THEN",
    "TO",
    "TRUE",
    "UNION",
    "UPDATE",
    "USING",
    "VALUES",
    "VIEW",
    "WHEN",
    "WHERE",
    "WINDOW",
    "WITH",
];

/// The names that completion knows.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) tables: Vec<Table>,
    pub(crate) variables: Vec<String>,
    pub(crate) profiles: Vec<String>,
}

/// Shared with the shell that refreshes them.
pub(crate) type Names = Arc<Mutex<Known>>;

/// The editor's helper.
pub(crate) struct SqlHelper {
    pub(crate) names: Names,
    pub(crate) color: bool,
    /// Of the prompt.
    pub(crate) prompt: Option<Color>,
    pub(crate) files: FilenameCompleter,
}

impl Helper for SqlHelper {}

impl Hinter for SqlHelper {
    type Hint = String;
}

impl Validator for SqlHelper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let more = incomplete(context.input());
        Ok(if more { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Highlighter for SqlHelper {
    fn highlight<'l>(&self, line: &'l str, _pos: usize) -> Cow<'l, str> {
        if !self.color {
            return Cow::Borrowed(line);
        }
        let mut out = String::with_capacity(line.len() * 2);
        for token in tokens(line) {
            let text = &line[token.start..token.end];
            let code = match token.kind {
                Kind::Word if is_keyword(text) => "1;34",
                Kind::Text => "32",
                Kind::Number => "36",
                Kind::Comment => "2",
                _ => "",
            };
            if code.is_empty() {
                out.push_str(text);
            } else {
                out.extend(["\x1b[", code, "m", text, "\x1b[0m"]);
            }
        }
        Cow::Owned(out)
    }

    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _default: bool) -> Cow<'b, str> {
        match self.prompt {
            Some(color) if self.color => Cow::Owned(format!("\x1b[{}m{prompt}\x1b[0m", color.code())),
            _ => Cow::Borrowed(prompt),
        }
    }

    fn highlight_char(&self, _line: &str, _pos: usize, _kind: CmdKind) -> bool {
        self.color
    }
}

fn is_keyword(word: &str) -> bool {
    let upper = word.to_ascii_uppercase();
    KEYWORDS.binary_search(&upper.as_str()).is_ok()
}

impl Completer for SqlHelper {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        if names_file(&line[..pos]) {
            return self.files.complete(line, pos, context);
        }
        let (start, candidates) = candidates(&line[..pos], line, &self.names.lock());
        let pair = |text: String| Pair { display: text.clone(), replacement: text };
        Ok((start, candidates.into_iter().map(pair).collect()))
    }
}

/// Whether the name of a file is being typed.
fn names_file(before: &str) -> bool {
    let Some((command, rest)) = before.trim_start().split_once(char::is_whitespace) else { return false };
    match command.trim_start_matches(['\\', '.']) {
        "i" | "read" | "o" | "output" | "e" | "edit" => command.starts_with(['\\', '.']),
        "copy" => rest.matches('\'').count() % 2 == 1,
        _ => false,
    }
}

/// What could follow a command with a space, where that is one of a few words.
fn arguments(command: &str, known: &Known) -> Option<Vec<String>> {
    match command.trim_start_matches(['\\', '.']) {
        "format" | "mode" => Some(Format::names()),
        "x" | "expanded" | "timing" | "timer" | "pager" => Some(vec!["on".into(), "off".into()]),
        "connect" | "c" | "open" => Some(known.profiles.clone()),
        "set" | "unset" => Some(known.variables.clone()),
        _ => None,
    }
}

/// What could follow `before`, and where its last word starts.
fn candidates(before: &str, line: &str, known: &Known) -> (usize, Vec<String>) {
    let tables = &known.tables;
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    let start = before
        .rfind(|c: char| !is_word(c))
        .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
    let word = &before[start..];
    let command = before.trim_start();
    if command.starts_with(['\\', '.']) {
        let among = match command.split_once(' ') {
            None => Some((&command[1..], commands::names().map(str::to_owned).collect())),
            Some((command, rest)) => arguments(command, known).map(|words| (rest.trim_start(), words)),
        };
        if let Some((typed, words)) = among {
            let mut found: Vec<String> = words.into_iter().filter(|name| name.starts_with(typed)).collect();
            found.sort_unstable();
            return (before.len() - typed.len(), found);
        }
    }
    let lower = word.to_lowercase();
    let mut found: Vec<String> = Vec::new();
    if before[..start].ends_with(':') && !before[..start].ends_with("::") {
        let names = known.variables.iter().filter(|name| name.starts_with(word));
        return (start, names.cloned().collect());
    }
    if let Some((owner, rest)) = lower.rsplit_once('.') {
        for table in tables {
            if table.schema == owner && table.name.starts_with(rest) {
                found.push(format!("{owner}.{}", quoted(&table.name)));
            }
            let named = table.name == owner
                || format!("{}.{}", table.schema, table.name) == owner
                || aliases(line, table).any(|alias| alias == owner);
            if named {
                found.extend(
                    columns(table)
                        .filter(|name| name.starts_with(rest))
                        .map(|name| format!("{owner}.{}", quoted(name))),
                );
            }
        }
    } else {
        let line = line.to_lowercase();
        for table in tables {
            found.extend(
                [&table.schema, &table.name]
                    .into_iter()
                    .filter(|name| name.starts_with(&lower))
                    .map(|name| quoted(name)),
            );
            // Columns of the tables that the statement speaks of.
            if line.contains(&table.name) {
                found.extend(columns(table).filter(|name| name.starts_with(&lower)).map(quoted));
            }
        }
        if !word.is_empty() {
            let small = word.chars().all(|c| !c.is_uppercase());
            let keywords = KEYWORDS.iter().filter(|keyword| keyword.starts_with(&word.to_uppercase()));
            found.extend(
                keywords.map(|keyword| if small { keyword.to_lowercase() } else { (*keyword).to_owned() }),
            );
        }
    }
    found.sort_unstable();
    found.dedup();
    (start, found)
}

/// The other names that a statement gives to a table, as in `FROM flights AS f`.
fn aliases(line: &str, table: &Table) -> impl Iterator<Item = String> {
    let solid = tokens(line).filter(|token| !matches!(token.kind, Kind::Space | Kind::Comment));
    let words: Vec<&str> = solid.map(|token| &line[token.start..token.end]).collect();
    let mut found = Vec::new();
    for at in 0..words.len() {
        if !words[at].eq_ignore_ascii_case(&table.name) {
            continue;
        }
        let after = if words.get(at + 1).is_some_and(|word| word.eq_ignore_ascii_case("as")) {
            at + 2
        } else {
            at + 1
        };
        let alias =
            words.get(after).filter(|word| word.starts_with(char::is_alphabetic) && !is_keyword(word));
        found.extend(alias.map(|alias| alias.to_lowercase()));
    }
    found.into_iter()
}

fn columns(table: &Table) -> impl Iterator<Item = &str> {
    table.columns.iter().flat_map(|schema| schema.fields().iter().map(|field| field.name().as_str()))
}

/// A name as SQL takes it.
fn quoted(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !is_keyword(name);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn known() -> Known {
        let columns = Schema::new(vec![
            Field::new("carrier", DataType::Utf8, true),
            Field::new("Dep Time", DataType::Int64, true),
        ]);
        let table = |schema: &str, name: &str| Table {
            schema: schema.into(),
            name: name.into(),
            kind: "TABLE".into(),
            columns: Some(Arc::new(columns.clone())),
        };
        let tables = vec![table("lake", "flights"), table("mart", "delays")];
        Known { tables, variables: vec!["month".into()], profiles: vec!["prod".into()] }
    }

    fn complete(before: &str) -> Vec<String> {
        candidates(before, before, &known()).1
    }

    #[test]
    fn keywords_are_sorted_for_the_search() {
        assert!(KEYWORDS.is_sorted());
        assert!(is_keyword("select") && !is_keyword("flights"));
    }

    #[test]
    fn completion_knows_where_it_is() {
        assert_eq!(complete("sel"), ["select"]);
        assert_eq!(complete("SEL"), ["SELECT"]);
        assert_eq!(complete("SELECT * FROM lake.fl"), ["lake.flights"]);
        assert_eq!(complete("SELECT * FROM fl"), ["flights"]);
        assert_eq!(complete("SELECT * FROM flights WHERE flights.c"), ["flights.carrier"]);
        assert_eq!(complete("SELECT * FROM flights WHERE ca"), ["carrier", "case", "cast"]);
        assert_eq!(complete("\\ti"), ["timer", "timing"]);
        assert_eq!(complete(".ti"), ["timer", "timing"]);
        assert_eq!(complete("\\d fl"), ["flights"]);
        assert_eq!(complete("\\format p"), ["parquet"]);
        assert_eq!(complete("\\connect "), ["prod"]);
        assert_eq!(complete("SELECT :mo"), ["month"]);
        for aliased in ["SELECT * FROM lake.flights f WHERE f.c", "SELECT * FROM flights AS f WHERE f.c"] {
            assert_eq!(complete(aliased), ["f.carrier"]);
        }
    }

    #[test]
    fn files_are_completed_where_they_stand() {
        assert!(names_file("\\i a") && names_file(".read ") && names_file("\\copy t FROM '/tm"));
        assert!(!names_file("\\copy t FR") && !names_file("SELECT i ") && !names_file("\\i"));
    }

    #[test]
    fn odd_names_are_quoted() {
        assert_eq!(quoted("Dep Time"), "\"Dep Time\"");
        assert_eq!(quoted("select"), "\"select\"");
        assert_eq!(quoted("dep_time"), "dep_time");
    }
}
