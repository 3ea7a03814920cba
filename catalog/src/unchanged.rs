//! A promise about the rows of a table that the conflict rules do not give.

use async_trait::async_trait;
use skep_common::{Error, Result};
use skep_metadb::Conn;
use skep_metadb::database_error;

use crate::transaction::SideEffect;

/// Takes a commit back if another added rows to a table since its base: whoever looked at all rows did not see them.
///
/// Inserts commute with alterations; a constraint that was checked against the rows does not.
#[derive(Debug, Clone, Copy)]
pub struct Unchanged {
    /// The table.
    pub table: i64,
    /// The snapshot at which its rows were looked at.
    pub since: i64,
}

#[async_trait]
impl SideEffect for Unchanged {
    async fn apply(&self, connection: &mut Conn, snapshot: i64) -> Result<()> {
        let added: Option<(i64,)> = sqlx::query_as(
            "SELECT begin_snapshot FROM ducklake_data_file \
             WHERE table_id = ? AND begin_snapshot > ? AND begin_snapshot < ? LIMIT 1",
        )
        .bind(self.table)
        .bind(self.since)
        .bind(snapshot)
        .fetch_optional(connection)
        .await
        .map_err(|e| database_error("cannot look for rows that were added", e))?;
        match added {
            None => Ok(()),
            Some((other,)) => Err(Error::conflict(format!(
                "snapshot {other} added rows in the meantime, which were not looked at"
            ))
            .hint("run the statement again")),
        }
    }
}
