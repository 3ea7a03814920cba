//! Writes the rows of one commit, inside its database transaction.
//!
//! # Invariants
//! - Ids come from the head's watermarks and the new snapshot carries the watermarks on.
//! - A table of this commit is usable by later changes of it: handles are resolved to ids here.

use std::collections::HashMap;

use skep_common::{Error, Result};
use skep_metadb::{WriteTx, database_error};
use sqlx::{Any, AssertSqlSafe, QueryBuilder};
use uuid::Uuid;

use crate::changes::{self, Token};
use crate::column::{self, Column};
use crate::commit::Head;
use crate::load::aliases_text;
use crate::model::{External, NewFile, Snapshot, TableDef, ViewDef, directory};
use crate::overlay::Staged;
use crate::plan::Plan;
use crate::transaction::CommitInfo;

/// Rows of one statement; SQLite takes 32766 values.
pub(crate) const ROWS_MAX: usize = 1000;

pub(crate) struct Writer<'a> {
    pub(crate) tx: &'a mut WriteTx,
    head: Head,
    time: &'a str,
    pub(crate) snapshot: i64,
    pub(crate) next_catalog_id: i64,
    pub(crate) next_file_id: i64,
    tokens: Vec<Token>,
    /// Ids of tables that the transaction knew by ids below zero.
    created: HashMap<i64, i64>,
    /// Tables whose columns are others from this snapshot on.
    reshaped: Vec<i64>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(tx: &'a mut WriteTx, head: Head, time: &'a str) -> Self {
        Self {
            tx,
            time,
            snapshot: head.snapshot + 1,
            next_catalog_id: head.next_catalog_id,
            next_file_id: head.next_file_id,
            head,
            tokens: Vec::new(),
            created: HashMap::new(),
            reshaped: Vec::new(),
        }
    }

    /// Writes everything, and returns the id of the snapshot. What goes leaves first, so that its name is free.
    pub(crate) async fn write(mut self, base: &Snapshot, info: &CommitInfo, plan: &Plan<'_>) -> Result<i64> {
        for table in &plan.dropped_tables {
            self.drop_table(table).await?;
        }
        for view in &plan.dropped_views {
            self.drop_view(view.id).await?;
        }
        for schema in &plan.dropped_schemas {
            self.drop_schema(schema.id).await?;
        }
        for schema in &plan.created_schemas {
            self.create_schema(&schema.name).await?;
        }
        for (before, after) in &plan.altered {
            self.end_row(before, after).await?;
        }
        for (before, after) in &plan.altered {
            self.alter(before, after).await?;
        }
        for view in &plan.altered_views {
            self.comment_view(view).await?;
        }
        for table in &plan.created_tables {
            self.create_table(table).await?;
        }
        for view in &plan.created_views {
            self.create_view(view).await?;
        }
        for (table, staged) in plan.rows.values() {
            self.change_rows(base, table, staged).await?;
        }
        let schema_version = self.head.schema_version + i64::from(plan.changes_schema());
        self.finish(info, schema_version)
            .await
            .map_err(|e| database_error("cannot write the snapshot", e))?;
        Ok(self.snapshot)
    }

    async fn change_rows(&mut self, base: &Snapshot, table: &TableDef, staged: &Staged) -> Result<()> {
        let id = self.created.get(&table.id).copied().unwrap_or(table.id);
        if !staged.removed.is_empty() {
            self.remove_files(base, id, &staged.removed).await?;
        }
        if staged.compacted {
            self.token(Token::RewriteDelete(id));
        } else if staged.deletes() && table.id >= 0 {
            self.token(Token::DeletedFromTable(id));
        }
        if !staged.added.is_empty() {
            let files: Vec<&NewFile> = staged.added.iter().map(|added| added.file.as_ref()).collect();
            self.append(id, &table.columns, &files).await?;
            self.sketch(id, &table.columns, &files, staged.compacted).await?;
            if !staged.compacted {
                self.token(Token::InsertedIntoTable(id));
            }
        }
        Ok(())
    }

    pub(crate) fn token(&mut self, token: Token) {
        if !self.tokens.contains(&token) {
            self.tokens.push(token);
        }
    }

    /// The columns or partitions of table `id` are others from this snapshot on.
    pub(crate) fn reshaped(&mut self, id: i64) {
        if !self.reshaped.contains(&id) {
            self.reshaped.push(id);
        }
    }

    pub(crate) fn catalog_id(&mut self) -> i64 {
        let id = self.next_catalog_id;
        self.next_catalog_id += 1;
        id
    }

    async fn finish(&mut self, info: &CommitInfo, schema_version: i64) -> Result<(), sqlx::Error> {
        for id in &self.reshaped {
            sqlx::query(
                "INSERT INTO ducklake_schema_versions (begin_snapshot, schema_version, table_id) \
             VALUES (?, ?, ?)",
            )
            .bind(self.snapshot)
            .bind(schema_version)
            .bind(id)
            .execute(self.tx.conn())
            .await?;
        }
        sqlx::query(
            "INSERT INTO ducklake_snapshot (snapshot_id, snapshot_time, schema_version, \
             next_catalog_id, next_file_id) \
             VALUES (?, CAST(? AS TIMESTAMPTZ), ?, ?, ?)",
        )
        .bind(self.snapshot)
        .bind(self.time)
        .bind(schema_version)
        .bind(self.next_catalog_id)
        .bind(self.next_file_id)
        .execute(self.tx.conn())
        .await?;
        sqlx::query(
            "INSERT INTO ducklake_snapshot_changes (snapshot_id, changes_made, author, commit_message, \
             commit_extra_info) \
             VALUES (?, ?, ?, ?, NULL)",
        )
        .bind(self.snapshot)
        .bind(changes::format(&self.tokens))
        .bind(info.author.as_deref())
        .bind(info.message.as_deref())
        .execute(self.tx.conn())
        .await?;
        Ok(())
    }

    /// Ends the live rows of `key = id` in one of the versioned tables, and says how many there were.
    pub(crate) async fn end(&mut self, table: &'static str, key: &'static str, id: i64) -> Result<u64> {
        let sql = format!("UPDATE {table} SET end_snapshot = ? WHERE {key} = ? AND end_snapshot IS NULL");
        let done = sqlx::query(AssertSqlSafe(sql))
            .bind(self.snapshot)
            .bind(id)
            .execute(self.tx.conn())
            .await
            .map_err(|e| database_error(format!("cannot end rows of {table}"), e))?;
        Ok(done.rows_affected())
    }

    /// The live schema of that name: id and path.
    async fn schema(&mut self, name: &str) -> Result<i64> {
        let row: Option<(i64,)> = sqlx::query_as(
            "SELECT schema_id FROM ducklake_schema WHERE schema_name = ? AND end_snapshot IS NULL",
        )
        .bind(name)
        .fetch_optional(self.tx.conn())
        .await
        .map_err(|e| database_error("cannot look for a schema", e))?;
        row.map(|(id,)| id).ok_or_else(|| {
            Error::not_found(format!("schema '{name}' does not exist"))
                .hint(format!("create it with CREATE SCHEMA {name}"))
        })
    }

    /// Refuses a name that another commit took, or one that differs from it only by case: DuckDB could not open a
    /// catalog with both. Returns the id of the schema.
    pub(crate) async fn free_name(&mut self, schema: &str, name: &str) -> Result<i64> {
        let id = self.schema(schema).await?;
        let row: Option<(String, String)> = sqlx::query_as(
            "SELECT 'table', table_name FROM ducklake_table \
             WHERE schema_id = ?1 AND lower(table_name) = lower(?2) AND end_snapshot IS NULL \
             UNION ALL SELECT 'view', view_name FROM ducklake_view \
             WHERE schema_id = ?1 AND lower(view_name) = lower(?2) AND end_snapshot IS NULL \
             UNION ALL SELECT 'external table', table_name FROM skep_external_table \
             WHERE schema_id = ?1 AND lower(table_name) = lower(?2) AND end_snapshot IS NULL",
        )
        .bind(id)
        .bind(name)
        .fetch_optional(self.tx.conn())
        .await
        .map_err(|e| database_error("cannot look for a name", e))?;
        let Some((what, taken)) = row else { return Ok(id) };
        Err(Error::conflict(format!("{what} '{schema}.{taken}' was created in the meantime"))
            .hint("run the statement again"))
    }

    async fn create_schema(&mut self, name: &str) -> Result<()> {
        let doing = || format!("cannot create schema '{name}'");
        let taken: Option<(String,)> = sqlx::query_as(
            "SELECT schema_name FROM ducklake_schema \
             WHERE lower(schema_name) = lower(?) AND end_snapshot IS NULL",
        )
        .bind(name)
        .fetch_optional(self.tx.conn())
        .await
        .map_err(|e| database_error(doing(), e))?;
        if let Some((taken,)) = taken {
            return Err(Error::conflict(format!("schema '{taken}' was created in the meantime")));
        }
        let id = self.catalog_id();
        sqlx::query(
            "INSERT INTO ducklake_schema (schema_id, schema_uuid, begin_snapshot, end_snapshot, \
             schema_name, path, path_is_relative) \
             VALUES (?, CAST(? AS UUID), ?, NULL, ?, ?, true)",
        )
        .bind(id)
        .bind(Uuid::now_v7().to_string())
        .bind(self.snapshot)
        .bind(name)
        .bind(directory(name))
        .execute(self.tx.conn())
        .await
        .map_err(|e| database_error(doing(), e))?;
        self.token(Token::CreatedSchema(name.to_owned()));
        Ok(())
    }

    async fn drop_schema(&mut self, id: i64) -> Result<()> {
        let inside: Option<(String,)> = sqlx::query_as(
            "SELECT table_name FROM ducklake_table WHERE schema_id = ?1 AND end_snapshot IS NULL \
             UNION ALL SELECT view_name FROM ducklake_view WHERE schema_id = ?1 AND end_snapshot IS NULL \
             UNION ALL SELECT macro_name FROM ducklake_macro WHERE schema_id = ?1 AND end_snapshot IS NULL \
             UNION ALL SELECT table_name FROM skep_external_table WHERE schema_id = ?1 AND end_snapshot IS NULL",
        )
        .bind(id)
        .fetch_optional(self.tx.conn())
        .await
        .map_err(|e| database_error("cannot look into a schema", e))?;
        if let Some((name,)) = inside {
            return Err(Error::invalid(format!("the schema is not empty: it holds '{name}'"))
                .hint("drop what it holds first, or add CASCADE"));
        }
        if self.end("ducklake_schema", "schema_id", id).await? == 0 {
            return Err(gone("schema"));
        }
        self.token(Token::DroppedSchema(id));
        Ok(())
    }

    async fn create_table(&mut self, table: &TableDef) -> Result<()> {
        let (schema, name) = (&table.schema_name, &table.name);
        let schema_id = self.free_name(schema, name).await?;
        let id = self.catalog_id();
        self.created.insert(table.id, id);
        if let Some(external) = &table.external {
            return self.insert_external(id, schema_id, table, external).await;
        }
        self.insert_table(id, schema_id, table).await?;
        let doing = || format!("cannot create table '{schema}.{name}'");
        let orders: Vec<i64> = (1..).take(column::all(&table.columns).len()).collect();
        let mut rows = Vec::new();
        flatten(None, &table.columns, &mut rows);
        let rows: Vec<_> = rows.into_iter().zip(orders).collect();
        self.insert_columns(id, &rows).await.map_err(|e| database_error(doing(), e))?;
        self.name_columns(id, &column::all(&table.columns)).await.map_err(|e| database_error(doing(), e))?;
        if let Some(comment) = &table.comment {
            self.insert_comment(id, comment).await?;
        }
        let nothing = TableDef::nothing();
        self.note(id, &nothing, table).await?;
        self.reshaped(id);
        self.token(Token::CreatedTable(schema.clone(), name.clone()));
        Ok(())
    }

    async fn insert_table(&mut self, id: i64, schema_id: i64, table: &TableDef) -> Result<()> {
        let path = if table.located {
            table.path.clone()
        } else {
            // The folder has the name that the table was created with.
            let folder = table.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            format!("{folder}/")
        };
        sqlx::query(
            "INSERT INTO ducklake_table (table_id, table_uuid, begin_snapshot, end_snapshot, schema_id, \
             table_name, path, path_is_relative) \
             VALUES (?, CAST(? AS UUID), ?, NULL, ?, ?, ?, ?)",
        )
        .bind(id)
        .bind(table.uuid.to_string())
        .bind(self.snapshot)
        .bind(schema_id)
        .bind(&table.name)
        .bind(path)
        .bind(!table.located)
        .execute(self.tx.conn())
        .await
        .map_err(|e| {
            database_error(format!("cannot write table '{}.{}'", table.schema_name, table.name), e)
        })?;
        Ok(())
    }

    pub(crate) async fn insert_columns(
        &mut self,
        table: i64,
        rows: &[ColumnRow<'_>],
    ) -> Result<(), sqlx::Error> {
        for chunk in rows.chunks(ROWS_MAX) {
            let snapshot = self.snapshot;
            let mut query: QueryBuilder<Any> = QueryBuilder::new(
                "INSERT INTO ducklake_column (column_id, begin_snapshot, end_snapshot, table_id, \
                     column_order, \
                 column_name, column_type, initial_default, default_value, nulls_allowed, parent_column, \
                 default_value_type, default_value_dialect) ",
            );
            query.push_values(chunk, |mut row, ((parent, column), order)| {
                row.push_bind(column.id)
                    .push_bind(snapshot)
                    .push_bind(None::<i64>)
                    .push_bind(table)
                    .push_bind(*order)
                    .push_bind(&column.name)
                    .push_bind(column.ty.to_string())
                    .push_bind(&column.initial_default)
                    .push_bind(column.default.as_deref().unwrap_or("NULL"))
                    .push_bind(column.nullable)
                    .push_bind(*parent)
                    .push_bind(if column.ty.is_nested() { "" } else { "literal" })
                    .push_bind("duckdb");
            });
            query.build().execute(self.tx.conn()).await?;
        }
        Ok(())
    }

    /// Writes down the names that columns have in files.
    pub(crate) async fn name_columns(&mut self, table: i64, columns: &[&Column]) -> Result<(), sqlx::Error> {
        for chunk in columns.chunks(ROWS_MAX) {
            let mut query: QueryBuilder<Any> =
                QueryBuilder::new("INSERT INTO skep_column (table_id, column_id, physical) ");
            query.push_values(chunk, |mut row, column| {
                row.push_bind(table).push_bind(column.id).push_bind(&column.physical);
            });
            // A column that comes back has its name already.
            query.push(" ON CONFLICT (table_id, column_id) DO NOTHING");
            query.build().execute(self.tx.conn()).await?;
        }
        Ok(())
    }

    async fn drop_table(&mut self, table: &TableDef) -> Result<()> {
        let id = table.id;
        if table.external.is_some() {
            return match self.end("skep_external_table", "table_id", id).await? {
                0 => Err(gone("external table")),
                _ => Ok(()),
            };
        }
        if self.end("ducklake_table", "table_id", id).await? == 0 {
            return Err(gone("table"));
        }
        for table in [
            "ducklake_column",
            "ducklake_column_tag",
            "ducklake_data_file",
            "ducklake_delete_file",
            "ducklake_partition_info",
            "ducklake_sort_info",
        ] {
            self.end(table, "table_id", id).await?;
        }
        self.end("ducklake_tag", "object_id", id).await?;
        self.token(Token::DroppedTable(id));
        Ok(())
    }

    async fn create_view(&mut self, view: &ViewDef) -> Result<()> {
        let (schema, name) = (&view.schema_name, &view.name);
        let schema_id = self.free_name(schema, name).await?;
        let id = self.catalog_id();
        sqlx::query(
            "INSERT INTO ducklake_view (view_id, view_uuid, begin_snapshot, end_snapshot, schema_id, \
             view_name, dialect, sql, column_aliases) \
             VALUES (?, CAST(? AS UUID), ?, NULL, ?, ?, ?, ?, ?)",
        )
        .bind(id)
        .bind(view.uuid.to_string())
        .bind(self.snapshot)
        .bind(schema_id)
        .bind(name)
        .bind(&view.dialect)
        .bind(&view.sql)
        .bind(aliases_text(&view.column_aliases))
        .execute(self.tx.conn())
        .await
        .map_err(|e| database_error(format!("cannot create view '{schema}.{name}'"), e))?;
        if let Some(comment) = &view.comment {
            self.insert_comment(id, comment).await?;
        }
        self.token(Token::CreatedView(schema.clone(), name.clone()));
        Ok(())
    }

    async fn drop_view(&mut self, id: i64) -> Result<()> {
        if self.end("ducklake_view", "view_id", id).await? == 0 {
            return Err(gone("view"));
        }
        self.end("ducklake_tag", "object_id", id).await?;
        self.token(Token::DroppedView(id));
        Ok(())
    }

    pub(crate) async fn insert_external(
        &mut self,
        id: i64,
        schema_id: i64,
        table: &TableDef,
        external: &External,
    ) -> Result<()> {
        let name = &table.name;
        let json = |e| Error::internal(format!("external table '{name}' cannot be written down")).source(e);
        sqlx::query(
            "INSERT INTO skep_external_table (table_id, table_uuid, begin_snapshot, end_snapshot, \
             schema_id, table_name, \
             columns, external, comment) VALUES (?, ?, ?, NULL, ?, ?, ?, ?, ?)",
        )
        .bind(id)
        .bind(table.uuid.to_string())
        .bind(self.snapshot)
        .bind(schema_id)
        .bind(name)
        .bind(serde_json::to_string(&table.columns).map_err(json)?)
        .bind(serde_json::to_string(external).map_err(json)?)
        .bind(&table.comment)
        .execute(self.tx.conn())
        .await
        .map_err(|e| database_error(format!("cannot create external table '{name}'"), e))?;
        Ok(())
    }

    pub(crate) async fn insert_comment(&mut self, object: i64, comment: &str) -> Result<()> {
        sqlx::query(
            "INSERT INTO ducklake_tag (object_id, begin_snapshot, end_snapshot, key, value) \
             VALUES (?, ?, NULL, 'comment', ?)",
        )
        .bind(object)
        .bind(self.snapshot)
        .bind(comment)
        .execute(self.tx.conn())
        .await
        .map_err(|e| database_error("cannot write a comment", e))?;
        Ok(())
    }
}

/// The base had it, and another commit ended it.
pub(crate) fn gone(what: &str) -> Error {
    Error::conflict(format!("the {what} was dropped in the meantime")).hint("run the statement again")
}

/// A column with the id of its parent, and its place.
pub(crate) type ColumnRow<'c> = ((Option<i64>, &'c Column), i64);

pub(crate) fn flatten<'c>(
    parent: Option<i64>,
    columns: &'c [Column],
    rows: &mut Vec<(Option<i64>, &'c Column)>,
) {
    for column in columns {
        rows.push((parent, column));
        flatten(Some(column.id), &column.children, rows);
    }
}
