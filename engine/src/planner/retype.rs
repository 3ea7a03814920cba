//! Which type a column can become while its files stay as they are.
//!
//! A type becomes one that has all of its values, so that what files hold can be read as the new one. DuckDB 1.5.5 takes and
//! reads all of these; it takes others too, which lose digits or whose meaning hangs on the session's time zone.

use skep_catalog::{Column, ColumnStats, LakeType, text};
use skep_common::{Error, Result};

use super::clauses;
use crate::sql::ColumnPath;

/// Refuses a type that `column` cannot become, with those that it can.
pub(super) fn allowed(column: &Column, wanted: &LakeType, path: &ColumnPath) -> Result<()> {
    let nested = path.parts.len() > 1;
    if widens(&column.ty, wanted, nested) {
        return Ok(());
    }
    let shown = |ty: &LakeType| {
        ty.leaf_arrow().map_or_else(|| ty.to_string().to_uppercase(), |ty| crate::types::sql_name(&ty))
    };
    let error = Error::invalid(format!(
        "column '{path}' is {}, which cannot become {}",
        clauses::type_name(column),
        shown(wanted)
    ));
    let others = "CREATE OR REPLACE TABLE t AS SELECT CAST(...) ... FROM t converts others";
    let error = match wider(&column.ty, nested, shown).as_slice() {
        [] => error.hint(format!("integers, decimals, REAL, DATE and TIMESTAMP(3) can be widened; {others}")),
        names => error.hint(format!("it can become {}; {others}", names.join(" or "))),
    };
    Err(super::tables::placed(error, path.at))
}

/// Whether expressions over a column may mean something else once it has the other type.
pub(super) fn reads_otherwise(ty: &LakeType, wanted: &LakeType) -> bool {
    let integers = integer(ty).is_some() && integer(wanted).is_some();
    let floats = ty.is_float() && wanted.is_float();
    !(integers || floats)
}

/// Refuses `wanted` if a file may hold a value of `column` that it has not.
pub(super) fn fits<'a>(
    column: &Column,
    wanted: &LakeType,
    stats: impl Iterator<Item = &'a ColumnStats>,
) -> Result<()> {
    if rank(wanted).is_none() {
        return Ok(());
    }
    let inside = |bound: &Option<String>| {
        let bound = bound.as_deref().filter(|bound| !bound.ends_with("infinity"));
        bound.is_some_and(|bound| text::decode(wanted, bound).is_some())
    };
    for stats in stats.filter(|stats| stats.values > 0) {
        for bound in [&stats.min, &stats.max] {
            if !inside(bound) {
                let value = bound.as_deref().unwrap_or("values that are not known");
                return Err(Error::invalid(format!(
                    "column '{}' has {value}, which is no value of the other type",
                    column.name
                ))
                .hint("its timestamps span less time: change the rows first"));
            }
        }
    }
    Ok(())
}

/// A default of `column` as one of type `wanted` is kept.
pub(super) fn rewritten(
    default: Option<String>,
    column: &Column,
    wanted: &LakeType,
) -> Result<Option<String>> {
    let Some(default) = default else { return Ok(None) };
    let made = text::decode(wanted, &default).and_then(|bound| text::encode(wanted, &bound));
    let unfit =
        || Error::invalid(format!("the default of column '{}' is no value of the other type", column.name));
    made.map(Some).ok_or_else(|| unfit().hint("ALTER TABLE ... ALTER COLUMN ... DROP DEFAULT first"))
}

/// Whether it is signed, and its bits.
fn integer(ty: &LakeType) -> Option<(bool, u32)> {
    Some(match ty {
        LakeType::Int8 => (true, 8),
        LakeType::Int16 => (true, 16),
        LakeType::Int32 => (true, 32),
        LakeType::Int64 => (true, 64),
        LakeType::UInt8 => (false, 8),
        LakeType::UInt16 => (false, 16),
        LakeType::UInt32 => (false, 32),
        LakeType::UInt64 => (false, 64),
        _ => return None,
    })
}

/// Decimal digits of an integer of that many bits.
fn digits(signed: bool, bits: u32) -> u8 {
    match (signed, bits) {
        (_, 8) => 3,
        (_, 16) => 5,
        (_, 32) => 10,
        (true, _) => 19,
        (false, _) => 20,
    }
}

