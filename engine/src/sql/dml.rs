//! INSERT, UPDATE, DELETE, MERGE and TRUNCATE.

use datafusion::sql::sqlparser::ast::{self, Ident};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use skep_common::{Error, Result};

use super::clauses;
use super::read::Reader;
use super::statement::{Action, Assignment, Delete, Insert, Matched, Merge, Statement, Target, Update, When};
use crate::names;

/// Words that go on with a statement where a table could have an alias.
const NO_ALIAS: [&str; 15] = [
    "set",
    "using",
    "where",
    "from",
    "on",
    "when",
    "join",
    "inner",
    "left",
    "right",
    "full",
    "cross",
    "returning",
    "limit",
    "order",
];

/// After `INSERT`.
pub(super) fn insert(reader: &mut Reader<'_>) -> Result<Statement> {
    let overwrite = reader.parser.parse_keyword(Keyword::OVERWRITE);
    let into = reader.parser.parse_keyword(Keyword::INTO);
    if !into && !overwrite {
        return reader.expected("INTO or OVERWRITE");
    }
    let _ = reader.parser.parse_keyword(Keyword::TABLE);
    let table = reader.name()?;
    let partition = if reader.parser.parse_keyword(Keyword::PARTITION) {
        Some(clauses::partition_values(reader)?)
    } else {
        None
    };
    if reader.parser.peek_keyword(Keyword::IF) {
        return Err(Error::unsupported("INSERT has no IF NOT EXISTS")
            .at(reader.here())
            .hint("MERGE adds the rows that are not there"));
    }
    let columns = reader.columns_or_subquery()?;
    let source = if reader.parser.parse_keywords(&[Keyword::DEFAULT, Keyword::VALUES]) {
        None
    } else {
        Some(reader.query()?)
    };
    Ok(Statement::Insert(Insert { table, overwrite, partition, columns, source }))
}

/// After `UPDATE`.
pub(super) fn update(reader: &mut Reader<'_>) -> Result<Statement> {
    let target = target(reader)?;
    if let Some(word @ ("join" | "inner" | "left" | "right" | "cross")) = reader.peek_word().as_deref() {
        return Err(Error::invalid(format!("{} follows the table of UPDATE", word.to_uppercase()))
            .at(reader.here())
            .hint("join in FROM: UPDATE t SET c = s.c FROM s WHERE t.id = s.id"));
    }
    expect_word(reader, "set", "SET")?;
    let set = assignments(reader, &target)?;
    let from = tables(reader, Keyword::FROM)?;
    let selection = selection(reader)?;
    refuse_rest(reader, "UPDATE")?;
    Ok(Statement::Update(Box::new(Update { target, set, from, selection })))
}

/// After `DELETE`.
pub(super) fn delete(reader: &mut Reader<'_>) -> Result<Statement> {
    expect_word(reader, "from", "FROM")?;
    let target = target(reader)?;
    let using = tables(reader, Keyword::USING)?;
    let selection = selection(reader)?;
    refuse_rest(reader, "DELETE")?;
    Ok(Statement::Delete(Box::new(Delete { target, using, selection })))
}

/// After `TRUNCATE`.
pub(super) fn truncate(reader: &mut Reader<'_>) -> Result<Statement> {
    let _ = reader.parser.parse_keyword(Keyword::TABLE);
    let table = reader.name()?;
    if reader.parser.peek_token_ref().token == Token::Comma {
        return Err(Error::unsupported("TRUNCATE empties one table at a time")
            .at(reader.here())
            .hint("write one statement for each table"));
    }
    Ok(Statement::Truncate(table))
}

