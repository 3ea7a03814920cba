//! Bounds of columns as text, the form in which the catalog keeps them.
//!
//! ```text
//! Bound --encode--> text in ducklake_file_column_stats, ducklake_table_column_stats --decode--> Bound --array--> Arrow
//! ```
//!
//! | type | text |
//! |---|---|
//! | boolean | `0`, `1` |
//! | integers, floats, decimals | as digits: `-7`, `0.5`, `1e+16`, `inf`, `12.50` |
//! | date, time, timestamps | `2024-02-29`, `12:30:00.5`, `2024-02-29 12:30:00.5`; with a time zone `+00` follows |
//! | varchar, json | the text; blob: hexadecimal digits; uuid: as usual |
//!
//! # Invariants
//! - `decode(encode(b)) == b`, and a shorter text never stands for a tighter bound.
//! - A text that cannot be read is no bound: `decode` says `None`, and nothing may be pruned by it.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array,
    Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, StringArray, Time64MicrosecondArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray, UInt8Array, UInt16Array,
    UInt32Array, UInt64Array, new_null_array,
};
use arrow::datatypes::DataType;
use uuid::Uuid;

use crate::calendar;
use crate::types::{LakeType, UTC};

/// A least or greatest value, typed. The variant follows from the [`LakeType`].
#[derive(Debug, Clone, PartialEq)]
pub enum Bound {
    /// boolean
    Boolean(bool),
    /// int8 to int64
    Int(i64),
    /// uint8 to uint64
    UInt(u64),
    /// float32, float64; never NaN
    Float(f64),
    /// decimal, without its point
    Decimal(i128),
    /// date, in days since the epoch
    Date(i32),
    /// time, in microseconds
    Time(i64),
    /// timestamps, in the unit of the Arrow type
    Timestamp(i64),
    /// varchar, json
    Text(String),
    /// blob
    Blob(Vec<u8>),
    /// uuid
    Uuid(Uuid),
}

