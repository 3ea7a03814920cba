//! The invariants of a catalog, stated once: for tests, and for whoever doubts a database.
//!
//! What breaks one of them is not noticed by a reader until it gives a wrong answer.

use std::collections::HashMap;

use skep_common::Result;
use skep_metadb::{MetaDb, database_error};

use crate::changes;
use crate::text::{self, Bound};
use crate::types::LakeType;

/// Queries whose rows are violations, each a text that says what is wrong.
const VIOLATIONS: [&str; 9] = [
    "SELECT 'snapshot ' || s.snapshot_id || ' does not say what it changed' FROM ducklake_snapshot s \
     WHERE NOT EXISTS (SELECT 1 FROM ducklake_snapshot_changes c WHERE c.snapshot_id = s.snapshot_id)",
    "SELECT 'snapshot ' || b.snapshot_id || ' goes back behind the one before' \
     FROM ducklake_snapshot a JOIN ducklake_snapshot b ON b.snapshot_id = a.snapshot_id + 1 \
     WHERE b.schema_version < a.schema_version OR b.next_catalog_id < a.next_catalog_id \
       OR b.next_file_id < a.next_file_id OR b.snapshot_time < a.snapshot_time",
    "SELECT 'a snapshot lacks a watermark: ' || snapshot_id FROM ducklake_snapshot \
     WHERE next_catalog_id IS NULL OR next_file_id IS NULL OR schema_version IS NULL",
    "SELECT 'catalog id ' || id || ' is not below its watermark' FROM ( \
       SELECT schema_id id FROM ducklake_schema UNION ALL SELECT table_id FROM ducklake_table \
       UNION ALL SELECT view_id FROM ducklake_view UNION ALL SELECT table_id FROM skep_external_table \
       UNION ALL SELECT partition_id FROM ducklake_partition_info) AS ids \
     WHERE id >= (SELECT next_catalog_id FROM ducklake_snapshot ORDER BY snapshot_id DESC LIMIT 1)",
    "SELECT 'file id ' || id || ' is not below its watermark' FROM ( \
       SELECT data_file_id id FROM ducklake_data_file UNION ALL SELECT delete_file_id FROM ducklake_delete_file) AS ids \
     WHERE id >= (SELECT next_file_id FROM ducklake_snapshot ORDER BY snapshot_id DESC LIMIT 1)",
    "SELECT 'file ' || f.data_file_id || ' has no statistics of column ' || c.column_name || ' (' || c.column_id || ')' \
     FROM ducklake_data_file f JOIN ducklake_column c ON c.table_id = f.table_id \
       AND (c.begin_snapshot < f.begin_snapshot OR c.begin_snapshot = f.begin_snapshot AND NOT EXISTS ( \
         SELECT 1 FROM ducklake_file_column_stats s WHERE s.table_id = f.table_id AND s.data_file_id = f.data_file_id)) \
       AND (c.end_snapshot IS NULL OR c.end_snapshot > f.begin_snapshot) \
     WHERE c.column_type NOT IN ('list', 'struct', 'map', 'variant', 'geometry') \
       AND NOT EXISTS (SELECT 1 FROM ducklake_file_column_stats s \
         WHERE s.table_id = f.table_id AND s.data_file_id = f.data_file_id AND s.column_id = c.column_id)",
    "SELECT 'file ' || f.data_file_id || ' has row ids that its table will give again' \
     FROM ducklake_data_file f LEFT JOIN ducklake_table_stats t ON t.table_id = f.table_id \
     WHERE f.row_id_start IS NOT NULL AND (t.next_row_id IS NULL OR f.row_id_start + f.record_count > t.next_row_id)",
    "SELECT 'file ' || f.data_file_id || ' is live and its table is not' FROM ducklake_data_file f \
     WHERE f.end_snapshot IS NULL AND NOT EXISTS (SELECT 1 FROM ducklake_table t \
       WHERE t.table_id = f.table_id AND t.end_snapshot IS NULL)",
    "SELECT 'the name ' || max(name) || ' is taken twice in schema ' || schema_id FROM ( \
       SELECT schema_id, table_name name FROM ducklake_table WHERE end_snapshot IS NULL \
       UNION ALL SELECT schema_id, view_name FROM ducklake_view WHERE end_snapshot IS NULL \
       UNION ALL SELECT schema_id, table_name FROM skep_external_table WHERE end_snapshot IS NULL) AS names \
     GROUP BY schema_id, lower(name) HAVING count(*) > 1",
];

