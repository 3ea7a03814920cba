//! What the rows of a table must fulfil before it changes.

use skep_catalog::Check;
use skep_common::{Error, Position};

use crate::names;
use crate::planner::tables;

/// What every row of a table must fulfil.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// No NULL in a column.
    NotNull {
        /// Its name.
        column: String,
        /// Where the statement asks for it.
        at: Option<Position>,
    },
    /// A condition.
    Check {
        /// Which.
        check: Check,
        /// Where the statement asks for it.
        at: Option<Position>,
    },
}

impl Rule {
    /// The rows that break it, for `FROM schema.table WHERE`.
    fn condition(&self) -> String {
        match self {
            Rule::NotNull { column, .. } => format!("{} IS NULL", names::quote(column)),
            Rule::Check { check, .. } => format!("NOT ({})", check.sql),
        }
    }

    /// A query that counts the rows of a table which break it.
    pub fn count(&self, (schema, table): &(String, String)) -> String {
        let (schema, table) = (names::quote(schema), names::quote(table));
        format!("SELECT count(*) FROM {schema}.{table} WHERE {}", self.condition())
    }

    /// A query for one row that breaks it.
    pub fn example(&self, (schema, table): &(String, String)) -> String {
        let (schema, table) = (names::quote(schema), names::quote(table));
        format!("SELECT * FROM {schema}.{table} WHERE {} LIMIT 1", self.condition())
    }

    /// The error of `count` rows that break it, of which `example` is one.
    pub fn broken(&self, count: u64, example: &str) -> Error {
        let rows = if count == 1 { "1 row has".to_owned() } else { format!("{count} rows have") };
        let (error, at) = match self {
            Rule::NotNull { column, at } => {
                let text = format!("column '{column}' cannot be NOT NULL: {rows} NULL for it");
                (Error::invalid(text).hint("give them a value, or take them away"), at)
            }
            Rule::Check { check, at } => {
                let rows =
                    if count == 1 { "1 row violates".to_owned() } else { format!("{count} rows violate") };
                let text = format!("{rows} constraint '{}', CHECK ({}): {example}", check.name, check.sql);
                (Error::invalid(text).hint("correct the rows first, or the condition"), at)
            }
        };
        tables::placed(error, *at)
    }
}
