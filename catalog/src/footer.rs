//! Statistics of a finished Parquet file, from its footer.
//!
//! Floats that are not numbers (NaN) are what the footer does not tell, and what its bounds leave out though every
//! engine sorts them after all numbers. Readers that skip row groups by such bounds lose rows, DuckDB and DataFusion
//! both. So a writer looks for them first ([`nan_columns`]), starts another file without bounds of those columns
//! ([`without_bounds`]) when it finds some, and lets [`Nans`] tell the catalog.
//!
//! # Invariants
//! - Every leaf column of the table gets its statistics, or the file is refused: other engines skip a file that says
//!   nothing about a column they filter on.
//! - A bound is never tighter than the values; where it is not known there is none.

use std::collections::{BTreeSet, HashMap};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};
use parquet::data_type::AsBytes;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::properties::{EnabledStatistics, WriterPropertiesBuilder};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnPath;
use skep_common::{Error, Result};
use uuid::Uuid;

use crate::column::{Column, ENTRIES, leaves};
use crate::model::ColumnStats;
use crate::text::{self, Bound};
use crate::types::LakeType;

/// Length of the footer of a Parquet file, from the last 8 bytes of the file.
///
/// # Errors
/// [`Kind::Corrupt`](skep_common::Kind::Corrupt) if they are not the end of a Parquet file.
pub fn footer_size(tail: &[u8]) -> Result<u64> {
    match tail.last_chunk::<8>() {
        Some([a, b, c, d, b'P', b'A', b'R', b'1']) => Ok(u64::from(u32::from_le_bytes([*a, *b, *c, *d]))),
        _ => Err(Error::corrupt("the file does not end as a Parquet file does")),
    }
}

/// Statistics of every leaf of `columns` in the file that `meta` describes.
///
/// Columns are found by field id, so `meta` must come from a file with the table's physical schema. Floats get
/// `nan: None`, which is stored as "maybe": let [`Nans`] watch the batches to know better.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) if the file lacks a column or its statistics.
pub fn stats_from_parquet(meta: &ParquetMetaData, columns: &[Column]) -> Result<Vec<ColumnStats>> {
    let schema = meta.file_metadata().schema_descr();
    let mut by_id = HashMap::new();
    for (index, leaf) in schema.columns().iter().enumerate() {
        let info = leaf.self_type().get_basic_info();
        if info.has_id() {
            by_id.insert(i64::from(info.id()), index);
        }
    }
    leaves(columns)
        .into_iter()
        .map(|column| {
            let index = by_id.get(&column.id).ok_or_else(|| {
                Error::internal(format!("a data file lacks column '{}', field id {}", column.name, column.id))
            })?;
            let chunks = meta.row_groups().iter().map(|group| group.column(*index));
            of_column(column, chunks)
        })
        .collect()
}

fn of_column<'a>(
    column: &Column,
    chunks: impl Iterator<Item = &'a ColumnChunkMetaData>,
) -> Result<ColumnStats> {
    let missing =
        || Error::internal(format!("a data file was written without statistics of column '{}'", column.name));
    let mut range = Range::default();
    let (mut bytes, mut values, mut nulls) = (0, 0, 0);
    for chunk in chunks {
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        bytes += count(chunk.compressed_size());
        if chunk.statistics().is_none() && column.ty.is_float() {
            // Written without bounds on purpose: any of the values may be NULL, any may be NaN.
            nulls += count(chunk.num_values());
            values += count(chunk.num_values());
            range.add(None, None);
            continue;
        }
        let statistics = chunk.statistics().ok_or_else(missing)?;
        let chunk_nulls = statistics.null_count_opt().ok_or_else(missing)?;
        let chunk_values = count(chunk.num_values()).saturating_sub(chunk_nulls);
        nulls += chunk_nulls;
        values += chunk_values;
        if chunk_values > 0 {
            let (min, max) = bounds(&column.ty, statistics);
            range.add(min, max);
        }
    }
    let (min, max) = range.texts(&column.ty);
    Ok(ColumnStats { column: column.id, bytes, values, nulls, min, max, nan: None })
}

/// The hull of bounds; an unknown bound makes the hull's unknown.
#[derive(Debug, Default)]
pub(crate) struct Range(Option<(Option<Bound>, Option<Bound>)>);

impl Range {
    pub(crate) fn add(&mut self, min: Option<Bound>, max: Option<Bound>) {
        self.0 = Some(match self.0.take() {
            None => (min, max),
            Some((old_min, old_max)) => (
                pick(old_min, min, std::cmp::Ordering::Less),
                pick(old_max, max, std::cmp::Ordering::Greater),
            ),
        });
    }

