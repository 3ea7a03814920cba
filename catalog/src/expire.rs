//! Forgets old snapshots, and says which files nobody can read any more.
//!
//! ```text
//! expire --> snapshots go --> rows that no snapshot shows go --> their files are scheduled --> deleted, a while later
//! ```
//!
//! # Invariants
//! - The latest snapshot and tagged ones stay, and all since the oldest base of a transaction that is open or was written
//!   down: it will ask what they changed.
//! - A file is scheduled in the database transaction that takes its last row away, and only if no other row names it.
//! - Nothing is deleted here: whoever deletes a file forgets it afterwards, so that a crash between leaves it scheduled.
//!
//! # Source
//! "Expire Snapshots" and "Cleanup of Files" of the DuckLake specification; DuckDB schedules files in the same table.

use std::collections::{BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use skep_common::Result;
use skep_metadb::{WriteTx, database_error};
use sqlx::AssertSqlSafe;

use crate::catalog::Catalog;
use crate::load;

/// Which snapshots stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Those that are not older.
    pub since: DateTime<Utc>,
    /// The latest so many, whatever their age.
    pub last: u64,
}

/// What an expiry did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// The snapshots that are gone.
    pub snapshots: Vec<i64>,
    /// Files that were scheduled for deletion.
    pub files: u64,
}

/// A file that no snapshot names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduledFile {
    /// Relative to the data path.
    pub path: String,
    /// Whether `path` stands by itself instead, as the files of tables with a location of their own.
    pub absolute: bool,
}

/// Versioned tables of which no other holds details.
const VERSIONED: [&str; 10] = [
    "ducklake_schema",
    "ducklake_table",
    "ducklake_view",
    "ducklake_tag",
    "ducklake_column",
    "ducklake_column_tag",
    "ducklake_partition_info",
    "ducklake_sort_info",
    "ducklake_macro",
    "skep_external_table",
];

/// Rows about a table or file that is gone: table, column, and where the column must be found.
const DETAILS: [(&str, &str, &str); 11] = [
    ("ducklake_file_column_stats", "data_file_id", "ducklake_data_file"),
    ("ducklake_file_variant_stats", "data_file_id", "ducklake_data_file"),
    ("ducklake_file_partition_value", "data_file_id", "ducklake_data_file"),
    ("ducklake_table_stats", "table_id", "ducklake_table"),
    ("ducklake_table_column_stats", "table_id", "ducklake_table"),
    ("ducklake_schema_versions", "table_id", "ducklake_table"),
    ("skep_column", "table_id", "ducklake_table"),
    ("skep_load", "table_id", "ducklake_table"),
    ("skep_sketch", "table_id", "ducklake_table"),
    ("ducklake_partition_column", "partition_id", "ducklake_partition_info"),
    ("ducklake_sort_expression", "sort_id", "ducklake_sort_info"),
];

/// A row that ended, in no snapshot that is there.
fn dead(row: &str) -> String {
    format!(
        "{row}.end_snapshot IS NOT NULL AND NOT EXISTS (SELECT 1 FROM ducklake_snapshot s \
         WHERE s.snapshot_id >= {row}.begin_snapshot AND s.snapshot_id < {row}.end_snapshot)"
    )
}

/// A delete file that is dead, or has no data file any more: DuckDB does not end it with the data file.
fn without_file(row: &str) -> String {
    format!(
        "({} OR NOT EXISTS (SELECT 1 FROM ducklake_data_file d WHERE d.data_file_id = {row}.data_file_id))",
        dead(row)
    )
}

