//! What stands behind or among the columns of a table: constraints, partitions, order, properties.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::Token;
use skep_catalog::{BUCKETS_MAX, Transform};
use skep_common::{Error, Result};

use super::alter::path;
use super::alteration::{CheckSpec, ColumnPath, PartitionSpec, SortSpec};
use super::create;
use super::read::Reader;
use super::statement::{ColumnSpec, PartitionValue};
use crate::names;

/// `[CONSTRAINT name] CHECK (expr)`; constraints that Skep does not have are refused by name.
pub(super) fn check(reader: &mut Reader<'_>) -> Result<CheckSpec> {
    let mut name = None;
    let at = reader.here();
    if reader.take_word("constraint") {
        let result = reader.parser.parse_identifier();
        name = Some(names::normalise(&reader.ok(result)?));
    }
    let refused_at = reader.here();
    match reader.peek_word().as_deref() {
        Some("check") => {}
        Some(word @ ("primary" | "foreign" | "unique")) => {
            let key = if word == "unique" { "" } else { " KEY" };
            return Err(create::constraint(&format!("{}{key}", word.to_uppercase())).at(refused_at));
        }
        _ => return reader.expected("CHECK"),
    }
    reader.parser.next_token();
    reader.expect(&Token::LParen)?;
    let result = reader.parser.parse_expr();
    let expr = reader.ok(result)?;
    reader.expect(&Token::RParen)?;
    Ok(CheckSpec { name, expr, at: Some(at) })
}

/// `(a, year(b), bucket(8, c))`
pub(super) fn partitions(reader: &mut Reader<'_>) -> Result<Vec<PartitionSpec>> {
    let (keys, columns) = keys_or_columns(reader, false)?;
    debug_assert!(columns.is_empty(), "only CREATE TABLE declares columns");
    Ok(keys)
}

/// As [`partitions`]; with `declare` Hive's form `(region STRING)` too, which declares the column.
pub(super) fn keys_or_columns(
    reader: &mut Reader<'_>,
    declare: bool,
) -> Result<(Vec<PartitionSpec>, Vec<ColumnSpec>)> {
    if reader.parser.peek_token_ref().token != Token::LParen {
        return reader.expected("partition keys in parentheses");
    }
    reader.parser.next_token();
    let (mut keys, mut columns) = (Vec::new(), Vec::new());
    loop {
        let opens = reader.parser.peek_nth_token_ref(1).token == Token::LParen;
        let key = if opens { transform(reader)? } else { identity(path(reader)?) };
        let ends = matches!(reader.parser.peek_token_ref().token, Token::Comma | Token::RParen | Token::EOF);
        if declare && !ends {
            let result = reader.parser.parse_data_type();
            let ty = reader.ok(result)?;
            let mut spec = ColumnSpec::new(key.column.to_string(), ty, key.column.at);
            spec.name = key.column.parts.last().cloned().unwrap_or_default();
            if reader.take_word("comment") {
                spec.comment = Some(reader.string("the comment in single quotes")?);
            }
            columns.push(spec);
        }
        keys.push(key);
        if reader.parser.consume_token(&Token::RParen) {
            return Ok((keys, columns));
        }
        if !reader.parser.consume_token(&Token::Comma) {
            return reader.expected("',' or ')' after the partition key");
        }
    }
}

/// `(a = 1, b, year(c))`
pub(super) fn partition_values(reader: &mut Reader<'_>) -> Result<Vec<PartitionValue>> {
    reader.expect(&Token::LParen)?;
    let mut values = Vec::new();
    loop {
        let opens = reader.parser.peek_nth_token_ref(1).token == Token::LParen;
        let key = if opens { transform(reader)? } else { identity(path(reader)?) };
        let value = if reader.parser.consume_token(&Token::Eq) {
            let result = reader.parser.parse_expr();
            Some(reader.ok(result)?)
        } else {
            None
        };
        values.push(PartitionValue { key, value });
        if reader.parser.consume_token(&Token::RParen) {
            return Ok(values);
        }
        if !reader.parser.consume_token(&Token::Comma) {
            return reader.expected("'=', ',' or ')' after the partition key");
        }
    }
}

fn identity(column: ColumnPath) -> PartitionSpec {
    PartitionSpec { column, transform: Transform::Identity }
}

