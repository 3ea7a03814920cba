//! Lists the files of a table, with their statistics, and remembers the list.
//!
//! The remembered list of a table is brought forward from one snapshot to a later one by reading only what changed:
//! statistics are many rows, and a table that grows would read them all again after every commit.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use skep_common::{Error, Result};
use skep_metadb::{MetaDb, database_error};
use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, FromRow, Row};

use crate::load;
use crate::model::{ColumnStats, DataFile, DeleteFile, FILE_PREFIX, Snapshot, TableDef};

/// Files over all remembered lists; a file with statistics of 20 columns takes about 4 KiB.
const FILES_MAX: usize = 100_000;

#[derive(Debug, Default)]
pub(crate) struct FileCache(Mutex<Lists>);

#[derive(Debug, Default)]
struct Lists {
    tables: HashMap<i64, List>,
    uses: u64,
}

/// The files of a table in a snapshot.
#[derive(Debug, Clone)]
pub(crate) struct List {
    snapshot: i64,
    pub(crate) files: Arc<Vec<Arc<DataFile>>>,
    used: u64,
}

impl FileCache {
    fn get(&self, table: i64) -> Option<List> {
        let mut lists = self.0.lock();
        lists.uses += 1;
        let now = lists.uses;
        let list = lists.tables.get_mut(&table)?;
        list.used = now;
        Some(list.clone())
    }

    /// Keeps the list unless a later one is there, and forgets those used least recently when there are too many.
    fn put(&self, table: i64, snapshot: i64, files: Arc<Vec<Arc<DataFile>>>) {
        let mut lists = self.0.lock();
        if lists.tables.get(&table).is_some_and(|list| list.snapshot >= snapshot) {
            return;
        }
        lists.uses += 1;
        let used = lists.uses;
        lists.tables.insert(table, List { snapshot, files, used });
        while lists.tables.values().map(|list| list.files.len()).sum::<usize>() > FILES_MAX {
            let oldest = lists.tables.iter().min_by_key(|(_, list)| list.used).map(|(id, _)| *id);
            match oldest {
                Some(id) if lists.tables.len() > 1 => lists.tables.remove(&id),
                _ => return,
            };
        }
    }
}

/// The files of table `id`, those that the transaction of an overlaid snapshot staged among them.
pub(crate) async fn list(
    db: &MetaDb,
    cache: &FileCache,
    snapshot: &Snapshot,
    id: i64,
) -> Result<Arc<Vec<Arc<DataFile>>>> {
    let Some(overlay) = &snapshot.overlay else {
        return committed(db, cache, snapshot, id).await;
    };
    let table = find(snapshot, id)?;
    let base = if id < 0 { Arc::default() } else { committed(db, cache, &overlay.base, id).await? };
    Ok(match overlay.rows.get(&id) {
        None => base,
        Some(staged) => Arc::new(staged.over(table, snapshot.id, &base)),
    })
}

fn find(snapshot: &Snapshot, id: i64) -> Result<&TableDef> {
    let table = snapshot.table_by_id(id).map(AsRef::as_ref);
    table.ok_or_else(|| Error::not_found(format!("table {id} does not exist in snapshot {}", snapshot.id)))
}

async fn committed(
    db: &MetaDb,
    cache: &FileCache,
    snapshot: &Snapshot,
    id: i64,
) -> Result<Arc<Vec<Arc<DataFile>>>> {
    let table = find(snapshot, id)?;
    if table.external.is_some() {
        return Err(Error::internal(format!(
            "external table '{}.{}' has no files in the catalog",
            table.schema_name, table.name
        )));
    }
    table.supported()?;
    let known = cache.get(id);
    if let Some(list) = known.as_ref().filter(|list| list.snapshot == snapshot.id) {
        let files = Arc::clone(&list.files);
        if !files.iter().any(|file| file.hides()) {
            return Ok(files);
        }
        // A later deletion replaces the delete file of an earlier one, which may be gone by now.
        return Ok(settle(files, read_deletes(db, snapshot.id, table).await?, snapshot.id));
    }
    let files = read(db, snapshot.id, table, known).await?;
    cache.put(id, snapshot.id, Arc::clone(&files));
    Ok(files)
}

/// The files of `table` in snapshot `id`, from `known` if that is a list of an earlier one. Nothing is remembered.
async fn read(
    db: &MetaDb,
    id: i64,
    table: &TableDef,
    known: Option<List>,
) -> Result<Arc<Vec<Arc<DataFile>>>> {
    check_inlined_rows(db, id, table).await?;
    let brought = match known.filter(|list| list.snapshot < id) {
        Some(list) => bring_forward(db, id, table, list).await?,
        None => None,
    };
    let files = match brought {
        Some(files) => files,
        None => Arc::new(read_added(db, id, table, -1).await?),
    };
    let files = settle(files, read_deletes(db, id, table).await?, id);
    // Of a snapshot that another program expired meanwhile, only some files were left to be found.
    let there: Option<(i64,)> =
        sqlx::query_as("SELECT snapshot_id FROM ducklake_snapshot WHERE snapshot_id = ?")
            .bind(id)
            .fetch_optional(db.reader())
            .await
            .map_err(|e| database_error(doing(table), e))?;
    if there.is_none() {
        return Err(load::no_snapshot(id));
    }
    Ok(files)
}

