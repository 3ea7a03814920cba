//! A model's SQL with other words in some places, and the way back from places in the new text to the old one.
//!
//! # Invariants
//! - What replaces a `$name` is a literal of its type, so that no value can be anything but a value.
//! - Lines stay lines: a replacement has no line break.
//!
//! # Not here
//! Whether the tables are there (`run::check`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Ident, ObjectName, ObjectNamePart, Query, TableFactor, Visit, Visitor,
};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};
use skep_common::{Error, Position, Result, Span};
use skep_engine::sql::SkepDialect;
use skep_engine::{Statement, names};

/// A table that a query names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Its schema, if one is named.
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
    /// The whole name.
    pub(crate) span: Span,
}

/// What a query asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reads {
    /// Every place that names a table, those of WITH apart.
    pub(crate) tables: Vec<Reference>,
    /// Files by their patterns.
    pub(crate) files: Vec<String>,
    /// The names behind `$`, with their places.
    pub(crate) parameters: Vec<(String, Span)>,
}

/// Reads one query.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for what is no query.
pub(crate) fn reads(sql: &str) -> Result<(Box<Query>, Reads)> {
    let parsed = skep_engine::parse_one(sql)?;
    let Statement::Query(query) = parsed.statement else {
        return Err(Error::invalid("a model is one query")
            .at(parsed.at)
            .hint("write SELECT ...; the kind of the model says what becomes of its rows"));
    };
    let mut found = Found::default();
    let _ = query.visit(&mut found);
    let mut reads = Reads { parameters: parameters(sql)?, ..Reads::default() };
    for name in found.names {
        match name.0.as_slice() {
            [ObjectNamePart::Identifier(Ident { value, quote_style: Some('\''), .. })] => {
                reads.files.push(value.clone());
            }
            parts => {
                let idents: Vec<&Ident> = parts.iter().filter_map(ObjectNamePart::as_ident).collect();
                let Some(reference) = reference(&idents) else { continue };
                let own = reference.schema.is_none() && found.given.contains(&reference.name);
                if !own {
                    reads.tables.push(reference);
                }
            }
        }
    }
    Ok((query, reads))
}

fn reference(idents: &[&Ident]) -> Option<Reference> {
    let (first, last) = (idents.first()?, idents.last()?);
    let name = names::normalise(last);
    let schema = match idents {
        [.., schema, _] => Some(names::normalise(schema)),
        _ => None,
    };
    let span = Span { start: position(first.span.start), end: position(last.span.end) };
    Some(Reference { schema, name, span })
}

fn position(location: Location) -> Position {
    Position { line: location.line, column: location.column }
}

#[derive(Default)]
struct Found {
    names: Vec<ObjectName>,
    given: BTreeSet<String>,
}

impl Visitor for Found {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.given.insert(names::normalise(&cte.alias.name));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: None, .. } = factor {
            self.names.push(name.clone());
        }
        ControlFlow::Continue(())
    }
}

/// The names behind `$` in a piece of SQL, with their places.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for what has no words.
pub(crate) fn parameters(sql: &str) -> Result<Vec<(String, Span)>> {
    let tokens = Tokenizer::new(&SkepDialect, sql).tokenize_with_location();
    let tokens = tokens.map_err(|e| Error::invalid(e.message).at(position(e.location)))?;
    let found = tokens.into_iter().filter_map(|token| match token.token {
        Token::Placeholder(name) => {
            let span = Span { start: position(token.span.start), end: position(token.span.end) };
            Some((name.trim_start_matches('$').to_ascii_lowercase(), span))
        }
        _ => None,
    });
    Ok(found.collect())
}

/// A text in which pieces were replaced.
#[derive(Debug, Clone)]
pub(crate) struct Rewritten {
    pub(crate) text: String,
    /// By line: column of the new text, its length there and in the old one.
    moves: BTreeMap<u64, Vec<(u64, u64, u64)>>,
}

