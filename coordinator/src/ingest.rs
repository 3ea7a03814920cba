//! Rows that a client streams into a table.

use datafusion::physical_plan::SendableRecordBatchStream;
use skep_common::{Error, Result};

use crate::session::{Done, Session};

/// What to do with the table when it is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuse.
    Fail,
    /// Add the rows.
    Append,
    /// Put the rows in the place of its own.
    Replace,
}

/// Where streamed rows go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The schema; the session's when absent.
    pub schema: Option<String>,
    /// The table.
    pub table: String,
    /// Whether to create it, from the schema of the rows, when it is not there.
    pub create: bool,
    /// What to do when it is.
    pub existing: Existing,
}

impl Session {
    /// Writes `rows` to a table in one commit. Columns match by name; a column that `rows` lack takes its default.
    ///
    /// An error in the stream, or dropping the future before the commit, leaves the table as it was.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) and [`Kind::AlreadyExists`](skep_common::Kind::AlreadyExists) as
    /// `target` says, [`Kind::Invalid`](skep_common::Kind::Invalid) for columns the table lacks or types that do not cast.
    pub async fn ingest(&self, target: &Target, rows: SendableRecordBatchStream) -> Result<Done> {
        drop(rows);
        Err(Error::unsupported(format!("rows cannot be streamed into table '{}' yet", target.table))
            .hint("use COPY INTO with a file that the server reads"))
    }
}
