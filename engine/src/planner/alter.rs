//! ALTER TABLE: from what a statement asks to what changes in the catalog, and what the rows must be looked at for.
//!
//! ```text
//! AlterTable --each action on a copy of the table--> the table as it should be --difference--> [Change], [Rule]
//! ```
//!
//! # Invariants
//! - An action sees what those before it did; nothing changes if one of them fails.
//! - Files are never rewritten: a change that old files cannot be read with is refused.

use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::sql::sqlparser::ast;
use skep_catalog::{
    Change, Check, Column, DataFile, KEY, LakeType, TableDef, Transform, columns_from_arrow, leaves,
};
use skep_common::{Error, Position, Result};

use super::{Noted, Planner, clauses, constant, retype, tables};
use crate::names;
use crate::sql::{AlterAction, AlterTable, ColumnPath, ColumnSpec, Name};

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

/// What every row of a table must fulfil.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// No NULL in a column.
    NotNull {
        /// Its name.
        column: String,
        /// Where the statement asks for it.
        at: Option<Position>,
    },
    /// A condition.
    Check {
        /// Which.
        check: Check,
        /// Where the statement asks for it.
        at: Option<Position>,
    },
}

impl Rule {
    /// The rows that break it, for `FROM schema.table WHERE`.
    fn condition(&self) -> String {
        match self {
            Rule::NotNull { column, .. } => format!("{} IS NULL", names::quote(column)),
            Rule::Check { check, .. } => format!("NOT ({})", check.sql),
        }
    }

    /// A query that counts the rows of a table which break it.
    pub fn count(&self, (schema, table): &(String, String)) -> String {
        let (schema, table) = (names::quote(schema), names::quote(table));
        format!("SELECT count(*) FROM {schema}.{table} WHERE {}", self.condition())
    }

    /// A query for one row that breaks it.
    pub fn example(&self, (schema, table): &(String, String)) -> String {
        let (schema, table) = (names::quote(schema), names::quote(table));
        format!("SELECT * FROM {schema}.{table} WHERE {} LIMIT 1", self.condition())
    }

    /// The error of `count` rows that break it, of which `example` is one.
    pub fn broken(&self, count: u64, example: &str) -> Error {
        let rows = if count == 1 { "1 row has".to_owned() } else { format!("{count} rows have") };
        let (error, at) = match self {
            Rule::NotNull { column, at } => {
                let text = format!("column '{column}' cannot be NOT NULL: {rows} NULL for it");
                (Error::invalid(text).hint("give them a value, or take them away"), at)
            }
            Rule::Check { check, at } => {
                let rows =
                    if count == 1 { "1 row violates".to_owned() } else { format!("{count} rows violate") };
                let text = format!("{rows} constraint '{}', CHECK ({}): {example}", check.name, check.sql);
                (Error::invalid(text).hint("correct the rows first, or the condition"), at)
            }
        };
        tables::placed(error, *at)
    }
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

