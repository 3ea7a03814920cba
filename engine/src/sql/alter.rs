//! ALTER and COMMENT.

use datafusion::sql::sqlparser::ast::{ColumnOption, DataType};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::Token;
use skep_common::{Error, Result};

use super::alteration::{AlterAction, AlterTable, AlterView, CheckSpec, ColumnPath, ViewAction};
use super::read::Reader;
use super::statement::{ColumnSpec, Name, Statement};
use super::{clauses, create};
use crate::names;

/// After `ALTER`.
pub(super) fn alter(reader: &mut Reader<'_>) -> Result<Statement> {
    let at = reader.here();
    match reader.peek_word().as_deref() {
        Some("table") => {
            reader.parser.next_token();
            table(reader)
        }
        Some("view") => {
            reader.parser.next_token();
            view(reader)
        }
        Some(word @ ("schema" | "database" | "index" | "role" | "user" | "session" | "system")) => {
            Err(Error::unsupported(format!("ALTER {} is not supported", word.to_uppercase()))
                .at(at)
                .hint("tables and views can be altered"))
        }
        _ => reader.expected("TABLE or VIEW"),
    }
}

/// After `COMMENT`.
pub(super) fn comment(reader: &mut Reader<'_>) -> Result<Statement> {
    let result = reader.parser.expect_keyword_is(Keyword::ON);
    reader.ok(result)?;
    match reader.peek_word().as_deref() {
        Some("table") => {
            reader.parser.next_token();
            let name = reader.name()?;
            let actions = vec![AlterAction::Comment(is_comment(reader)?)];
            Ok(Statement::Comment(AlterTable { name, if_exists: false, actions }))
        }
        Some("view") => {
            reader.parser.next_token();
            let name = reader.name()?;
            let action = ViewAction::Comment(is_comment(reader)?);
            Ok(Statement::AlterView(AlterView { name, if_exists: false, action }))
        }
        Some("column") => {
            reader.parser.next_token();
            let at = reader.here();
            let result = reader.parser.parse_object_name(false);
            let mut written = reader.ok(result)?;
            let column = written.0.pop().and_then(|part| part.as_ident().map(names::normalise));
            let (Some(column), false) = (column, written.0.is_empty()) else {
                return Err(Error::invalid("a column is named by its table and itself").at(at).hint(
                    "as in COMMENT ON COLUMN schema.table.column; ALTER TABLE t ALTER COLUMN a.b COMMENT reaches fields",
                ));
            };
            let name = Name::from_ast(&written)?;
            let path = ColumnPath { parts: vec![column], at: Some(at) };
            let comment = is_comment(reader)?;
            let actions = vec![AlterAction::CommentColumn { path, comment }];
            Ok(Statement::Comment(AlterTable { name, if_exists: false, actions }))
        }
        _ => reader.expected("TABLE, VIEW or COLUMN"),
    }
}

fn is_comment(reader: &mut Reader<'_>) -> Result<Option<String>> {
    if !reader.take_word("is") {
        return reader.expected("IS");
    }
    text_or_null(reader)
}

fn text_or_null(reader: &mut Reader<'_>) -> Result<Option<String>> {
    if reader.parser.parse_keyword(Keyword::NULL) {
        return Ok(None);
    }
    reader.string("the comment in single quotes, or NULL").map(Some)
}

fn table(reader: &mut Reader<'_>) -> Result<Statement> {
    let if_exists = create::if_exists(reader);
    let name = reader.name()?;
    let mut actions = Vec::new();
    loop {
        action(reader, &mut actions)?;
        if !reader.parser.consume_token(&Token::Comma) {
            return Ok(Statement::AlterTable(AlterTable { name, if_exists, actions }));
        }
    }
}

fn view(reader: &mut Reader<'_>) -> Result<Statement> {
    let if_exists = create::if_exists(reader);
    let name = reader.name()?;
    let action = if reader.parser.parse_keywords(&[Keyword::RENAME, Keyword::TO]) {
        ViewAction::Rename(reader.name()?)
    } else if reader.take_word("set") {
        if !reader.take_word("comment") {
            return reader.expected("COMMENT");
        }
        ViewAction::Comment(text_or_null(reader)?)
    } else if reader.parser.peek_keyword(Keyword::AS) {
        return Err(Error::unsupported("ALTER VIEW ... AS is not supported")
            .at(reader.here())
            .hint("CREATE OR REPLACE VIEW gives a view another query"));
    } else {
        return reader.expected("RENAME TO or SET COMMENT");
    };
    Ok(Statement::AlterView(AlterView { name, if_exists, action }))
}

