//! Reads and writes what a table says beside its columns: comments, properties, CHECK constraints, partitions, order.
//!
//! Comments are tags as the specification has them; properties and constraints are tags under names of their own, which
//! other engines keep and do not read. A property of the table is a tag of its own name.

use std::collections::{BTreeMap, HashMap};

use skep_common::Result;
use skep_metadb::{MetaDb, database_error};

use crate::changes::Token;
use crate::column::{self, Column};
use crate::layout::{CHECK_PREFIX, COMMENT, Check, PartitionKey, Partitioning, SortKey};
use crate::model::{TableDef, ViewDef};
use crate::write::Writer;

const LIVE: &str = "begin_snapshot <= ?1 AND (end_snapshot IS NULL OR end_snapshot > ?1)";

/// Everything of one snapshot, by table or view.
pub(crate) struct Notes {
    tags: HashMap<i64, BTreeMap<String, String>>,
    partitions: HashMap<i64, Partitioning>,
    sorts: HashMap<i64, Vec<SortRow>>,
}

/// Table, expression, direction, place of NULLs.
type SortRow = (i64, String, Option<String>, Option<String>);

impl Notes {
    pub(crate) async fn read(db: &MetaDb, snapshot: i64) -> Result<Self, sqlx::Error> {
        let rows: Vec<(i64, Option<String>, Option<String>)> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "SELECT object_id, \"key\", \"value\" FROM ducklake_tag WHERE {LIVE}"
        )))
        .bind(snapshot)
        .fetch_all(db.reader())
        .await?;
        let mut tags: HashMap<i64, BTreeMap<String, String>> = HashMap::new();
        for (object, key, value) in rows {
            if let (Some(key), Some(value)) = (key, value) {
                tags.entry(object).or_default().insert(key, value);
            }
        }
        let partitions = partitions(db, snapshot).await?;
        let rows: Vec<SortRow> = sqlx::query_as(
            "SELECT i.table_id, e.expression, e.sort_direction, e.null_order FROM ducklake_sort_info i \
             JOIN ducklake_sort_expression e ON e.sort_id = i.sort_id AND e.table_id = i.table_id \
             WHERE i.begin_snapshot <= ?1 AND (i.end_snapshot IS NULL OR i.end_snapshot > ?1) \
             ORDER BY i.table_id, e.sort_key_index",
        )
        .bind(snapshot)
        .fetch_all(db.reader())
        .await?;
        let mut sorts: HashMap<i64, Vec<SortRow>> = HashMap::new();
        for row in rows {
            sorts.entry(row.0).or_default().push(row);
        }
        Ok(Self { tags, partitions, sorts })
    }

    /// The comment of a table or view.
    pub(crate) fn comment(&self, object: i64) -> Option<String> {
        self.tags.get(&object)?.get(COMMENT).cloned()
    }

    /// Moves what is known about `table`, whose columns are there, into it.
    pub(crate) fn put(&mut self, table: &mut TableDef) {
        for (key, value) in self.tags.remove(&table.id).unwrap_or_default() {
            if key == COMMENT {
                table.comment = Some(value);
            } else if let Some(name) = key.strip_prefix(CHECK_PREFIX) {
                table.checks.push(Check { name: name.to_owned(), sql: value });
            } else {
                table.properties.insert(key, value);
            }
        }
        table.partitioning = self.partitions.remove(&table.id).unwrap_or_default();
        let keys = self.sorts.remove(&table.id).unwrap_or_default();
        let keys: Option<Vec<SortKey>> = keys.iter().map(|row| sort_key(row, &table.columns)).collect();
        // An order that is no list of columns is another engine's: files need not have it.
        table.sorting = keys.unwrap_or_default();
    }
}

fn sort_key((_, expression, direction, nulls): &SortRow, columns: &[Column]) -> Option<SortKey> {
    let quoted = expression.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let name = quoted.map_or_else(|| expression.clone(), |name| name.replace("\"\"", "\""));
    let column = columns.iter().find(|column| column.name.eq_ignore_ascii_case(&name))?;
    let is = |text: &Option<String>, word: &str| {
        text.as_deref().is_some_and(|text| text.eq_ignore_ascii_case(word))
    };
    Some(SortKey {
        column: column.id,
        descending: is(direction, "DESC"),
        nulls_first: is(nulls, "NULLS_FIRST"),
    })
}