/// The list of `table` in snapshot `id`, after `known` if that is of an earlier one.
pub(crate) async fn follow(db: &MetaDb, id: i64, table: &TableDef, known: Option<List>) -> Result<List> {
    let files = match known {
        Some(list) if list.snapshot == id => list.files,
        known => read(db, id, table, known).await?,
    };
    Ok(List { snapshot: id, files, used: 0 })
}

/// The list as of snapshot `id`. `None` if it does not add up to what the snapshot says: another engine's compaction
/// replaces files without a trace in their spans.
async fn bring_forward(
    db: &MetaDb,
    id: i64,
    table: &TableDef,
    list: List,
) -> Result<Option<Arc<Vec<Arc<DataFile>>>>> {
    let added = read_added(db, id, table, list.snapshot).await?;
    let removed: Vec<(i64,)> = sqlx::query_as(
        "SELECT data_file_id FROM ducklake_data_file WHERE table_id = ? AND end_snapshot > ? AND end_snapshot <= ?",
    )
    .bind(table.id)
    .bind(list.snapshot)
    .bind(id)
    .fetch_all(db.reader())
    .await
    .map_err(|e| database_error(doing(table), e))?;
    let files = if added.is_empty() && removed.is_empty() {
        list.files
    } else {
        let removed: HashSet<i64> = removed.into_iter().map(|(id,)| id).collect();
        let kept = list.files.iter().filter(|file| !removed.contains(&file.id)).cloned();
        Arc::new(kept.chain(added).collect())
    };
    let rows: u64 = files.iter().map(|file| file.rows).sum();
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    Ok((rows == table.record_count && bytes == table.bytes).then_some(files))
}

fn doing(table: &TableDef) -> String {
    format!("cannot list the files of table '{}.{}'", table.schema_name, table.name)
}

struct FileRow {
    data_file_id: i64,
    begin_snapshot: i64,
    path: String,
    path_is_relative: Option<i64>,
    file_format: Option<String>,
    record_count: i64,
    file_size_bytes: i64,
    footer_size: Option<i64>,
    row_id_start: Option<i64>,
    encryption_key: Option<String>,
    mapping_id: Option<i64>,
    partition_id: Option<i64>,
    partial_max: Option<i64>,
}

impl<'r> FromRow<'r, AnyRow> for FileRow {
    fn from_row(row: &'r AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            data_file_id: row.try_get("data_file_id")?,
            begin_snapshot: row.try_get("begin_snapshot")?,
            path: row.try_get("path")?,
            path_is_relative: row.try_get("path_is_relative")?,
            file_format: row.try_get("file_format")?,
            record_count: row.try_get("record_count")?,
            file_size_bytes: row.try_get("file_size_bytes")?,
            footer_size: row.try_get("footer_size")?,
            row_id_start: row.try_get("row_id_start")?,
            encryption_key: row.try_get("encryption_key")?,
            mapping_id: row.try_get("mapping_id")?,
            partition_id: row.try_get("partition_id")?,
            partial_max: row.try_get("partial_max")?,
        })
    }
}

