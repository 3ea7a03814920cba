//! What was committed when, and names for the moments that matter.

use chrono::{DateTime, Utc};
use skep_common::{Error, Result};
use skep_metadb::database_error;

use crate::catalog::Catalog;
use crate::load;

/// One commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its snapshot.
    pub id: i64,
    /// When it was made.
    pub time: DateTime<Utc>,
    /// Grows with every change of a name or a column.
    pub schema_version: i64,
    /// Who made it.
    pub author: Option<String>,
    /// What it did, for people.
    pub message: Option<String>,
    /// What it did, in the words of [`crate::changes`].
    pub changes: String,
}

/// A name for a snapshot, which it keeps from being expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// The name.
    pub name: String,
    /// The snapshot.
    pub snapshot: i64,
    /// When the name was given.
    pub time: DateTime<Utc>,
}

/// The files of a table, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileCounts {
    /// The table.
    pub table: i64,
    /// All of them.
    pub files: u64,
    /// Those smaller than was asked.
    pub small: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of all.
    pub bytes: u64,
    /// Bytes of the largest.
    pub largest: u64,
}

type Row = (i64, String, i64, Option<String>, Option<String>, Option<String>);

impl Catalog {
    /// The commits whose snapshots are still there, the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn history(&self) -> Result<Vec<SnapshotInfo>> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT s.snapshot_id, CAST(s.snapshot_time AS TEXT), s.schema_version, c.author, c.commit_message, c.changes_made \
             FROM ducklake_snapshot s LEFT JOIN ducklake_snapshot_changes c ON c.snapshot_id = s.snapshot_id \
             ORDER BY s.snapshot_id",
        )
        .fetch_all(self.db().reader())
        .await
        .map_err(|e| database_error("cannot list the snapshots", e))?;
        let info = |(id, time, schema_version, author, message, changes): Row| {
            let time = load::parse_time(&time).ok_or_else(|| {
                Error::corrupt(format!("snapshot {id} has the time '{time}'"))
                    .hint("restore the latest backup of the catalog")
            })?;
            let changes = changes.unwrap_or_default();
            Ok(SnapshotInfo { id, time, schema_version, author, message, changes })
        };
        rows.into_iter().map(info).collect()
    }

    /// The files of every table with files in `snapshot`, by table; small are those of less than `small` bytes.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn file_counts(&self, snapshot: i64, small: u64) -> Result<Vec<FileCounts>> {
        let rows: Vec<(i64, i64, i64, i64, i64, i64)> = sqlx::query_as(
            "SELECT table_id, count(*), count(CASE WHEN file_size_bytes < ?2 THEN 1 END), \
             CAST(sum(record_count) AS BIGINT), CAST(sum(file_size_bytes) AS BIGINT), max(file_size_bytes) FROM ducklake_data_file \
             WHERE begin_snapshot <= ?1 AND (end_snapshot IS NULL OR end_snapshot > ?1) \
             GROUP BY table_id ORDER BY table_id",
        )
        .bind(snapshot)
        .bind(i64::try_from(small).unwrap_or(i64::MAX))
        .fetch_all(self.db().reader())
        .await
        .map_err(|e| database_error("cannot count the files of tables", e))?;
        let count = |value: i64| u64::try_from(value).unwrap_or(0);
        let counts = |(table, files, small, rows, bytes, largest)| FileCounts {
            table,
            files: count(files),
            small: count(small),
            rows: count(rows),
            bytes: count(bytes),
            largest: count(largest),
        };
        Ok(rows.into_iter().map(counts).collect())
    }

    /// Gives a snapshot a name, which must be free unless it may be taken from another.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for a snapshot that is not there,
    /// [`Kind::AlreadyExists`](skep_common::Kind::AlreadyExists) for a name that is taken,
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for one that reads as a number.
    pub async fn tag(&self, name: &str, snapshot: i64, replace: bool) -> Result<()> {
        if name.is_empty() || name.parse::<i64>().is_ok() {
            return Err(Error::invalid(format!("a tag cannot be named '{name}'"))
                .hint("a name that is a number would stand for the snapshot of that number"));
        }
        let doing = || format!("cannot write tag '{name}'");
        let mut tx = self.db().begin().await?;
        let there: Option<(i64,)> =
            sqlx::query_as("SELECT snapshot_id FROM ducklake_snapshot WHERE snapshot_id = ?")
                .bind(snapshot)
                .fetch_optional(tx.conn())
                .await
                .map_err(|e| database_error(doing(), e))?;
        if there.is_none() {
            return Err(load::no_snapshot(snapshot));
        }
        let taken: Option<(i64,)> = sqlx::query_as("SELECT snapshot_id FROM skep_tag WHERE name = ?")
            .bind(name)
            .fetch_optional(tx.conn())
            .await
            .map_err(|e| database_error(doing(), e))?;
        if let Some((taken,)) = taken.filter(|_| !replace) {
            return Err(Error::already_exists(format!("tag '{name}' stands for snapshot {taken} already"))
                .hint("CREATE OR REPLACE TAG moves it"));
        }
        sqlx::query(
            "INSERT INTO skep_tag (name, snapshot_id, created_at) VALUES (?, ?, ?) \
             ON CONFLICT (name) DO UPDATE SET snapshot_id = excluded.snapshot_id, created_at = excluded.created_at",
        )
        .bind(name)
        .bind(snapshot)
        .bind(load::time_text(self.clock().now()))
        .execute(tx.conn())
        .await
        .map_err(|e| database_error(doing(), e))?;
        tx.commit().await
    }

    /// Takes a name away. Whether it was there.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn untag(&self, name: &str) -> Result<bool> {
        let mut tx = self.db().begin().await?;
        let done = sqlx::query("DELETE FROM skep_tag WHERE name = ?")
            .bind(name)
            .execute(tx.conn())
            .await
            .map_err(|e| database_error(format!("cannot drop tag '{name}'"), e))?;
        tx.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    /// The names, sorted.
    ///
    /// # Errors
    /// Those of the database; [`Kind::Corrupt`](skep_common::Kind::Corrupt) for one that does not read.
    pub async fn tags(&self) -> Result<Vec<Tag>> {
        let rows: Vec<(String, i64, String)> =
            sqlx::query_as("SELECT name, snapshot_id, created_at FROM skep_tag ORDER BY name")
                .fetch_all(self.db().reader())
                .await
                .map_err(|e| database_error("cannot list the tags", e))?;
        let tag = |(name, snapshot, time): (String, i64, String)| {
            let time = load::parse_time(&time).ok_or_else(|| {
                Error::corrupt(format!("tag '{name}' has the time '{time}'"))
                    .hint("give it anew: CREATE OR REPLACE TAG")
            })?;
            Ok(Tag { name, snapshot, time })
        };
        rows.into_iter().map(tag).collect()
    }
}
