//! DuckLake's types: their text in the catalog, and the Arrow types they are in memory.

use std::fmt;
use std::str::FromStr;

use arrow::datatypes::{DataType, TimeUnit};
use serde::{Deserialize, Serialize};
use skep_common::Error;

/// The type of a column or of a nested field, as the catalog names it.
///
/// `List`, `Struct` and `Map` keep their fields in [`Column::children`](crate::Column::children).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[expect(missing_docs, reason = "the variants are the types of the specification")]
pub enum LakeType {
    Boolean,
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Float32,
    Float64,
    /// `precision` of 1 to 38 digits, `scale` of them after the point.
    Decimal {
        precision: u8,
        scale: u8,
    },
    Date,
    /// Microseconds since midnight.
    Time,
    /// Only other engines make such columns.
    TimestampS,
    TimestampMs,
    /// Microseconds, the type that DuckDB calls `TIMESTAMP`.
    Timestamp,
    TimestampNs,
    /// Microseconds since the epoch in UTC.
    TimestampTz,
    Varchar,
    Json,
    Blob,
    Uuid,
    List,
    Struct,
    Map,
    /// A type other engines may have put into the catalog and this one cannot read.
    Other(String),
}

/// The time zone of every `timestamptz` column.
pub const UTC: &str = "UTC";

impl LakeType {
    /// Whether values nest: such a column has children and no statistics of its own.
    pub fn is_nested(&self) -> bool {
        matches!(self, LakeType::List | LakeType::Struct | LakeType::Map)
    }

    /// Whether the type has a value that is not a number.
    pub fn is_float(&self) -> bool {
        matches!(self, LakeType::Float32 | LakeType::Float64)
    }

    /// The Arrow type of a leaf. `None` for nested types and types this program cannot read.
    pub fn leaf_arrow(&self) -> Option<DataType> {
        Some(match self {
            LakeType::Boolean => DataType::Boolean,
            LakeType::Int8 => DataType::Int8,
            LakeType::Int16 => DataType::Int16,
            LakeType::Int32 => DataType::Int32,
            LakeType::Int64 => DataType::Int64,
            LakeType::UInt8 => DataType::UInt8,
            LakeType::UInt16 => DataType::UInt16,
            LakeType::UInt32 => DataType::UInt32,
            LakeType::UInt64 => DataType::UInt64,
            LakeType::Float32 => DataType::Float32,
            LakeType::Float64 => DataType::Float64,
            // A scale is at most 38 and fits.
            LakeType::Decimal { precision, scale } => {
                DataType::Decimal128(*precision, i8::try_from(*scale).ok()?)
            }
            LakeType::Date => DataType::Date32,
            LakeType::Time => DataType::Time64(TimeUnit::Microsecond),
            // Parquet has no timestamps in seconds; files of such columns hold finer ones.
            LakeType::TimestampS | LakeType::TimestampMs => DataType::Timestamp(TimeUnit::Millisecond, None),
            LakeType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            LakeType::TimestampNs => DataType::Timestamp(TimeUnit::Nanosecond, None),
            LakeType::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
            LakeType::Varchar | LakeType::Json => DataType::Utf8,
            LakeType::Blob => DataType::Binary,
            LakeType::Uuid => DataType::FixedSizeBinary(16),
            LakeType::List | LakeType::Struct | LakeType::Map | LakeType::Other(_) => return None,
        })
    }

    fn simple_name(&self) -> &str {
        match self {
            LakeType::Boolean => "boolean",
            LakeType::Int8 => "int8",
            LakeType::Int16 => "int16",
            LakeType::Int32 => "int32",
            LakeType::Int64 => "int64",
            LakeType::UInt8 => "uint8",
            LakeType::UInt16 => "uint16",
            LakeType::UInt32 => "uint32",
            LakeType::UInt64 => "uint64",
            LakeType::Float32 => "float32",
            LakeType::Float64 => "float64",
            LakeType::Decimal { .. } => "decimal",
            LakeType::Date => "date",
            LakeType::Time => "time",
            LakeType::TimestampS => "timestamp_s",
            LakeType::TimestampMs => "timestamp_ms",
            LakeType::Timestamp => "timestamp",
            LakeType::TimestampNs => "timestamp_ns",
            LakeType::TimestampTz => "timestamptz",
            LakeType::Varchar => "varchar",
            LakeType::Json => "json",
            LakeType::Blob => "blob",
            LakeType::Uuid => "uuid",
            LakeType::List => "list",
            LakeType::Struct => "struct",
            LakeType::Map => "map",
            LakeType::Other(name) => name,
        }
    }
}

impl fmt::Display for LakeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LakeType::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            other => f.write_str(other.simple_name()),
        }
    }
}

const SIMPLE: [LakeType; 25] = [
    LakeType::Boolean,
    LakeType::Int8,
    LakeType::Int16,
    LakeType::Int32,
    LakeType::Int64,
    LakeType::UInt8,
    LakeType::UInt16,
    LakeType::UInt32,
    LakeType::UInt64,
    LakeType::Float32,
    LakeType::Float64,
    LakeType::Date,
    LakeType::Time,
    LakeType::TimestampS,
    LakeType::TimestampMs,
    LakeType::Timestamp,
    LakeType::TimestampNs,
    LakeType::TimestampTz,
    LakeType::Varchar,
    LakeType::Json,
    LakeType::Blob,
    LakeType::Uuid,
    LakeType::List,
    LakeType::Struct,
    LakeType::Map,
];

impl From<&str> for LakeType {
    /// Never fails: a name that is not known is [`LakeType::Other`].
    fn from(text: &str) -> Self {
        let lower = text.trim().to_ascii_lowercase();
        if lower == "timestamp_us" {
            return LakeType::Timestamp;
        }
        if let Some(simple) = SIMPLE.iter().find(|ty| ty.simple_name() == lower) {
            return simple.clone();
        }
        decimal(&lower).unwrap_or(LakeType::Other(lower))
    }
}

fn decimal(text: &str) -> Option<LakeType> {
    let (precision, scale) = text.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
    let (precision, scale) = (u8::from_str(precision.trim()).ok()?, u8::from_str(scale.trim()).ok()?);
    ((1..=38).contains(&precision) && scale <= precision).then_some(LakeType::Decimal { precision, scale })
}

impl TryFrom<String> for LakeType {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        Ok(LakeType::from(text.as_str()))
    }
}

impl From<LakeType> for String {
    fn from(ty: LakeType) -> Self {
        ty.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let decimal = LakeType::Decimal { precision: 12, scale: 2 };
        for ty in SIMPLE.iter().chain([&decimal, &LakeType::Other("interval".to_owned())]) {
            assert_eq!(&LakeType::from(ty.to_string().as_str()), ty);
        }
        assert_eq!(decimal.to_string(), "decimal(12,2)");
    }

    #[test]
    fn unknown_types_are_kept_by_name() {
        for text in ["decimal(39,2)", "decimal(3,4)", "decimal", "int128", "timetz"] {
            assert_eq!(LakeType::from(text), LakeType::Other(text.to_owned()));
        }
    }
}
