//! RESTORE TABLE: from two snapshots of a table to what makes the later one look like the earlier.
//!
//! Files that both have stay. The others of the later one go; the rows of the others of the earlier one are written
//! again, with their ids: a path that two rows of the catalog name would be deleted when one of them is forgotten.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::TableVersion;
use skep_catalog::{Change, Column, DataFile, TableDef};
use skep_common::{Error, Result};

use super::{Compaction, Planner, tables};
use crate::names;
use crate::sql::{Name, Optimize};
use crate::write::WriteTarget;

/// What RESTORE does to a table.
#[derive(Debug)]
pub struct Restoration {
    now: Arc<TableDef>,
    then: Arc<TableDef>,
    columns: Vec<Column>,
    planner: Planner,
    /// All rows of the earlier snapshot.
    rows: Compaction,
    gone: Vec<i64>,
    missing: Vec<Arc<DataFile>>,
}

impl Restoration {
    /// The table as it was.
    pub fn table(&self) -> &Arc<TableDef> {
        &self.then
    }

    /// Its columns then. Types that were widened since stay wide: what a catalog says of a column has to fit all its values.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Plans what reads the earlier snapshot.
    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// The files that go.
    pub fn gone(&self) -> &[i64] {
        &self.gone
    }

    /// The rows that are written again: the columns of the table as it was, in its types, the row id, and that it did not change. `None`:
    /// none are.
    ///
    /// # Errors
    /// [`Kind::Internal`](skep_common::Kind::Internal) if it cannot be planned.
    pub fn rows(&self) -> Result<Option<LogicalPlan>> {
        if self.missing.is_empty() {
            return Ok(None);
        }
        self.rows.rows(self.missing.iter().map(|file| file.id).collect()).map(Some)
    }

    /// How many rows these are, if it is known.
    pub fn count(&self) -> Option<u64> {
        self.missing.iter().map(|file| file.live()).sum()
    }

    /// Tells the write how files are laid out: as they were.
    ///
    /// # Errors
    /// As [`Compaction::lay_out`].
    pub fn lay_out(&self, target: &mut WriteTarget) -> Result<()> {
        self.rows.lay_out(target)
    }

    /// What makes the definition of the table that of then. Its name stays.
    pub fn definition(&self) -> Vec<Change> {
        let (now, then, table) = (&self.now, &self.then, self.now.id);
        let mut changes = Vec::new();
        let layout = now.partitioning.keys != then.partitioning.keys;
        let order = now.sorting != then.sorting;
        let columns = now.columns != self.columns;
        // Files are not laid out by columns that are about to go.
        if columns && layout {
            changes.push(Change::SetPartitioning { table, keys: Vec::new() });
        }
        if columns && order {
            changes.push(Change::SetSorting { table, keys: Vec::new() });
        }
        if columns {
            changes.push(Change::SetColumns { table, columns: self.columns.clone() });
        }
        if layout {
            changes.push(Change::SetPartitioning { table, keys: then.partitioning.keys.clone() });
        }
        if order {
            changes.push(Change::SetSorting { table, keys: then.sorting.clone() });
        }
        if now.checks != then.checks {
            changes.push(Change::SetChecks { table, checks: then.checks.clone() });
        }
        if now.properties != then.properties {
            changes.push(Change::SetProperties { table, properties: then.properties.clone() });
        }
        if now.comment != then.comment {
            changes.push(Change::Comment { table, comment: then.comment.clone() });
        }
        changes
    }
}

impl Planner {
    /// What RESTORE does.
    ///
    /// # Errors
    /// As [`Planner::writable`] and [`Planner::snapshot_of`]; [`Kind::NotFound`](skep_common::Kind::NotFound) if the table was
    /// not there then, [`Kind::Invalid`](skep_common::Kind::Invalid) for a snapshot that comes after the one that is read.
    pub async fn restore(&self, table: &Name, version: &TableVersion) -> Result<Restoration> {
        let now = self.writable(table)?;
        let snapshot = self.snapshot_of(version).await.map_err(|e| tables::placed(e, table.at))?;
        let id = snapshot.id;
        if id > self.snapshot.id {
            return Err(Error::invalid(format!(
                "snapshot {id} comes after snapshot {}, which the transaction reads",
                self.snapshot.id
            ))
            .hint("COMMIT or ROLLBACK first"));
        }
        let Some(then) = snapshot.table_by_id(now.id).cloned() else {
            let missing = Error::not_found(format!("table '{table}' did not exist in snapshot {id}"));
            let (schema, name) = (names::quote(&now.schema_name), names::quote(&now.name));
            let missing = match snapshot.table(&now.schema_name, &now.name) {
                Some(_) => missing.hint(format!(
                    "another table had its name: CREATE OR REPLACE TABLE {schema}.{name} AS SELECT * FROM \
                     {schema}.{name} VERSION AS OF {id} brings its rows back"
                )),
                None => missing.hint("SHOW SNAPSHOTS says which snapshot created it"),
            };
            return Err(tables::placed(missing, table.at));
        };
        if then.partitioning.unknown {
            return Err(Error::unsupported(format!(
                "table '{table}' was partitioned in snapshot {id} in a way that skep does not write"
            )));
        }
        let catalog = &self.environment.catalog;
        let files_now = catalog.files(&self.snapshot, now.id).await?;
        let files_then = catalog.files(&snapshot, now.id).await?;
        let name = Name { schema: Some(then.schema_name.clone()), name: then.name.clone(), at: table.at };
        let planner = Planner::new(Arc::clone(&self.environment), snapshot, &self.settings).await?;
        let all = Optimize { table: name, selection: None, order_by: Vec::new() };
        let rows = planner.optimize(&all).await?;
        let gone = lacking(&files_now, &files_then).map(|file| file.id).collect();
        let missing = lacking(&files_then, &files_now).cloned().collect();
        let columns = widened(&then.columns, &now.columns);
        Ok(Restoration { now, then, columns, planner, rows, gone, missing })
    }
}

/// `then` with the types of today, where a column is still there.
fn widened(then: &[Column], now: &[Column]) -> Vec<Column> {
    let wide = |column: &Column| {
        let Some(today) = now.iter().find(|today| today.id == column.id) else { return column.clone() };
        let children = widened(&column.children, &today.children);
        Column { ty: today.ty.clone(), children, ..column.clone() }
    };
    then.iter().map(wide).collect()
}

/// Those of `files` that are not among `others` with the same rows.
fn lacking<'a>(
    files: &'a [Arc<DataFile>],
    others: &[Arc<DataFile>],
) -> impl Iterator<Item = &'a Arc<DataFile>> + use<'a> {
    let whole = |file: &&Arc<DataFile>| !file.hides();
    let same: HashSet<i64> = others.iter().filter(whole).map(|file| file.id).collect();
    let hiding: HashMap<i64, Arc<DataFile>> =
        others.iter().filter(|file| file.hides()).map(|file| (file.id, Arc::clone(file))).collect();
    files.iter().filter(move |file| match hiding.get(&file.id) {
        Some(other) => (&other.deletes, other.until) != (&file.deletes, file.until),
        None => file.hides() || !same.contains(&file.id),
    })
}