/// Timestamps without a zone by the fineness of their unit.
fn rank(ty: &LakeType) -> Option<u8> {
    Some(match ty {
        LakeType::TimestampS => 0,
        LakeType::TimestampMs => 1,
        LakeType::Timestamp => 2,
        LakeType::TimestampNs => 3,
        _ => return None,
    })
}

/// Whether every value of `from` is one of `to`, but for the span of timestamps. Inside other columns DuckDB's filters
/// do not find all rows of some of them.
fn widens(from: &LakeType, to: &LakeType, nested: bool) -> bool {
    match (integer(from), integer(to)) {
        (Some((a, from)), Some((b, to))) => return to > from && (a == b || b),
        (Some((signed, bits)), None) if !nested => {
            return match to {
                LakeType::Float32 => bits <= 16,
                LakeType::Float64 => bits <= 32,
                LakeType::Decimal { precision, scale } => precision - scale >= digits(signed, bits),
                _ => false,
            };
        }
        _ => {}
    }
    match (from, to) {
        (LakeType::Float32, LakeType::Float64) => true,
        (LakeType::Decimal { precision: p, scale: s }, LakeType::Decimal { precision, scale }) => {
            from != to && scale >= s && precision - scale >= p - s
        }
        (LakeType::Date, to) => rank(to).is_some_and(|rank| !nested || matches!(rank, 1 | 2)),
        (from, to) => match (rank(from), rank(to)) {
            (Some(from), Some(to)) => from < to && !nested,
            _ => false,
        },
    }
}

/// The names of the types that `ty` can become.
fn wider(ty: &LakeType, nested: bool, shown: impl Fn(&LakeType) -> String) -> Vec<String> {
    use LakeType as T;
    let plain = [
        T::Int16,
        T::Int32,
        T::Int64,
        T::UInt16,
        T::UInt32,
        T::UInt64,
        T::Float32,
        T::Float64,
        T::TimestampMs,
        T::Timestamp,
        T::TimestampNs,
    ];
    let mut names: Vec<String> = plain.iter().filter(|to| widens(ty, to, nested)).map(shown).collect();
    match (ty, integer(ty)) {
        (T::Decimal { precision, scale }, _) if *precision < 38 => names.push(format!(
            "DECIMAL(p, s) with s of {scale} or more and p of {} or more beyond s",
            precision - scale
        )),
        (_, Some((signed, bits))) if !nested => {
            names.push(format!("DECIMAL(p, s) with p of {} or more beyond s", digits(signed, bits)));
        }
        _ => {}
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_becomes_one_that_has_its_values() {
        let decimal = |precision, scale| LakeType::Decimal { precision, scale };
        let table = [
            (LakeType::Int8, LakeType::Int64, true, true),
            (LakeType::Int64, LakeType::Int32, false, false),
            (LakeType::Int8, LakeType::UInt16, false, false),
            (LakeType::UInt8, LakeType::Int16, true, true),
            (LakeType::UInt8, LakeType::Int8, false, false),
            (LakeType::UInt32, LakeType::Float64, true, false),
            (LakeType::Int64, LakeType::Float64, false, false),
            (LakeType::Int32, LakeType::Float32, false, false),
            (LakeType::Int32, decimal(12, 2), true, false),
            (LakeType::Int32, decimal(11, 2), false, false),
            (LakeType::UInt64, decimal(20, 0), true, false),
            (decimal(4, 2), decimal(5, 2), true, true),
            (decimal(4, 2), decimal(5, 3), true, true),
            (decimal(4, 2), decimal(4, 3), false, false),
            (decimal(4, 2), decimal(9, 1), false, false),
            (decimal(4, 2), LakeType::Float64, false, false),
            (LakeType::Float32, LakeType::Float64, true, true),
            (LakeType::Date, LakeType::Timestamp, true, true),
            (LakeType::Date, LakeType::TimestampNs, true, false),
            (LakeType::Date, LakeType::TimestampTz, false, false),
            (LakeType::TimestampMs, LakeType::Timestamp, true, false),
            (LakeType::Timestamp, LakeType::TimestampMs, false, false),
            (LakeType::Timestamp, LakeType::TimestampTz, false, false),
            (LakeType::Varchar, LakeType::Json, false, false),
        ];
        for (from, to, alone, nested) in table {
            assert_eq!(widens(&from, &to, false), alone, "{from} to {to}");
            assert_eq!(widens(&from, &to, true), nested, "{from} to {to}, nested");
        }
    }
}