/// Every violation found, or nothing.
pub(crate) async fn check(db: &MetaDb) -> Result<Vec<String>> {
    let failed = |e| database_error("cannot check the catalog", e);
    let mut found = Vec::new();
    for query in VIOLATIONS {
        let rows: Vec<(String,)> = sqlx::query_as(query).fetch_all(db.reader()).await.map_err(failed)?;
        found.extend(rows.into_iter().map(|(text,)| text));
    }
    let rows: Vec<(i64, Option<String>)> =
        sqlx::query_as("SELECT snapshot_id, changes_made FROM ducklake_snapshot_changes")
            .fetch_all(db.reader())
            .await
            .map_err(failed)?;
    for (id, text) in rows {
        if let Err(error) = changes::parse(&text.unwrap_or_default()) {
            found.push(format!("snapshot {id}: {}", error.message()));
        }
    }
    found.append(&mut bounds(db).await.map_err(failed)?);
    Ok(found)
}

/// Id of table and column.
type Key = (i64, i64);
type GlobalRow = (i64, i64, Option<i64>, Option<i64>, Option<String>, Option<String>);
type FileRow = (i64, i64, i64, Option<i64>, Option<i64>, Option<i64>, Option<String>, Option<String>);

/// Files whose values the bounds of their table do not cover.
async fn bounds(db: &MetaDb) -> Result<Vec<String>, sqlx::Error> {
    let types: Vec<(i64, i64, String)> = sqlx::query_as(
        "SELECT table_id, column_id, column_type FROM ducklake_column ORDER BY begin_snapshot",
    )
    .fetch_all(db.reader())
    .await?;
    let types: HashMap<Key, LakeType> =
        types.into_iter().map(|(t, c, ty)| ((t, c), LakeType::from(ty.as_str()))).collect();
    let globals: Vec<GlobalRow> = sqlx::query_as(
        "SELECT table_id, column_id, CAST(contains_null AS INTEGER), CAST(contains_nan AS INTEGER), min_value, max_value \
         FROM ducklake_table_column_stats",
    )
    .fetch_all(db.reader())
    .await?;
    let globals: HashMap<Key, GlobalRow> = globals.into_iter().map(|row| ((row.0, row.1), row)).collect();
    let files: Vec<FileRow> = sqlx::query_as(
        "SELECT data_file_id, table_id, column_id, value_count, null_count, CAST(contains_nan AS INTEGER), \
         min_value, max_value \
         FROM ducklake_file_column_stats",
    )
    .fetch_all(db.reader())
    .await?;
    let mut found = Vec::new();
    for (file, table, column, values, nulls, nan, min, max) in files {
        let Some(ty) = types.get(&(table, column)) else { continue };
        // No row claims nothing. DuckDB has none for columns that were added to a table with rows.
        let Some(global) = globals.get(&(table, column)) else { continue };
        let mut report = |what: &str| {
            found
                .push(format!("file {file} has {what} of column {column} that table {table} does not cover"));
        };
        let yes = |flag: Option<i64>| flag.is_none_or(|flag| flag != 0);
        if nulls.is_some_and(|count| count > 0) && !yes(global.2) {
            report("NULLs");
        }
        if ty.is_float() && nan == Some(1) && !yes(global.3) {
            report("values that are no number");
        }
        if values == Some(0) {
            continue;
        }
        let read = |text: &Option<String>| text.as_deref().and_then(|text| text::decode(ty, text));
        let greater = |a: &Bound, b: &Bound| a.compare(b).is_none_or(|order| order.is_gt());
        if let Some(wide) = read(&global.4)
            && read(&min).is_none_or(|min| greater(&wide, &min))
        {
            report("values less than the bound");
        }
        if let Some(wide) = read(&global.5)
            && read(&max).is_none_or(|max| greater(&max, &wide))
        {
            report("values greater than the bound");
        }
    }
    Ok(found)
}
