//! A snapshot with changes on it that nobody else sees: what a transaction reads.
//!
//! ```text
//! base snapshot --put(change)--> overlaid snapshot --put(change)--> ...      pure, each a value of its own
//!                                        |
//!                                        +--> plan: what differs from the base is what the commit writes
//! ```
//!
//! # Invariants
//! - What a transaction makes has an id below zero until it is committed; what the base has keeps its own.
//! - A change that fails leaves the snapshot as it was.
//! - Pure: no I/O, no clock.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use skep_common::{Error, Result};
use uuid::Uuid;

use crate::column::{self, Column};
use crate::layout::Partitioning;
use crate::model::{DIALECT, DataFile, NewFile, SchemaDef, Snapshot, TableDef, ViewDef, directory};
use crate::transaction::Change;

/// What lies over the base.
#[derive(Debug, Clone)]
pub(crate) struct Overlay {
    pub(crate) base: Arc<Snapshot>,
    /// By table.
    pub(crate) rows: HashMap<i64, Staged>,
    /// The least id that was given.
    least: i64,
}

/// Files that came and went since the base.
#[derive(Debug, Clone, Default)]
pub(crate) struct Staged {
    pub(crate) added: Vec<StagedFile>,
    /// Files of the base.
    pub(crate) removed: BTreeSet<i64>,
    /// Whether the rows are the same in other files.
    pub(crate) compacted: bool,
    /// Whether rows are added in the place of others: even if there were none, others must not come in between.
    pub(crate) replaces: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct StagedFile {
    pub(crate) id: i64,
    pub(crate) file: Arc<NewFile>,
}

impl Staged {
    /// Whether what is done depends on the rows that were there.
    pub(crate) fn deletes(&self) -> bool {
        !self.compacted && (self.replaces || !self.removed.is_empty())
    }

    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }

    /// The files of `table`, of which the base has `base`.
    pub(crate) fn over(&self, table: &TableDef, snapshot: i64, base: &[Arc<DataFile>]) -> Vec<Arc<DataFile>> {
        let kept = base.iter().filter(|file| !self.removed.contains(&file.id)).cloned();
        let added = self.added.iter().map(|staged| {
            let file = &staged.file;
            Arc::new(DataFile {
                id: staged.id,
                path: format!("{}{}", table.path, file.path),
                absolute: table.absolute,
                rows: file.rows,
                bytes: file.bytes,
                footer: Some(file.footer),
                row_id_start: None,
                moved: file.moved,
                begin: snapshot,
                partition: file.partition.clone(),
                partition_id: table.partitioning.id,
                stats: file.stats.iter().map(|stats| (stats.column, stats.clone())).collect(),
                deletes: None,
                last: None,
                until: None,
                names: Arc::default(),
            })
        });
        kept.chain(added).collect()
    }
}

impl Snapshot {
    /// An id for a table that a change on this snapshot makes: below zero, and not taken.
    pub fn fresh_id(&self) -> i64 {
        self.overlay.as_ref().map_or(0, |overlay| overlay.least) - 1
    }

    /// `base` with `change` on it.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`](skep_common::Kind::AlreadyExists), [`Kind::NotFound`](skep_common::Kind::NotFound) and
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for a change that does not fit.
    pub(crate) fn with(base: &Arc<Snapshot>, changes: &[Change]) -> Result<Arc<Snapshot>> {
        if changes.is_empty() {
            return Ok(Arc::clone(base));
        }
        let mut snapshot = Snapshot::clone(base);
        let overlay = match snapshot.overlay.take() {
            Some(overlay) => Arc::unwrap_or_clone(overlay),
            None => Overlay { base: Arc::clone(base), rows: HashMap::new(), least: 0 },
        };
        let mut put = Put { snapshot, overlay };
        for change in changes {
            put.change(change)?;
        }
        put.overlay.rows.retain(|_, staged| !staged.is_empty());
        Ok(Arc::new(Snapshot { overlay: Some(Arc::new(put.overlay)), ..put.snapshot }))
    }
}

struct Put {
    snapshot: Snapshot,
    overlay: Overlay,
}