impl Bound {
    /// The order of the values, which is not the order of their texts. `None` for bounds of different types.
    pub fn compare(&self, other: &Bound) -> Option<Ordering> {
        match (self, other) {
            (Bound::Boolean(a), Bound::Boolean(b)) => Some(a.cmp(b)),
            (Bound::Int(a), Bound::Int(b))
            | (Bound::Time(a), Bound::Time(b))
            | (Bound::Timestamp(a), Bound::Timestamp(b)) => Some(a.cmp(b)),
            (Bound::UInt(a), Bound::UInt(b)) => Some(a.cmp(b)),
            (Bound::Float(a), Bound::Float(b)) => a.partial_cmp(b),
            (Bound::Decimal(a), Bound::Decimal(b)) => Some(a.cmp(b)),
            (Bound::Date(a), Bound::Date(b)) => Some(a.cmp(b)),
            (Bound::Text(a), Bound::Text(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            (Bound::Blob(a), Bound::Blob(b)) => Some(a.cmp(b)),
            (Bound::Uuid(a), Bound::Uuid(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

/// The text of `bound`, a bound of a column of type `ty`. `None` if it is not of that type.
pub fn encode(ty: &LakeType, bound: &Bound) -> Option<String> {
    Some(match (ty, bound) {
        (LakeType::Boolean, Bound::Boolean(value)) => u8::from(*value).to_string(),
        (LakeType::Int8 | LakeType::Int16 | LakeType::Int32 | LakeType::Int64, Bound::Int(value)) => {
            value.to_string()
        }
        (LakeType::UInt8 | LakeType::UInt16 | LakeType::UInt32 | LakeType::UInt64, Bound::UInt(value)) => {
            value.to_string()
        }
        // The shortest digits that read back as the same float; a double's digits would say more than it knows.
        (LakeType::Float32, Bound::Float(value)) if !value.is_nan() => {
            float_text(&format!("{:?}", *value as f32))
        }
        (LakeType::Float64, Bound::Float(value)) if !value.is_nan() => float_text(&format!("{value:?}")),
        (LakeType::Decimal { precision, scale }, Bound::Decimal(value)) => {
            let text = decimal_text(*value, usize::from(*scale));
            // DuckDB writes no digit before the point where there is room for none.
            if precision == scale { text.replacen("0.", ".", 1) } else { text }
        }
        (LakeType::Date, Bound::Date(days)) => calendar::date_text(*days),
        (LakeType::Time, Bound::Time(micros)) => calendar::time_text(*micros, 6),
        (ty, Bound::Timestamp(value)) => {
            let (digits, zone) = timestamp_digits(ty)?;
            calendar::timestamp_text(*value, digits, zone)
        }
        (LakeType::Varchar | LakeType::Json, Bound::Text(value)) => value.clone(),
        (LakeType::Blob, Bound::Blob(value)) => value
            .iter()
            .fold(String::with_capacity(value.len() * 2), |text, byte| text + &format!("{byte:02X}")),
        (LakeType::Uuid, Bound::Uuid(value)) => value.to_string(),
        _ => return None,
    })
}

/// The bound that `text` stands for in a column of type `ty`, or `None` if nothing can be concluded from it.
pub fn decode(ty: &LakeType, text: &str) -> Option<Bound> {
    Some(match ty {
        LakeType::Boolean => Bound::Boolean(match text.to_ascii_lowercase().as_str() {
            "0" | "false" => false,
            "1" | "true" => true,
            _ => return None,
        }),
        LakeType::Int8 | LakeType::Int16 | LakeType::Int32 | LakeType::Int64 => {
            Bound::Int(text.parse().ok().filter(|value| fits(ty, i128::from(*value)))?)
        }
        LakeType::UInt8 | LakeType::UInt16 | LakeType::UInt32 | LakeType::UInt64 => {
            Bound::UInt(text.parse().ok().filter(|value| fits(ty, i128::from(*value)))?)
        }
        LakeType::Float32 => Bound::Float(text.parse().ok().filter(|value: &f32| !value.is_nan())?.into()),
        LakeType::Float64 => Bound::Float(text.parse().ok().filter(|value: &f64| !value.is_nan())?),
        LakeType::Decimal { scale, .. } => {
            let value = parse_decimal(text, usize::from(*scale))?;
            Bound::Decimal(Some(value).filter(|value| fits(ty, *value))?)
        }
        LakeType::Date => Bound::Date(calendar::parse_date(text)?),
        LakeType::Time => Bound::Time(calendar::parse_time(text, 6)?),
        LakeType::TimestampS
        | LakeType::TimestampMs
        | LakeType::Timestamp
        | LakeType::TimestampNs
        | LakeType::TimestampTz => {
            Bound::Timestamp(calendar::parse_timestamp(text, timestamp_digits(ty)?.0)?)
        }
        LakeType::Varchar | LakeType::Json => Bound::Text(text.to_owned()),
        LakeType::Blob => Bound::Blob(parse_hex(text)?),
        LakeType::Uuid => Bound::Uuid(Uuid::parse_str(text).ok()?),
        LakeType::List | LakeType::Struct | LakeType::Map | LakeType::Other(_) => return None,
    })
}

/// Whether a column of type `ty` can have a value: one that was wider once may have bounds that are none of its values.
fn fits(ty: &LakeType, value: i128) -> bool {
    match ty {
        LakeType::Int8 => i8::try_from(value).is_ok(),
        LakeType::Int16 => i16::try_from(value).is_ok(),
        LakeType::Int32 => i32::try_from(value).is_ok(),
        LakeType::UInt8 => u8::try_from(value).is_ok(),
        LakeType::UInt16 => u16::try_from(value).is_ok(),
        LakeType::UInt32 => u32::try_from(value).is_ok(),
        LakeType::Decimal { precision, .. } => {
            10u128.checked_pow(u32::from(*precision)).is_none_or(|limit| value.unsigned_abs() < limit)
        }
        _ => true,
    }
}

/// Bounds as an array of the column's Arrow type, NULL where a bound is not known.
///
/// `None` for nested types and types without an Arrow type.
pub fn array(ty: &LakeType, bounds: impl IntoIterator<Item = Option<Bound>>) -> Option<ArrayRef> {
    macro_rules! narrow {
        ($array:ident, $variant:ident) => {
            Arc::new(
                bounds
                    .into_iter()
                    .map(|bound| match bound {
                        Some(Bound::$variant(value)) => value.try_into().ok(),
                        _ => None,
                    })
                    .collect::<$array>(),
            ) as ArrayRef
        };
    }
    macro_rules! plain {
        ($array:ty, $variant:ident, |$value:ident| $convert:expr) => {
            bounds
                .into_iter()
                .map(|bound| match bound {
                    Some(Bound::$variant($value)) => Some($convert),
                    _ => None,
                })
                .collect::<$array>()
        };
    }
    Some(match ty {
        LakeType::Boolean => Arc::new(plain!(BooleanArray, Boolean, |v| v)),
        LakeType::Int8 => narrow!(Int8Array, Int),
        LakeType::Int16 => narrow!(Int16Array, Int),
        LakeType::Int32 => narrow!(Int32Array, Int),
        LakeType::Int64 => narrow!(Int64Array, Int),
        LakeType::UInt8 => narrow!(UInt8Array, UInt),
        LakeType::UInt16 => narrow!(UInt16Array, UInt),
        LakeType::UInt32 => narrow!(UInt32Array, UInt),
        LakeType::UInt64 => narrow!(UInt64Array, UInt),
        LakeType::Float32 => Arc::new(plain!(Float32Array, Float, |v| v as f32)),
        LakeType::Float64 => Arc::new(plain!(Float64Array, Float, |v| v)),
        LakeType::Decimal { precision, scale } => {
            let scale = i8::try_from(*scale).ok()?;
            let values = plain!(Decimal128Array, Decimal, |v| v);
            Arc::new(values.with_precision_and_scale(*precision, scale).ok()?)
        }
        LakeType::Date => Arc::new(plain!(Date32Array, Date, |v| v)),
        LakeType::Time => Arc::new(plain!(Time64MicrosecondArray, Time, |v| v)),
        LakeType::TimestampS | LakeType::TimestampMs => {
            Arc::new(plain!(TimestampMillisecondArray, Timestamp, |v| v))
        }
        LakeType::Timestamp => Arc::new(plain!(TimestampMicrosecondArray, Timestamp, |v| v)),
        LakeType::TimestampTz => {
            Arc::new(plain!(TimestampMicrosecondArray, Timestamp, |v| v).with_timezone(UTC))
        }
        LakeType::TimestampNs => Arc::new(plain!(TimestampNanosecondArray, Timestamp, |v| v)),
        LakeType::Varchar | LakeType::Json => Arc::new(plain!(StringArray, Text, |v| v)),
        LakeType::Blob => Arc::new(plain!(BinaryArray, Blob, |v| v)),
        LakeType::Uuid => {
            let values = plain!(Vec<Option<[u8; 16]>>, Uuid, |v| v.into_bytes());
            if values.iter().all(Option::is_none) {
                new_null_array(&DataType::FixedSizeBinary(16), values.len())
            } else {
                Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values.into_iter(), 16).ok()?)
            }
        }
        LakeType::List | LakeType::Struct | LakeType::Map | LakeType::Other(_) => return None,
    })
}

/// Longest bound of a text or of bytes, in bytes. DuckDB cuts at the same length.
const TEXT_BYTES_MAX: usize = 256;

/// A text not greater than `value` that fits the catalog: a prefix of it.
///
/// NUL ends a text for some readers of the catalog, and so it ends the bound.
pub fn text_floor(value: &str) -> String {
    value[..cut(value)].to_owned()
}

/// A text not less than `value` that fits the catalog, or `None` if there is no such text.
pub fn text_ceiling(value: &str) -> Option<String> {
    let end = cut(value);
    if end == value.len() {
        return Some(value.to_owned());
    }
    let mut prefix: Vec<char> = value[..end].chars().collect();
    while let Some(last) = prefix.pop() {
        // The code point after the surrogates follows the one before them.
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            prefix.push(next);
            return Some(prefix.into_iter().collect());
        }
    }
    None
}

/// As [`text_floor`], of bytes.
pub fn blob_floor(value: &[u8]) -> Vec<u8> {
    value[..value.len().min(TEXT_BYTES_MAX)].to_vec()
}

/// As [`text_ceiling`], of bytes.
pub fn blob_ceiling(value: &[u8]) -> Option<Vec<u8>> {
    let mut prefix = blob_floor(value);
    if prefix.len() == value.len() {
        return Some(prefix);
    }
    while let Some(last) = prefix.pop() {
        if let Some(next) = last.checked_add(1) {
            prefix.push(next);
            return Some(prefix);
        }
    }
    None
}

fn cut(value: &str) -> usize {
    let end = value.find('\0').unwrap_or(value.len());
    value.floor_char_boundary(end.min(TEXT_BYTES_MAX))
}

/// Digits after the second, and whether the text names its zone. Also the unit of the Arrow type.
fn timestamp_digits(ty: &LakeType) -> Option<(u32, bool)> {
    match ty {
        LakeType::TimestampS | LakeType::TimestampMs => Some((3, false)),
        LakeType::Timestamp => Some((6, false)),
        LakeType::TimestampTz => Some((6, true)),
        LakeType::TimestampNs => Some((9, false)),
        _ => None,
    }
}

/// A float with its exponent as DuckDB writes it: a sign, and two digits or more.
fn float_text(text: &str) -> String {
    let Some((digits, exponent)) = text.split_once('e') else { return text.to_owned() };
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

fn decimal_text(value: i128, scale: usize) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

fn parse_decimal(text: &str, scale: usize) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if fraction.len() > scale || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let all = format!("{whole}{fraction:0<scale$}");
    if !all.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: i128 = if all.is_empty() { 0 } else { all.parse().ok()? };
    Some(if negative { -value } else { value })
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let nibble = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    digits.chunks_exact(2).map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?)).collect()
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