/// After `MERGE`.
pub(super) fn merge(reader: &mut Reader<'_>) -> Result<Statement> {
    let _ = reader.parser.parse_keyword(Keyword::INTO);
    let target = target(reader)?;
    expect_word(reader, "using", "USING")?;
    let result = reader.parser.parse_table_factor();
    let source = reader.ok(result)?;
    expect_word(reader, "on", "ON")?;
    let on = expression(reader)?;
    let mut clauses = Vec::new();
    while reader.peek_word().as_deref() == Some("when") {
        clauses.push(when(reader, &target)?);
    }
    if clauses.is_empty() {
        return reader.expected("WHEN MATCHED or WHEN NOT MATCHED");
    }
    refuse_rest(reader, "MERGE")?;
    Ok(Statement::Merge(Box::new(Merge { target, source, on, clauses })))
}

fn when(reader: &mut Reader<'_>, target: &Target) -> Result<When> {
    let at = reader.here();
    reader.parser.next_token();
    let not = reader.parser.parse_keyword(Keyword::NOT);
    expect_word(reader, "matched", "MATCHED")?;
    let by = if not && reader.take_word("by") {
        match reader.peek_word().as_deref() {
            Some("source") => Matched::NotBySource,
            Some("target") => Matched::NotByTarget,
            _ => return reader.expected("SOURCE or TARGET"),
        }
    } else if not {
        Matched::NotByTarget
    } else {
        Matched::Both
    };
    if matches!(reader.peek_word().as_deref(), Some("source" | "target")) {
        reader.parser.next_token();
    }
    let condition = if reader.parser.parse_keyword(Keyword::AND) { Some(expression(reader)?) } else { None };
    expect_word(reader, "then", "THEN")?;
    let action = action(reader, by, target)?;
    Ok(When { matched: by, condition, action, at })
}

fn action(reader: &mut Reader<'_>, matched: Matched, target: &Target) -> Result<Action> {
    let at = reader.here();
    let inserts = matched == Matched::NotByTarget;
    match reader.peek_word().as_deref() {
        Some("update" | "delete") if inserts => {
            Err(Error::invalid("a row that is not in the table can only be inserted")
                .at(at)
                .hint("rows of the table alone are those of WHEN NOT MATCHED BY SOURCE"))
        }
        Some("insert") if !inserts => Err(Error::invalid("a row that is in the table cannot be inserted")
            .at(at)
            .hint("rows to insert are those of WHEN NOT MATCHED")),
        Some("delete") => {
            reader.parser.next_token();
            Ok(Action::Delete)
        }
        Some("do") => {
            reader.parser.next_token();
            expect_word(reader, "nothing", "NOTHING")?;
            Ok(Action::Nothing)
        }
        Some("update") => {
            reader.parser.next_token();
            expect_word(reader, "set", "SET")?;
            let star = reader.here();
            if !reader.parser.consume_token(&Token::Mul) {
                return Ok(Action::Update(Some(assignments(reader, target)?)));
            }
            if matched == Matched::NotBySource {
                return Err(Error::invalid("UPDATE SET * takes values of the source, which has none here")
                    .at(star)
                    .hint("name the columns, as in UPDATE SET active = FALSE"));
            }
            Ok(Action::Update(None))
        }
        Some("insert") => {
            reader.parser.next_token();
            if reader.parser.consume_token(&Token::Mul) {
                return Ok(Action::Insert { columns: None, values: None });
            }
            let columns = reader.columns_or_subquery()?;
            expect_word(reader, "values", "VALUES")?;
            reader.expect(&Token::LParen)?;
            let mut values = vec![value(reader)?];
            while reader.parser.consume_token(&Token::Comma) {
                values.push(value(reader)?);
            }
            reader.expect(&Token::RParen)?;
            Ok(Action::Insert { columns, values: Some(values) })
        }
        _ if inserts => reader.expected("INSERT or DO NOTHING"),
        _ => reader.expected("UPDATE, DELETE or DO NOTHING"),
    }
}

