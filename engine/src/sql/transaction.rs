//! BEGIN, COMMIT, ROLLBACK.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::Token;
use skep_common::{Error, Result};

use super::read::Reader;
use super::statement::Statement;

/// `BEGIN [TRANSACTION | WORK] [modes]`, `START TRANSACTION [modes]`, after their first word.
pub(super) fn begin(reader: &mut Reader<'_>, first: Keyword) -> Result<Statement> {
    if first == Keyword::START {
        let result = reader.parser.expect_keyword_is(Keyword::TRANSACTION);
        reader.ok(result)?;
    } else {
        let _ = reader.take_word("transaction") || reader.take_word("work");
    }
    let mut read_only = false;
    loop {
        let at = reader.here();
        if reader.take_word("read") {
            if reader.take_word("only") {
                read_only = true;
            } else if !reader.take_word("write") {
                return reader.expected("ONLY or WRITE");
            }
        } else if reader.take_word("isolation") {
            if !reader.take_word("level") {
                return reader.expected("LEVEL");
            }
            level(reader)?;
        } else if reader.parser.peek_token_ref().token == Token::Comma {
            reader.parser.next_token();
            continue;
        } else if reader.take_word("deferrable") {
            return Err(Error::unsupported("there are no deferrable transactions")
                .at(at)
                .hint("leave it out"));
        } else {
            return Ok(Statement::Begin { read_only });
        }
    }
}

/// Every level that snapshot isolation keeps the promises of.
fn level(reader: &mut Reader<'_>) -> Result<()> {
    let at = reader.here();
    if reader.take_word("snapshot") {
        return Ok(());
    }
    if reader.take_word("repeatable") {
        return if reader.take_word("read") { Ok(()) } else { reader.expected("READ") };
    }
    if reader.take_word("read") {
        let known = reader.take_word("committed") || reader.take_word("uncommitted");
        return if known { Ok(()) } else { reader.expected("COMMITTED or UNCOMMITTED") };
    }
    if reader.take_word("serializable") {
        return Err(Error::unsupported("transactions are isolated by snapshots, not serializable")
            .at(at)
            .hint("leave the level out, or say ISOLATION LEVEL SNAPSHOT"));
    }
    reader.expected("an isolation level such as SNAPSHOT")
}

/// `COMMIT [TRANSACTION | WORK]` and `ROLLBACK`, after their first word.
pub(super) fn end(reader: &mut Reader<'_>, statement: Statement) -> Result<Statement> {
    let at = reader.here();
    let _ = reader.take_word("transaction") || reader.take_word("work");
    if reader.take_word("to") || reader.take_word("and") {
        return Err(Error::unsupported("there are no savepoints and no chained transactions")
            .at(at)
            .hint("end the transaction with COMMIT or ROLLBACK alone"));
    }
    Ok(statement)
}