    pub(crate) fn texts(self, ty: &LakeType) -> (Option<String>, Option<String>) {
        let (min, max) = self.0.unwrap_or_default();
        let text = |bound: Option<Bound>| bound.and_then(|bound| text::encode(ty, &bound));
        (text(min), text(max))
    }
}

/// The one of two known bounds that stands in the `wanted` order to the other.
fn pick(old: Option<Bound>, new: Option<Bound>, wanted: std::cmp::Ordering) -> Option<Bound> {
    let (old, new) = (old?, new?);
    let order = new.compare(&old)?;
    Some(if order == wanted { new } else { old })
}

fn bounds(ty: &LakeType, statistics: &Statistics) -> (Option<Bound>, Option<Bound>) {
    macro_rules! both {
        ($values:ident, $bound:expr) => {
            ($values.min_opt().and_then($bound), $values.max_opt().and_then($bound))
        };
    }
    match statistics {
        Statistics::Boolean(v) => both!(v, |b| Some(Bound::Boolean(*b))),
        Statistics::Int32(v) => both!(v, |i| of_i32(ty, *i)),
        Statistics::Int64(v) => both!(v, |i| of_i64(ty, *i)),
        Statistics::Float(v) => both!(v, |f| of_float(f64::from(*f))),
        Statistics::Double(v) => both!(v, |f| of_float(*f)),
        Statistics::ByteArray(v) if matches!(ty, LakeType::Varchar | LakeType::Json) => {
            let min = v.min_opt().and_then(|bytes| bytes.as_utf8().ok()).map(text::text_floor);
            let max = v.max_opt().and_then(|bytes| bytes.as_utf8().ok()).and_then(text::text_ceiling);
            (min.map(Bound::Text), max.map(Bound::Text))
        }
        Statistics::ByteArray(v) if *ty == LakeType::Blob => {
            let min = v.min_opt().map(|bytes| text::blob_floor(bytes.as_bytes()));
            let max = v.max_opt().and_then(|bytes| text::blob_ceiling(bytes.as_bytes()));
            (min.map(Bound::Blob), max.map(Bound::Blob))
        }
        Statistics::FixedLenByteArray(v) => both!(v, |bytes| of_fixed(ty, bytes.as_bytes())),
        Statistics::ByteArray(_) | Statistics::Int96(_) => (None, None),
    }
}

fn of_i32(ty: &LakeType, value: i32) -> Option<Bound> {
    match ty {
        LakeType::Int8 | LakeType::Int16 | LakeType::Int32 => Some(Bound::Int(i64::from(value))),
        // Parquet keeps the bits of unsigned numbers in signed ones.
        LakeType::UInt8 | LakeType::UInt16 | LakeType::UInt32 => {
            Some(Bound::UInt(u64::from(value.cast_unsigned())))
        }
        LakeType::Date => Some(Bound::Date(value)),
        LakeType::Decimal { .. } => Some(Bound::Decimal(i128::from(value))),
        _ => None,
    }
}

fn of_i64(ty: &LakeType, value: i64) -> Option<Bound> {
    match ty {
        LakeType::Int64 => Some(Bound::Int(value)),
        LakeType::UInt64 => Some(Bound::UInt(value.cast_unsigned())),
        LakeType::Time => Some(Bound::Time(value)),
        LakeType::Decimal { .. } => Some(Bound::Decimal(i128::from(value))),
        LakeType::TimestampS
        | LakeType::TimestampMs
        | LakeType::Timestamp
        | LakeType::TimestampNs
        | LakeType::TimestampTz => Some(Bound::Timestamp(value)),
        _ => None,
    }
}

fn of_float(value: f64) -> Option<Bound> {
    (!value.is_nan()).then_some(Bound::Float(value))
}

fn of_fixed(ty: &LakeType, bytes: &[u8]) -> Option<Bound> {
    match ty {
        LakeType::Decimal { .. } if (1..=16).contains(&bytes.len()) => {
            let sign = if bytes[0] & 0x80 == 0 { 0 } else { 0xff };
            let mut wide = [sign; 16];
            wide[16 - bytes.len()..].copy_from_slice(bytes);
            Some(Bound::Decimal(i128::from_be_bytes(wide)))
        }
        LakeType::Uuid => Uuid::from_slice(bytes).ok().map(Bound::Uuid),
        _ => None,
    }
}