fn target(reader: &mut Reader<'_>) -> Result<Target> {
    let _ = reader.parser.parse_keyword(Keyword::ONLY);
    let table = reader.name()?;
    let alias = if reader.parser.parse_keyword(Keyword::AS) {
        Some(identifier(reader)?)
    } else {
        match &reader.parser.peek_token_ref().token {
            Token::Word(word)
                if word.quote_style.is_some()
                    || !NO_ALIAS.contains(&word.value.to_ascii_lowercase().as_str()) =>
            {
                Some(identifier(reader)?)
            }
            _ => None,
        }
    };
    Ok(Target { table, alias })
}

fn identifier(reader: &mut Reader<'_>) -> Result<Ident> {
    let result = reader.parser.parse_identifier();
    reader.ok(result)
}

fn expression(reader: &mut Reader<'_>) -> Result<ast::Expr> {
    let result = reader.parser.parse_expr();
    reader.ok(result)
}

fn expect_word(reader: &mut Reader<'_>, word: &str, shown: &str) -> Result<()> {
    if reader.take_word(word) { Ok(()) } else { reader.expected(shown) }
}

/// `column = value, ...`
fn assignments(reader: &mut Reader<'_>, target: &Target) -> Result<Vec<Assignment>> {
    let mut found: Vec<Assignment> = Vec::new();
    loop {
        let at = reader.here();
        if reader.parser.peek_token_ref().token == Token::LParen {
            return Err(Error::unsupported("several columns cannot be set together")
                .at(at)
                .hint("set each by itself, as in SET a = 1, b = 2"));
        }
        let result = reader.parser.parse_object_name(false);
        let name = reader.ok(result)?;
        let mut parts = name.0.iter().rev().map(|part| part.as_ident());
        let Some(Some(column)) = parts.next() else {
            return Err(Error::invalid(format!("'{name}' is not a column")).at(at));
        };
        let column = column.clone();
        // A name before the column is that of the table.
        if let Some(before) = parts.next().flatten().map(names::normalise)
            && before != target.name()
        {
            return Err(Error::invalid(format!("'{name}' is not a column of '{}'", target.name()))
                .at(at)
                .hint("columns are set whole: for a field inside one, give the whole struct"));
        }
        let same = |other: &Assignment| names::normalise(&other.column) == names::normalise(&column);
        if found.iter().any(same) {
            return Err(Error::invalid(format!("column '{}' is set twice", names::normalise(&column)))
                .at(names::from_span(column.span).unwrap_or(at)));
        }
        reader.expect(&Token::Eq)?;
        found.push(Assignment { column, value: value(reader)? });
        if !reader.parser.consume_token(&Token::Comma) {
            return Ok(found);
        }
    }
}

/// A value, or `DEFAULT`.
fn value(reader: &mut Reader<'_>) -> Result<Option<ast::Expr>> {
    if reader.parser.parse_keyword(Keyword::DEFAULT) {
        return Ok(None);
    }
    expression(reader).map(Some)
}

fn tables(reader: &mut Reader<'_>, word: Keyword) -> Result<Vec<ast::TableWithJoins>> {
    if !reader.parser.parse_keyword(word) {
        return Ok(Vec::new());
    }
    let result = reader.parser.parse_comma_separated(Parser::parse_table_and_joins);
    reader.ok(result)
}

fn selection(reader: &mut Reader<'_>) -> Result<Option<ast::Expr>> {
    if reader.parser.parse_keyword(Keyword::WHERE) { expression(reader).map(Some) } else { Ok(None) }
}

/// What other engines have behind such a statement.
fn refuse_rest(reader: &mut Reader<'_>, statement: &str) -> Result<()> {
    let hint = match reader.peek_word().as_deref() {
        Some("returning" | "output") => "SELECT the rows before or after",
        Some("limit" | "order") => "choose the rows with WHERE, for example with IN and a subquery",
        _ => return Ok(()),
    };
    let word = reader.peek_word().unwrap_or_default().to_uppercase();
    Err(Error::unsupported(format!("{statement} has no {word}")).at(reader.here()).hint(hint))
}