fn transform(reader: &mut Reader<'_>) -> Result<PartitionSpec> {
    let at = reader.here();
    let word = reader.peek_word().unwrap_or_default();
    reader.parser.next_token();
    reader.expect(&Token::LParen)?;
    let transform = match word.as_str() {
        "year" | "years" => Transform::Year,
        "month" | "months" => Transform::Month,
        "day" | "days" => Transform::Day,
        "hour" | "hours" => Transform::Hour,
        "identity" => Transform::Identity,
        "bucket" => {
            let at = reader.here();
            let result = reader.parser.parse_literal_uint();
            let buckets = u32::try_from(reader.ok(result)?).ok().filter(|n| (1..=BUCKETS_MAX).contains(n));
            let buckets = buckets
                .ok_or_else(|| Error::invalid(format!("bucket takes 1 to {BUCKETS_MAX} buckets")).at(at))?;
            reader.expect(&Token::Comma)?;
            Transform::Bucket(buckets)
        }
        _ => {
            return Err(Error::invalid(format!("there is no partition transform '{word}'"))
                .at(at)
                .hint("write the column alone, or year, month, day or hour of it, or bucket(8, column)"));
        }
    };
    let column = path(reader)?;
    reader.expect(&Token::RParen)?;
    Ok(PartitionSpec { column, transform })
}

/// `(a, b DESC NULLS LAST)`
pub(super) fn sorting(reader: &mut Reader<'_>) -> Result<Vec<SortSpec>> {
    if reader.parser.peek_token_ref().token != Token::LParen {
        return reader.expected("columns in parentheses");
    }
    reader.parser.next_token();
    let mut keys = Vec::new();
    loop {
        let column = path(reader)?;
        let _ = reader.parser.parse_keyword(Keyword::ASC);
        let descending = reader.parser.parse_keyword(Keyword::DESC);
        let mut nulls_first = false;
        if reader.take_word("nulls") {
            nulls_first = reader.take_word("first");
            if !nulls_first && !reader.take_word("last") {
                return reader.expected("FIRST or LAST");
            }
        }
        keys.push(SortSpec { column, descending, nulls_first });
        if reader.parser.consume_token(&Token::RParen) {
            return Ok(keys);
        }
        if !reader.parser.consume_token(&Token::Comma) {
            return reader.expected("',' or ')' after the column");
        }
    }
}

/// `('key' = 'value', ...)`
pub(super) fn properties(reader: &mut Reader<'_>) -> Result<Vec<(String, String)>> {
    pairs(reader, "a property and its value, as in ('skep.file_size' = '64 MiB')")
}

/// `(key = value, ...)`, both as texts.
pub(super) fn pairs(reader: &mut Reader<'_>, what: &str) -> Result<Vec<(String, String)>> {
    if !reader.parser.consume_token(&Token::LParen) {
        return reader.expected(&format!("{what}, in parentheses"));
    }
    let mut pairs: Vec<(String, String)> = Vec::new();
    loop {
        let at = reader.here();
        let key = key(reader, what)?;
        if !reader.parser.consume_token(&Token::Eq) {
            return reader.expected("'='");
        }
        let token = reader.parser.peek_token();
        let value = match token.token {
            Token::SingleQuotedString(text) => text,
            Token::Number(text, _) => text,
            Token::Word(word) => word.value,
            _ => return reader.expected("a value in single quotes"),
        };
        reader.parser.next_token();
        if pairs.iter().any(|(other, _)| *other == key) {
            return Err(Error::invalid(format!("'{key}' is given twice")).at(at));
        }
        pairs.push((key, value));
        if reader.parser.consume_token(&Token::RParen) {
            return Ok(pairs);
        }
        if !reader.parser.consume_token(&Token::Comma) {
            return reader.expected("',' or ')' after the value");
        }
    }
}

/// `('key', ...)`
pub(super) fn keys(reader: &mut Reader<'_>) -> Result<Vec<String>> {
    let what = "the name of a property";
    if !reader.parser.consume_token(&Token::LParen) {
        return reader.expected("names of properties in parentheses");
    }
    let mut keys = Vec::new();
    loop {
        keys.push(key(reader, what)?);
        if reader.parser.consume_token(&Token::RParen) {
            return Ok(keys);
        }
        if !reader.parser.consume_token(&Token::Comma) {
            return reader.expected("',' or ')' after the name");
        }
    }
}

/// `'a.b'`, or `a.b`.
fn key(reader: &mut Reader<'_>, what: &str) -> Result<String> {
    if let Token::SingleQuotedString(text) = &reader.parser.peek_token_ref().token {
        let text = text.clone();
        reader.parser.next_token();
        return Ok(text);
    }
    if reader.peek_word().is_none() {
        return reader.expected(what);
    }
    Ok(path(reader)?.parts.join("."))
}