impl Put {
    fn change(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::CreateSchema { name } => self.create_schema(name),
            Change::DropSchema { id } => self.drop_schema(*id),
            Change::CreateTable { id, schema, name, columns, comment } => {
                check_name("table", name)?;
                column::check_ids(columns)?;
                let schema = self.free_name(schema, name)?;
                self.take_id(*id)?;
                let mut table = TableDef::empty(*id, &schema, name);
                table.path = format!("{}{}", schema.path, directory(name));
                table.absolute = schema.absolute;
                table.next_column_id = column::next_column_id(columns);
                table.columns = columns.clone();
                table.comment = comment.clone();
                self.put(table);
                Ok(())
            }
            Change::Locate { table, location } => {
                let mut table = TableDef::clone(&*self.table(*table)?);
                let made_here = table.id < 0 && table.external.is_none();
                if !made_here || self.overlay.rows.contains_key(&table.id) || !stands_alone(location) {
                    return Err(Error::internal(format!(
                        "table '{}' cannot be put to '{location}'",
                        table.name
                    )));
                }
                table.path.clone_from(location);
                (table.absolute, table.located) = (true, true);
                self.put(table);
                Ok(())
            }
            Change::DropTable { id } => {
                let table = self.table(*id)?;
                self.remove(&table);
                self.overlay.rows.remove(id);
                Ok(())
            }
            Change::PutView { schema, name, sql, column_aliases, or_replace } => {
                check_name("view", name)?;
                if *or_replace {
                    self.snapshot.views.remove(&(schema.clone(), name.clone()));
                }
                let schema = self.free_name(schema, name)?;
                let view = ViewDef {
                    id: self.id(),
                    uuid: Uuid::now_v7(),
                    schema: schema.id,
                    schema_name: schema.name.clone(),
                    name: name.clone(),
                    dialect: DIALECT.to_owned(),
                    sql: sql.clone(),
                    column_aliases: column_aliases.clone(),
                    comment: None,
                };
                self.snapshot.views.insert((schema.name, name.clone()), view);
                Ok(())
            }
            Change::DropView { id } => {
                let view = self.snapshot.views.values().find(|view| view.id == *id);
                let key = view.map(|view| (view.schema_name.clone(), view.name.clone()));
                let key = key.ok_or_else(|| Error::not_found(format!("view {id} does not exist")))?;
                self.snapshot.views.remove(&key);
                Ok(())
            }
            Change::PutExternal { schema, name, columns, external, comment, or_replace } => {
                check_name("table", name)?;
                column::check_ids(columns)?;
                let old = self.snapshot.table(schema, name).filter(|table| table.external.is_some());
                if let Some(old) = old.filter(|_| *or_replace).cloned() {
                    self.remove(&old);
                }
                let schema = self.free_name(schema, name)?;
                let mut table = TableDef::empty(self.id(), &schema, name);
                table.next_column_id = column::next_column_id(columns);
                table.columns = columns.clone();
                table.comment = comment.clone();
                table.external = Some(external.clone());
                self.put(table);
                Ok(())
            }
            Change::RenameTable { table, name } => {
                check_name("table", name)?;
                let mut table = TableDef::clone(&*self.table(*table)?);
                self.remove(&table);
                self.free_name(&table.schema_name, name)?;
                table.name = name.clone();
                self.put(table);
                Ok(())
            }
            Change::SetColumns { table, columns } => self.set_columns(*table, columns),
            Change::SetProperties { .. }
            | Change::SetChecks { .. }
            | Change::SetPartitioning { .. }
            | Change::SetSorting { .. } => self.set_notes(change),
            Change::CommentView { view, comment } => {
                let found = self.snapshot.views.values_mut().find(|other| other.id == *view);
                let found = found.ok_or_else(|| Error::not_found(format!("view {view} does not exist")))?;
                found.comment.clone_from(comment);
                Ok(())
            }
            Change::Comment { table, comment } => {
                let mut table = TableDef::clone(&*self.table(*table)?);
                table.comment = comment.clone();
                self.put(table);
                Ok(())
            }
            Change::Append { table, files } => self.append(*table, files),
            Change::RemoveFiles { table, files } => self.remove_files(*table, files),
            Change::Compact { table, remove, add } => self.compact(*table, remove, add),
        }
    }

    fn id(&mut self) -> i64 {
        self.overlay.least -= 1;
        self.overlay.least
    }

    fn take_id(&mut self, id: i64) -> Result<()> {
        if id >= 0 || self.snapshot.by_id.contains_key(&id) {
            return Err(Error::internal(format!("a new table cannot have the id {id}")));
        }
        self.overlay.least = self.overlay.least.min(id);
        Ok(())
    }

    fn put(&mut self, table: TableDef) {
        let table = Arc::new(table);
        self.snapshot.by_id.insert(table.id, Arc::clone(&table));
        self.snapshot.tables.insert((table.schema_name.clone(), table.name.clone()), table);
    }

    fn remove(&mut self, table: &TableDef) {
        self.snapshot.by_id.remove(&table.id);
        self.snapshot.tables.remove(&(table.schema_name.clone(), table.name.clone()));
    }

    fn create_schema(&mut self, name: &str) -> Result<()> {
        check_name("schema", name)?;
        if let Some(taken) = self.snapshot.schemas().find(|schema| schema.name.eq_ignore_ascii_case(name)) {
            return Err(Error::already_exists(format!("schema '{}' already exists", taken.name)));
        }
        let schema =
            SchemaDef { id: self.id(), name: name.to_owned(), path: directory(name), absolute: false };
        self.snapshot.schemas.insert(name.to_owned(), schema);
        Ok(())
    }

    fn drop_schema(&mut self, id: i64) -> Result<()> {
        let schema = self.snapshot.schemas().find(|schema| schema.id == id);
        let name = schema.map(|schema| schema.name.clone());
        let name = name.ok_or_else(|| Error::not_found(format!("schema {id} does not exist")))?;
        if name == "main" {
            return Err(
                Error::invalid("schema 'main' cannot be dropped").hint("every catalog has this schema")
            );
        }
        let table = self.snapshot.tables(&name).map(|table| table.name.clone()).next();
        let inside = table.or_else(|| self.snapshot.views(&name).map(|view| view.name.clone()).next());
        if let Some(inside) = inside {
            return Err(Error::invalid(format!("the schema is not empty: it holds '{inside}'"))
                .hint("drop what it holds first, or add CASCADE"));
        }
        self.snapshot.schemas.remove(&name);
        Ok(())
    }

    /// The schema of that name, in which nothing may be named like `name` but for case.
    fn free_name(&self, schema: &str, name: &str) -> Result<SchemaDef> {
        let Some(found) = self.snapshot.schema(schema) else {
            return Err(Error::not_found(format!("schema '{schema}' does not exist"))
                .hint(format!("create it with CREATE SCHEMA {schema}")));
        };
        let same = |taken: &str| taken.eq_ignore_ascii_case(name);
        let table = self.snapshot.tables(schema).find(|table| same(&table.name)).map(|table| {
            let what = if table.external.is_some() { "external table" } else { "table" };
            (what, table.name.clone())
        });
        let view = || self.snapshot.views(schema).find(|view| same(&view.name));
        match table.or_else(|| view().map(|view| ("view", view.name.clone()))) {
            None => Ok(found.clone()),
            Some((what, taken)) => {
                let error = Error::already_exists(format!("{what} '{schema}.{taken}' already exists"));
                Err(if taken == name {
                    error.hint("choose another name, or drop it first")
                } else {
                    error.hint("names must differ in more than case")
                })
            }
        }
    }

    fn table(&self, id: i64) -> Result<Arc<TableDef>> {
        let table = self.snapshot.table_by_id(id).cloned();
        table.ok_or_else(|| Error::not_found(format!("table {id} does not exist")))
    }

    /// A table whose rows we may change.
    fn writable(&self, id: i64) -> Result<Arc<TableDef>> {
        let table = self.table(id)?;
        if table.external.is_some() {
            return Err(Error::invalid(format!(
                "external table '{}.{}' is read-only",
                table.schema_name, table.name
            ))
            .hint("write into its folder with COPY ... TO, or insert into a table of the catalog"));
        }
        table.supported()?;
        Ok(table)
    }

    fn set_columns(&mut self, id: i64, columns: &[Column]) -> Result<()> {
        column::check_ids(columns)?;
        let mut table = TableDef::clone(&*self.writable(id)?);
        let known: HashSet<i64> = column::all(&table.columns).iter().map(|column| column.id).collect();
        for column in column::all(columns) {
            // One that was there before comes back under the name that it has in files.
            let back = table.taken.contains(&column.physical);
            if !known.contains(&column.id) && !back && column.id < table.next_column_id {
                return Err(Error::internal(format!(
                    "column '{}' cannot have the id {}: another column had it",
                    column.name, column.id
                )));
            }
        }
        let top = |id: i64| columns.iter().any(|column| column.id == id);
        let keys = table.partitioning.keys.iter().map(|key| key.column);
        if let Some(lost) = keys.chain(table.sorting.iter().map(|key| key.column)).find(|id| !top(*id)) {
            return Err(Error::internal(format!("column {lost} is gone, and files are laid out by it")));
        }
        table.taken.extend(column::all(&table.columns).into_iter().map(|column| column.physical.clone()));
        table.next_column_id = table.next_column_id.max(column::next_column_id(columns));
        table.columns = columns.to_vec();
        self.put(table);
        Ok(())
    }

    fn set_notes(&mut self, change: &Change) -> Result<()> {
        let (Change::SetProperties { table: id, .. }
        | Change::SetChecks { table: id, .. }
        | Change::SetPartitioning { table: id, .. }
        | Change::SetSorting { table: id, .. }) = change
        else {
            return Err(Error::internal("this change notes nothing about a table"));
        };
        let mut table = TableDef::clone(&*self.writable(*id)?);
        match change {
            Change::SetProperties { properties, .. } => table.properties.clone_from(properties),
            Change::SetChecks { checks, .. } => {
                table.checks.clone_from(checks);
                table.checks.sort_by(|a, b| a.name.cmp(&b.name));
            }
            Change::SetPartitioning { keys, .. } => {
                for key in keys {
                    let column = table.columns.iter().find(|column| column.id == key.column);
                    if column.is_none_or(|column| !key.transform.takes(&column.ty)) {
                        return Err(Error::internal(format!(
                            "column {} cannot be partitioned by {}",
                            key.column, key.transform
                        )));
                    }
                }
                if *keys != table.partitioning.keys || table.partitioning.unknown {
                    table.partitioning = Partitioning { id: None, keys: keys.clone(), unknown: false };
                    // What was staged before is of no partition of these.
                    if let Some(staged) = self.overlay.rows.get_mut(id) {
                        for added in &mut staged.added {
                            Arc::make_mut(&mut added.file).partition.clear();
                        }
                    }
                }
            }
            Change::SetSorting { keys, .. } => table.sorting.clone_from(keys),
            _ => {}
        }
        self.put(table);
        Ok(())
    }

    fn append(&mut self, id: i64, files: &[NewFile]) -> Result<()> {
        let table = self.writable(id)?;
        if files.is_empty() {
            return Ok(());
        }
        self.not_compacted(id)?;
        let leaves: HashSet<i64> = column::leaves(&table.columns).iter().map(|leaf| leaf.id).collect();
        for file in files {
            check_file(file, &leaves)?;
            let (given, keys) = (file.partition.len(), table.partitioning.keys.len());
            if given != 0 && given != keys {
                return Err(Error::internal(format!(
                    "data file '{}' has {given} partition values, and the table has {keys} keys",
                    file.path
                )));
            }
        }
        let mut grown = TableDef::clone(&table);
        for file in files {
            grown.record_count += file.rows;
            grown.bytes += file.bytes;
            let file = StagedFile { id: self.id(), file: Arc::new(file.clone()) };
            self.overlay.rows.entry(id).or_default().added.push(file);
        }
        self.put(grown);
        Ok(())
    }

    /// Compaction and changes of rows are told apart by others through what a snapshot says it did: not both at once.
    fn not_compacted(&self, id: i64) -> Result<()> {
        match self.overlay.rows.get(&id) {
            Some(staged) if staged.compacted => {
                Err(Error::invalid("rows cannot be changed in the transaction that compacted their table")
                    .hint("COMMIT first"))
            }
            _ => Ok(()),
        }
    }

    fn compact(&mut self, id: i64, remove: &[i64], add: &[NewFile]) -> Result<()> {
        if self.overlay.rows.contains_key(&id) || remove.iter().any(|file| *file < 0) {
            return Err(Error::invalid(
                "a table cannot be compacted in the transaction that changed its rows",
            )
            .hint("COMMIT first"));
        }
        self.remove_files(id, remove)?;
        self.append(id, add)?;
        if let Some(staged) = self.overlay.rows.get_mut(&id) {
            staged.compacted = true;
        }
        Ok(())
    }

    fn remove_files(&mut self, id: i64, files: &[i64]) -> Result<()> {
        let table = self.writable(id)?;
        self.not_compacted(id)?;
        let gone = |file: i64| {
            Error::conflict(format!(
                "file {file} of table '{}.{}' was removed by another statement of the transaction",
                table.schema_name, table.name
            ))
            .hint("run the statement again")
        };
        let staged = self.overlay.rows.entry(id).or_default();
        staged.replaces = true;
        for &file in files {
            if file < 0 {
                let at = staged.added.iter().position(|added| added.id == file).ok_or_else(|| gone(file))?;
                staged.added.remove(at);
            } else if !staged.removed.insert(file) {
                return Err(gone(file));
            }
        }
        Ok(())
    }
}

