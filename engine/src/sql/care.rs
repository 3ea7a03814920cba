//! OPTIMIZE, ANALYZE, EXPIRE SNAPSHOTS, VACUUM and RESTORE.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use skep_common::Result;

use super::read::Reader;
use super::statement::{Optimize, Statement};

/// `[TABLE] name [WHERE condition] [ORDER BY columns]`, after `OPTIMIZE`.
pub(super) fn optimize(reader: &mut Reader<'_>) -> Result<Statement> {
    let _ = reader.parser.parse_keyword(Keyword::TABLE);
    let table = reader.name()?;
    let selection = if reader.parser.parse_keyword(Keyword::WHERE) {
        let result = reader.parser.parse_expr();
        Some(reader.ok(result)?)
    } else {
        None
    };
    let order_by = if reader.parser.parse_keywords(&[Keyword::ORDER, Keyword::BY]) {
        let result = reader.parser.parse_comma_separated(Parser::parse_order_by_expr);
        reader.ok(result)?
    } else {
        Vec::new()
    };
    Ok(Statement::Optimize(Optimize { table, selection, order_by }))
}

/// `[TABLE] name [COMPUTE STATISTICS] [FOR ALL COLUMNS | FOR COLUMNS a, b]`, after `ANALYZE`.
pub(super) fn analyze(reader: &mut Reader<'_>) -> Result<Statement> {
    let _ = reader.parser.parse_keyword(Keyword::TABLE);
    let table = reader.name()?;
    if reader.take_word("compute") && !reader.take_word("statistics") {
        return reader.expected("STATISTICS");
    }
    let mut columns = None;
    if reader.take_word("for") {
        let all = reader.take_word("all");
        if !reader.take_word("columns") {
            return reader.expected("COLUMNS");
        }
        if !all {
            let parentheses = reader.parser.consume_token(&Token::LParen);
            let result = reader.parser.parse_comma_separated(|parser| parser.parse_identifier());
            columns = Some(reader.ok(result)?);
            if parentheses {
                reader.expect(&Token::RParen)?;
            }
        }
    }
    Ok(Statement::Analyze { table, columns })
}

/// `SNAPSHOTS OLDER THAN time [RETAIN [LAST] n]`, after `EXPIRE`.
pub(super) fn expire(reader: &mut Reader<'_>) -> Result<Statement> {
    if !reader.take_word("snapshots") {
        return reader.expected("SNAPSHOTS");
    }
    if !(reader.take_word("older") && reader.take_word("than")) {
        return reader.expected("OLDER THAN and a time, as in now() - INTERVAL '7 days'");
    }
    let result = reader.parser.parse_expr();
    let older_than = Box::new(reader.ok(result)?);
    let mut retain = 1;
    if reader.take_word("retain") {
        let _ = reader.take_word("last");
        retain = number(reader)?;
        let _ = reader.take_word("snapshots");
    }
    Ok(Statement::Expire { older_than, retain })
}

/// `[TABLE] name TO VERSION AS OF n`, or `TIMESTAMP AS OF t`, after `RESTORE`.
pub(super) fn restore(reader: &mut Reader<'_>) -> Result<Statement> {
    let _ = reader.parser.parse_keyword(Keyword::TABLE);
    let table = reader.name()?;
    let usage = "TO VERSION AS OF a snapshot or tag, or TO TIMESTAMP AS OF a time";
    if !reader.parser.parse_keyword(Keyword::TO) {
        return reader.expected(usage);
    }
    let result = reader.parser.maybe_parse_table_version();
    match reader.ok(result)? {
        Some(version) => Ok(Statement::Restore { table, version: Box::new(version) }),
        None => reader.expected(usage),
    }
}

/// `[RETAIN n HOURS]`, after `VACUUM`.
pub(super) fn vacuum(reader: &mut Reader<'_>) -> Result<Statement> {
    if !reader.take_word("retain") {
        return Ok(Statement::Vacuum { retain_hours: None });
    }
    let hours = number(reader)?;
    if !(reader.take_word("hours") || reader.take_word("hour")) {
        return reader.expected("HOURS");
    }
    Ok(Statement::Vacuum { retain_hours: Some(hours) })
}

fn number(reader: &mut Reader<'_>) -> Result<u64> {
    if let Token::Number(text, _) = &reader.parser.peek_token_ref().token
        && let Ok(number) = text.parse()
    {
        reader.parser.next_token();
        return Ok(number);
    }
    reader.expected("a whole number")
}