impl Catalog {
    /// Forgets the snapshots that `retention` does not keep, in one database transaction.
    ///
    /// # Errors
    /// Those of the database; nothing was changed then.
    pub async fn expire(&self, retention: Retention) -> Result<Expired> {
        let doing = "cannot expire snapshots";
        let mut tx = self.db().begin().await?;
        let gone =
            candidates(&mut tx, retention, self.bases()).await.map_err(|e| database_error(doing, e))?;
        if gone.is_empty() {
            return Ok(Expired { snapshots: gone, files: 0 });
        }
        let list = serde_json::Value::from(gone.as_slice()).to_string();
        let now = load::time_text(self.clock().now());
        let files = forget(&mut tx, &list, &now).await.map_err(|e| database_error(doing, e))?;
        tx.commit().await?;
        self.drop_cached(&gone);
        Ok(Expired { snapshots: gone, files })
    }

    /// The files that were scheduled for deletion before `until`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn scheduled(&self, until: DateTime<Utc>) -> Result<Vec<ScheduledFile>> {
        let rows: Vec<(String, Option<i64>)> = sqlx::query_as(
            "SELECT path, CAST(path_is_relative AS INTEGER) FROM ducklake_files_scheduled_for_deletion \
             WHERE schedule_start <= CAST(? AS TIMESTAMPTZ) ORDER BY schedule_start, path",
        )
        .bind(load::time_text(until))
        .fetch_all(self.db().reader())
        .await
        .map_err(|e| database_error("cannot list the files to delete", e))?;
        let file = |(path, relative)| ScheduledFile { path, absolute: relative == Some(0) };
        Ok(rows.into_iter().map(file).collect())
    }

    /// Forgets scheduled files that were deleted.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn deleted(&self, files: &[ScheduledFile]) -> Result<()> {
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let list = serde_json::Value::from(paths).to_string();
        let mut tx = self.db().begin().await?;
        sqlx::query(
            "DELETE FROM ducklake_files_scheduled_for_deletion WHERE path IN (SELECT value FROM json_each(?))",
        )
        .bind(list)
        .execute(tx.conn())
        .await
        .map_err(|e| database_error("cannot forget deleted files", e))?;
        tx.commit().await
    }

    /// The folders of tables, of those that were dropped too, that are not under the data path.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn locations(&self) -> Result<BTreeSet<String>> {
        let rows: Vec<(String,)> =
            sqlx::query_as("SELECT DISTINCT path FROM ducklake_table WHERE NOT path_is_relative")
                .fetch_all(self.db().reader())
                .await
                .map_err(|e| database_error("cannot list the locations of tables", e))?;
        Ok(rows.into_iter().map(|(path,)| path).collect())
    }

    /// Every file that a snapshot names, that is scheduled for deletion, or that a transaction which was written down
    /// staged: relative to the data path. What lies there beside these is nobody's.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn known_files(&self) -> Result<HashSet<String>> {
        let doing = "cannot list the files of the catalog";
        let rows: Vec<(String,)> = sqlx::query_as(AssertSqlSafe(format!(
            "{} UNION {} UNION SELECT path FROM ducklake_files_scheduled_for_deletion",
            paths("ducklake_data_file"),
            paths("ducklake_delete_file")
        )))
        .fetch_all(self.db().reader())
        .await
        .map_err(|e| database_error(doing, e))?;
        let mut known: HashSet<String> = rows.into_iter().map(|(path,)| path).collect();
        for saved in self.saved().await? {
            known.extend(self.resume(saved.key).await?.staged_files());
        }
        Ok(known)
    }
}

/// The paths of all files in `table`, each under the folders of its table and schema.
fn paths(table: &str) -> String {
    format!("SELECT {} FROM {table} f {JOINED}", full_path())
}

/// A table keeps its folder through all its rows.
const JOINED: &str = "JOIN (SELECT table_id, max(schema_id) AS schema_id, max(path) AS path, \
     min(CASE WHEN NOT path_is_relative THEN 0 ELSE 1 END) AS relative FROM ducklake_table GROUP BY table_id) t ON t.table_id = f.table_id \
     JOIN (SELECT schema_id, max(path) AS path, min(CASE WHEN NOT path_is_relative THEN 0 ELSE 1 END) AS relative FROM ducklake_schema \
     GROUP BY schema_id) c ON c.schema_id = t.schema_id";