fn action(reader: &mut Reader<'_>, actions: &mut Vec<AlterAction>) -> Result<()> {
    let action = match reader.peek_word().as_deref() {
        Some("add") => {
            reader.parser.next_token();
            return add(reader, actions);
        }
        Some("drop") => {
            reader.parser.next_token();
            drop(reader)?
        }
        Some("rename") => {
            reader.parser.next_token();
            if reader.parser.parse_keyword(Keyword::TO) {
                AlterAction::Rename(reader.name()?)
            } else {
                let _ = reader.take_word("column");
                let path = path(reader)?;
                let result = reader.parser.expect_keyword_is(Keyword::TO);
                reader.ok(result)?;
                let result = reader.parser.parse_identifier();
                AlterAction::RenameColumn { path, name: names::normalise(&reader.ok(result)?) }
            }
        }
        Some("alter" | "change" | "modify") => {
            reader.parser.next_token();
            let _ = reader.take_word("column");
            column(reader)?
        }
        Some("set") => {
            reader.parser.next_token();
            set(reader)?
        }
        Some("unset") => {
            reader.parser.next_token();
            if !reader.take_word("tblproperties") {
                return reader.expected("TBLPROPERTIES");
            }
            let if_exists = create::if_exists(reader);
            AlterAction::UnsetProperties { keys: clauses::keys(reader)?, if_exists }
        }
        Some("reset") => {
            reader.parser.next_token();
            if reader.take_word("partitioned") {
                by(reader)?;
                AlterAction::SetPartitions(Vec::new())
            } else if reader.take_word("sorted") {
                by(reader)?;
                AlterAction::SetSorting(Vec::new())
            } else {
                return reader.expected("PARTITIONED BY or SORTED BY");
            }
        }
        _ => return reader.expected("ADD, DROP, RENAME, ALTER, SET, UNSET or RESET"),
    };
    actions.push(action);
    Ok(())
}

fn by(reader: &mut Reader<'_>) -> Result<()> {
    let result = reader.parser.expect_keyword_is(Keyword::BY);
    reader.ok(result)
}

fn set(reader: &mut Reader<'_>) -> Result<AlterAction> {
    if reader.take_word("tblproperties") {
        return Ok(AlterAction::SetProperties(clauses::properties(reader)?));
    }
    if reader.take_word("comment") {
        return Ok(AlterAction::Comment(text_or_null(reader)?));
    }
    if reader.take_word("partitioned") {
        by(reader)?;
        return Ok(AlterAction::SetPartitions(clauses::partitions(reader)?));
    }
    if reader.take_word("sorted") {
        by(reader)?;
        return Ok(AlterAction::SetSorting(clauses::sorting(reader)?));
    }
    reader.expected("TBLPROPERTIES, COMMENT, PARTITIONED BY or SORTED BY")
}

/// Columns, constraints and partitions, after `ADD`.
fn add(reader: &mut Reader<'_>, actions: &mut Vec<AlterAction>) -> Result<()> {
    let at = reader.here();
    match reader.peek_word().as_deref() {
        Some("constraint" | "check" | "primary" | "foreign" | "unique") => {
            actions.push(AlterAction::AddCheck(clauses::check(reader)?));
            return Ok(());
        }
        Some("partition") => {
            reader.parser.next_token();
            actions.push(partition(reader, false, at)?);
            return Ok(());
        }
        Some("columns") if reader.parser.peek_nth_token_ref(1).token == Token::LParen => {
            reader.parser.next_token();
            reader.expect(&Token::LParen)?;
            loop {
                actions.push(added(reader, false)?);
                if reader.parser.consume_token(&Token::RParen) {
                    return Ok(());
                }
                if !reader.parser.consume_token(&Token::Comma) {
                    return reader.expected("',' or ')' after the column");
                }
            }
        }
        _ => {}
    }
    let _ = reader.take_word("column");
    let if_not_exists = create::if_not_exists(reader);
    if if_not_exists && reader.take_word("partition") {
        actions.push(partition(reader, true, at)?);
        return Ok(());
    }
    actions.push(added(reader, if_not_exists)?);
    Ok(())
}

fn partition(reader: &mut Reader<'_>, if_not_exists: bool, at: skep_common::Position) -> Result<AlterAction> {
    let values = clauses::pairs(reader, "a key and its value, as in (day = '2024-01-31')")?;
    Ok(AlterAction::AddPartition { if_not_exists, values, at: Some(at) })
}

/// `path type options`
fn added(reader: &mut Reader<'_>, if_not_exists: bool) -> Result<AlterAction> {
    let path = path(reader)?;
    if matches!(reader.parser.peek_token_ref().token, Token::EOF | Token::SemiColon | Token::Comma) {
        return reader.expected("the type of the column");
    }
    let result = reader.parser.parse_data_type();
    let ty = reader.ok(result)?;
    let spec = options(reader, &path, ty)?;
    Ok(AlterAction::AddColumn { path, spec: Box::new(spec), if_not_exists })
}