impl Rewritten {
    /// Puts texts into the places of pieces of `sql`, none of which overlap or go over a line's end.
    pub(crate) fn new(sql: &str, mut edits: Vec<(Span, String)>) -> Self {
        edits.sort_by_key(|(span, _)| (span.start.line, span.start.column));
        let mut by_line: BTreeMap<u64, Vec<(Span, String)>> = BTreeMap::new();
        for (span, text) in edits {
            by_line.entry(span.start.line).or_default().push((span, text));
        }
        let (mut text, mut moves) = (String::with_capacity(sql.len()), BTreeMap::new());
        for (number, line) in (1_u64..).zip(sql.split_inclusive('\n')) {
            let Some(edits) = by_line.get(&number) else {
                text.push_str(line);
                continue;
            };
            let letters: Vec<char> = line.chars().collect();
            let (mut at, mut grown, mut moved) = (1_u64, 1_u64, Vec::new());
            for (span, new) in edits {
                let (start, end) = (span.start.column, span.end.column.max(span.start.column));
                text.extend(letters.iter().skip(index(at)).take(index(start) - index(at)));
                grown += start - at;
                text.push_str(new);
                moved.push((grown, new.chars().count() as u64, end - start));
                grown += new.chars().count() as u64;
                at = end;
            }
            text.extend(letters.iter().skip(index(at)));
            moves.insert(number, moved);
        }
        Self { text, moves }
    }

    /// The place in the old text of a place in the new one.
    pub(crate) fn original(&self, place: Position) -> Position {
        let mut shift = 0_i64;
        for &(column, new, old) in self.moves.get(&place.line).into_iter().flatten() {
            if place.column < column {
                break;
            }
            if place.column < column + new {
                // Inside of what was put there: where it begins.
                return Position { column: moved(column, shift), ..place };
            }
            shift += signed(old) - signed(new);
        }
        Position { column: moved(place.column, shift), ..place }
    }

    /// `error` of the new text with its places in the old one.
    pub(crate) fn placed(&self, error: Error) -> Error {
        match error.span() {
            Some(span) => {
                let span = Span { start: self.original(span.start), end: self.original(span.end) };
                error.at(span)
            }
            None => error,
        }
    }
}

fn index(column: u64) -> usize {
    usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX)
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn moved(column: u64, shift: i64) -> u64 {
    column.saturating_add_signed(shift).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_tells_what_it_reads() {
        let sql = "WITH a AS (SELECT * FROM lake.b WHERE t >= $start)\nSELECT * FROM a JOIN \"S\".c ON x = $Late, 'd/*.csv'";
        let (_, reads) = reads(sql).unwrap();
        let tables: Vec<String> = reads
            .tables
            .iter()
            .map(|t| {
                format!(
                    "{}.{} {}:{}",
                    t.schema.clone().unwrap_or_default(),
                    t.name,
                    t.span.start.line,
                    t.span.start.column
                )
            })
            .collect();
        assert_eq!(tables, ["lake.b 1:26", "S.c 2:22"]);
        assert_eq!(reads.files, ["d/*.csv"]);
        let names: Vec<&str> = reads.parameters.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["start", "late"]);
        assert!(super::reads("DELETE FROM t").unwrap_err().message().contains("one query"));
    }

    #[test]
    fn places_find_back_through_replacements() {
        let sql = "SELECT $a, x\nFROM lake.t WHERE y = $b AND z";
        let (_, reads) = super::reads(sql).unwrap();
        let mut edits: Vec<(Span, String)> =
            reads.parameters.iter().map(|(name, span)| (*span, format!("'<{name}-long>'"))).collect();
        edits.push((reads.tables[0].span, "\"lake_dev\".\"t\"".to_owned()));
        let new = Rewritten::new(sql, edits);
        assert_eq!(new.text, "SELECT '<a-long>', x\nFROM \"lake_dev\".\"t\" WHERE y = '<b-long>' AND z");
        let find = |line: u64, what: &str| {
            let index = usize::try_from(line - 1).unwrap();
            let in_new = new.text.lines().nth(index).unwrap().find(what).unwrap() as u64 + 1;
            let in_old = sql.lines().nth(index).unwrap().find(what).unwrap() as u64 + 1;
            assert_eq!(new.original(Position { line, column: in_new }).column, in_old, "{what}");
        };
        find(1, "x");
        find(2, "WHERE");
        find(2, "z");
        assert_eq!(
            new.original(Position { line: 1, column: 10 }).column,
            8,
            "inside a value: where it stands"
        );
    }
}
