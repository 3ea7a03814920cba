//! What a table says beside its columns: how rows are laid out in files, what every row must fulfil, what people noted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::types::LakeType;

/// Most buckets that a partition key may have.
pub const BUCKETS_MAX: u32 = 1 << 20;

/// What a partition key makes of the value of its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// The value itself.
    Identity,
    /// The year.
    Year,
    /// The month of its year, 1 to 12.
    Month,
    /// The day of its month, 1 to 31.
    Day,
    /// The hour of its day, 0 to 23.
    Hour,
    /// The hash of the value, below this number.
    Bucket(u32),
}

impl Transform {
    /// Whether columns of type `ty` can be partitioned so.
    pub fn takes(self, ty: &LakeType) -> bool {
        let day = matches!(
            ty,
            LakeType::Date
                | LakeType::TimestampS
                | LakeType::TimestampMs
                | LakeType::Timestamp
                | LakeType::TimestampNs
                | LakeType::TimestampTz
        );
        match self {
            Transform::Identity => {
                !ty.is_nested() && !ty.is_float() && !matches!(ty, LakeType::Other(_) | LakeType::Json)
            }
            Transform::Year | Transform::Month | Transform::Day => day,
            Transform::Hour => day && *ty != LakeType::Date,
            Transform::Bucket(_) => matches!(
                ty,
                LakeType::Int8
                    | LakeType::Int16
                    | LakeType::Int32
                    | LakeType::Int64
                    | LakeType::Varchar
                    | LakeType::Date
                    | LakeType::Timestamp
                    | LakeType::TimestampTz
            ),
        }
    }

    /// The name of the folder level of a key over column `name`.
    pub fn folder(self, name: &str) -> String {
        match self {
            Transform::Identity => name.to_owned(),
            Transform::Bucket(_) => format!("{name}_bucket"),
            other => format!("{name}_{other}"),
        }
    }
}

impl fmt::Display for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Transform::Identity => f.write_str("identity"),
            Transform::Year => f.write_str("year"),
            Transform::Month => f.write_str("month"),
            Transform::Day => f.write_str("day"),
            Transform::Hour => f.write_str("hour"),
            Transform::Bucket(buckets) => write!(f, "bucket({buckets})"),
        }
    }
}

impl FromStr for Transform {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let lower = text.trim().to_ascii_lowercase();
        Ok(match lower.as_str() {
            "identity" => Transform::Identity,
            "year" => Transform::Year,
            "month" => Transform::Month,
            "day" => Transform::Day,
            "hour" => Transform::Hour,
            other => {
                let buckets = other.strip_prefix("bucket(").and_then(|rest| rest.strip_suffix(')'));
                let buckets: u32 = buckets.and_then(|text| text.trim().parse().ok()).ok_or(())?;
                if !(1..=BUCKETS_MAX).contains(&buckets) {
                    return Err(());
                }
                Transform::Bucket(buckets)
            }
        })
    }
}

/// One level of partitions: rows of one file have one value for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PartitionKey {
    /// The id of its column, which is not inside another.
    pub column: i64,
    /// What is made of the value.
    pub transform: Transform,
}

/// How the rows of a table are divided over files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Partitioning {
    /// For ever its own; absent until it is committed, and where there is none.
    pub id: Option<i64>,
    /// Outermost first. Empty: any row may be in any file.
    pub keys: Vec<PartitionKey>,
    /// Whether another engine divides it by something that this program does not know: what we write is of no partition.
    pub unknown: bool,
}

/// One key of the order of rows inside files.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SortKey {
    /// The id of its column.
    pub column: i64,
    /// Greatest first.
    pub descending: bool,
    /// Where NULLs stand.
    pub nulls_first: bool,
}

/// A condition that no row may violate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Unique in the table.
    pub name: String,
    /// A SQL expression over the columns of the table.
    pub sql: String,
}

/// The name of a column over a span of snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Past {
    pub(crate) column: i64,
    pub(crate) begin: i64,
    pub(crate) end: Option<i64>,
    pub(crate) name: String,
}

/// The tag of a table's or column's comment.
pub(crate) const COMMENT: &str = "comment";
/// How the tags begin that hold CHECK constraints.
pub(crate) const CHECK_PREFIX: &str = "skep.check.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_round_trip() {
        for text in ["identity", "year", "month", "day", "hour", "bucket(16)"] {
            assert_eq!(text.parse::<Transform>().unwrap().to_string(), text);
        }
        for text in ["", "bucket", "bucket()", "bucket(0)", "bucket(99999999999)", "epoch_year"] {
            assert!(text.parse::<Transform>().is_err(), "{text}");
        }
    }
}