fn full_path() -> &'static str {
    "CASE WHEN NOT f.path_is_relative THEN f.path WHEN t.relative = 0 THEN t.path || f.path \
     ELSE coalesce(c.path, '') || t.path || f.path END"
}

async fn candidates(
    tx: &mut WriteTx,
    retention: Retention,
    bases: Vec<i64>,
) -> Result<Vec<i64>, sqlx::Error> {
    let tags: Vec<(i64,)> = sqlx::query_as("SELECT snapshot_id FROM skep_tag").fetch_all(tx.conn()).await?;
    let kept: BTreeSet<i64> = tags.into_iter().map(|(id,)| id).collect();
    let saved: (Option<i64>,) =
        sqlx::query_as("SELECT min(base) FROM skep_transaction").fetch_one(tx.conn()).await?;
    let needed = bases.into_iter().chain(saved.0).min().unwrap_or(i64::MAX);
    let all: Vec<(i64, String)> = sqlx::query_as(
        "SELECT snapshot_id, CAST(snapshot_time AS TEXT) FROM ducklake_snapshot ORDER BY snapshot_id DESC",
    )
    .fetch_all(tx.conn())
    .await?;
    let since = load::time_text(retention.since);
    let last = usize::try_from(retention.last).unwrap_or(usize::MAX).max(1);
    let mut gone: Vec<i64> = all
        .into_iter()
        .skip(last)
        .filter(|(id, time)| *id < needed && *time < since && !kept.contains(id))
        .map(|(id, _)| id)
        .collect();
    gone.sort_unstable();
    Ok(gone)
}

/// Takes the snapshots in `list`, a JSON array, away, and all that only they showed. Returns how many files that were.
async fn forget(tx: &mut WriteTx, list: &str, now: &str) -> Result<u64, sqlx::Error> {
    for table in ["ducklake_snapshot", "ducklake_snapshot_changes"] {
        let sql = format!(
            "DELETE FROM {table} WHERE snapshot_id IN (SELECT CAST(value AS BIGINT) FROM json_each(?))"
        );
        sqlx::query(AssertSqlSafe(sql)).bind(list).execute(tx.conn()).await?;
    }
    let mut files = 0;
    for (table, id) in [("ducklake_data_file", "data_file_id"), ("ducklake_delete_file", "delete_file_id")] {
        let gone = |row| if table == "ducklake_delete_file" { without_file(row) } else { dead(row) };
        let absolute =
            "CASE WHEN NOT f.path_is_relative OR t.relative = 0 OR c.relative = 0 THEN false ELSE true END";
        let shared = format!(
            "EXISTS (SELECT 1 FROM {table} o WHERE o.table_id = f.table_id AND o.path = f.path \
             AND o.{id} <> f.{id} AND NOT ({}))",
            gone("o")
        );
        let sql = format!(
            "INSERT INTO ducklake_files_scheduled_for_deletion (data_file_id, path, path_is_relative, schedule_start) \
             SELECT f.{id}, {}, {absolute}, CAST(? AS TIMESTAMPTZ) FROM {table} f {JOINED} WHERE {} AND NOT {shared}",
            full_path(),
            gone("f")
        );
        files += sqlx::query(AssertSqlSafe(sql)).bind(now).execute(tx.conn()).await?.rows_affected();
        let sql = format!("DELETE FROM {table} AS f WHERE {}", gone("f"));
        sqlx::query(AssertSqlSafe(sql)).execute(tx.conn()).await?;
    }
    for table in VERSIONED {
        let sql = format!("DELETE FROM {table} AS f WHERE {}", dead("f"));
        sqlx::query(AssertSqlSafe(sql)).execute(tx.conn()).await?;
    }
    for (table, column, home) in DETAILS {
        let sql = format!("DELETE FROM {table} WHERE {column} NOT IN (SELECT {column} FROM {home})");
        sqlx::query(AssertSqlSafe(sql)).execute(tx.conn()).await?;
    }
    Ok(files)
}