fn options(reader: &mut Reader<'_>, path: &ColumnPath, ty: DataType) -> Result<ColumnSpec> {
    let name = path.parts.last().cloned().unwrap_or_default();
    let mut spec = ColumnSpec::new(name, ty, path.at);
    loop {
        let at = reader.here();
        if let Some(word @ ("first" | "after")) = reader.peek_word().as_deref() {
            return Err(Error::unsupported(format!(
                "{} is not supported: a column is added after the others",
                word.to_uppercase()
            ))
            .at(at)
            .hint("leave it out, and name the columns where their order counts"));
        }
        let result = reader.parser.parse_optional_column_option();
        match reader.ok(result)? {
            None => return Ok(spec),
            Some(option) => create::option(&mut spec, option).map_err(|e| e.at(at))?,
        }
    }
}

fn drop(reader: &mut Reader<'_>) -> Result<AlterAction> {
    let at = reader.here();
    if reader.take_word("constraint") {
        let if_exists = create::if_exists(reader);
        let at = Some(reader.here());
        let result = reader.parser.parse_identifier();
        return Ok(AlterAction::DropCheck { name: names::normalise(&reader.ok(result)?), if_exists, at });
    }
    if reader.peek_word().as_deref() == Some("partition") {
        return Err(Error::unsupported("ALTER TABLE ... DROP PARTITION is not supported")
            .at(at)
            .hint("DELETE FROM t WHERE key = value takes the rows of a partition away"));
    }
    let _ = reader.take_word("column");
    let if_exists = create::if_exists(reader);
    let path = path(reader)?;
    let _ = reader.parser.parse_keyword(Keyword::RESTRICT);
    Ok(AlterAction::DropColumn { path, if_exists })
}

/// After `ALTER [COLUMN]`.
fn column(reader: &mut Reader<'_>) -> Result<AlterAction> {
    let path = path(reader)?;
    if reader.take_word("comment") {
        return Ok(AlterAction::CommentColumn { path, comment: text_or_null(reader)? });
    }
    if reader.take_word("type") {
        return set_type(reader, path);
    }
    if reader.take_word("set") {
        if reader.take_word("data") {
            if !reader.take_word("type") {
                return reader.expected("TYPE");
            }
            return set_type(reader, path);
        }
        if reader.take_word("type") {
            return set_type(reader, path);
        }
        if reader.parser.parse_keywords(&[Keyword::NOT, Keyword::NULL]) {
            return Ok(AlterAction::SetNullable { path, nullable: false });
        }
        if reader.parser.parse_keyword(Keyword::DEFAULT) {
            let result = reader.parser.parse_expr();
            return Ok(AlterAction::SetDefault { path, default: Some(reader.ok(result)?) });
        }
        if reader.take_word("comment") {
            return Ok(AlterAction::CommentColumn { path, comment: text_or_null(reader)? });
        }
        return reader.expected("DATA TYPE, NOT NULL, DEFAULT or COMMENT");
    }
    if reader.take_word("drop") {
        if reader.parser.parse_keywords(&[Keyword::NOT, Keyword::NULL]) {
            return Ok(AlterAction::SetNullable { path, nullable: true });
        }
        if reader.parser.parse_keyword(Keyword::DEFAULT) {
            return Ok(AlterAction::SetDefault { path, default: None });
        }
        return reader.expected("NOT NULL or DEFAULT");
    }
    reader.expected("TYPE, SET, DROP or COMMENT")
}

fn set_type(reader: &mut Reader<'_>, path: ColumnPath) -> Result<AlterAction> {
    let result = reader.parser.parse_data_type();
    let ty = reader.ok(result)?;
    if reader.parser.peek_keyword(Keyword::USING) {
        return Err(Error::unsupported("USING is not supported: values keep what they are")
            .at(reader.here())
            .hint("CREATE OR REPLACE TABLE t AS SELECT ... FROM t computes others"));
    }
    Ok(AlterAction::SetType { path, ty })
}

/// `column`, or `column.field`.
pub(super) fn path(reader: &mut Reader<'_>) -> Result<ColumnPath> {
    let at = Some(reader.here());
    let mut parts = Vec::new();
    loop {
        let result = reader.parser.parse_identifier();
        parts.push(names::normalise(&reader.ok(result)?));
        if !reader.parser.consume_token(&Token::Period) {
            return Ok(ColumnPath { parts, at });
        }
    }
}

/// A column's CHECK, as `create::option` keeps it.
pub(super) fn column_check(option: &ColumnOption) -> Option<CheckSpec> {
    match option {
        ColumnOption::Check(check) => Some(CheckSpec { name: None, expr: (*check.expr).clone(), at: None }),
        _ => None,
    }
}
