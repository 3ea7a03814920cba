//! The catalog's statistics of a table's files, typed.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, UInt64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use skep_catalog::{Column, ColumnStats, DataFile, LakeType, text};

use super::keep::FileFacts;

/// Statistics of `files`, columns by their names in SQL.
pub(crate) struct Bounds<'a> {
    columns: HashMap<&'a str, &'a Column>,
    files: &'a [Arc<DataFile>],
}

impl<'a> Bounds<'a> {
    pub(crate) fn new(columns: &'a [Column], files: &'a [Arc<DataFile>]) -> Self {
        Self { columns: columns.iter().map(|column| (column.name.as_str(), column)).collect(), files }
    }

    fn stats(
        &self,
        name: &str,
    ) -> Option<(&'a Column, impl Iterator<Item = Option<&'a ColumnStats>> + use<'a>)> {
        let column = *self.columns.get(name)?;
        let files = self.files;
        // A column that was added later has no statistics in older files, and its default there.
        Some((column, files.iter().map(|file| file.stats.get(&column.id))))
    }

    /// Greatest or least values. None for floats among which may be NaN: by its sign it sorts after or before all
    /// numbers, and the catalog's bounds leave it out.
    fn bounds(&self, name: &str, upper: bool) -> Option<ArrayRef> {
        let (column, stats) = self.stats(name)?;
        let bounds = stats.map(|stats| {
            let (min, max) = stats?.bounds(&column.ty);
            if upper { max } else { min }
        });
        text::array(&column.ty, bounds)
    }

    /// The statistics of a scan of all these files: for the columns at `used` of `schema`, whose columns are the table's.
    pub(crate) fn statistics(&self, columns: &[Column], schema: &SchemaRef, used: &[usize]) -> Statistics {
        let mut statistics = Statistics::new_unknown(schema);
        statistics.num_rows = Precision::Exact(self.files.iter().map(|file| to_usize(file.rows)).sum());
        statistics.total_byte_size =
            Precision::Inexact(self.files.iter().map(|file| to_usize(file.bytes)).sum());
        for &at in used {
            if let (Some(column), Some(field)) = (columns.get(at), schema.fields().get(at)) {
                statistics.column_statistics[at] = self.column(column, field.data_type());
            }
        }
        statistics
    }

    fn column(&self, column: &Column, ty: &datafusion::arrow::datatypes::DataType) -> ColumnStatistics {
        let mut out = ColumnStatistics::new_unknown();
        if column.ty.is_nested() {
            return out;
        }
        if let Some(nulls) = self.nulls(&column.name)
            && nulls.null_count() == 0
        {
            out.null_count = Precision::Exact(nulls.values().iter().map(|&count| to_usize(count)).sum());
        }
        // Bounds of texts stay out: DataFusion carries bounds through casts as if each kept the order, and a text that
        // is cast to a number does not. They still choose files.
        if matches!(column.ty, LakeType::Varchar | LakeType::Json | LakeType::Blob | LakeType::Uuid) {
            return out;
        }
        let empty = |file: &DataFile| file.stats.get(&column.id).is_some_and(|stats| stats.values == 0);
        let lower = self.bounds(&column.name, false);
        let upper = self.bounds(&column.name, true);
        let exact = is_exact(&column.ty);
        let precision = |value: Option<ScalarValue>| match value {
            Some(value) if exact => Precision::Exact(value),
            Some(value) => Precision::Inexact(value),
            None => Precision::Absent,
        };
        let skip: Vec<bool> = self.files.iter().map(|file| empty(file)).collect();
        out.min_value = precision(extreme(lower, ty, &skip, true));
        out.max_value = precision(extreme(upper, ty, &skip, false));
        out.byte_size = self
            .files
            .iter()
            .map(|file| file.stats.get(&column.id).map(|stats| to_usize(stats.bytes)))
            .sum::<Option<usize>>()
            .map_or(Precision::Absent, Precision::Inexact);
        out
    }
}

/// Whether the bounds of a file are values of it. Texts are cut, and floats may be zero with the other sign.
fn is_exact(ty: &LakeType) -> bool {
    !matches!(ty, LakeType::Varchar | LakeType::Json | LakeType::Blob | LakeType::Uuid) && !ty.is_float()
}

/// The least or greatest of `bounds`, if all but those of the files to `skip` are known.
fn extreme(
    bounds: Option<ArrayRef>,
    ty: &datafusion::arrow::datatypes::DataType,
    skip: &[bool],
    least: bool,
) -> Option<ScalarValue> {
    let bounds = cast(&bounds?, ty).ok()?;
    let mut found: Option<ScalarValue> = None;
    for (at, skip) in skip.iter().enumerate() {
        if *skip {
            continue;
        }
        let value = ScalarValue::try_from_array(&bounds, at).ok().filter(|value| !value.is_null())?;
        found = Some(match found {
            Some(best) => match value.partial_cmp(&best)? {
                std::cmp::Ordering::Less if least => value,
                std::cmp::Ordering::Greater if !least => value,
                _ => best,
            },
            None => value,
        });
    }
    found
}

impl FileFacts for Bounds<'_> {
    fn files(&self) -> usize {
        self.files.len()
    }

    fn min(&self, column: &str) -> Option<ArrayRef> {
        self.bounds(column, false)
    }

    fn max(&self, column: &str) -> Option<ArrayRef> {
        self.bounds(column, true)
    }

    /// Known only where values and NULLs make up the rows: a column without bounds may count all rows as both.
    fn nulls(&self, column: &str) -> Option<UInt64Array> {
        let (column, stats) = self.stats(column)?;
        let counts = stats.zip(self.files).map(|(stats, file)| {
            let stats = stats?;
            (stats.values + stats.nulls == file.rows).then_some(stats.nulls)
        });
        (!column.ty.is_nested()).then(|| counts.collect())
    }

    fn rows(&self) -> Option<UInt64Array> {
        Some(self.files.iter().map(|file| Some(file.rows)).collect())
    }
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
