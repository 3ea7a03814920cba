//! Writes the rows of added and removed files, and widens what is known about their table.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use skep_common::{Error, Result};
use skep_metadb::database_error;
use sqlx::{Any, QueryBuilder};

use crate::column::{self, Column};
use crate::model::{ColumnStats, NewFile, Snapshot};
use crate::widen::{Before, Global, nan_of, widen};
use crate::write::{ROWS_MAX, Writer};

#[derive(Debug, Clone, Copy, Default)]
struct TableStats {
    records: i64,
    next_row_id: i64,
    bytes: i64,
}

/// `contains_null`, `contains_nan`, `min_value`, `max_value`.
type GlobalRow = (Option<i64>, Option<i64>, Option<String>, Option<String>);

/// `value_count`, `null_count`, `min_value`, `max_value`, `contains_nan`.
type FileStatsRow = (Option<i64>, Option<i64>, Option<String>, Option<String>, Option<i64>);

impl Writer<'_> {
    /// Adds `files` to table `id`, which has `columns`.
    pub(crate) async fn append(&mut self, id: i64, columns: &[Column], files: &[&NewFile]) -> Result<()> {
        let doing = || format!("cannot add files to table {id}");
        let before = self.table_stats(id).await.map_err(|e| database_error(doing(), e))?;
        let first_file = self.next_file_id;
        let after = self.insert_files(id, before.unwrap_or_default(), files).await?;
        let floats: HashMap<i64, &Column> =
            column::leaves(columns).into_iter().map(|leaf| (leaf.id, leaf)).collect();
        self.insert_file_stats(id, first_file, files, &floats)
            .await
            .map_err(|e| database_error(doing(), e))?;
        self.put_table_stats(id, before.is_some(), after).await.map_err(|e| database_error(doing(), e))?;
        let had_rows = before.is_some_and(|before| before.records > 0);
        for leaf in column::leaves(columns) {
            let inside = columns.iter().all(|column| column.id != leaf.id);
            // A file that was staged before the transaction added the column has its default.
            let of_leaf = files.iter().map(|file| match file.stats.iter().find(|s| s.column == leaf.id) {
                Some(stats) => Cow::Borrowed(stats),
                // What it is inside of may be NULL in some of the rows.
                None if inside => {
                    Cow::Owned(ColumnStats { nulls: file.rows, ..ColumnStats::absent(leaf, file.rows) })
                }
                None => Cow::Owned(ColumnStats::absent(leaf, file.rows)),
            });
            let of_leaf: Vec<Cow<'_, ColumnStats>> = of_leaf.collect();
            let absent = had_rows.then_some(Before::Absent { inside });
            self.widen_column(id, leaf, absent, first_file, of_leaf.iter().map(AsRef::as_ref))
                .await
                .map_err(|e| database_error(doing(), e))?;
        }
        Ok(())
    }

    async fn table_stats(&mut self, id: i64) -> Result<Option<TableStats>, sqlx::Error> {
        let row: Option<(Option<i64>, Option<i64>, Option<i64>)> = sqlx::query_as(
            "SELECT record_count, next_row_id, file_size_bytes FROM ducklake_table_stats WHERE table_id = ?",
        )
        .bind(id)
        .fetch_optional(self.tx.conn())
        .await?;
        Ok(row.map(|(records, next_row_id, bytes)| TableStats {
            records: records.unwrap_or(0),
            next_row_id: next_row_id.unwrap_or(0),
            bytes: bytes.unwrap_or(0),
        }))
    }

    async fn insert_files(
        &mut self,
        id: i64,
        mut stats: TableStats,
        files: &[&NewFile],
    ) -> Result<TableStats> {
        let doing = || format!("cannot add files to table {id}");
        let partition = if files.iter().any(|file| !file.partition.is_empty()) {
            Some(self.partition_id(id).await?)
        } else {
            None
        };
        let mut values = Vec::new();
        for chunk in files.chunks(ROWS_MAX) {
            let mut rows = Vec::with_capacity(chunk.len());
            for file in chunk {
                let (count, bytes) = (signed(file.rows)?, signed(file.bytes)?);
                let partition = partition.filter(|_| !file.partition.is_empty());
                rows.push((
                    self.next_file_id,
                    file,
                    count,
                    bytes,
                    signed(file.footer)?,
                    stats.next_row_id,
                    partition,
                ));
                for (index, value) in (0i64..).zip(&file.partition) {
                    values.push((self.next_file_id, index, value.as_deref()));
                }
                self.next_file_id += 1;
                stats.records += count;
                stats.next_row_id += count;
                stats.bytes += bytes;
            }
            let snapshot = self.snapshot;
            let mut query: QueryBuilder<Any> = QueryBuilder::new(
                "INSERT INTO ducklake_data_file (data_file_id, table_id, begin_snapshot, path, path_is_relative, \
                 file_format, record_count, file_size_bytes, footer_size, row_id_start, partition_id) ",
            );
            query.push_values(rows, |mut row, (file_id, file, count, bytes, footer, row_id, partition)| {
                row.push_bind(file_id)
                    .push_bind(id)
                    .push_bind(snapshot)
                    .push_bind(&file.path)
                    .push_bind(true)
                    .push_bind("parquet")
                    .push_bind(count)
                    .push_bind(bytes)
                    .push_bind(footer)
                    .push_bind(row_id)
                    .push_bind(partition);
            });
            query.build().execute(self.tx.conn()).await.map_err(|e| database_error(doing(), e))?;
        }
        for chunk in values.chunks(ROWS_MAX) {
            let mut query: QueryBuilder<Any> = QueryBuilder::new(
                "INSERT INTO ducklake_file_partition_value \
                 (data_file_id, table_id, partition_key_index, partition_value) ",
            );
            query.push_values(chunk, |mut row, (file, index, value)| {
                row.push_bind(*file).push_bind(id).push_bind(*index).push_bind(*value);
            });
            query.build().execute(self.tx.conn()).await.map_err(|e| database_error(doing(), e))?;
        }
        Ok(stats)
    }

    async fn partition_id(&mut self, id: i64) -> Result<i64> {
        let row: Option<(i64,)> = sqlx::query_as(
            "SELECT partition_id FROM ducklake_partition_info WHERE table_id = ? AND end_snapshot IS NULL",
        )
        .bind(id)
        .fetch_optional(self.tx.conn())
        .await
        .map_err(|e| database_error(format!("cannot read the partitioning of table {id}"), e))?;
        row.map(|(id,)| id).ok_or_else(|| {
            Error::internal(format!(
                "files for table {id} have partition values, and the table is not partitioned"
            ))
        })
    }

    async fn insert_file_stats(
        &mut self,
        id: i64,
        first_file: i64,
        files: &[&NewFile],
        leaves: &HashMap<i64, &Column>,
    ) -> Result<(), sqlx::Error> {
        let rows: Vec<(i64, &ColumnStats)> = (first_file..)
            .zip(files)
            .flat_map(|(file_id, file)| file.stats.iter().map(move |stats| (file_id, stats)))
            .collect();
        for chunk in rows.chunks(ROWS_MAX) {
            let mut query: QueryBuilder<Any> = QueryBuilder::new(
                "INSERT INTO ducklake_file_column_stats (data_file_id, table_id, column_id, column_size_bytes, \
                 value_count, null_count, min_value, max_value, contains_nan) ",
            );
            query.push_values(chunk, |mut row, (file, stats)| {
                let nan = leaves.get(&stats.column).and_then(|leaf| nan_of(leaf, stats));
                row.push_bind(*file)
                    .push_bind(id)
                    .push_bind(stats.column)
                    .push_bind(saturated(stats.bytes))
                    .push_bind(saturated(stats.values))
                    .push_bind(saturated(stats.nulls))
                    .push_bind(&stats.min)
                    .push_bind(&stats.max)
                    .push_bind(nan);
            });
            query.build().execute(self.tx.conn()).await?;
        }
        Ok(())
    }

    async fn put_table_stats(&mut self, id: i64, exists: bool, stats: TableStats) -> Result<(), sqlx::Error> {
        let sql = if exists {
            "UPDATE ducklake_table_stats SET record_count = ?2, next_row_id = ?3, file_size_bytes = ?4 \
             WHERE table_id = ?1"
        } else {
            "INSERT INTO ducklake_table_stats (table_id, record_count, next_row_id, file_size_bytes) \
             VALUES (?1, ?2, ?3, ?4)"
        };
        sqlx::query(sql)
            .bind(id)
            .bind(stats.records)
            .bind(stats.next_row_id)
            .bind(stats.bytes)
            .execute(self.tx.conn())
            .await?;
        Ok(())
    }

    /// Widens what is known of `leaf` in the table by `files`. `absent`: what rows have that were there before the column
    /// was; none if the table had no rows.
    async fn widen_column(
        &mut self,
        id: i64,
        leaf: &Column,
        absent: Option<Before>,
        first_file: i64,
        files: impl Iterator<Item = &ColumnStats>,
    ) -> Result<(), sqlx::Error> {
        let row: Option<GlobalRow> = sqlx::query_as(
            "SELECT CAST(contains_null AS INTEGER), CAST(contains_nan AS INTEGER), min_value, max_value \
             FROM ducklake_table_column_stats \
             WHERE table_id = ? AND column_id = ?",
        )
        .bind(id)
        .bind(leaf.id)
        .fetch_optional(self.tx.conn())
        .await?;
        let exists = row.is_some();
        let mut earlier: Vec<ColumnStats> = Vec::new();
        let files: Vec<&ColumnStats> = files.collect();
        let before = match row {
            None => match absent {
                // DuckDB keeps no such row for a column that was added to a table with rows, whatever it writes after.
                Some(absent) => {
                    let Some(known) = self.file_stats(id, leaf.id, first_file).await? else { return Ok(()) };
                    earlier = known;
                    absent
                }
                None => Before::Nothing,
            },
            Some((null, nan, min, max)) => {
                let all_null = min.is_none()
                    && max.is_none()
                    && (absent.is_none() || self.all_null(id, leaf.id, first_file).await?);
                let flag = |value: Option<i64>| value.map(|value| value != 0);
                let global = Global { contains_null: flag(null), contains_nan: flag(nan), min, max };
                Before::Known { global, all_null }
            }
        };
        let wide = widen(leaf, before, files.into_iter().chain(&earlier));
        let sql = if exists {
            "UPDATE ducklake_table_column_stats \
             SET contains_null = ?3, contains_nan = ?4, min_value = ?5, max_value = ?6 \
             WHERE table_id = ?1 AND column_id = ?2"
        } else {
            "INSERT INTO ducklake_table_column_stats \
             (table_id, column_id, contains_null, contains_nan, min_value, max_value) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
        };
        sqlx::query(sql)
            .bind(id)
            .bind(leaf.id)
            .bind(wide.contains_null)
            .bind(wide.contains_nan)
            .bind(wide.min)
            .bind(wide.max)
            .execute(self.tx.conn())
            .await?;
        Ok(())
    }

    /// What is known of a column in the files before this commit that have it. `None` if in some it is not known.
    async fn file_stats(
        &mut self,
        id: i64,
        column: i64,
        first_file: i64,
    ) -> Result<Option<Vec<ColumnStats>>, sqlx::Error> {
        let rows: Vec<FileStatsRow> = sqlx::query_as(
            "SELECT value_count, null_count, min_value, max_value, CAST(contains_nan AS INTEGER) \
             FROM ducklake_file_column_stats \
             WHERE table_id = ? AND column_id = ? AND data_file_id < ?",
        )
        .bind(id)
        .bind(column)
        .bind(first_file)
        .fetch_all(self.tx.conn())
        .await?;
        let count = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
        let stats = rows.into_iter().map(|(values, nulls, min, max, nan)| {
            let (values, nulls, nan) = (count(values)?, count(nulls)?, nan.map(|nan| nan != 0));
            Some(ColumnStats { column, bytes: 0, values, nulls, min, max, nan })
        });
        Ok(stats.collect())
    }

    /// Whether every file before this commit is known to hold only NULLs in a column. Absent bounds mean either that,
    /// or that they are not known.
    async fn all_null(&mut self, id: i64, column: i64, first_file: i64) -> Result<bool, sqlx::Error> {
        let row: (i64,) = sqlx::query_as(
            "SELECT count(*) FROM (SELECT 1 FROM ducklake_data_file f \
               LEFT JOIN ducklake_file_column_stats s \
                 ON s.table_id = f.table_id AND s.data_file_id = f.data_file_id AND s.column_id = ?2 \
               WHERE f.table_id = ?1 AND f.data_file_id < ?3 AND (s.value_count IS NULL OR s.value_count > 0) LIMIT 1) AS found",
        )
        .bind(id)
        .bind(column)
        .bind(first_file)
        .fetch_one(self.tx.conn())
        .await?;
        Ok(row.0 == 0)
    }

    /// Ends files of table `id`, and the delete files over them.
    pub(crate) async fn remove_files(
        &mut self,
        base: &Snapshot,
        id: i64,
        files: &BTreeSet<i64>,
    ) -> Result<()> {
        let doing = || format!("cannot remove files of table {id}");
        let name = base.table_by_id(id).map_or_else(String::new, |t| format!("{}.{}", t.schema_name, t.name));
        for file in files {
            let done = sqlx::query(
                "UPDATE ducklake_data_file SET end_snapshot = ?1 \
                 WHERE data_file_id = ?2 AND table_id = ?3 AND end_snapshot IS NULL AND begin_snapshot <= ?4 \
                 AND NOT EXISTS (SELECT 1 FROM ducklake_delete_file d \
                   WHERE d.table_id = ?3 AND d.data_file_id = ?2 AND d.end_snapshot IS NULL \
                   AND (d.begin_snapshot > ?4 OR d.partial_max > ?4))",
            )
            .bind(self.snapshot)
            .bind(file)
            .bind(id)
            .bind(base.id)
            .execute(self.tx.conn())
            .await
            .map_err(|e| database_error(doing(), e))?;
            if done.rows_affected() != 1 {
                return Err(Error::conflict(format!(
                    "file {file} of table '{name}' was changed by another commit in the meantime"
                ))
                .hint("run the statement again"));
            }
            sqlx::query(
                "UPDATE ducklake_delete_file SET end_snapshot = ?1 \
                 WHERE data_file_id = ?2 AND table_id = ?3 AND end_snapshot IS NULL",
            )
            .bind(self.snapshot)
            .bind(file)
            .bind(id)
            .execute(self.tx.conn())
            .await
            .map_err(|e| database_error(doing(), e))?;
        }
        Ok(())
    }
}

fn signed(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|e| Error::internal(format!("{value} is not a size of a file")).source(e))
}

/// Sizes for people; a cap is as good as an error.
fn saturated(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
