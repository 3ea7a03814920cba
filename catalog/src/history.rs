//! What was committed when, and names for the moments that matter.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use skep_common::{Error, Result};
use skep_metadb::database_error;
use sqlx::AssertSqlSafe;

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

/// A file, without what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileShape {
    /// Its size.
    pub bytes: u64,
    /// Rows in it.
    pub rows: u64,
    /// The snapshot that added it.
    pub begin: i64,
    /// One value for each partition key, in its text form.
    pub partition: Vec<Option<String>>,
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

    /// The files of every table with files in `snapshot`, by table and in the order they came.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn file_shapes(&self, snapshot: i64) -> Result<BTreeMap<i64, Vec<FileShape>>> {
        let doing = "cannot list the files of tables";
        let live = "f.begin_snapshot <= ?1 AND (f.end_snapshot IS NULL OR f.end_snapshot > ?1)";
        let sql = format!(
            "SELECT v.data_file_id, v.partition_value FROM ducklake_file_partition_value v \
             JOIN ducklake_data_file f ON f.data_file_id = v.data_file_id WHERE {live} \
             ORDER BY v.data_file_id, v.partition_key_index"
        );
        let values: Vec<(i64, Option<String>)> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(snapshot)
            .fetch_all(self.db().reader())
            .await
            .map_err(|e| database_error(doing, e))?;
        let mut partitions: HashMap<i64, Vec<Option<String>>> = HashMap::new();
        for (file, value) in values {
            partitions.entry(file).or_default().push(value);
        }
        let sql = format!(
            "SELECT f.table_id, f.data_file_id, f.file_size_bytes, f.record_count, f.begin_snapshot \
             FROM ducklake_data_file f WHERE {live} ORDER BY f.table_id, f.data_file_id"
        );
        let rows: Vec<(i64, i64, i64, i64, i64)> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(snapshot)
            .fetch_all(self.db().reader())
            .await
            .map_err(|e| database_error(doing, e))?;
        let count = |value: i64| u64::try_from(value).unwrap_or(0);
        let mut tables: BTreeMap<i64, Vec<FileShape>> = BTreeMap::new();
        for (table, file, bytes, rows, begin) in rows {
            let partition = partitions.remove(&file).unwrap_or_default();
            let shape = FileShape { bytes: count(bytes), rows: count(rows), begin, partition };
            tables.entry(table).or_default().push(shape);
        }
        Ok(tables)
    }

    /// How many files each table has in `snapshot` that say which rows of others are gone.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delete_files(&self, snapshot: i64) -> Result<BTreeMap<i64, u64>> {
        let rows: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT table_id, count(*) FROM ducklake_delete_file \
             WHERE begin_snapshot <= ?1 AND (end_snapshot IS NULL OR end_snapshot > ?1) GROUP BY table_id",
        )
        .bind(snapshot)
        .fetch_all(self.db().reader())
        .await
        .map_err(|e| database_error("cannot count delete files", e))?;
        Ok(rows.into_iter().map(|(table, files)| (table, u64::try_from(files).unwrap_or(0))).collect())
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
