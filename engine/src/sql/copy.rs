//! COPY, and lists of options.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::Token;
use skep_common::{Error, Result};

use super::read::Reader;
use super::statement::{CopyInto, CopySource, CopyTo, Options, Statement};

/// After `COPY`.
pub(super) fn copy(reader: &mut Reader<'_>) -> Result<Statement> {
    if reader.parser.parse_keyword(Keyword::INTO) {
        return into(reader);
    }
    let source = if reader.parser.peek_token_ref().token == Token::LParen {
        reader.parser.next_token();
        let query = reader.query()?;
        reader.expect(&Token::RParen)?;
        CopySource::Query(query)
    } else {
        CopySource::Table(reader.name()?)
    };
    if reader.parser.peek_keyword(Keyword::FROM) {
        return Err(Error::invalid("files are read by COPY INTO")
            .at(reader.here())
            .hint("write COPY INTO table FROM 'pattern'"));
    }
    let result = reader.parser.expect_keyword_is(Keyword::TO);
    reader.ok(result)?;
    let path = reader.string("a file in single quotes")?;
    Ok(Statement::CopyTo(CopyTo { source, path, options: optional_options(reader)? }))
}

fn into(reader: &mut Reader<'_>) -> Result<Statement> {
    let table = reader.name()?;
    let columns = reader.columns_or_subquery()?;
    let result = reader.parser.expect_keyword_is(Keyword::FROM);
    reader.ok(result)?;
    let at = Some(reader.here());
    let pattern = reader.string("a file, folder or pattern in single quotes")?;
    let mut copy =
        CopyInto { table, columns, pattern, options: Options::default(), force: false, rejects: None, at };
    let (mut goes_on, mut rejected) = (None, None);
    loop {
        let here = reader.here();
        if reader.take_word("file_format") {
            let _ = reader.parser.consume_token(&Token::Eq);
            copy.options = options(reader)?;
        } else if reader.take_word("force") {
            copy.force = !reader.parser.consume_token(&Token::Eq) || truth(reader)?;
        } else if reader.take_word("on_error") {
            let _ = reader.parser.consume_token(&Token::Eq);
            goes_on = on_error(reader)?.then_some(here);
        } else if reader.take_word("rejected") {
            let _ = reader.take_word("data");
            let _ = reader.parser.parse_keyword(Keyword::AS);
            let result = reader.parser.expect_keyword_is(Keyword::TABLE);
            reader.ok(result)?;
            copy.rejects = Some(reader.name()?);
            rejected = Some(here);
        } else if copy.options.0.is_empty() && begins_options(reader) {
            let _ = reader.parser.parse_keyword(Keyword::WITH);
            copy.options = options(reader)?;
        } else {
            break;
        }
    }
    match (goes_on, rejected) {
        (Some(at), None) => Err(Error::invalid("rows that the table does not take have no place to go")
            .at(at)
            .hint("name a table for them: ON_ERROR = CONTINUE REJECTED DATA AS TABLE name")),
        (None, Some(at)) => {
            Err(Error::invalid("a load that ends at the first wrong row rejects no rows to a table")
                .at(at)
                .hint("write ON_ERROR = CONTINUE REJECTED DATA AS TABLE name"))
        }
        _ => Ok(Statement::CopyInto(copy)),
    }
}

/// `TRUE` or `FALSE`.
fn truth(reader: &mut Reader<'_>) -> Result<bool> {
    if reader.take_word("true") {
        return Ok(true);
    }
    if reader.take_word("false") { Ok(false) } else { reader.expected("TRUE or FALSE") }
}

/// Whether a load goes on at a row that is wrong.
fn on_error(reader: &mut Reader<'_>) -> Result<bool> {
    if reader.take_word("continue") {
        return Ok(true);
    }
    if ["abort_statement", "abort", "fail"].iter().any(|word| reader.take_word(word)) {
        return Ok(false);
    }
    reader.expected("ABORT_STATEMENT or CONTINUE")
}

fn begins_options(reader: &Reader<'_>) -> bool {
    reader.parser.peek_keyword(Keyword::WITH) || reader.parser.peek_token_ref().token == Token::LParen
}

fn optional_options(reader: &mut Reader<'_>) -> Result<Options> {
    if !begins_options(reader) {
        return Ok(Options::default());
    }
    let _ = reader.parser.parse_keyword(Keyword::WITH);
    options(reader)
}

/// `(FORMAT csv, HEADER, DELIMITER ';', NULL = 'NA')`
pub(super) fn options(reader: &mut Reader<'_>) -> Result<Options> {
    reader.expect(&Token::LParen)?;
    let mut options = Vec::new();
    if reader.parser.consume_token(&Token::RParen) {
        return Ok(Options(options));
    }
    loop {
        let at = reader.here();
        let name = match reader.parser.next_token().token {
            Token::Word(word) => word.value.to_ascii_lowercase(),
            Token::SingleQuotedString(text) => text.to_ascii_lowercase(),
            _ => {
                reader.parser.prev_token();
                return reader.expected("the name of an option");
            }
        };
        let _ = reader.parser.consume_token(&Token::Eq);
        let value = match reader.parser.peek_token_ref().token.clone() {
            Token::Comma | Token::RParen => "true".to_owned(),
            Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => {
                reader.parser.next_token();
                text
            }
            Token::Word(word) => {
                reader.parser.next_token();
                word.value.to_ascii_lowercase()
            }
            Token::Number(text, _) => {
                reader.parser.next_token();
                text
            }
            _ => return reader.expected("the value of the option"),
        };
        if options.iter().any(|(other, _)| *other == name) {
            return Err(Error::invalid(format!("option '{name}' is given twice")).at(at));
        }
        options.push((name, value));
        if reader.parser.consume_token(&Token::RParen) {
            return Ok(Options(options));
        }
        if !reader.parser.consume_token(&Token::Comma) {
            return reader.expected("',' or ')' after the option");
        }
    }
}