async fn partitions(db: &MetaDb, snapshot: i64) -> Result<HashMap<i64, Partitioning>, sqlx::Error> {
    let rows: Vec<(i64, i64, Option<i64>, Option<String>)> = sqlx::query_as(
        "SELECT i.table_id, i.partition_id, c.column_id, c.\"transform\" FROM ducklake_partition_info i \
         LEFT JOIN ducklake_partition_column c ON c.partition_id = i.partition_id AND c.table_id = i.table_id \
         WHERE i.begin_snapshot <= ?1 AND (i.end_snapshot IS NULL OR i.end_snapshot > ?1) \
         ORDER BY i.table_id, c.partition_key_index",
    )
    .bind(snapshot)
    .fetch_all(db.reader())
    .await?;
    let mut found: HashMap<i64, Partitioning> = HashMap::new();
    for (table, id, column, transform) in rows {
        // DuckDB takes a partitioning away by one without keys.
        let (Some(column), Some(transform)) = (column, transform) else { continue };
        let partitioning = found.entry(table).or_default();
        partitioning.id = Some(id);
        match transform.parse() {
            Ok(transform) => partitioning.keys.push(PartitionKey { column, transform }),
            Err(()) => partitioning.unknown = true,
        }
    }
    for partitioning in found.values_mut().filter(|partitioning| partitioning.unknown) {
        partitioning.keys.clear();
    }
    Ok(found)
}

/// The comments of all columns of one snapshot.
pub(crate) struct ColumnComments(HashMap<(i64, i64), String>);

impl ColumnComments {
    pub(crate) async fn read(db: &MetaDb, snapshot: i64) -> Result<Self, sqlx::Error> {
        let rows: Vec<(i64, i64, Option<String>)> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "SELECT table_id, column_id, \"value\" FROM ducklake_column_tag WHERE \"key\" = '{COMMENT}' AND {LIVE}"
        )))
        .bind(snapshot)
        .fetch_all(db.reader())
        .await?;
        Ok(Self(
            rows.into_iter().filter_map(|(table, column, text)| Some(((table, column), text?))).collect(),
        ))
    }

    pub(crate) fn put(&self, table: i64, columns: &mut [Column]) {
        for column in columns {
            column.comment = self.0.get(&(table, column.id)).cloned();
            self.put(table, &mut column.children);
        }
    }
}