    async fn add(&mut self, path: &ColumnPath, spec: &ColumnSpec, if_not_exists: bool) -> Result<()> {
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
        let field = datafusion::arrow::datatypes::Field::new(&spec.name, ty, spec.nullable);
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

    async fn drop(&mut self, path: &ColumnPath, if_exists: bool) -> Result<()> {
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

    async fn set_type(&mut self, path: &ColumnPath, ty: &ast::DataType) -> Result<()> {
        let place = |e: Error| tables::placed(e, path.at);
        let ty = crate::types::arrow_type(ty).map_err(place)?;
        let field = datafusion::arrow::datatypes::Field::new("c", ty, true);
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

    fn rename_column(&mut self, path: &ColumnPath, name: &str) -> Result<()> {
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

    fn set_nullable(&mut self, path: &ColumnPath, nullable: bool) -> Result<()> {
        let was = clauses::top(&self.def.columns, path, "NOT NULL")?.nullable;
        let column = find(&mut self.def.columns, path)?;
        column.nullable = nullable;
        if was && !nullable {
            self.rules.push(Rule::NotNull { column: column.name.clone(), at: path.at });
        }
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

impl Planner {
    /// The columns, clauses and comment of a table like `name`. A view or an external table gives its columns.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for the name.
    pub async fn like(&self, name: &Name) -> Result<(Vec<Column>, Noted, Option<String>)> {
        let schema = name.schema_or(self.settings.schema());
        let Some(table) = self.snapshot.table(schema, &name.name) else {
            let provider = self.provider(name).await?;
            let columns = columns_from_arrow(&crate::boundary::plain_schema(&provider.schema()))?;
            return Ok((columns, Noted::default(), None));
        };
        let mut columns = table.columns.clone();
        columns.iter_mut().fold(1, |next, column| renumber(column, next));
        columns.iter_mut().for_each(forget_past);
        let same = |id: i64| {
            let at = table.columns.iter().position(|column| column.id == id);
            at.map_or(0, |at| columns[at].id)
        };
        let mut noted = Noted {
            partitions: table.partitioning.keys.clone(),
            sorting: table.sorting.clone(),
            checks: table.checks.clone(),
            properties: table.properties.clone(),
        };
        noted.partitions.iter_mut().for_each(|key| key.column = same(key.column));
        noted.sorting.iter_mut().for_each(|key| key.column = same(key.column));
        Ok((columns, noted, table.comment.clone()))
    }
}

/// A column of a table without files.
fn forget_past(column: &mut Column) {
    column.physical.clone_from(&column.name);
    column.initial_default = None;
    column.children.iter_mut().for_each(forget_past);
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

/// The column at `path`.
fn find<'a>(columns: &'a mut [Column], path: &ColumnPath) -> Result<&'a mut Column> {
    let place = |e: Error| tables::placed(e, path.at);
    let (first, rest) = path.parts.split_first().ok_or_else(|| Error::internal("a column path is empty"))?;
    let Some(at) = columns.iter().position(|column| column.name == *first) else {
        return Err(place(clauses::missing(columns, first)));
    };
    let mut column = &mut columns[at];
    for part in rest {
        let Some(at) = column.children.iter().position(|child| child.name == *part) else {
            let error = Error::not_found(format!("column '{}' has no field '{part}'", column.name));
            let known = column.children.iter().map(|child| child.name.as_str());
            return Err(place(match known.clone().count() {
                0 => error.hint(format!("it is {}", clauses::type_name(column))),
                _ => error.hint(format!("it has {}", known.collect::<Vec<_>>().join(", "))),
            }));
        };
        column = &mut column.children[at];
    }
    Ok(column)
}

/// Where the column at `path` stands or would stand. Inside a column that is the fields of a struct.
fn siblings<'a>(columns: &'a mut Vec<Column>, path: &ColumnPath) -> Result<&'a mut Vec<Column>> {
    let Some((_, parents)) = path.parts.split_last().filter(|(_, parents)| !parents.is_empty()) else {
        return Ok(columns);
    };
    let place = |e: Error| tables::placed(e, path.at);
    let parent = ColumnPath { parts: parents.to_vec(), at: path.at };
    let column = find(columns, &parent)?;
    if column.ty != LakeType::Struct {
        return Err(place(
            Error::invalid(format!(
                "'{parent}' is {}, and only a STRUCT has fields",
                clauses::type_name(column)
            ))
            .hint("the struct in a list is its 'element', as in tags.element.name"),
        ));
    }
    Ok(&mut column.children)
}

/// The map of whose keys the column at `path` is or would be a part.
fn map_by_key(columns: &mut [Column], path: &ColumnPath) -> Result<Option<ColumnPath>> {
    for depth in 1..path.parts.len() {
        let upto = ColumnPath { parts: path.parts[..depth].to_vec(), at: path.at };
        if path.parts[depth] == KEY && find(columns, &upto)?.ty == LakeType::Map {
            return Ok(Some(upto));
        }
    }
    Ok(None)
}

fn in_struct(columns: &mut [Column], path: &ColumnPath) -> Result<bool> {
    let parents = path.parts.split_last().map(|(_, parents)| parents.to_vec()).unwrap_or_default();
    Ok(find(columns, &ColumnPath { parts: parents, at: path.at })?.ty == LakeType::Struct)
}

/// Gives a column and what is inside it ids from `next` on, and returns the next.
fn renumber(column: &mut Column, next: i64) -> i64 {
    column.id = next;
    column.children.iter_mut().fold(next + 1, |next, child| renumber(child, next))
}
