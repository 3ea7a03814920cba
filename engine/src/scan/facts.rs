//! Typed statistics of tables with many files, kept from one plan to the next.
//!
//! A list of files is one value for as long as the catalog remembers it: what was read from its statistics stays
//! true for as long as the list is the same, and the definition of the table.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock, Weak};

use datafusion::arrow::array::{ArrayRef, BooleanArray, Int32Array, UInt64Array};
use datafusion::common::ScalarValue;
use parking_lot::Mutex;
use skep_catalog::{DataFile, TableDef, Transform};

use super::bounds::Bounds;
use super::keep::FileFacts;

/// Lists shorter than this are read in no time.
const FILES_MIN: usize = 256;
/// Tables remembered; those used longest ago go first.
const TABLES_MAX: usize = 64;

/// What was read from the statistics of tables. One for a process.
#[derive(Debug, Default)]
pub struct FactsCache(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    tables: HashMap<i64, (u64, Arc<TableFacts>)>,
    uses: u64,
}

#[derive(Debug)]
struct TableFacts {
    def: Arc<TableDef>,
    files: Weak<Vec<Arc<DataFile>>>,
    rows: OnceLock<UInt64Array>,
    columns: Mutex<HashMap<String, Arc<ColumnFacts>>>,
}

#[derive(Debug)]
struct ColumnFacts {
    min: Option<ArrayRef>,
    max: Option<ArrayRef>,
    nulls: Option<UInt64Array>,
}

impl FactsCache {
    /// What is known of `files`, the list of the catalog for `def`.
    pub(crate) fn of<'a>(&self, def: &'a Arc<TableDef>, files: &'a Arc<Vec<Arc<DataFile>>>) -> Facts<'a> {
        let bounds = Bounds::new(def, files);
        let known = (files.len() >= FILES_MIN).then(|| self.table(def, files));
        Facts { bounds, known }
    }

    fn table(&self, def: &Arc<TableDef>, files: &Arc<Vec<Arc<DataFile>>>) -> Arc<TableFacts> {
        let mut cache = self.0.lock();
        cache.uses += 1;
        let now = cache.uses;
        if let Some((used, table)) = cache.tables.get_mut(&def.id)
            && Arc::ptr_eq(&table.def, def)
            // No other list can have the place of one that something still points to.
            && std::ptr::eq(table.files.as_ptr(), Arc::as_ptr(files))
        {
            *used = now;
            return Arc::clone(table);
        }
        let table = Arc::new(TableFacts {
            def: Arc::clone(def),
            files: Arc::downgrade(files),
            rows: OnceLock::new(),
            columns: Mutex::default(),
        });
        cache.tables.retain(|_, (_, table)| table.files.strong_count() > 0);
        cache.tables.insert(def.id, (now, Arc::clone(&table)));
        if cache.tables.len() > TABLES_MAX {
            let oldest = cache.tables.iter().min_by_key(|(_, (used, _))| *used).map(|(id, _)| *id);
            oldest.and_then(|id| cache.tables.remove(&id));
        }
        table
    }
}

/// The statistics of a list of files, read once.
pub(crate) struct Facts<'a> {
    bounds: Bounds<'a>,
    known: Option<Arc<TableFacts>>,
}

impl Facts<'_> {
    fn column<T>(&self, name: &str, read: impl Fn(&ColumnFacts) -> T, fresh: impl Fn() -> T) -> T {
        let Some(known) = &self.known else { return fresh() };
        let found = known.columns.lock().get(name).cloned();
        let column = found.unwrap_or_else(|| {
            // Not under the lock: two plans may read the same column at once, and find the same.
            let (min, max, nulls) = (self.bounds.min(name), self.bounds.max(name), self.bounds.nulls(name));
            let column = Arc::new(ColumnFacts { min, max, nulls });
            known.columns.lock().insert(name.to_owned(), Arc::clone(&column));
            column
        });
        read(&column)
    }
}

impl FileFacts for Facts<'_> {
    fn files(&self) -> usize {
        self.bounds.files()
    }

    fn min(&self, column: &str) -> Option<ArrayRef> {
        self.column(column, |known| known.min.clone(), || self.bounds.min(column))
    }

    fn max(&self, column: &str) -> Option<ArrayRef> {
        self.column(column, |known| known.max.clone(), || self.bounds.max(column))
    }

    fn nulls(&self, column: &str) -> Option<UInt64Array> {
        self.column(column, |known| known.nulls.clone(), || self.bounds.nulls(column))
    }

    fn contained(&self, column: &str, values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        self.bounds.contained(column, values)
    }

    fn made(&self, column: &str, transform: Transform) -> Option<Int32Array> {
        self.bounds.made(column, transform)
    }

    fn rows(&self) -> Option<UInt64Array> {
        let Some(known) = &self.known else { return self.bounds.rows() };
        if let Some(rows) = known.rows.get() {
            return Some(rows.clone());
        }
        let rows = self.bounds.rows()?;
        Some(known.rows.get_or_init(|| rows).clone())
    }
}