fn check_name(what: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.contains('\0') {
        return Err(Error::invalid(format!("a {what} cannot have the name '{}'", name.escape_debug())));
    }
    Ok(())
}

/// Whether a path is relative to nothing: absolute on this machine, or a URL.
pub fn stands_alone(path: &str) -> bool {
    path.starts_with('/') || path.contains("://")
}

fn check_file(file: &NewFile, leaves: &HashSet<i64>) -> Result<()> {
    let refuse = |why: String| Err(Error::internal(format!("data file '{}' {why}", file.path)));
    if file.path.is_empty() || stands_alone(&file.path) {
        return refuse("is not named relative to its table".to_owned());
    }
    if file.rows == 0 {
        return refuse("has no rows".to_owned());
    }
    let seen: HashSet<i64> = file.stats.iter().map(|stats| stats.column).collect();
    if seen.len() != file.stats.len() {
        return refuse("has two statistics for one column".to_owned());
    }
    // A leaf without statistics would be skipped by every filter of another engine.
    if let Some(missing) = leaves.difference(&seen).min() {
        return refuse(format!("has no statistics for column {missing}"));
    }
    if let Some(foreign) = seen.difference(leaves).min() {
        return refuse(format!("has statistics for column {foreign}, which the table does not have"));
    }
    Ok(())
}
