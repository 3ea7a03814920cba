//! Checks the changes of a transaction against its base, before the database is touched.

use std::collections::{HashMap, HashSet};

use skep_common::{Error, Result};

use crate::changes::Token;
use crate::column::{self, Column};
use crate::model::{NewFile, Snapshot, TableDef};
use crate::transaction::{Change, TableRef};

/// What the changes amount to. Pure.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    tokens: Vec<Token>,
    /// Whether a name or a column changes.
    pub(crate) changes_schema: bool,
    changes_rows: bool,
}

impl Plan {
    pub(crate) fn new(base: &Snapshot, changes: &[Change]) -> Result<Self> {
        let mut planner =
            Planner { base, plan: Plan::default(), created: HashMap::new(), dropped: HashSet::new() };
        for change in changes {
            planner.add(change)?;
        }
        Ok(planner.plan)
    }

    /// Nothing would change.
    pub(crate) fn is_empty(&self) -> bool {
        !self.changes_schema && !self.changes_rows
    }

    /// What the transaction does, as far as other commits can get in its way. External tables count as tables here,
    /// though no token of theirs is written.
    pub(crate) fn tokens_on_base(&self) -> &[Token] {
        &self.tokens
    }
}

struct Planner<'a> {
    base: &'a Snapshot,
    plan: Plan,
    created: HashMap<u32, &'a [Column]>,
    dropped: HashSet<i64>,
}

impl<'a> Planner<'a> {
    fn add(&mut self, change: &'a Change) -> Result<()> {
        match change {
            Change::Append { table, files } => return self.append(*table, files),
            Change::RemoveFiles { table, files } => {
                if !files.is_empty() {
                    self.existing(*table)?;
                    self.plan.tokens.push(Token::DeletedFromTable(*table));
                    self.plan.changes_rows = true;
                }
                return Ok(());
            }
            Change::CreateSchema { name } => {
                check_name("schema", name)?;
                self.plan.tokens.push(Token::CreatedSchema(name.clone()));
            }
            Change::DropSchema { id } => self.drop_schema(*id)?,
            Change::CreateTable { handle, schema, name, columns, .. } => {
                check_name("table", name)?;
                column::check_ids(columns)?;
                if self.created.insert(*handle, columns).is_some() {
                    return Err(Error::internal(format!("two new tables have the handle {handle}")));
                }
                self.plan.tokens.push(Token::CreatedTable(schema.clone(), name.clone()));
            }
            Change::DropTable { id } => {
                let table = self.table(*id)?;
                if table.external.is_none() {
                    self.plan.tokens.push(Token::DroppedTable(*id));
                }
                self.dropped.insert(*id);
            }
            Change::PutView { schema, name, or_replace, .. } => {
                check_name("view", name)?;
                if let Some(old) = self.base.view(schema, name).filter(|_| *or_replace) {
                    self.plan.tokens.push(Token::DroppedView(old.id));
                }
                self.plan.tokens.push(Token::CreatedView(schema.clone(), name.clone()));
            }
            Change::DropView { id } => {
                if !self.base.views.values().any(|view| view.id == *id) {
                    return Err(Error::not_found(format!("view {id} does not exist")));
                }
                self.plan.tokens.push(Token::DroppedView(*id));
            }
            Change::PutExternal { schema, name, columns, .. } => {
                check_name("table", name)?;
                column::check_ids(columns)?;
                self.plan.tokens.push(Token::CreatedTable(schema.clone(), name.clone()));
            }
            Change::Comment { table, .. } => {
                if self.table(*table)?.external.is_none() {
                    self.plan.tokens.push(Token::AlteredTable(*table));
                }
            }
        }
        self.plan.changes_schema = true;
        Ok(())
    }

    fn drop_schema(&mut self, id: i64) -> Result<()> {
        let schema = self.base.schemas().find(|schema| schema.id == id);
        let schema = schema.ok_or_else(|| Error::not_found(format!("schema {id} does not exist")))?;
        if schema.name == "main" {
            return Err(
                Error::invalid("schema 'main' cannot be dropped").hint("every catalog has this schema")
            );
        }
        self.plan.tokens.push(Token::DroppedSchema(id));
        Ok(())
    }

    fn append(&mut self, table: TableRef, files: &[NewFile]) -> Result<()> {
        let columns = match table {
            TableRef::Existing(id) => self.existing(id)?.columns.as_slice(),
            TableRef::New(handle) => self
                .created
                .get(&handle)
                .ok_or_else(|| Error::internal(format!("no new table has the handle {handle}")))?,
        };
        if files.is_empty() {
            return Ok(());
        }
        let leaves: HashSet<i64> = column::leaves(columns).iter().map(|leaf| leaf.id).collect();
        for file in files {
            check_file(file, &leaves)?;
        }
        if let TableRef::Existing(id) = table {
            self.plan.tokens.push(Token::InsertedIntoTable(id));
        }
        self.plan.changes_rows = true;
        Ok(())
    }

    fn table(&self, id: i64) -> Result<&'a TableDef> {
        let table = self.base.table_by_id(id).filter(|_| !self.dropped.contains(&id));
        table.map(AsRef::as_ref).ok_or_else(|| Error::not_found(format!("table {id} does not exist")))
    }

    /// A table whose rows we may change.
    fn existing(&self, id: i64) -> Result<&'a TableDef> {
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
}

fn check_name(what: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.contains('\0') {
        return Err(Error::invalid(format!("a {what} cannot have the name '{}'", name.escape_debug())));
    }
    Ok(())
}

fn check_file(file: &NewFile, leaves: &HashSet<i64>) -> Result<()> {
    let refuse = |why: String| Err(Error::internal(format!("data file '{}' {why}", file.path)));
    if file.path.is_empty() || file.path.starts_with('/') || file.path.contains("://") {
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
