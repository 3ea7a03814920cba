//! The text in which a snapshot says what it changed: `created_table:"lake"."t",inserted_into_table:7`.
//!
//! # Invariants
//! - `parse(format(changes)) == changes`.
//! - Only tokens of the specification are written: DuckDB refuses a catalog with any other.

use std::fmt;

use skep_common::{Error, Result};

/// One change of a snapshot, as other engines read it. New things go by name, others by id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the variants are the tokens of the specification")]
pub enum Token {
    CreatedSchema(String),
    CreatedTable(String, String),
    CreatedView(String, String),
    CreatedScalarMacro(String, String),
    CreatedTableMacro(String, String),
    DroppedSchema(i64),
    DroppedTable(i64),
    DroppedView(i64),
    DroppedScalarMacro(i64),
    DroppedTableMacro(i64),
    AlteredTable(i64),
    AlteredView(i64),
    InsertedIntoTable(i64),
    DeletedFromTable(i64),
    InlinedInsert(i64),
    InlinedDelete(i64),
    InlineFlush(i64),
    MergeAdjacent(i64),
    RewriteDelete(i64),
    CompactedTable(i64),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, id) = match self {
            Token::CreatedSchema(name) => return write!(f, "created_schema:{}", Quoted(name)),
            Token::CreatedTable(schema, name) => return pair(f, "created_table", schema, name),
            Token::CreatedView(schema, name) => return pair(f, "created_view", schema, name),
            Token::CreatedScalarMacro(schema, name) => return pair(f, "created_scalar_macro", schema, name),
            Token::CreatedTableMacro(schema, name) => return pair(f, "created_table_macro", schema, name),
            Token::DroppedSchema(id) => ("dropped_schema", id),
            Token::DroppedTable(id) => ("dropped_table", id),
            Token::DroppedView(id) => ("dropped_view", id),
            Token::DroppedScalarMacro(id) => ("dropped_scalar_macro", id),
            Token::DroppedTableMacro(id) => ("dropped_table_macro", id),
            Token::AlteredTable(id) => ("altered_table", id),
            Token::AlteredView(id) => ("altered_view", id),
            Token::InsertedIntoTable(id) => ("inserted_into_table", id),
            Token::DeletedFromTable(id) => ("deleted_from_table", id),
            Token::InlinedInsert(id) => ("inlined_insert", id),
            Token::InlinedDelete(id) => ("inlined_delete", id),
            Token::InlineFlush(id) => ("inline_flush", id),
            Token::MergeAdjacent(id) => ("merge_adjacent", id),
            Token::RewriteDelete(id) => ("rewrite_delete", id),
            Token::CompactedTable(id) => ("compacted_table", id),
        };
        write!(f, "{word}:{id}")
    }
}

fn pair(f: &mut fmt::Formatter<'_>, word: &str, schema: &str, name: &str) -> fmt::Result {
    write!(f, "{word}:{}.{}", Quoted(schema), Quoted(name))
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('"', "\"\""))
    }
}

/// The text of `tokens`, which is empty for none.
pub fn format(tokens: &[Token]) -> String {
    tokens.iter().map(Token::to_string).collect::<Vec<_>>().join(",")
}

/// Reads what [`format`](fn@format) or DuckDB wrote.
///
/// # Errors
/// [`Kind::Unsupported`](skep_common::Kind::Unsupported) for a token that the specification lacks: what a commit did
/// that is not understood cannot be said to commute with anything.
pub fn parse(text: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (entry, after) = entry(rest);
        tokens.push(token(entry).ok_or_else(|| {
            Error::unsupported(format!("the catalog records a change '{entry}' that skep does not know"))
                .hint("another program wrote to this catalog: look for a version of skep that knows it")
        })?);
        rest = after;
    }
    Ok(tokens)
}

/// Up to the first comma outside quotes.
fn entry(text: &str) -> (&str, &str) {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => return (&text[..at], &text[at + 1..]),
            _ => {}
        }
    }
    (text, "")
}

fn token(entry: &str) -> Option<Token> {
    let (word, value) = entry.split_once(':')?;
    let id = || value.parse::<i64>().ok();
    let name = || {
        let (schema, rest) = unquote(value)?;
        let (name, rest) = unquote(rest.strip_prefix('.')?)?;
        rest.is_empty().then_some((schema, name))
    };
    Some(match word.to_ascii_lowercase().as_str() {
        "created_schema" => Token::CreatedSchema(unquote(value).filter(|(_, rest)| rest.is_empty())?.0),
        "created_table" => name().map(|(s, n)| Token::CreatedTable(s, n))?,
        "created_view" => name().map(|(s, n)| Token::CreatedView(s, n))?,
        "created_scalar_macro" => name().map(|(s, n)| Token::CreatedScalarMacro(s, n))?,
        "created_table_macro" => name().map(|(s, n)| Token::CreatedTableMacro(s, n))?,
        "dropped_schema" => Token::DroppedSchema(id()?),
        "dropped_table" => Token::DroppedTable(id()?),
        "dropped_view" => Token::DroppedView(id()?),
        "dropped_scalar_macro" => Token::DroppedScalarMacro(id()?),
        "dropped_table_macro" => Token::DroppedTableMacro(id()?),
        "altered_table" => Token::AlteredTable(id()?),
        "altered_view" => Token::AlteredView(id()?),
        "inserted_into_table" => Token::InsertedIntoTable(id()?),
        "deleted_from_table" => Token::DeletedFromTable(id()?),
        "inlined_insert" => Token::InlinedInsert(id()?),
        "inlined_delete" => Token::InlinedDelete(id()?),
        "inline_flush" | "flushed_inlined" => Token::InlineFlush(id()?),
        "merge_adjacent" => Token::MergeAdjacent(id()?),
        "rewrite_delete" => Token::RewriteDelete(id()?),
        "compacted_table" => Token::CompactedTable(id()?),
        _ => return None,
    })
}

/// The name in quotes at the start, its doubled quotes made single, and what follows it.
pub(crate) fn unquote(text: &str) -> Option<(String, &str)> {
    let inside = text.strip_prefix('"')?;
    let mut name = String::new();
    let mut chars = inside.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c != '"' {
            name.push(c);
        } else if chars.next_if(|(_, next)| *next == '"').is_some() {
            name.push('"');
        } else {
            return Some((name, &inside[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_duckdb_reads_back_as_written() {
        for text in [
            "",
            "created_schema:\"main\"",
            "created_table:\"mart\".\"agg\",inserted_into_table:2,inserted_into_table:8,deleted_from_table:4",
            "created_scalar_macro:\"mart\".\"plus1\"",
            "dropped_view:5,created_view:\"mart\".\"v_sales\"",
            "merge_adjacent:1,rewrite_delete:2,compacted_table:3,inlined_insert:4,inlined_delete:5,inline_flush:6",
            "altered_table:2,altered_view:3,dropped_schema:1,dropped_table:9,dropped_scalar_macro:7",
        ] {
            assert_eq!(format(&parse(text).unwrap()), text);
        }
    }

    #[test]
    fn names_may_hold_quotes_commas_and_dots() {
        let odd = Token::CreatedTable("a,b".to_owned(), "c\".\"d,:\u{e9}".to_owned());
        let tokens = vec![odd, Token::CreatedSchema("\"\"".to_owned()), Token::DroppedTable(3)];
        assert_eq!(parse(&format(&tokens)).unwrap(), tokens);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for text in ["renamed_table:3", "created_table:t", "dropped_table:x", "created_schema:\"a", "x", ","]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
