//! ALTER TABLE: from what a statement asks to what changes in the catalog, and what the rows must be looked at for.
//!
//! ```text
//! AlterTable --each action on a copy of the table--> the table as it should be --difference--> [Change], [Rule]
//! ```
//!
//! # Invariants
//! - An action sees what those before it did; nothing changes if one of them fails.
//! - Files are never rewritten: a change that old files cannot be read with is refused.

mod columns;
mod like;
mod path;
mod rule;

pub use rule::Rule;

use std::sync::Arc;

use skep_catalog::{Change, TableDef};
use skep_common::{Error, Position, Result};

use super::{Planner, clauses, constant, tables};
use crate::names;
use crate::sql::{AlterAction, AlterTable, Name};
use path::find;

/// What ALTER TABLE comes to.
#[derive(Debug, Clone, Default)]
pub struct Altered {
    /// What changes. Empty: nothing to do.
    pub changes: Vec<Change>,
    /// What the rows of the table must fulfil before it does.
    pub rules: Vec<Rule>,
    /// The table, under the name it has after the changes.
    pub table: (String, String),
}

impl Planner {
    /// What `alter` comes to.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for tables and columns that are not there,
    /// [`Kind::AlreadyExists`](skep_common::Kind::AlreadyExists) for names that are taken, and
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) or [`Kind::Unsupported`](skep_common::Kind::Unsupported) for
    /// changes that a table cannot have, all with the position.
    pub async fn alter_table(&self, alter: &AlterTable) -> Result<Altered> {
        let schema = alter.name.schema_or(self.settings.schema());
        let Some(table) = self.snapshot.table(schema, &alter.name.name) else {
            if alter.if_exists {
                return Ok(Altered::default());
            }
            return Err(match self.snapshot.view(schema, &alter.name.name) {
                Some(_) => tables::placed(
                    Error::invalid(format!("'{}' is a view", alter.name)).hint("ALTER VIEW changes views"),
                    alter.name.at,
                ),
                None => self.missing_table(&alter.name),
            });
        };
        if table.external.is_none() {
            table.supported()?;
        }
        let mut work = Work { planner: self, before: table, def: TableDef::clone(table), rules: Vec::new() };
        for action in &alter.actions {
            work.action(action).await?;
        }
        Ok(Altered {
            table: (work.def.schema_name.clone(), work.def.name.clone()),
            changes: work.changes(),
            rules: work.rules,
        })
    }
}

struct Work<'a> {
    planner: &'a Planner,
    before: &'a Arc<TableDef>,
    def: TableDef,
    rules: Vec<Rule>,
}

