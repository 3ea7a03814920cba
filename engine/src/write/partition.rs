//! What a row's partition is: the values of keys, as numbers and texts, and the folder they make.
//!
//! Hashes and texts are those of the DuckLake specification: another engine skips files by them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array};
use arrow::compute::{DatePart, cast, date_part, partition};
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use skep_catalog::{Column, PartitionKey, Transform};
use skep_common::{Error, Result};

use crate::planner::text_of;

/// Most characters of a value in the name of a folder: the catalog has the whole.
const FOLDER_CHARS_MAX: usize = 64;
/// The folder of NULL, as Hive calls it.
const NULL_FOLDER: &str = "__HIVE_DEFAULT_PARTITION__";

/// Rows of one partition, next to each other.
pub(super) struct Run {
    pub(super) rows: RecordBatch,
    /// One text for each key.
    pub(super) values: Vec<Option<String>>,
    /// Where its files lie, below the table; ends in `/`.
    pub(super) folder: String,
}

/// The keys of a table, by place.
#[derive(Debug)]
pub(super) struct Keys(Vec<(usize, Column, Transform)>);

impl Keys {
    pub(super) fn new(columns: &[Column], keys: &[PartitionKey]) -> Result<Self> {
        let key = |key: &PartitionKey| {
            let at = columns.iter().position(|column| column.id == key.column);
            let at = at.ok_or_else(|| Error::internal("a partition key has no column"))?;
            Ok((at, columns[at].clone(), key.transform))
        };
        Ok(Self(keys.iter().map(key).collect::<Result<_>>()?))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Cuts `batch` where the partition changes. Rows that are sorted by partition give one run for each.
    pub(super) fn runs(&self, batch: &RecordBatch) -> Result<Vec<Run>> {
        let failed = |e| Error::internal("rows cannot be divided into partitions").source(e);
        let made = self.0.iter().map(|(at, _, transform)| apply(*transform, batch.column(*at)));
        let made = made.collect::<Result<Vec<ArrayRef>>>()?;
        let ranges = partition(&made).map_err(failed)?.ranges();
        ranges
            .into_iter()
            .map(|range| {
                let (mut values, mut folder) = (Vec::new(), String::new());
                for ((_, column, transform), made) in self.0.iter().zip(&made) {
                    let value = ScalarValue::try_from_array(made, range.start)
                        .map_err(|e| Error::internal("a partition has no value").source(e))?;
                    let text = text_of_key(column, *transform, &value)?;
                    folder.push_str(&level(&transform.folder(&column.physical), text.as_deref()));
                    values.push(text);
                }
                let rows = batch.slice(range.start, range.end - range.start);
                Ok(Run { rows, values, folder })
            })
            .collect()
    }
}

/// The text of what `transform` made, as the catalog keeps it.
fn text_of_key(column: &Column, transform: Transform, value: &ScalarValue) -> Result<Option<String>> {
    if value.is_null() {
        return Ok(None);
    }
    let text = match (transform, value) {
        // The specification writes statistics with digits, and partitions with words.
        (Transform::Identity, ScalarValue::Boolean(Some(value))) => Some(value.to_string()),
        (Transform::Identity, value) => text_of(&column.ty, value),
        (_, ScalarValue::Int32(Some(value))) => Some(value.to_string()),
        _ => None,
    };
    let wrong = || Error::internal(format!("'{value}' is not a partition value of column '{}'", column.name));
    text.map(Some).ok_or_else(wrong)
}

/// `name=value/`, with every byte that some store minds as `_xx`, as the folders of tables have it.
fn level(name: &str, value: Option<&str>) -> String {
    let safe = |text: &str| {
        let mut out = String::new();
        for byte in text.bytes() {
            if out.len() >= FOLDER_CHARS_MAX {
                break;
            }
            if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("_{byte:02x}"));
            }
        }
        out
    };
    format!("{}={}/", safe(name), value.map_or_else(|| NULL_FOLDER.to_owned(), safe))
}

/// What `transform` makes of values. NULL stays NULL.
pub(crate) fn apply(transform: Transform, values: &ArrayRef) -> Result<ArrayRef> {
    let failed = |e| Error::internal(format!("'{transform}' takes no {}", values.data_type())).source(e);
    let part = match transform {
        Transform::Identity => return Ok(Arc::clone(values)),
        Transform::Bucket(buckets) => return bucket(values, buckets),
        Transform::Year => DatePart::Year,
        Transform::Month => DatePart::Month,
        Transform::Day => DatePart::Day,
        Transform::Hour => DatePart::Hour,
    };
    // Instants are kept in UTC, and their calendar is that of UTC.
    let local = match values.data_type() {
        DataType::Timestamp(unit, Some(_)) => {
            let plain = cast(values, &DataType::Int64).map_err(failed)?;
            cast(&plain, &DataType::Timestamp(*unit, None)).map_err(failed)?
        }
        _ => Arc::clone(values),
    };
    date_part(&local, part).map_err(failed)
}