impl Writer<'_> {
    /// Writes what differs between two states of table `id` beside its name, columns and comment. For a table that is
    /// made, `before` has nothing of it.
    pub(crate) async fn note(&mut self, id: i64, before: &TableDef, after: &TableDef) -> Result<()> {
        let doing = || format!("cannot change table '{}.{}'", after.schema_name, after.name);
        self.tags(id, before, after).await.map_err(|e| database_error(doing(), e))?;
        self.column_comments(id, &before.columns, &after.columns)
            .await
            .map_err(|e| database_error(doing(), e))?;
        let layout = |table: &TableDef| (table.partitioning.keys.clone(), table.partitioning.unknown);
        if layout(before) != layout(after) {
            self.end("ducklake_partition_info", "table_id", id).await?;
            self.partition(id, &after.partitioning.keys).await.map_err(|e| database_error(doing(), e))?;
            if before.id == id {
                self.reshaped(id);
                self.token(Token::AlteredTable(id));
            }
        }
        if sort_texts(before) != sort_texts(after) {
            self.end("ducklake_sort_info", "table_id", id).await?;
            self.sort(id, after).await.map_err(|e| database_error(doing(), e))?;
            self.altered(id, before);
        }
        Ok(())
    }

    fn altered(&mut self, id: i64, before: &TableDef) {
        if before.id == id {
            self.token(Token::AlteredTable(id));
        }
    }

    async fn tags(&mut self, id: i64, before: &TableDef, after: &TableDef) -> Result<(), sqlx::Error> {
        let (old, new) = (tag_map(before), tag_map(after));
        for key in old.keys().filter(|key| old.get(*key) != new.get(*key)) {
            sqlx::query(
                "UPDATE ducklake_tag SET end_snapshot = ? WHERE object_id = ? AND \"key\" = ? AND end_snapshot IS NULL",
            )
            .bind(self.snapshot)
            .bind(id)
            .bind(key)
            .execute(self.tx.conn())
            .await?;
            self.altered(id, before);
        }
        for (key, value) in new.iter().filter(|(key, value)| old.get(*key) != Some(*value)) {
            sqlx::query(
                "INSERT INTO ducklake_tag (object_id, begin_snapshot, end_snapshot, \"key\", \"value\") \
                 VALUES (?, ?, NULL, ?, ?)",
            )
            .bind(id)
            .bind(self.snapshot)
            .bind(key)
            .bind(value)
            .execute(self.tx.conn())
            .await?;
            self.altered(id, before);
        }
        Ok(())
    }

    async fn column_comments(
        &mut self,
        id: i64,
        before: &[Column],
        after: &[Column],
    ) -> Result<(), sqlx::Error> {
        let comments = |columns: &[Column]| -> BTreeMap<i64, String> {
            let all = column::all(columns).into_iter();
            all.filter_map(|column| Some((column.id, column.comment.clone()?))).collect()
        };
        let (old, new) = (comments(before), comments(after));
        for (column, _) in old.iter().filter(|(column, text)| new.get(*column) != Some(*text)) {
            sqlx::query(
                "UPDATE ducklake_column_tag SET end_snapshot = ? \
                 WHERE table_id = ? AND column_id = ? AND \"key\" = 'comment' AND end_snapshot IS NULL",
            )
            .bind(self.snapshot)
            .bind(id)
            .bind(column)
            .execute(self.tx.conn())
            .await?;
        }
        for (column, text) in new.iter().filter(|(column, text)| old.get(*column) != Some(*text)) {
            sqlx::query(
                "INSERT INTO ducklake_column_tag (table_id, column_id, begin_snapshot, end_snapshot, \"key\", \"value\") \
                 VALUES (?, ?, ?, NULL, 'comment', ?)",
            )
            .bind(id)
            .bind(column)
            .bind(self.snapshot)
            .bind(text)
            .execute(self.tx.conn())
            .await?;
        }
        Ok(())
    }

    async fn partition(&mut self, id: i64, keys: &[PartitionKey]) -> Result<(), sqlx::Error> {
        if keys.is_empty() {
            return Ok(());
        }
        let partition = self.catalog_id();
        sqlx::query(
            "INSERT INTO ducklake_partition_info (partition_id, table_id, begin_snapshot, end_snapshot) \
             VALUES (?, ?, ?, NULL)",
        )
        .bind(partition)
        .bind(id)
        .bind(self.snapshot)
        .execute(self.tx.conn())
        .await?;
        for (index, key) in (0i64..).zip(keys) {
            sqlx::query(
                "INSERT INTO ducklake_partition_column \
                 (partition_id, table_id, partition_key_index, column_id, \"transform\") VALUES (?, ?, ?, ?, ?)",
            )
            .bind(partition)
            .bind(id)
            .bind(index)
            .bind(key.column)
            .bind(key.transform.to_string())
            .execute(self.tx.conn())
            .await?;
        }
        Ok(())
    }

    async fn sort(&mut self, id: i64, table: &TableDef) -> Result<(), sqlx::Error> {
        if table.sorting.is_empty() {
            return Ok(());
        }
        let sort = self.catalog_id();
        sqlx::query(
            "INSERT INTO ducklake_sort_info (sort_id, table_id, begin_snapshot, end_snapshot) VALUES (?, ?, ?, NULL)",
        )
        .bind(sort)
        .bind(id)
        .bind(self.snapshot)
        .execute(self.tx.conn())
        .await?;
        for (index, (expression, direction, nulls)) in (0i64..).zip(sort_texts(table)) {
            sqlx::query(
                "INSERT INTO ducklake_sort_expression \
                 (sort_id, table_id, sort_key_index, expression, dialect, sort_direction, null_order) \
                 VALUES (?, ?, ?, ?, 'duckdb', ?, ?)",
            )
            .bind(sort)
            .bind(id)
            .bind(index)
            .bind(expression)
            .bind(direction)
            .bind(nulls)
            .execute(self.tx.conn())
            .await?;
        }
        Ok(())
    }

    /// A view gets another comment, or none.
    pub(crate) async fn comment_view(&mut self, view: &ViewDef) -> Result<()> {
        self.end_comment(view.id).await?;
        if let Some(comment) = &view.comment {
            self.insert_comment(view.id, comment).await?;
        }
        self.token(Token::AlteredView(view.id));
        Ok(())
    }
}

fn tag_map(table: &TableDef) -> BTreeMap<String, &str> {
    let checks =
        table.checks.iter().map(|check| (format!("{CHECK_PREFIX}{}", check.name), check.sql.as_str()));
    let properties = table.properties.iter().map(|(key, value)| (key.clone(), value.as_str()));
    checks.chain(properties).collect()
}

/// The order as expressions, which name columns as they are called.
fn sort_texts(table: &TableDef) -> Vec<(String, &'static str, &'static str)> {
    let text = |key: &SortKey| {
        let name = &table.columns.iter().find(|column| column.id == key.column)?.name;
        let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit());
        let name = if plain { name.clone() } else { format!("\"{}\"", name.replace('"', "\"\"")) };
        let nulls = if key.nulls_first { "NULLS_FIRST" } else { "NULLS_LAST" };
        Some((name, if key.descending { "DESC" } else { "ASC" }, nulls))
    };
    table.sorting.iter().filter_map(text).collect()
}
