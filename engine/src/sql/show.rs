//! SHOW, SET, RESET, USE, KILL and SYSTEM.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::Token;
use skep_common::{Error, Result};

use super::read::Reader;
use super::statement::{Statement, SystemAction};

/// After `SHOW`.
pub(super) fn show(reader: &mut Reader<'_>) -> Result<Statement> {
    match reader.peek_word().as_deref() {
        Some("schemas" | "databases") => {
            reader.parser.next_token();
            Ok(Statement::ShowSchemas { like: like(reader)? })
        }
        Some("tables") => {
            reader.parser.next_token();
            let schema = if from(reader) { Some(reader.name()?.name) } else { None };
            Ok(Statement::ShowTables { schema, like: like(reader)? })
        }
        Some("columns") => {
            reader.parser.next_token();
            if !from(reader) {
                return reader.expected("FROM and a table");
            }
            let table = reader.name()?;
            Ok(Statement::ShowColumns { table, like: like(reader)? })
        }
        Some("create") => {
            reader.parser.next_token();
            if !(reader.parser.parse_keyword(Keyword::TABLE) || reader.parser.parse_keyword(Keyword::VIEW)) {
                return reader.expected("TABLE or VIEW");
            }
            Ok(Statement::ShowCreate { name: reader.name()? })
        }
        Some("snapshots") => {
            reader.parser.next_token();
            Ok(Statement::ShowSnapshots)
        }
        Some("blocks") => {
            reader.parser.next_token();
            let _ = reader.parser.parse_keyword(Keyword::FOR) || from(reader);
            let _ = reader.parser.parse_keyword(Keyword::TABLE);
            Ok(Statement::ShowBlocks { table: reader.name()? })
        }
        Some("tags") => {
            reader.parser.next_token();
            Ok(Statement::ShowTags)
        }
        Some("partitions") => {
            reader.parser.next_token();
            let _ = from(reader);
            Ok(Statement::ShowPartitions { table: reader.name()? })
        }
        Some("tblproperties") => {
            reader.parser.next_token();
            let _ = from(reader);
            let table = reader.name()?;
            let mut key = None;
            if reader.parser.consume_token(&Token::LParen) {
                key = Some(reader.string("the name of a property in single quotes")?);
                reader.expect(&Token::RParen)?;
            }
            Ok(Statement::ShowProperties { table, key })
        }
        Some("settings" | "all") => {
            reader.parser.next_token();
            Ok(Statement::ShowSettings { name: None })
        }
        Some(_) => Ok(Statement::ShowSettings { name: Some(setting(reader)?) }),
        None => reader.expected(
            "SCHEMAS, TABLES, COLUMNS, CREATE TABLE, SNAPSHOTS, TAGS, SETTINGS or the name of a setting",
        ),
    }
}

/// After `SET`.
pub(super) fn set(reader: &mut Reader<'_>) -> Result<Statement> {
    let _ = reader.parser.parse_keyword(Keyword::SESSION);
    let name_at = reader.here();
    let name = setting(reader)?;
    let zone = name == "timezone";
    let assigned = reader.parser.consume_token(&Token::Eq) || reader.parser.parse_keyword(Keyword::TO);
    if !assigned && !zone {
        return reader.expected("'=' and a value");
    }
    let at = (name_at, reader.here());
    let tokens = reader.rest();
    let value = match tokens.as_slice() {
        [] => return reader.expected("a value"),
        [only] => match &only.token {
            Token::SingleQuotedString(text) => text.clone(),
            Token::Word(word) => word.value.clone(),
            _ => reader.text(only, only).to_owned(),
        },
        [first, .., last] => reader.text(first, last).to_owned(),
    };
    let value = if value.eq_ignore_ascii_case("default") { None } else { Some(value) };
    Ok(Statement::Set { name, value, at })
}

/// After `RESET`.
pub(super) fn reset(reader: &mut Reader<'_>) -> Result<Statement> {
    let at = reader.here();
    Ok(Statement::Set { name: setting(reader)?, value: None, at: (at, at) })
}

