//! From text to statements.
//!
//! ```text
//! text --tokenise--> tokens --split at ';'--> one statement's tokens --parse--> Statement
//! ```
//!
//! Queries, expressions and types are read by `sqlparser` in our own dialect; the statements around them by the
//! readers here, so that what Skep does not do is refused by name, with the way out.
//!
//! # Invariants
//! - Pure: no catalog, no files. A name that parses may not exist.
//! - Every syntax error has a [`Position`](skep_common::Position) in the text that was given.

mod alter;
mod alteration;
mod care;
mod chains;
mod clauses;
mod copy;
mod create;
mod dialect;
mod dml;
mod read;
mod show;
mod statement;
mod transaction;
mod unsupported;

pub use alteration::{
    AlterAction, AlterTable, AlterView, CheckSpec, Clauses, ColumnPath, Location, PartitionSpec, SortSpec,
    ViewAction,
};
pub use dialect::SkepDialect;
pub use statement::{
    Action, Assignment, ColumnSpec, CopyInto, CopySource, CopyTo, CreateExternal, CreateTable, CreateTableAs,
    CreateView, Delete, Described, Insert, Matched, Merge, Name, Optimize, Options, Parsed, PartitionValue,
    Statement, SystemAction, Target, Update, When,
};

use datafusion::sql::sqlparser::ast;
use skep_common::{Error, Result};

use read::Reader;

/// Reads every statement of `sql`, separated by `;`. Empty statements are left out.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) with the position of the first token that does not fit;
/// [`Kind::Unsupported`](skep_common::Kind::Unsupported) for statements that Skep does not have.
pub fn parse(sql: &str) -> Result<Vec<Parsed>> {
    let mut reader = Reader::new(sql)?;
    let mut statements = Vec::new();
    while reader.skip_separators() {
        statements.push(reader.statement()?);
    }
    Ok(statements)
}

/// Reads `sql` as exactly one statement; a `;` after it is allowed.
///
/// # Errors
/// As [`parse`], and [`Kind::Invalid`](skep_common::Kind::Invalid) for none or several.
pub fn parse_one(sql: &str) -> Result<Parsed> {
    let mut statements = parse(sql)?;
    match (statements.pop(), statements.first()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(Error::invalid("there is no statement").hint("write one, as in SELECT 1")),
        (Some(last), Some(_)) => Err(Error::invalid("only one statement can be run at a time")
            .at(last.at)
            .hint("send the statements one after the other")),
    }
}

/// Reads `sql` as a query, as in the text of a view.
///
/// # Errors
/// As [`parse_one`], and [`Kind::Invalid`](skep_common::Kind::Invalid) for other statements.
pub fn parse_query(sql: &str) -> Result<Box<ast::Query>> {
    match parse_one(sql)?.statement {
        Statement::Query(query) => Ok(query),
        _ => Err(Error::invalid("the text is not a query")),
    }
}

/// Reads `sql` as a type.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for anything else.
pub(crate) fn parse_type(sql: &str) -> Result<ast::DataType> {
    let mut reader = Reader::new(sql)?;
    let result = reader.parser.parse_data_type();
    reader.ok(result)
}

#[cfg(test)]
mod tests;