async fn read_added(db: &MetaDb, id: i64, table: &TableDef, since: i64) -> Result<Vec<Arc<DataFile>>> {
    let rows: Vec<FileRow> = sqlx::query_as(
        "SELECT data_file_id, begin_snapshot, path, CAST(path_is_relative AS INTEGER) AS path_is_relative, file_format, record_count, file_size_bytes, \
         footer_size, row_id_start, encryption_key, mapping_id, partition_id, partial_max FROM ducklake_data_file \
         WHERE table_id = ?1 AND begin_snapshot > ?2 AND begin_snapshot <= ?3 \
         AND (end_snapshot IS NULL OR end_snapshot > ?3) ORDER BY data_file_id",
    )
    .bind(table.id)
    .bind(since)
    .bind(id)
    .fetch_all(db.reader())
    .await
    .map_err(|e| database_error(doing(table), e))?;
    let Some((first, last)) = rows.first().zip(rows.last()) else {
        return Ok(Vec::new());
    };
    let between = (first.data_file_id, last.data_file_id);
    let mut stats = read_stats(db, table.id, between).await.map_err(|e| database_error(doing(table), e))?;
    let mut parts =
        read_partitions(db, table.id, between).await.map_err(|e| database_error(doing(table), e))?;
    let mut files = Vec::with_capacity(rows.len());
    for row in rows {
        check_file(table, &row)?;
        let relative = row.path_is_relative != Some(0);
        files.push(Arc::new(DataFile {
            id: row.data_file_id,
            path: if relative { format!("{}{}", table.path, row.path) } else { row.path },
            absolute: !relative || table.absolute,
            rows: unsigned(row.record_count),
            bytes: unsigned(row.file_size_bytes),
            footer: row.footer_size.map(unsigned),
            row_id_start: row.row_id_start,
            moved: false,
            begin: row.begin_snapshot,
            partition: parts.remove(&row.data_file_id).unwrap_or_default(),
            partition_id: row.partition_id,
            stats: stats.remove(&row.data_file_id).unwrap_or_default(),
            deletes: None,
            last: row.partial_max,
            until: None,
            names: Arc::default(),
        }));
    }
    Ok(files)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

type StatsRow =
    (i64, i64, Option<i64>, Option<i64>, Option<i64>, Option<String>, Option<String>, Option<i64>);

async fn read_stats(
    db: &MetaDb,
    table: i64,
    (first, last): (i64, i64),
) -> Result<HashMap<i64, HashMap<i64, ColumnStats>>, sqlx::Error> {
    let rows: Vec<StatsRow> = sqlx::query_as(
        "SELECT data_file_id, column_id, column_size_bytes, value_count, null_count, min_value, max_value, \
         CAST(contains_nan AS INTEGER) FROM ducklake_file_column_stats WHERE table_id = ? AND data_file_id BETWEEN ? AND ?",
    )
    .bind(table)
    .bind(first)
    .bind(last)
    .fetch_all(db.reader())
    .await?;
    let mut files: HashMap<i64, HashMap<i64, ColumnStats>> = HashMap::new();
    for (file, column, bytes, values, nulls, min, max, nan) in rows {
        // Counts that are not known would be taken for zeros.
        let (Some(values), Some(nulls)) = (values, nulls) else { continue };
        let stats = ColumnStats {
            column,
            bytes: unsigned(bytes.unwrap_or(0)),
            values: unsigned(values),
            nulls: unsigned(nulls),
            min,
            max,
            nan: nan.map(|nan| nan != 0),
        };
        files.entry(file).or_default().insert(column, stats);
    }
    Ok(files)
}

async fn read_partitions(
    db: &MetaDb,
    table: i64,
    (first, last): (i64, i64),
) -> Result<HashMap<i64, Vec<Option<String>>>, sqlx::Error> {
    let rows: Vec<(i64, Option<String>)> = sqlx::query_as(
        "SELECT data_file_id, partition_value FROM ducklake_file_partition_value \
         WHERE table_id = ? AND data_file_id BETWEEN ? AND ? ORDER BY data_file_id, partition_key_index",
    )
    .bind(table)
    .bind(first)
    .bind(last)
    .fetch_all(db.reader())
    .await?;
    let mut files: HashMap<i64, Vec<Option<String>>> = HashMap::new();
    for (file, value) in rows {
        files.entry(file).or_default().push(value);
    }
    Ok(files)
}

fn refuse(table: &TableDef, why: &str) -> Error {
    Error::unsupported(format!("table '{}.{}' {why}", table.schema_name, table.name)).hint(
        "another engine wrote that: have it rewrite the table, for example with CREATE OR REPLACE TABLE ... AS SELECT",
    )
}

fn check_file(table: &TableDef, row: &FileRow) -> Result<()> {
    if row.encryption_key.is_some() {
        return Err(refuse(table, "has encrypted files, which skep does not read"));
    }
    if row.file_format.as_deref().is_some_and(|format| !format.eq_ignore_ascii_case("parquet")) {
        return Err(refuse(table, "has files that are not Parquet"));
    }
    if row.mapping_id.is_some() {
        return Err(refuse(table, "has files without field ids, which skep does not read"));
    }
    let name = row.path.rsplit('/').next().unwrap_or_default();
    let misnamed = |(begin, end): &(i64, Option<i64>)| {
        *begin <= row.begin_snapshot && end.is_none_or(|end| row.begin_snapshot < end)
    };
    if !name.starts_with(FILE_PREFIX) && table.misnamed.iter().any(misnamed) {
        return Err(refuse(table, "has files written after a field inside a column was renamed"));
    }
    Ok(())
}

/// `files` with what of their rows is there in `snapshot`.
fn settle(
    files: Arc<Vec<Arc<DataFile>>>,
    mut deletes: HashMap<i64, DeleteFile>,
    snapshot: i64,
) -> Arc<Vec<Arc<DataFile>>> {
    let until = |file: &DataFile| file.last.filter(|last| *last > snapshot).map(|_| snapshot);
    let settled =
        |file: &Arc<DataFile>| file.deletes.as_ref() == deletes.get(&file.id) && file.until == until(file);
    if files.iter().all(settled) {
        return files;
    }
    let files = files.iter().map(|file| {
        let (deletes, until) = (deletes.remove(&file.id), until(file));
        if (&file.deletes, file.until) == (&deletes, until) {
            return Arc::clone(file);
        }
        Arc::new(DataFile { deletes, until, ..DataFile::clone(file) })
    });
    Arc::new(files.collect())
}

struct DeleteRow {
    data_file_id: i64,
    path: String,
    path_is_relative: Option<i64>,
    format: Option<String>,
    delete_count: i64,
    file_size_bytes: i64,
    encryption_key: Option<String>,
    partial_max: Option<i64>,
}

impl<'r> FromRow<'r, AnyRow> for DeleteRow {
    fn from_row(row: &'r AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            data_file_id: row.try_get("data_file_id")?,
            path: row.try_get("path")?,
            path_is_relative: row.try_get("path_is_relative")?,
            format: row.try_get("format")?,
            delete_count: row.try_get("delete_count")?,
            file_size_bytes: row.try_get("file_size_bytes")?,
            encryption_key: row.try_get("encryption_key")?,
            partial_max: row.try_get("partial_max")?,
        })
    }
}