/// The ids of the float columns that have a value in `batch` that is not a number. Free if there are no floats.
///
/// The batch has the columns of the table in their order.
pub fn nan_columns(columns: &[Column], batch: &RecordBatch) -> BTreeSet<i64> {
    let mut found = BTreeSet::new();
    for (column, array) in columns.iter().zip(batch.columns()) {
        if leaves(std::slice::from_ref(column)).iter().any(|leaf| leaf.ty.is_float()) {
            look(column, array.as_ref(), &mut found);
        }
    }
    found
}

/// Writes no statistics for the columns with these ids, wherever they nest.
pub fn without_bounds(
    mut properties: WriterPropertiesBuilder,
    columns: &[Column],
    ids: &BTreeSet<i64>,
) -> WriterPropertiesBuilder {
    for id in ids {
        if let Some(path) = leaf_path(columns, *id) {
            let path = ColumnPath::new(path);
            properties = properties.set_column_statistics_enabled(path, EnabledStatistics::None);
        }
    }
    properties
}

/// Where Parquet puts a leaf: the levels that it adds to lists and maps have fixed names.
fn leaf_path(columns: &[Column], id: i64) -> Option<Vec<String>> {
    columns.iter().find_map(|column| {
        if column.id == id {
            return Some(vec![column.physical.clone()]);
        }
        let inner = leaf_path(&column.children, id)?;
        let added = match column.ty {
            LakeType::List => Some("list".to_owned()),
            LakeType::Map => Some(ENTRIES.to_owned()),
            _ => None,
        };
        Some(std::iter::once(column.physical.clone()).chain(added).chain(inner).collect())
    })
}

/// Watches the batches of one file for what its footer does not tell about floats.
#[derive(Debug, Clone)]
pub struct Nans {
    columns: Vec<Column>,
    found: BTreeSet<i64>,
    /// Values and NULLs of top-level float columns.
    counts: HashMap<i64, (u64, u64)>,
}

impl Nans {
    /// For a file of a table with these columns.
    pub fn new(columns: &[Column]) -> Self {
        let floats = columns.iter().filter(|column| column.ty.is_float());
        let counts = floats.map(|column| (column.id, (0, 0))).collect();
        Self { counts, found: BTreeSet::new(), columns: columns.to_vec() }
    }

    /// Looks at a batch that goes into the file.
    pub fn observe(&mut self, batch: &RecordBatch) {
        self.found.append(&mut nan_columns(&self.columns, batch));
        for (column, array) in self.columns.iter().zip(batch.columns()) {
            if let Some((values, nulls)) = self.counts.get_mut(&column.id) {
                *nulls += array.null_count() as u64;
                *values += (array.len() - array.null_count()) as u64;
            }
        }
    }

    /// Writes what was seen into the statistics of the file.
    pub fn finish(self, stats: &mut [ColumnStats]) {
        let floats: BTreeSet<i64> =
            leaves(&self.columns).into_iter().filter(|leaf| leaf.ty.is_float()).map(|leaf| leaf.id).collect();
        for entry in stats.iter_mut().filter(|entry| floats.contains(&entry.column)) {
            entry.nan = Some(self.found.contains(&entry.column));
            if let Some((values, nulls)) = self.counts.get(&entry.column) {
                (entry.values, entry.nulls) = (*values, *nulls);
            }
        }
    }
}

fn look(column: &Column, array: &dyn Array, found: &mut BTreeSet<i64>) {
    let mut first_child = |values: &dyn Array| {
        if let Some(child) = column.children.first() {
            look(child, values, found);
        }
    };
    match array.data_type() {
        DataType::List(_) => first_child(array.as_list::<i32>().values().as_ref()),
        DataType::LargeList(_) => first_child(array.as_list::<i64>().values().as_ref()),
        DataType::FixedSizeList(_, _) => first_child(array.as_fixed_size_list().values().as_ref()),
        DataType::Struct(_) => {
            for (child, values) in column.children.iter().zip(array.as_struct().columns()) {
                look(child, values.as_ref(), found);
            }
        }
        DataType::Map(_, _) => {
            let map = array.as_map();
            for (child, values) in column.children.iter().zip([map.keys(), map.values()]) {
                look(child, values.as_ref(), found);
            }
        }
        // Values under a NULL count too: "maybe" is always right.
        ty if column.ty.is_float() => {
            let nan = match ty {
                DataType::Float16 => array.as_primitive::<Float16Type>().values().iter().any(|v| v.is_nan()),
                DataType::Float32 => array.as_primitive::<Float32Type>().values().iter().any(|v| v.is_nan()),
                DataType::Float64 => array.as_primitive::<Float64Type>().values().iter().any(|v| v.is_nan()),
                _ => true,
            };
            if nan {
                found.insert(column.id);
            }
        }
        _ => {}
    }
}