fn bucket(values: &ArrayRef, buckets: u32) -> Result<ArrayRef> {
    let of = |hash: u32| i32::try_from((hash & 0x7fff_ffff) % buckets).ok();
    let failed = |e| Error::internal(format!("'bucket' takes no {}", values.data_type())).source(e);
    let numbers: Int32Array = match values.data_type() {
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => {
            let texts = cast(values, &DataType::Utf8).map_err(failed)?;
            texts.as_string::<i32>().iter().map(|text| of(murmur3(text?.as_bytes()))).collect()
        }
        ty => {
            let longs = match ty {
                DataType::Date32 => {
                    cast(values, &DataType::Int32).and_then(|days| cast(&days, &DataType::Int64))
                }
                DataType::Timestamp(TimeUnit::Microsecond, _) => cast(values, &DataType::Int64),
                _ => cast(values, &DataType::Int64),
            };
            let longs = longs.map_err(failed)?;
            longs.as_primitive::<Int64Type>().iter().map(|long| of(murmur3(&long?.to_le_bytes()))).collect()
        }
    };
    Ok(Arc::new(numbers))
}

/// MurmurHash3 for 32 bits with seed 0, as Iceberg's buckets are made.
///
/// Source: Austin Appleby, MurmurHash3, public domain.
fn murmur3(bytes: &[u8]) -> u32 {
    const C1: u32 = 0xcc9e_2d51;
    const C2: u32 = 0x1b87_3593;
    let mix = |block: u32| block.wrapping_mul(C1).rotate_left(15).wrapping_mul(C2);
    let mut hash: u32 = 0;
    let mut blocks = bytes.chunks_exact(4);
    for block in &mut blocks {
        let block = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
        hash = (hash ^ mix(block)).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let tail = blocks.remainder();
    if !tail.is_empty() {
        let block = tail.iter().enumerate().fold(0, |block, (at, byte)| block | u32::from(*byte) << (8 * at));
        hash ^= mix(block);
    }
    // A length beyond 32 bits would be cut, as everywhere.
    hash ^= bytes.len() as u32;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, Int64Array, StringArray};

    use super::*;

    /// The values that the Iceberg specification gives in its appendix B.
    #[test]
    fn hashes_are_iceberg_s() {
        assert_eq!(murmur3(&34_i64.to_le_bytes()), 2_017_239_379);
        assert_eq!(murmur3(b"iceberg"), 1_210_000_089);
        assert_eq!(murmur3(&17_486_i64.to_le_bytes()) as i32, -653_330_422, "2017-11-16 as days");
    }

    #[test]
    fn transforms_keep_null() {
        let days: ArrayRef = Arc::new(Date32Array::from(vec![Some(19_782), None, Some(-1)]));
        let numbers = |transform| {
            let made = apply(transform, &days).unwrap();
            made.as_primitive::<arrow::datatypes::Int32Type>().iter().collect::<Vec<_>>()
        };
        assert_eq!(numbers(Transform::Year), [Some(2024), None, Some(1969)]);
        assert_eq!(numbers(Transform::Month), [Some(2), None, Some(12)]);
        assert_eq!(numbers(Transform::Day), [Some(29), None, Some(31)]);
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("iceberg"), None]));
        let buckets = apply(Transform::Bucket(16), &texts).unwrap();
        assert_eq!((buckets.len(), buckets.null_count()), (2, 1));
    }

    #[test]
    fn runs_are_cut_where_a_value_changes() {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(1), None, Some(2)]));
        let batch = RecordBatch::try_from_iter([("a b/c", ids)]).unwrap();
        let columns = skep_catalog::columns_from_arrow(&batch.schema()).unwrap();
        let keys = [PartitionKey { column: columns[0].id, transform: Transform::Identity }];
        let runs = Keys::new(&columns, &keys).unwrap().runs(&batch).unwrap();
        let told: Vec<_> = runs.iter().map(|run| (run.rows.num_rows(), run.folder.as_str())).collect();
        assert_eq!(
            told,
            [(2, "a_20b_2fc=1/"), (1, "a_20b_2fc=__HIVE_DEFAULT_PARTITION__/"), (1, "a_20b_2fc=2/")]
        );
        assert_eq!(runs[1].values, [None]);
    }
}
