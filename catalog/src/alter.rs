//! Writes what became of a table that exists: another name, other columns, another comment.

use std::collections::HashMap;

use skep_common::{Error, Result};
use skep_metadb::database_error;
use sqlx::AssertSqlSafe;

use crate::changes::Token;
use crate::column::{self, Column};
use crate::model::TableDef;
use crate::text::{self, Bound};
use crate::types::LakeType;
use crate::write::{ColumnRow, Writer, flatten, gone};

impl Writer<'_> {
    /// Takes the row of a table away that gets another: first of all, so that tables can exchange their names.
    pub(crate) async fn end_row(&mut self, before: &TableDef, after: &TableDef) -> Result<()> {
        let (table, what) = match before.external {
            Some(_) => ("skep_external_table", "external table"),
            None if before.name != after.name => ("ducklake_table", "table"),
            None => return Ok(()),
        };
        match self.end(table, "table_id", before.id).await? {
            0 => Err(gone(what)),
            _ => Ok(()),
        }
    }

    /// `before`, whose row was taken away, becomes `after`: two states of one table.
    pub(crate) async fn alter(&mut self, before: &TableDef, after: &TableDef) -> Result<()> {
        let id = before.id;
        let renamed = before.name != after.name;
        if let Some(external) = &after.external {
            if renamed {
                self.free_name(&after.schema_name, &after.name).await?;
            }
            return self.insert_external(id, after.schema, after, external).await;
        }
        if renamed {
            self.free_name(&after.schema_name, &after.name).await?;
            self.rename(id, &after.name).await?;
            // As DuckDB logs a rename.
            self.token(Token::CreatedTable(after.schema_name.clone(), after.name.clone()));
        }
        if before.columns != after.columns {
            self.set_columns(before, after).await?;
            self.reshaped(id);
            self.token(Token::AlteredTable(id));
        }
        if before.comment != after.comment {
            self.end_comment(id).await?;
            if let Some(comment) = &after.comment {
                self.insert_comment(id, comment).await?;
            }
            self.token(Token::AlteredTable(id));
        }
        self.note(id, before, after).await
    }

    /// Another name for the table whose row ended in this snapshot; its folder stays.
    async fn rename(&mut self, id: i64, name: &str) -> Result<()> {
        sqlx::query(
            "INSERT INTO ducklake_table (table_id, table_uuid, begin_snapshot, end_snapshot, schema_id, table_name, \
             path, path_is_relative) \
             SELECT table_id, table_uuid, ?1, NULL, schema_id, ?2, path, path_is_relative FROM ducklake_table \
             WHERE table_id = ?3 AND end_snapshot = ?1",
        )
        .bind(self.snapshot)
        .bind(name)
        .bind(id)
        .execute(self.tx.conn())
        .await
        .map_err(|e| database_error(format!("cannot rename a table to '{name}'"), e))?;
        Ok(())
    }

    pub(crate) async fn end_comment(&mut self, id: i64) -> Result<()> {
        sqlx::query(
            "UPDATE ducklake_tag SET end_snapshot = ? \
             WHERE object_id = ? AND key = 'comment' AND end_snapshot IS NULL",
        )
        .bind(self.snapshot)
        .bind(id)
        .execute(self.tx.conn())
        .await
        .map_err(|e| database_error("cannot take a comment away", e))?;
        Ok(())
    }

    async fn set_columns(&mut self, before: &TableDef, after: &TableDef) -> Result<()> {
        let id = before.id;
        let doing = || format!("cannot change the columns of table '{}.{}'", after.schema_name, after.name);
        let places = self.places(id).await.map_err(|e| database_error(doing(), e))?;
        let former = self.former(id).await.map_err(|e| database_error(doing(), e))?;
        let mut last = places.values().copied().max().unwrap_or(0);
        let (mut old, mut rows) = (Vec::new(), Vec::new());
        flatten(None, &before.columns, &mut old);
        flatten(None, &after.columns, &mut rows);
        let old: HashMap<i64, (Option<i64>, &Column)> =
            old.into_iter().map(|(parent, column)| (column.id, (parent, column))).collect();
        let mut written: Vec<ColumnRow<'_>> = Vec::new();
        let mut ended: Vec<i64> = old.keys().copied().collect();
        for (parent, column) in rows {
            match old.get(&column.id) {
                Some((old_parent, old)) if *old_parent == parent && same_row(old, column) => {
                    ended.retain(|id| *id != column.id);
                }
                Some(_) => written.push(((parent, column), places.get(&column.id).copied().unwrap_or(0))),
                None => match former.iter().find(|row| row.0 == column.id) {
                    // It was there once, and has its place again; its bounds are of the type that it had last.
                    Some((_, place, ty)) if *ty == column.ty.to_string() => {
                        written.push(((parent, column), *place));
                    }
                    Some((.., ty)) => {
                        return Err(Error::unsupported(format!(
                            "column '{}' had the type '{ty}' when it was dropped, and cannot come back as '{}'",
                            column.name, column.ty
                        ))
                        .hint("CREATE TABLE ... AS SELECT from the earlier snapshot keeps what it had"));
                    }
                    None => {
                        last += 1;
                        written.push(((parent, column), last));
                    }
                },
            }
        }
        for column in ended {
            sqlx::query(
                "UPDATE ducklake_column SET end_snapshot = ? \
                 WHERE table_id = ? AND column_id = ? AND end_snapshot IS NULL",
            )
            .bind(self.snapshot)
            .bind(id)
            .bind(column)
            .execute(self.tx.conn())
            .await
            .map_err(|e| database_error(doing(), e))?;
        }
        self.insert_columns(id, &written).await.map_err(|e| database_error(doing(), e))?;
        for ((_, column), _) in &written {
            let was = old.get(&column.id).map(|(_, old)| &old.ty);
            if was == Some(&LakeType::Float32) && column.ty == LakeType::Float64 {
                self.widen_floats(id, column.id).await.map_err(|e| database_error(doing(), e))?;
            }
        }
        let fresh: Vec<&Column> =
            column::all(&after.columns).into_iter().filter(|column| !old.contains_key(&column.id)).collect();
        self.name_columns(id, &fresh).await.map_err(|e| database_error(doing(), e))
    }

    /// The bounds of a column that becomes a double: the shortest digits of a float32 are beside its value as a double,
    /// and whoever reads doubles would skip by them. Read as a float32 the longer ones are the same.
    async fn widen_floats(&mut self, table: i64, column: i64) -> Result<(), sqlx::Error> {
        for name in ["ducklake_file_column_stats", "ducklake_table_column_stats"] {
            let sql = format!(
                "SELECT DISTINCT min_value, max_value FROM {name} WHERE table_id = ? AND column_id = ?"
            );
            let bounds: Vec<(Option<String>, Option<String>)> =
                sqlx::query_as(AssertSqlSafe(sql)).bind(table).bind(column).fetch_all(self.tx.conn()).await?;
            let double = |text: &Option<String>| {
                let value = text.as_deref()?.parse::<f32>().ok()?;
                text::encode(&LakeType::Float64, &Bound::Float(f64::from(value)))
            };
            for (min, max) in bounds {
                let sql = format!(
                    "UPDATE {name} SET min_value = ?3, max_value = ?4 WHERE table_id = ?1 AND column_id = ?2 \
                     AND min_value IS NOT DISTINCT FROM ?5 AND max_value IS NOT DISTINCT FROM ?6"
                );
                sqlx::query(AssertSqlSafe(sql))
                    .bind(table)
                    .bind(column)
                    .bind(double(&min))
                    .bind(double(&max))
                    .bind(&min)
                    .bind(&max)
                    .execute(self.tx.conn())
                    .await?;
            }
        }
        Ok(())
    }

    /// Id, `column_order` and type of what columns of a table were before, the latest first.
    async fn former(&mut self, table: i64) -> Result<Vec<(i64, i64, String)>, sqlx::Error> {
        sqlx::query_as(
            "SELECT column_id, column_order, column_type FROM ducklake_column \
             WHERE table_id = ? AND end_snapshot IS NOT NULL ORDER BY end_snapshot DESC",
        )
        .bind(table)
        .fetch_all(self.tx.conn())
        .await
    }

    /// `column_order` by column.
    async fn places(&mut self, table: i64) -> Result<HashMap<i64, i64>, sqlx::Error> {
        let rows: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT column_id, column_order FROM ducklake_column WHERE table_id = ? AND end_snapshot IS NULL",
        )
        .bind(table)
        .fetch_all(self.tx.conn())
        .await?;
        Ok(rows.into_iter().collect())
    }
}

/// Whether the rows of two states of a column are equal; children have rows of their own.
fn same_row(a: &Column, b: &Column) -> bool {
    (&a.name, &a.ty, a.nullable) == (&b.name, &b.ty, b.nullable)
        && (&a.initial_default, &a.default) == (&b.initial_default, &b.default)
}
