//! Columns and fields inside them: what comes, goes and changes.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::sql::sqlparser::ast;
use skep_catalog::{Column, DataFile, Transform, columns_from_arrow, leaves};
use skep_common::{Error, Result};

use super::path::{find, in_struct, map_by_key, renumber, siblings};
use super::{Rule, Work};
use crate::names;
use crate::planner::{clauses, constant, retype, tables};
use crate::sql::{AlterAction, ColumnPath, ColumnSpec};

impl Work<'_> {
    pub(super) async fn add(
        &mut self,
        path: &ColumnPath,
        spec: &ColumnSpec,
        if_not_exists: bool,
    ) -> Result<()> {
        let place = |e: Error| tables::placed(e, path.at);
        let nested = path.parts.len() > 1;
        let siblings = siblings(&mut self.def.columns, path)?;
        if let Some(taken) = siblings.iter().find(|other| other.name.eq_ignore_ascii_case(&spec.name)) {
            if if_not_exists {
                return Ok(());
            }
            return Err(place(
                Error::already_exists(format!("column '{}' exists already", taken.name)).hint(
                    "names must differ in more than case; ADD COLUMN IF NOT EXISTS does nothing in that case",
                ),
            ));
        }
        self.no_key(path).await?;
        let ty = crate::types::arrow_type(&spec.ty).map_err(place)?;
        let field = Field::new(&spec.name, ty, spec.nullable);
        let mut made = columns_from_arrow(&Schema::new(vec![field])).map_err(place)?;
        let Some(mut column) = made.pop() else { return Ok(()) };
        let first = self.def.next_column_id;
        let last = renumber(&mut column, first);
        if nested && !spec.nullable {
            // A struct that is NULL has NULL for all of its fields.
            return Err(place(
                Error::invalid(format!("field '{path}' cannot be NOT NULL"))
                    .hint("add it without NOT NULL; a column can be, ALTER COLUMN ... SET NOT NULL"),
            ));
        }
        if let Some(expr) = &spec.default {
            let value = constant::default(self.planner, expr, &spec.name, &column.ty).await.map_err(place)?;
            column.initial_default.clone_from(&value);
            column.default = value;
        }
        let missing = !spec.nullable && column.initial_default.is_none();
        if missing && self.def.record_count > 0 {
            return Err(place(
                Error::invalid(format!(
                    "column '{path}' cannot be NOT NULL: the rows that are there would have NULL for it"
                ))
                .hint("give it a DEFAULT, or add it without NOT NULL"),
            ));
        }
        column.comment.clone_from(&spec.comment);
        let name = self.before.fresh_physical(&spec.name, first);
        column.physical = if name == spec.name { self.def.fresh_physical(&spec.name, first) } else { name };
        self.def.next_column_id = last;
        let at = self::siblings(&mut self.def.columns, path)?;
        at.push(column);
        for check in &spec.checks {
            Box::pin(self.action(&AlterAction::AddCheck(check.clone()))).await?;
        }
        Ok(())
    }

    pub(super) async fn drop(&mut self, path: &ColumnPath, if_exists: bool) -> Result<()> {
        let place = |e: Error| tables::placed(e, path.at);
        let found = find(&mut self.def.columns, path).map(|column| (column.id, column.clone()));
        let (id, column) = match found {
            Ok(found) => found,
            Err(_) if if_exists => return Ok(()),
            Err(e) => return Err(e),
        };
        let top = path.parts.first().cloned().unwrap_or_default();
        if let Some(check) =
            self.def.checks.iter().find(|check| clauses::mentioned(&check.sql).contains(&top))
        {
            return Err(place(
                Error::invalid(format!("constraint '{}' reads column '{top}'", check.name))
                    .hint(format!("ALTER TABLE ... DROP CONSTRAINT {} first", names::quote(&check.name))),
            ));
        }
        if self.def.partitioning.keys.iter().any(|key| key.column == id) {
            return Err(place(
                Error::invalid(format!("the table is partitioned by column '{path}'"))
                    .hint("ALTER TABLE ... RESET PARTITIONED BY first"),
            ));
        }
        if self.def.sorting.iter().any(|key| key.column == id) {
            return Err(place(
                Error::invalid(format!("the rows of the table are sorted by column '{path}'"))
                    .hint("ALTER TABLE ... RESET SORTED BY first"),
            ));
        }
        self.no_key(path).await?;
        let siblings = siblings(&mut self.def.columns, path)?;
        if siblings.len() == 1 {
            return Err(place(
                Error::invalid(format!("'{path}' is the last, and one must stay"))
                    .hint("DROP TABLE takes the table away"),
            ));
        }
        siblings.retain(|other| other.id != id);
        if path.parts.len() > 1 {
            let rest: Vec<i64> = leaves(siblings).iter().map(|leaf| leaf.id).collect();
            self.readable_without(path, &column, &rest).await?;
        }
        Ok(())
    }

    /// A struct in a file of which no field is left could not be told from one that is NULL.
    async fn readable_without(&self, path: &ColumnPath, column: &Column, rest: &[i64]) -> Result<()> {
        let files = self.files().await?;
        let gone = leaves(std::slice::from_ref(column));
        let lost = files.iter().any(|file| {
            gone.iter().any(|leaf| file.stats.contains_key(&leaf.id))
                && !rest.iter().any(|leaf| file.stats.contains_key(leaf))
        });
        if !lost {
            return Ok(());
        }
        Err(tables::placed(
            Error::unsupported(format!("'{path}' is the only field of its struct in files that are there"))
                .hint("rewrite the table first: CREATE OR REPLACE TABLE t AS SELECT * FROM t"),
            path.at,
        ))
    }

    /// Refuses to add or drop a field of the keys of a map that files have: keys that differ would become equal.
    async fn no_key(&mut self, path: &ColumnPath) -> Result<()> {
        match map_by_key(&mut self.def.columns, path)? {
            Some(map) if !self.files().await?.is_empty() => Err(tables::placed(
                Error::unsupported(format!("the keys of map '{map}' stay as they are: files have them"))
                    .hint("CREATE OR REPLACE TABLE t AS SELECT ... FROM t builds the map anew"),
                path.at,
            )),
            _ => Ok(()),
        }
    }

    /// The files of the table as it was.
    async fn files(&self) -> Result<Arc<Vec<Arc<DataFile>>>> {
        self.planner.environment.catalog.files(&self.planner.snapshot, self.before.id).await
    }

    pub(super) async fn set_type(&mut self, path: &ColumnPath, ty: &ast::DataType) -> Result<()> {
        let place = |e: Error| tables::placed(e, path.at);
        let ty = crate::types::arrow_type(ty).map_err(place)?;
        let field = Field::new("c", ty, true);
        let mut wanted = columns_from_arrow(&Schema::new(vec![field])).map_err(place)?;
        let Some(wanted) = wanted.pop().map(|column| column.ty) else { return Ok(()) };
        let column = find(&mut self.def.columns, path)?.clone();
        if column.ty == wanted && !column.ty.is_nested() {
            return Ok(());
        }
        retype::allowed(&column, &wanted, path)?;
        if retype::reads_otherwise(&column.ty, &wanted) {
            let top = path.parts.first().cloned().unwrap_or_default();
            if let Some(check) =
                self.def.checks.iter().find(|check| clauses::mentioned(&check.sql).contains(&top))
            {
                return Err(place(
                    Error::invalid(format!(
                        "constraint '{}' reads column '{top}', and may mean something else with another type",
                        check.name
                    ))
                    .hint(format!(
                        "ALTER TABLE ... DROP CONSTRAINT {} first, and add it again",
                        names::quote(&check.name)
                    )),
                ));
            }
            // Files of before would have partition values of another form, or another hash.
            let calendar =
                |transform| matches!(transform, Transform::Year | Transform::Month | Transform::Day);
            let keys = &self.def.partitioning.keys;
            if keys.iter().any(|key| key.column == column.id && !calendar(key.transform)) {
                return Err(place(
                    Error::invalid(format!("the table is partitioned by column '{path}'"))
                        .hint("ALTER TABLE ... RESET PARTITIONED BY first, and set it again after"),
                ));
            }
        }
        let files = self.files().await?;
        let stats = files.iter().filter_map(|file| file.stats.get(&column.id));
        retype::fits(&column, &wanted, stats).map_err(place)?;
        let changed = find(&mut self.def.columns, path)?;
        for default in [&mut changed.default, &mut changed.initial_default] {
            *default = retype::rewritten(default.take(), &column, &wanted).map_err(place)?;
        }
        changed.ty = wanted;
        Ok(())
    }

    pub(super) fn rename_column(&mut self, path: &ColumnPath, name: &str) -> Result<()> {
        let place = |e: Error| tables::placed(e, path.at);
        let id = find(&mut self.def.columns, path)?.id;
        let fixed = path.parts.len() > 1 && !in_struct(&mut self.def.columns, path)?;
        if fixed {
            return Err(place(Error::invalid(format!(
                "'{path}' is not a field of a struct, and keeps its name"
            ))));
        }
        let siblings = siblings(&mut self.def.columns, path)?;
        let taken = siblings.iter().find(|other| other.id != id && other.name.eq_ignore_ascii_case(name));
        if let Some(taken) = taken {
            return Err(place(
                Error::already_exists(format!("column '{}' exists already", taken.name))
                    .hint("names must differ in more than case"),
            ));
        }
        if path.parts.len() > 1 {
            let top = path.parts.first().cloned().unwrap_or_default();
            if let Some(check) =
                self.def.checks.iter().find(|check| clauses::mentioned(&check.sql).contains(&top))
            {
                return Err(place(
                    Error::unsupported(format!("constraint '{}' reads column '{top}'", check.name)).hint(
                        format!(
                            "ALTER TABLE ... DROP CONSTRAINT {} first, and add it again",
                            names::quote(&check.name)
                        ),
                    ),
                ));
            }
        } else if let Some(old) = path.parts.first() {
            for check in &mut self.def.checks {
                check.sql = clauses::renamed(&check.sql, old, name);
            }
        }
        name.clone_into(&mut find(&mut self.def.columns, path)?.name);
        Ok(())
    }

    pub(super) fn set_nullable(&mut self, path: &ColumnPath, nullable: bool) -> Result<()> {
        let was = clauses::top(&self.def.columns, path, "NOT NULL")?.nullable;
        let column = find(&mut self.def.columns, path)?;
        column.nullable = nullable;
        if was && !nullable {
            self.rules.push(Rule::NotNull { column: column.name.clone(), at: path.at });
        }
        Ok(())
    }
}
