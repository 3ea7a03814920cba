//! What shape the tables are in, and what to do about it: `system.table_health`, and what maintenance goes by.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, UInt64Array};
use skep_catalog::{FileShape, TableDef};
use skep_common::Result;

use super::edit::{FULL, bins};
use super::history::texts;
use super::{Noted, Planner, stats};
use crate::names;

/// The shape of a table with files.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// The table.
    pub table: Arc<TableDef>,
    /// Its files.
    pub files: u64,
    /// Those that are not full.
    pub small: u64,
    /// Those that OPTIMIZE would put together with others.
    pub together: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of all.
    pub bytes: u64,
    /// Bytes of the largest file, and of one in the middle.
    pub file_bytes: (u64, u64),
    /// Partitions with files; 1 for a table without keys.
    pub partitions: u64,
    /// Bytes of the largest partition, and of one in the middle.
    pub partition_bytes: (u64, u64),
    /// Files that say which rows of others are gone. Only other engines write them.
    pub delete_files: u64,
    /// Of what is known about different values, the worst.
    pub column_stats: &'static str,
    /// The snapshot that added its newest file.
    pub newest: i64,
}

impl Health {
    /// The name of the table as statements have it.
    pub fn name(&self) -> String {
        Planner::name_of(&self.table)
    }

    /// The statements that would make it better.
    pub fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        if self.delete_files > 0 {
            advice
                .push("CALL ducklake_rewrite_data_files(...), with the engine that deleted rows".to_owned());
        } else if self.together > 0 {
            advice.push(format!("OPTIMIZE {}", self.name()));
        }
        if self.column_stats != stats::GOOD {
            advice.push(format!("ANALYZE TABLE {}", self.name()));
        }
        advice
    }
}

/// The largest of `sizes`, and one in the middle.
fn spread(mut sizes: Vec<u64>) -> (u64, u64) {
    sizes.sort_unstable();
    (sizes.last().copied().unwrap_or(0), sizes.get(sizes.len() / 2).copied().unwrap_or(0))
}

/// The shape of `table`, whose files, in the order they came, are `files`, and are full at `file_size` bytes.
fn health(table: &Arc<TableDef>, files: &[FileShape], file_size: u64) -> Health {
    let mut partitions: BTreeMap<&[Option<String>], Vec<u64>> = BTreeMap::new();
    for file in files {
        partitions.entry(&file.partition).or_default().push(file.bytes);
    }
    let small = files.iter().filter(|file| file.bytes < file_size / 100 * FULL).count();
    let together: usize = partitions
        .values()
        .flat_map(|sizes| bins(sizes.clone(), |bytes| *bytes, |_| false, file_size))
        .map(|group| group.len())
        .sum();
    Health {
        table: Arc::clone(table),
        files: files.len() as u64,
        small: small as u64,
        together: together as u64,
        rows: files.iter().map(|file| file.rows).sum(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        file_bytes: spread(files.iter().map(|file| file.bytes).collect()),
        partitions: partitions.len() as u64,
        partition_bytes: spread(partitions.values().map(|sizes| sizes.iter().sum()).collect()),
        delete_files: 0,
        column_stats: stats::GOOD,
        newest: files.iter().map(|file| file.begin).max().unwrap_or(0),
    }
}

impl Planner {
    /// The name of `table` as statements have it.
    pub fn name_of(table: &TableDef) -> String {
        format!("{}.{}", names::quote(&table.schema_name), names::quote(&table.name))
    }

    /// The shape of every table with files.
    ///
    /// # Errors
    /// Those of reading the catalog, and [`Kind::Invalid`](skep_common::Kind::Invalid) for a property that another engine gave
    /// a wrong value.
    pub async fn health(&self) -> Result<Vec<Health>> {
        let (snapshot, catalog) = (self.snapshot(), &self.environment.catalog);
        let deletes = catalog.delete_files(snapshot.id).await?;
        let mut found = Vec::new();
        for (id, files) in catalog.file_shapes(snapshot.id).await? {
            let Some(table) = snapshot.table_by_id(id) else { continue };
            let size = Noted::of(table).file_size()?.unwrap_or_else(|| self.settings.file_size());
            let mut health = health(table, &files, size.bytes());
            health.delete_files = deletes.get(&id).copied().unwrap_or(0);
            let known = catalog.distinct(id).await?;
            let states = stats::counted(table)
                .map(|column| stats::state(known.get(&column.id), health.rows, Some(health.newest)));
            health.column_stats = states.max_by_key(|state| stats::badness(state)).unwrap_or(stats::GOOD);
            found.push(health);
        }
        Ok(found)
    }
}

/// The columns of `system.table_health`.
pub(super) fn columns(all: &[Health]) -> Vec<ArrayRef> {
    let numbers = |number: fn(&Health) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(all.iter().map(number)))
    };
    let advice: Vec<Option<String>> =
        all.iter().map(|health| Some(health.advice().join("; ")).filter(|text| !text.is_empty())).collect();
    vec![
        texts(all.iter().map(|health| Some(health.table.schema_name.as_str()))),
        texts(all.iter().map(|health| Some(health.table.name.as_str()))),
        numbers(|health| health.files),
        numbers(|health| health.small),
        numbers(|health| health.rows),
        numbers(|health| health.bytes),
        numbers(|health| health.file_bytes.0),
        numbers(|health| health.file_bytes.1),
        numbers(|health| health.partitions),
        numbers(|health| health.partition_bytes.0),
        numbers(|health| health.partition_bytes.1),
        numbers(|health| health.delete_files),
        texts(all.iter().map(|health| Some(health.column_stats))),
        texts(advice.iter().map(Option::as_deref)),
    ]
}