impl Work<'_> {
    /// What makes the table that was into the table that should be.
    fn changes(&self) -> Vec<Change> {
        let (before, after, table) = (self.before, &self.def, self.before.id);
        let mut changes = Vec::new();
        let (parts, sorts) = (&after.partitioning.keys, &after.sorting);
        let (repartitioned, resorted) = (before.partitioning != after.partitioning, before.sorting != *sorts);
        // What is laid out by a column goes before the column, and comes after it.
        if repartitioned {
            changes.push(Change::SetPartitioning { table, keys: Vec::new() });
        }
        if resorted {
            changes.push(Change::SetSorting { table, keys: Vec::new() });
        }
        if before.columns != after.columns {
            changes.push(Change::SetColumns { table, columns: after.columns.clone() });
        }
        if repartitioned && !parts.is_empty() {
            changes.push(Change::SetPartitioning { table, keys: parts.clone() });
        }
        if resorted && !sorts.is_empty() {
            changes.push(Change::SetSorting { table, keys: sorts.clone() });
        }
        if before.checks != after.checks {
            changes.push(Change::SetChecks { table, checks: after.checks.clone() });
        }
        if before.properties != after.properties {
            changes.push(Change::SetProperties { table, properties: after.properties.clone() });
        }
        if before.comment != after.comment {
            changes.push(Change::Comment { table, comment: after.comment.clone() });
        }
        if before.name != after.name {
            changes.push(Change::RenameTable { table, name: after.name.clone() });
        }
        changes
    }

    async fn action(&mut self, action: &AlterAction) -> Result<()> {
        match action {
            AlterAction::Rename(name) => return self.rename(name),
            AlterAction::Comment(comment) => {
                self.def.comment.clone_from(comment);
                return Ok(());
            }
            AlterAction::AddPartition { at, .. } if self.def.external.is_none() => {
                return Err(tables::placed(
                    Error::invalid(format!(
                        "'{}' is a table of the catalog: its partitions come with its rows",
                        self.def.name
                    ))
                    .hint("INSERT rows of the partition; ADD PARTITION is for external tables"),
                    *at,
                ));
            }
            AlterAction::AddPartition { if_not_exists, values, at } => {
                return self.has_folder(values, *if_not_exists, *at).await;
            }
            _ => {}
        }
        if self.def.external.is_some() {
            return Err(Error::invalid(format!(
                "'{}' is an external table: it can be renamed and commented, and its files say the rest",
                self.def.name
            ))
            .hint("DROP TABLE leaves the files; CREATE EXTERNAL TABLE with other columns reads them again"));
        }
        match action {
            AlterAction::AddColumn { path, spec, if_not_exists } => {
                self.add(path, spec, *if_not_exists).await
            }
            AlterAction::DropColumn { path, if_exists } => self.drop(path, *if_exists).await,
            AlterAction::RenameColumn { path, name } => self.rename_column(path, name),
            AlterAction::SetType { path, ty } => self.set_type(path, ty).await,
            AlterAction::SetNullable { path, nullable } => self.set_nullable(path, *nullable),
            AlterAction::SetDefault { path, default } => {
                find(&mut self.def.columns, path)?;
                if path.parts.len() > 1 {
                    return Err(tables::placed(
                        Error::unsupported(format!(
                            "'{path}' is a field of a struct, and whoever inserts a struct gives all of its fields"
                        ))
                        .hint("ADD COLUMN ... DEFAULT gives a field its value in the structs that are there"),
                        path.at,
                    ));
                }
                let column = clauses::top(&self.def.columns, path, "DEFAULT")?;
                let value = match default {
                    Some(expr) => constant::default(self.planner, expr, &column.name, &column.ty)
                        .await
                        .map_err(|e| tables::placed(e, path.at))?,
                    None => None,
                };
                find(&mut self.def.columns, path)?.default = value;
                Ok(())
            }
            AlterAction::CommentColumn { path, comment } => {
                find(&mut self.def.columns, path)?.comment.clone_from(comment);
                Ok(())
            }
            AlterAction::AddCheck(spec) => {
                let check = self.planner.named_check(&self.def.columns, &self.def.checks, spec)?;
                self.rules.push(Rule::Check { check: check.clone(), at: spec.at });
                self.def.checks.push(check);
                self.def.checks.sort_by(|a, b| a.name.cmp(&b.name));
                Ok(())
            }
            AlterAction::DropCheck { name, if_exists, at } => self.drop_check(name, *if_exists, *at),
            AlterAction::SetProperties(pairs) => {
                for (key, value) in pairs {
                    // As Hive has it.
                    if key == "comment" {
                        self.def.comment = Some(value.clone());
                        continue;
                    }
                    clauses::property(key, value)?;
                    self.def.properties.insert(key.clone(), value.clone());
                }
                Ok(())
            }
            AlterAction::UnsetProperties { keys, if_exists } => {
                for key in keys {
                    if self.def.properties.remove(key).is_none() && !if_exists {
                        return Err(Error::not_found(format!(
                            "table '{}' has no property '{key}'",
                            self.def.name
                        ))
                        .hint("UNSET TBLPROPERTIES IF EXISTS (...) does nothing in that case"));
                    }
                }
                Ok(())
            }
            AlterAction::SetPartitions(specs) => {
                self.def.partitioning.keys = clauses::partitions(&self.def.columns, specs)?;
                self.def.partitioning.unknown = false;
                Ok(())
            }
            AlterAction::SetSorting(specs) => {
                self.def.sorting = clauses::sorting(&self.def.columns, specs)?;
                Ok(())
            }
            AlterAction::Rename(_) | AlterAction::Comment(_) | AlterAction::AddPartition { .. } => Ok(()),
        }
    }

    /// Every scan lists the folders: one with files is a partition, and one without cannot be.
    async fn has_folder(
        &self,
        values: &[(String, String)],
        if_not_exists: bool,
        at: Option<Position>,
    ) -> Result<()> {
        let place = |e: Error| tables::placed(e, at);
        let external = self.def.external.as_ref();
        let keys = external.map(|external| external.partition_columns.clone()).unwrap_or_default();
        let mut levels = Vec::new();
        for key in &keys {
            let Some((_, value)) = values.iter().find(|(name, _)| name == key) else {
                return Err(place(
                    Error::invalid(format!("partition key '{key}' has no value"))
                        .hint(format!("the keys are {}", keys.join(", "))),
                ));
            };
            levels.push(format!("{key}={value}"));
        }
        if let Some((stranger, _)) = values.iter().find(|(name, _)| !keys.contains(name)) {
            return Err(place(
                Error::invalid(format!("'{stranger}' is not a partition key of '{}'", self.def.name))
                    .hint(format!("the keys are {}", keys.join(", "))),
            ));
        }
        let wanted = levels.join("/");
        let name = Name { schema: Some(self.def.schema_name.clone()), name: self.before.name.clone(), at };
        let there = self.planner.folders(&name).await?.iter().any(|folder| folder.values == wanted);
        if there || if_not_exists {
            return Ok(());
        }
        Err(place(Error::not_found(format!("there are no files in a folder '{wanted}'")).hint(
            "every scan lists the folders: put the files there, and they are read without ADD PARTITION",
        )))
    }

    fn rename(&mut self, name: &Name) -> Result<()> {
        let place = |e: Error| tables::placed(e, name.at);
        let schema = name.schema.as_deref().unwrap_or(&self.def.schema_name);
        if schema != self.def.schema_name {
            return Err(place(
                Error::unsupported(format!(
                    "a table cannot move from schema '{}' to '{schema}'",
                    self.def.schema_name
                ))
                .hint("CREATE TABLE ... AS SELECT copies it"),
            ));
        }
        free_name(self.planner, schema, name, &self.before.name)?;
        self.def.name.clone_from(&name.name);
        Ok(())
    }

    fn drop_check(&mut self, name: &str, if_exists: bool, at: Option<Position>) -> Result<()> {
        let before = self.def.checks.len();
        self.def.checks.retain(|check| check.name != name);
        if self.def.checks.len() < before || if_exists {
            return Ok(());
        }
        let known = self.def.checks.iter().map(|check| check.name.as_str());
        let error = Error::not_found(format!("table '{}' has no constraint '{name}'", self.def.name));
        let error = match names::nearest(name, known.clone()) {
            Some(near) => error.hint(format!("did you mean '{near}'?")),
            None if before == 0 => error.hint("it has none; ALTER COLUMN c DROP NOT NULL allows NULL"),
            None => error.hint(format!("constraints are {}", known.collect::<Vec<_>>().join(", "))),
        };
        Err(tables::placed(error, at))
    }
}

/// Refuses a name that another table or view of the schema has, or has but for case.
pub(super) fn free_name(planner: &Planner, schema: &str, name: &Name, old: &str) -> Result<()> {
    let snapshot = &planner.snapshot;
    let tables = snapshot.tables(schema).map(|table| ("table", table.name.as_str()));
    let mut all = tables.chain(snapshot.views(schema).map(|view| ("view", view.name.as_str())));
    let taken = all.find(|(_, other)| *other != old && other.eq_ignore_ascii_case(&name.name));
    match taken {
        None => Ok(()),
        Some((what, taken)) => Err(tables::placed(
            Error::already_exists(format!("{what} '{schema}.{taken}' exists already"))
                .hint("take another name, or drop it first"),
            name.at,
        )),
    }
}