/// The delete files of `table` in snapshot `id`, by data file. They are few, and change in place: they are read anew.
async fn read_deletes(db: &MetaDb, id: i64, table: &TableDef) -> Result<HashMap<i64, DeleteFile>> {
    let rows: Vec<DeleteRow> = sqlx::query_as(
        "SELECT data_file_id, path, CAST(path_is_relative AS INTEGER) AS path_is_relative, format, delete_count, \
         file_size_bytes, encryption_key, partial_max FROM ducklake_delete_file \
         WHERE table_id = ?1 AND begin_snapshot <= ?2 AND (end_snapshot IS NULL OR end_snapshot > ?2)",
    )
    .bind(table.id)
    .bind(id)
    .fetch_all(db.reader())
    .await
    .map_err(|e| database_error(doing(table), e))?;
    let mut deletes = HashMap::with_capacity(rows.len());
    for row in rows {
        if row.encryption_key.is_some() {
            return Err(refuse(table, "has encrypted delete files, which skep does not read"));
        }
        if row.format.as_deref().is_some_and(|format| !format.eq_ignore_ascii_case("parquet")) {
            return Err(refuse(table, "has delete files that are not Parquet"));
        }
        let relative = row.path_is_relative != Some(0);
        let file = DeleteFile {
            path: if relative { format!("{}{}", table.path, row.path) } else { row.path },
            absolute: !relative || table.absolute,
            bytes: unsigned(row.file_size_bytes),
            rows: unsigned(row.delete_count),
            until: row.partial_max.filter(|last| *last > id).map(|_| id),
        };
        if deletes.insert(row.data_file_id, file).is_some() {
            return Err(Error::corrupt(format!(
                "file {} of table '{}.{}' has two delete files in snapshot {id}",
                row.data_file_id, table.schema_name, table.name
            ))
            .hint("have the engine that deleted the rows rewrite the table"));
        }
    }
    Ok(deletes)
}

/// Refuses tables of which files alone do not tell the rows.
async fn check_inlined_rows(db: &MetaDb, snapshot: i64, table: &TableDef) -> Result<()> {
    let doing = || format!("cannot check table '{}.{}'", table.schema_name, table.name);
    let tables = db.tables().await?;
    let inlined: Vec<(String,)> =
        sqlx::query_as("SELECT table_name FROM ducklake_inlined_data_tables WHERE table_id = ?")
            .bind(table.id)
            .fetch_all(db.reader())
            .await
            .map_err(|e| database_error(doing(), e))?;
    for (name,) in inlined.into_iter().filter(|(name,)| tables.contains(name)) {
        let query = format!(
            "SELECT 1 FROM \"{}\" WHERE begin_snapshot <= ?1 AND (end_snapshot IS NULL OR end_snapshot > ?1) LIMIT 1",
            name.replace('"', "\"\"")
        );
        let rows: Option<(i64,)> = sqlx::query_as(AssertSqlSafe(query))
            .bind(snapshot)
            .fetch_optional(db.reader())
            .await
            .map_err(|e| database_error(doing(), e))?;
        if rows.is_some() {
            return Err(refuse(table, "has rows inlined in the catalog, which skep does not read"));
        }
    }
    if tables.contains(&format!("ducklake_inlined_delete_{}", table.id)) {
        return Err(refuse(table, "has deletions inlined in the catalog, which skep does not read"));
    }
    Ok(())
}