/// After `USE`.
pub(super) fn use_schema(reader: &mut Reader<'_>) -> Result<Statement> {
    let _ = reader.parser.parse_keyword(Keyword::SCHEMA) || reader.parser.parse_keyword(Keyword::DATABASE);
    let at = reader.here();
    let name = reader.name()?;
    Ok(Statement::Set { name: "schema".to_owned(), value: Some(name.name), at: (at, at) })
}

/// `QUERY 'id'`, after `KILL`.
pub(super) fn kill(reader: &mut Reader<'_>) -> Result<Statement> {
    if !reader.take_word("query") {
        return reader.expected("QUERY and the id of a query in single quotes");
    }
    Ok(Statement::Kill { query: reader.string("the id of a query in single quotes")? })
}

/// `DRAIN NODE 'n'` and the like, after `SYSTEM`.
pub(super) fn system(reader: &mut Reader<'_>) -> Result<Statement> {
    if reader.take_word("balance") {
        let mut percent = None;
        if reader.parser.parse_keyword(Keyword::TO) {
            let at = reader.here();
            let result = reader.parser.parse_literal_uint();
            let number = reader.ok(result)?;
            percent =
                Some(u32::try_from(number).map_err(|e| {
                    Error::invalid(format!("{number} percent is out of range")).at(at).source(e)
                })?);
            if !reader.take_word("percent") {
                return reader.expected("PERCENT");
            }
        }
        return Ok(Statement::System(SystemAction::Balance { percent }));
    }
    let words = ["drain", "undrain", "maintain", "resume", "remove"];
    let Some(word) = words.into_iter().find(|word| reader.take_word(word)) else {
        return reader.expected("DRAIN, UNDRAIN, MAINTAIN, RESUME or REMOVE NODE, or BALANCE");
    };
    if !reader.take_word("node") {
        return reader.expected("NODE and the name of a node in single quotes");
    }
    let node = reader.string("the name of a node in single quotes")?;
    Ok(Statement::System(match word {
        "drain" => SystemAction::Drain { node },
        "undrain" => SystemAction::Undrain { node },
        "resume" => SystemAction::Resume { node },
        "remove" => SystemAction::Remove { node },
        _ => {
            if !reader.parser.parse_keyword(Keyword::FOR) {
                return reader.expected("FOR and a time in single quotes, such as '2h'");
            }
            let at = reader.here();
            let text = reader.string("a time in single quotes, such as '2h'")?;
            let time = skep_common::unit::parse_duration(&text).map_err(|error| error.at(at))?;
            SystemAction::Maintain { node, time }
        }
    }))
}

fn from(reader: &mut Reader<'_>) -> bool {
    reader.parser.parse_keyword(Keyword::FROM) || reader.parser.parse_keyword(Keyword::IN)
}

/// `LIKE 'pattern'`, or the pattern alone as Hive has it.
fn like(reader: &mut Reader<'_>) -> Result<Option<String>> {
    if reader.parser.parse_keyword(Keyword::LIKE) {
        return reader.string("a pattern in single quotes").map(Some);
    }
    match reader.parser.peek_token_ref().token {
        Token::SingleQuotedString(_) => reader.string("a pattern in single quotes").map(Some),
        _ => Ok(None),
    }
}

/// A dotted name in lower case; `TIME ZONE` is `timezone`.
fn setting(reader: &mut Reader<'_>) -> Result<String> {
    let mut name = String::new();
    loop {
        match reader.parser.next_token().token {
            Token::Word(word) => name.push_str(&word.value.to_ascii_lowercase()),
            _ => {
                reader.parser.prev_token();
                return reader.expected("the name of a setting");
            }
        }
        if name == "time" && reader.take_word("zone") {
            return Ok("timezone".to_owned());
        }
        if !reader.parser.consume_token(&Token::Period) {
            return Ok(name);
        }
        name.push('.');
    }
}
