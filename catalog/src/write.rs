//! Writes the rows of one commit, inside its database transaction.
//!
//! # Invariants
//! - Ids come from the head's watermarks and the new snapshot carries the watermarks on.
//! - A table of this commit is usable by later changes of it: handles are resolved to ids here.

use std::collections::HashMap;

use skep_common::{Error, Kind, Result};
use skep_metadb::{WriteTx, database_error};
use sqlx::{AssertSqlSafe, QueryBuilder, Sqlite};
use uuid::Uuid;

use crate::changes::{self, Token};
use crate::column::Column;
use crate::commit::Head;
use crate::load::aliases_text;
use crate::model::{DIALECT, External, Snapshot, directory};
use crate::plan::Plan;
use crate::transaction::{Change, CommitInfo, TableRef, Transaction};

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
    /// Tables of this commit, by handle.
    created: HashMap<u32, (i64, &'a [Column])>,
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
        }
    }

    /// Writes everything, and returns the id of the snapshot.
    pub(crate) async fn write(mut self, transaction: &'a Transaction, plan: &Plan) -> Result<i64> {
        for change in &transaction.changes {
            self.apply(&transaction.base, change).await?;
        }
        let schema_version = self.head.schema_version + i64::from(plan.changes_schema);
        self.finish(&transaction.info, schema_version)
            .await
            .map_err(|e| database_error("cannot write the snapshot", e))?;
        Ok(self.snapshot)
    }

    async fn apply(&mut self, base: &Snapshot, change: &'a Change) -> Result<()> {
        match change {
            Change::CreateSchema { name } => self.create_schema(base, name).await,
            Change::DropSchema { id } => self.drop_schema(*id).await,
            Change::CreateTable { handle, schema, name, columns, comment } => {
                let id = self.create_table(base, schema, name, columns, comment.as_deref()).await?;
                self.created.insert(*handle, (id, columns));
                Ok(())
            }
            Change::DropTable { id } => self.drop_table(base, *id).await,
            Change::PutView { schema, name, sql, column_aliases, or_replace } => {
                if *or_replace && let Some(old) = self.live_id("view", schema, name).await? {
                    self.drop_view(old).await?;
                }
                self.create_view(base, schema, name, sql, column_aliases).await
            }
            Change::DropView { id } => self.drop_view(*id).await,
            Change::PutExternal { schema, name, columns, external, comment, or_replace } => {
                if *or_replace && let Some(old) = self.live_id("external", schema, name).await? {
                    self.end("skep_external_table", "table_id", old).await?;
                }
                self.create_external(base, schema, name, columns, external, comment.as_deref()).await
            }
            Change::Comment { table, comment } => self.comment(base, *table, comment.as_deref()).await,
            Change::Append { table, files } => {
                if files.is_empty() {
                    return Ok(());
                }
                let (id, columns) = match table {
                    TableRef::Existing(id) => (*id, base.table_by_id(*id).map(|table| table.columns.clone())),
                    TableRef::New(handle) => {
                        let found = self.created.get(handle);
                        found.map_or((0, None), |(id, columns)| (*id, Some(columns.to_vec())))
                    }
                };
                let columns =
                    columns.ok_or_else(|| Error::internal(format!("table {id} is not in the base")))?;
                self.append(id, &columns, files).await?;
                self.token(Token::InsertedIntoTable(id));
                Ok(())
            }
            Change::RemoveFiles { table, files } => {
                if files.is_empty() {
                    return Ok(());
                }
                self.remove_files(base, *table, files).await?;
                self.token(Token::DeletedFromTable(*table));
                Ok(())
            }
        }
    }

    fn token(&mut self, token: Token) {
        if !self.tokens.contains(&token) {
            self.tokens.push(token);
        }
    }

    fn catalog_id(&mut self) -> i64 {
        let id = self.next_catalog_id;
        self.next_catalog_id += 1;
        id
    }

    async fn finish(&mut self, info: &CommitInfo, schema_version: i64) -> Result<(), sqlx::Error> {
        for (id, _) in self.created.values() {
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
             VALUES (?, ?, ?, ?, ?)",
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
    async fn end(&mut self, table: &'static str, key: &'static str, id: i64) -> Result<u64> {
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

    async fn live_id(&mut self, what: &'static str, schema: &str, name: &str) -> Result<Option<i64>> {
        let schema = self.schema(schema).await?;
        let sql = match what {
            "view" => {
                "SELECT view_id FROM ducklake_view WHERE schema_id = ? AND view_name = ? AND end_snapshot IS NULL"
            }
            _ => {
                "SELECT table_id FROM skep_external_table WHERE schema_id = ? AND table_name = ? \
                 AND end_snapshot IS NULL"
            }
        };
        let row: Option<(i64,)> = sqlx::query_as(sql)
            .bind(schema)
            .bind(name)
            .fetch_optional(self.tx.conn())
            .await
            .map_err(|e| database_error(format!("cannot look for a {what}"), e))?;
        Ok(row.map(|(id,)| id))
    }

    /// Refuses a name that a table or view of the schema has, or one that differs from it only by case: DuckDB could
    /// not open a catalog with both. Returns the id of the schema.
    async fn free_name(&mut self, base: &Snapshot, schema: &str, name: &str) -> Result<i64> {
        let id = self.schema(schema).await?;
        let row: Option<(String, String)> = sqlx::query_as(
            "SELECT 'table', table_name FROM ducklake_table \
             WHERE schema_id = ?1 AND table_name = ?2 COLLATE NOCASE AND end_snapshot IS NULL \
             UNION ALL SELECT 'view', view_name FROM ducklake_view \
             WHERE schema_id = ?1 AND view_name = ?2 COLLATE NOCASE AND end_snapshot IS NULL \
             UNION ALL SELECT 'external table', table_name FROM skep_external_table \
             WHERE schema_id = ?1 AND table_name = ?2 COLLATE NOCASE AND end_snapshot IS NULL",
        )
        .bind(id)
        .bind(name)
        .fetch_optional(self.tx.conn())
        .await
        .map_err(|e| database_error("cannot look for a name", e))?;
        let Some((what, taken)) = row else { return Ok(id) };
        let known = base.table(schema, &taken).is_some() || base.view(schema, &taken).is_some();
        // One that came after the base is another commit's doing.
        let kind = if known { Kind::AlreadyExists } else { Kind::Conflict };
        let error = Error::new(kind, format!("{what} '{schema}.{taken}' already exists"));
        Err(if taken == name {
            error.hint("choose another name, or drop it first")
        } else {
            error.hint("names must differ in more than case")
        })
    }

    async fn create_schema(&mut self, base: &Snapshot, name: &str) -> Result<()> {
        let doing = || format!("cannot create schema '{name}'");
        let taken: Option<(String,)> = sqlx::query_as(
            "SELECT schema_name FROM ducklake_schema \
             WHERE schema_name = ? COLLATE NOCASE AND end_snapshot IS NULL",
        )
        .bind(name)
        .fetch_optional(self.tx.conn())
        .await
        .map_err(|e| database_error(doing(), e))?;
        if let Some((taken,)) = taken {
            let kind = if base.schema(&taken).is_some() { Kind::AlreadyExists } else { Kind::Conflict };
            return Err(Error::new(kind, format!("schema '{taken}' already exists")));
        }
        let id = self.catalog_id();
        sqlx::query(
            "INSERT INTO ducklake_schema (schema_id, schema_uuid, begin_snapshot, end_snapshot, \
             schema_name, path, path_is_relative) \
             VALUES (?, ?, ?, NULL, ?, ?, 1)",
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

    async fn create_table(
        &mut self,
        base: &Snapshot,
        schema: &str,
        name: &str,
        columns: &[Column],
        comment: Option<&str>,
    ) -> Result<i64> {
        let schema_id = self.free_name(base, schema, name).await?;
        let id = self.catalog_id();
        let doing = || format!("cannot create table '{schema}.{name}'");
        sqlx::query(
            "INSERT INTO ducklake_table (table_id, table_uuid, begin_snapshot, end_snapshot, schema_id, \
             table_name, path, path_is_relative) \
             VALUES (?, ?, ?, NULL, ?, ?, ?, 1)",
        )
        .bind(id)
        .bind(Uuid::now_v7().to_string())
        .bind(self.snapshot)
        .bind(schema_id)
        .bind(name)
        .bind(directory(name))
        .execute(self.tx.conn())
        .await
        .map_err(|e| database_error(doing(), e))?;
        self.insert_columns(id, columns).await.map_err(|e| database_error(doing(), e))?;
        if let Some(comment) = comment {
            self.insert_comment(id, comment).await?;
        }
        self.token(Token::CreatedTable(schema.to_owned(), name.to_owned()));
        Ok(id)
    }

    async fn insert_columns(&mut self, table: i64, columns: &[Column]) -> Result<(), sqlx::Error> {
        let mut rows = Vec::new();
        flatten(None, columns, &mut rows);
        let orders: Vec<i64> = (1..).take(rows.len()).collect();
        for chunk in rows.iter().zip(&orders).collect::<Vec<_>>().chunks(ROWS_MAX) {
            let snapshot = self.snapshot;
            let mut query: QueryBuilder<Sqlite> = QueryBuilder::new(
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
                    .push_bind(**order)
                    .push_bind(&column.name)
                    .push_bind(column.ty.to_string())
                    .push_bind(&column.initial_default)
                    .push_bind(column.default.as_deref().unwrap_or("NULL"))
                    .push_bind(i64::from(column.nullable))
                    .push_bind(*parent)
                    .push_bind(if column.ty.is_nested() { "" } else { "literal" })
                    .push_bind("duckdb");
            });
            query.build().execute(self.tx.conn()).await?;
            let mut query: QueryBuilder<Sqlite> =
                QueryBuilder::new("INSERT INTO skep_column (table_id, column_id, physical) ");
            query.push_values(chunk, |mut row, ((_, column), _)| {
                row.push_bind(table).push_bind(column.id).push_bind(&column.physical);
            });
            query.build().execute(self.tx.conn()).await?;
        }
        Ok(())
    }

    async fn drop_table(&mut self, base: &Snapshot, id: i64) -> Result<()> {
        if base.table_by_id(id).is_some_and(|table| table.external.is_some()) {
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

    async fn create_view(
        &mut self,
        base: &Snapshot,
        schema: &str,
        name: &str,
        sql: &str,
        aliases: &[String],
    ) -> Result<()> {
        let schema_id = self.free_name(base, schema, name).await?;
        let id = self.catalog_id();
        sqlx::query(
            "INSERT INTO ducklake_view (view_id, view_uuid, begin_snapshot, end_snapshot, schema_id, \
             view_name, dialect, sql, column_aliases) \
             VALUES (?, ?, ?, NULL, ?, ?, ?, ?, ?)",
        )
        .bind(id)
        .bind(Uuid::now_v7().to_string())
        .bind(self.snapshot)
        .bind(schema_id)
        .bind(name)
        .bind(DIALECT)
        .bind(sql)
        .bind(aliases_text(aliases))
        .execute(self.tx.conn())
        .await
        .map_err(|e| database_error(format!("cannot create view '{schema}.{name}'"), e))?;
        self.token(Token::CreatedView(schema.to_owned(), name.to_owned()));
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

    async fn create_external(
        &mut self,
        base: &Snapshot,
        schema: &str,
        name: &str,
        columns: &[Column],
        external: &External,
        comment: Option<&str>,
    ) -> Result<()> {
        let schema_id = self.free_name(base, schema, name).await?;
        let id = self.catalog_id();
        self.insert_external(id, schema_id, name, columns, external, comment).await
    }

    async fn insert_external(
        &mut self,
        id: i64,
        schema_id: i64,
        name: &str,
        columns: &[Column],
        external: &External,
        comment: Option<&str>,
    ) -> Result<()> {
        let json = |e| Error::internal(format!("external table '{name}' cannot be written down")).source(e);
        sqlx::query(
            "INSERT INTO skep_external_table (table_id, table_uuid, begin_snapshot, end_snapshot, \
             schema_id, table_name, \
             columns, external, comment) VALUES (?, ?, ?, NULL, ?, ?, ?, ?, ?)",
        )
        .bind(id)
        .bind(Uuid::now_v7().to_string())
        .bind(self.snapshot)
        .bind(schema_id)
        .bind(name)
        .bind(serde_json::to_string(columns).map_err(json)?)
        .bind(serde_json::to_string(external).map_err(json)?)
        .bind(comment)
        .execute(self.tx.conn())
        .await
        .map_err(|e| database_error(format!("cannot create external table '{name}'"), e))?;
        Ok(())
    }

    async fn comment(&mut self, base: &Snapshot, id: i64, comment: Option<&str>) -> Result<()> {
        let table = base.table_by_id(id).ok_or_else(|| gone("table"))?;
        if let Some(external) = &table.external {
            if self.end("skep_external_table", "table_id", id).await? == 0 {
                return Err(gone("external table"));
            }
            let (schema, name) = (table.schema, &table.name);
            return self.insert_external(id, schema, name, &table.columns, external, comment).await;
        }
        self.end("ducklake_tag", "object_id", id).await?;
        if let Some(comment) = comment {
            self.insert_comment(id, comment).await?;
        }
        self.token(Token::AlteredTable(id));
        Ok(())
    }

    async fn insert_comment(&mut self, object: i64, comment: &str) -> Result<()> {
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
    Error::conflict(format!("the {what} was dropped since this statement began"))
        .hint("run the statement again")
}

fn flatten<'c>(parent: Option<i64>, columns: &'c [Column], rows: &mut Vec<(Option<i64>, &'c Column)>) {
    for column in columns {
        rows.push((parent, column));
        flatten(Some(column.id), &column.children, rows);
    }
}
