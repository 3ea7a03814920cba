//! The catalog's statistics of a table's files, typed.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, Int32Array, UInt64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use skep_catalog::{Column, ColumnStats, DataFile, LakeType, PartitionKey, TableDef, Transform, text};

use super::keep::FileFacts;

/// Statistics of `files`, columns by their names in SQL.
pub(crate) struct Bounds<'a> {
    def: &'a TableDef,
    columns: HashMap<&'a str, &'a Column>,
    files: &'a [Arc<DataFile>],
    distinct: Option<&'a HashMap<i64, u64>>,
}

impl<'a> Bounds<'a> {
    pub(crate) fn new(def: &'a TableDef, files: &'a [Arc<DataFile>]) -> Self {
        let columns = def.columns.iter().map(|column| (column.name.as_str(), column)).collect();
        Self { def, columns, files, distinct: None }
    }

    /// With how many different values columns of the table have.
    pub(crate) fn with_distinct(self, distinct: &'a HashMap<i64, u64>) -> Self {
        Self { distinct: Some(distinct), ..self }
    }

    /// What is known of `column` in `file`. One that was added later has its default in older files.
    fn of(&self, column: &Column, file: &'a DataFile) -> Option<Cow<'a, ColumnStats>> {
        match file.stats.get(&column.id) {
            Some(stats) => Some(Cow::Borrowed(stats)),
            None if self.def.name_in(column, file).is_none() => {
                Some(Cow::Owned(ColumnStats::absent(column, file.rows)))
            }
            None => None,
        }
    }

    fn stats(
        &self,
        name: &str,
    ) -> Option<(&'a Column, impl Iterator<Item = Option<Cow<'a, ColumnStats>>> + use<'_, 'a>)> {
        let column = *self.columns.get(name)?;
        Some((column, self.files.iter().map(move |file| self.of(column, file))))
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

    /// The statistics of a scan of all these files: for the columns at `used` of `schema`, whose first columns are the
    /// table's.
    pub(crate) fn statistics(&self, schema: &SchemaRef, used: &[usize]) -> Statistics {
        let mut statistics = Statistics::new_unknown(schema);
        statistics.num_rows = Precision::Exact(self.files.iter().map(|file| to_usize(file.rows)).sum());
        statistics.total_byte_size =
            Precision::Inexact(self.files.iter().map(|file| to_usize(file.bytes)).sum());
        for &at in used {
            if let (Some(column), Some(field)) = (self.def.columns.get(at), schema.fields().get(at)) {
                statistics.column_statistics[at] = self.column(column, field.data_type());
            }
        }
        // They are those of the rows in the files.
        if self.files.iter().any(|file| file.hides()) { statistics.to_inexact() } else { statistics }
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
        if let Some(&distinct) = self.distinct.and_then(|known| known.get(&column.id)) {
            // Files that are left out, and rows that went, had some of them.
            let rows: u64 = self.files.iter().map(|file| file.rows).sum();
            let nulls = out.null_count.get_value().copied().unwrap_or(0);
            out.distinct_count = Precision::Inexact(to_usize(distinct.min(rows)).min(to_usize(rows) - nulls));
        }
        // Bounds of texts stay out: DataFusion carries bounds through casts as if each kept the order, and a text that
        // is cast to a number does not. They still choose files.
        if matches!(column.ty, LakeType::Varchar | LakeType::Json | LakeType::Blob | LakeType::Uuid) {
            return out;
        }
        let empty = |file: &'a DataFile| self.of(column, file).is_some_and(|stats| stats.values == 0);
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
            .map(|file| self.of(column, file).map(|stats| to_usize(stats.bytes)))
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

    /// By the bucket that a file is of; other keys are seen in the bounds of their columns.
    fn contained(&self, column: &str, values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        let column = *self.columns.get(column)?;
        let partitioning = &self.def.partitioning;
        let (at, key) = partitioning
            .keys
            .iter()
            .enumerate()
            .find(|(_, key)| key.column == column.id && matches!(key.transform, Transform::Bucket(_)))?;
        let ty = column.ty.leaf_arrow()?;
        let mut buckets = HashSet::new();
        for value in values.iter().filter(|value| !value.is_null()) {
            let value = value.cast_to(&ty).ok().filter(|cast| !cast.is_null())?.to_array().ok()?;
            let made = crate::write::apply(key.transform, &value).ok()?;
            buckets.insert(ScalarValue::try_from_array(&made, 0).ok()?.to_string());
        }
        let may = |file: &Arc<DataFile>| {
            let of_today =
                file.partition_id == partitioning.id && file.partition.len() == partitioning.keys.len();
            match &file.partition.get(at).filter(|_| of_today)? {
                Some(bucket) if buckets.contains(bucket) => None,
                _ => Some(false),
            }
        };
        Some(self.files.iter().map(may).collect())
    }

    fn made(&self, column: &str, transform: Transform) -> Option<Int32Array> {
        let column = *self.columns.get(column)?;
        let partitioning = &self.def.partitioning;
        let key = PartitionKey { column: column.id, transform };
        let at = partitioning.keys.iter().position(|other| *other == key)?;
        let value = |file: &Arc<DataFile>| {
            // Other engines may take instants apart in a time zone of theirs.
            let sure = file.is_ours() || column.ty != LakeType::TimestampTz;
            let of_today =
                file.partition_id == partitioning.id && file.partition.len() == partitioning.keys.len();
            file.partition.get(at).filter(|_| sure && of_today)?.as_deref()?.parse().ok()
        };
        Some(self.files.iter().map(value).collect())
    }

    fn rows(&self) -> Option<UInt64Array> {
        Some(self.files.iter().map(|file| Some(file.rows)).collect())
    }
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
