//! Which files of other people were loaded into which table: a ledger that is written by the commit that adds their rows.
//!
//! # Invariants
//! - A file is in the ledger exactly if the commit that loaded it stands: both are one database transaction.
//! - Two statements that load one file at the same time do not both commit, unless told to load it again.

use std::collections::HashMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use skep_common::{Error, Result};
use skep_metadb::{Conn, database_error};
use uuid::Uuid;

use crate::catalog::Catalog;
use crate::load;
use crate::transaction::SideEffect;

/// What tells one state of a file from another under the same path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileVersion {
    /// Its size.
    pub bytes: u64,
    /// When it was changed last.
    pub modified: DateTime<Utc>,
    /// What its store calls this state of it.
    pub etag: Option<String>,
}

impl FileVersion {
    /// Whether `other` is the same state, as far as both tell.
    pub fn same(&self, other: &Self) -> bool {
        let etags = self.etag.is_none() || other.etag.is_none() || self.etag == other.etag;
        // The ledger keeps microseconds.
        let micros = self.modified.timestamp_micros() == other.modified.timestamp_micros();
        self.bytes == other.bytes && micros && etags
    }
}

/// A file that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// The file as people write it: an absolute path, or a URL.
    pub path: String,
    /// Its state then.
    pub version: FileVersion,
    /// Rows that went to the table.
    pub rows: u64,
    /// Rows that did not.
    pub rejected: u64,
}

/// A line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The table.
    pub table: i64,
    /// What was loaded.
    pub load: Load,
    /// The snapshot that showed the rows first.
    pub snapshot: i64,
    /// When.
    pub time: DateTime<Utc>,
}

/// Writes files into the ledger of a table with the commit that adds their rows.
#[derive(Debug)]
pub struct RecordLoads {
    /// The table.
    pub table: Uuid,
    /// What was loaded.
    pub loads: Vec<Load>,
    /// What the ledger said of these paths when the load was decided; absent: it does not matter, load them again.
    pub expected: Option<HashMap<String, FileVersion>>,
    /// When.
    pub time: DateTime<Utc>,
}

/// Empties the ledger of a table with the commit that takes its rows away.
#[derive(Debug)]
pub struct ForgetLoads {
    /// The table.
    pub table: Uuid,
}

type Row = (i64, String, i64, String, Option<String>, i64, i64, i64, String);

const COLUMNS: &str =
    "table_id, path, size_bytes, modified_at, etag, rows_loaded, rows_rejected, snapshot_id, loaded_at";

fn entry(row: Row) -> Result<LedgerEntry> {
    let (table, path, bytes, modified, etag, rows, rejected, snapshot, time) = row;
    let read = |text: &str| {
        load::parse_time(text).ok_or_else(|| {
            Error::corrupt(format!("the ledger says that '{path}' was loaded at '{time}' as of '{modified}'"))
                .hint("restore the latest backup of the catalog")
        })
    };
    let (modified, time) = (read(&modified)?, read(&time)?);
    let count = |value: i64| u64::try_from(value).unwrap_or(0);
    let version = FileVersion { bytes: count(bytes), modified, etag };
    let load = Load { path, version, rows: count(rows), rejected: count(rejected) };
    Ok(LedgerEntry { table, load, snapshot, time })
}

impl Catalog {
    /// The ledger of `table`, or of all tables, by table and path.
    ///
    /// # Errors
    /// Those of the database; [`Kind::Corrupt`](skep_common::Kind::Corrupt) for a line that does not read.
    pub async fn loads(&self, table: Option<i64>) -> Result<Vec<LedgerEntry>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM skep_load WHERE table_id = ?1 OR ?1 IS NULL ORDER BY table_id, path"
        );
        let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(table)
            .fetch_all(self.db().reader())
            .await
            .map_err(|e| database_error("cannot read which files were loaded", e))?;
        rows.into_iter().map(entry).collect()
    }
}

/// The id of the table, which the same database transaction may have made. `None`: it has dropped it.
pub(crate) async fn id_of(connection: &mut Conn, table: Uuid) -> Result<Option<i64>> {
    let row: Option<(i64,)> = sqlx::query_as(
        "SELECT table_id FROM ducklake_table WHERE CAST(table_uuid AS TEXT) = ? AND end_snapshot IS NULL",
    )
    .bind(table.to_string())
    .fetch_optional(connection)
    .await
    .map_err(|e| database_error("cannot find the table of a load", e))?;
    Ok(row.map(|(id,)| id))
}

#[async_trait]
impl SideEffect for RecordLoads {
    async fn apply(&self, connection: &mut Conn, snapshot: i64) -> Result<()> {
        let doing = "cannot write down which files were loaded";
        let Some(table) = id_of(connection, self.table).await? else { return Ok(()) };
        if let Some(expected) = &self.expected {
            let paths: Vec<&str> = self.loads.iter().map(|load| load.path.as_str()).collect();
            let sql = format!(
                "SELECT {COLUMNS} FROM skep_load WHERE table_id = ? AND path IN (SELECT value FROM json_each(?))"
            );
            let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
                .bind(table)
                .bind(serde_json::Value::from(paths).to_string())
                .fetch_all(&mut *connection)
                .await
                .map_err(|e| database_error(doing, e))?;
            for row in rows {
                let LedgerEntry { load, snapshot, .. } = entry(row)?;
                if !expected.get(&load.path).is_some_and(|known| known.same(&load.version)) {
                    return Err(Error::conflict(format!(
                        "'{}' was loaded by another statement, in snapshot {snapshot}",
                        load.path
                    ))
                    .hint("run the statement again: it skips what is loaded"));
                }
            }
        }
        let time = load::time_text(self.time);
        for load in &self.loads {
            let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            sqlx::query(
                "INSERT INTO skep_load (table_id, path, size_bytes, modified_at, etag, rows_loaded, rows_rejected, \
                 snapshot_id, loaded_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (table_id, path) DO UPDATE SET \
                 size_bytes = excluded.size_bytes, modified_at = excluded.modified_at, etag = excluded.etag, \
                 rows_loaded = excluded.rows_loaded, rows_rejected = excluded.rows_rejected, \
                 snapshot_id = excluded.snapshot_id, loaded_at = excluded.loaded_at",
            )
            .bind(table)
            .bind(&load.path)
            .bind(number(load.version.bytes))
            .bind(load::time_text(load.version.modified))
            .bind(&load.version.etag)
            .bind(number(load.rows))
            .bind(number(load.rejected))
            .bind(snapshot)
            .bind(&time)
            .execute(&mut *connection)
            .await
            .map_err(|e| database_error(doing, e))?;
        }
        Ok(())
    }
}

#[async_trait]
impl SideEffect for ForgetLoads {
    async fn apply(&self, connection: &mut Conn, _: i64) -> Result<()> {
        let Some(table) = id_of(connection, self.table).await? else { return Ok(()) };
        sqlx::query("DELETE FROM skep_load WHERE table_id = ?")
            .bind(table)
            .execute(connection)
            .await
            .map_err(|e| database_error("cannot forget which files were loaded", e))?;
        Ok(())
    }
}
