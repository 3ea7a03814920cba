//! Statistics of a finished Parquet file, from its footer.
//!
//! # Invariants
//! - Every leaf column of the table gets its statistics, or the file is refused: other engines skip a file that says
//!   nothing about a column they filter on.
//! - A bound is never tighter than the values; where it is not known there is none.

use std::collections::HashMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};
use parquet::data_type::AsBytes;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::statistics::Statistics;
use skep_common::{Error, Result};
use uuid::Uuid;

use crate::column::{Column, leaves};
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
        let statistics = chunk.statistics().ok_or_else(missing)?;
        let chunk_nulls = statistics.null_count_opt().ok_or_else(missing)?;
        let chunk_values = count(chunk.num_values()).saturating_sub(chunk_nulls);
        bytes += count(chunk.compressed_size());
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
            both!(v, |bytes| Some(Bound::Blob(bytes.as_bytes().to_vec())))
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

/// Watches the batches of a file for floats that are not numbers, which Parquet's footer does not tell.
#[derive(Debug, Clone)]
pub struct Nans {
    columns: Vec<Column>,
    seen: HashMap<i64, bool>,
}

impl Nans {
    /// For files of a table with these columns.
    pub fn new(columns: &[Column]) -> Self {
        let floats = leaves(columns).into_iter().filter(|leaf| leaf.ty.is_float());
        Self { seen: floats.map(|leaf| (leaf.id, false)).collect(), columns: columns.to_vec() }
    }

    /// Looks at a batch with the table's columns in their order. Free if there are no floats.
    pub fn observe(&mut self, batch: &RecordBatch) {
        if self.seen.is_empty() {
            return;
        }
        for (column, array) in self.columns.iter().zip(batch.columns()) {
            look(column, array.as_ref(), &mut self.seen);
        }
    }

    /// Writes what was seen into the statistics of the file, and starts afresh for another one.
    pub fn finish(&mut self, stats: &mut [ColumnStats]) {
        for entry in stats {
            if let Some(seen) = self.seen.get_mut(&entry.column) {
                entry.nan = Some(std::mem::take(seen));
            }
        }
    }
}

fn look(column: &Column, array: &dyn Array, seen: &mut HashMap<i64, bool>) {
    match array.data_type() {
        DataType::Struct(_) => {
            for (child, values) in column.children.iter().zip(array.as_struct().columns()) {
                look(child, values.as_ref(), seen);
            }
        }
        DataType::List(_) => look_first(column, array.as_list::<i32>().values().as_ref(), seen),
        DataType::LargeList(_) => look_first(column, array.as_list::<i64>().values().as_ref(), seen),
        DataType::FixedSizeList(_, _) => {
            look_first(column, array.as_fixed_size_list().values().as_ref(), seen);
        }
        DataType::Map(_, _) => {
            let map = array.as_map();
            for (child, values) in column.children.iter().zip([map.keys(), map.values()]) {
                look(child, values.as_ref(), seen);
            }
        }
        ty => {
            if let Some(seen) = seen.get_mut(&column.id) {
                // Values under a NULL count too: "maybe" is always right.
                *seen = *seen
                    || match ty {
                        DataType::Float16 => {
                            array.as_primitive::<Float16Type>().values().iter().any(|v| v.is_nan())
                        }
                        DataType::Float32 => {
                            array.as_primitive::<Float32Type>().values().iter().any(|v| v.is_nan())
                        }
                        DataType::Float64 => {
                            array.as_primitive::<Float64Type>().values().iter().any(|v| v.is_nan())
                        }
                        _ => true,
                    };
            }
        }
    }
}

fn look_first(column: &Column, values: &dyn Array, seen: &mut HashMap<i64, bool>) {
    if let Some(child) = column.children.first() {
        look(child, values, seen);
    }
}
