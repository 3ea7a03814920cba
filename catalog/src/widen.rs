//! What is known about a column over all files a table ever had, and how a new file widens it.
//!
//! Other engines choose types and skip work by these bounds: one that does not cover a value gives wrong answers.
//!
//! # Invariants
//! - The result covers what was covered before and every new file. Pure.
//! - Bounds never shrink, and an unknown bound stays unknown.

use crate::column::Column;
use crate::footer::Range;
use crate::model::ColumnStats;
use crate::text;

/// A row of `ducklake_table_column_stats`.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Global {
    pub(crate) contains_null: Option<bool>,
    pub(crate) contains_nan: Option<bool>,
    pub(crate) min: Option<String>,
    pub(crate) max: Option<String>,
}

/// What the table held of a column before the new files.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Before {
    /// The table never had a row.
    Nothing,
    /// Rows, of which no file knows the column: it was added later. `inside` another, which may be NULL in some of them.
    Absent { inside: bool },
    /// This is known. `all_null` if no value is known to exist, so that absent bounds are those of no values.
    Known { global: Global, all_null: bool },
}

/// Covers `before` and `files`, of which each speaks of `column`.
pub(crate) fn widen<'a>(
    column: &Column,
    before: Before,
    files: impl Iterator<Item = &'a ColumnStats>,
) -> Global {
    let ty = &column.ty;
    let decode = |bound: &Option<String>| bound.as_deref().and_then(|bound| text::decode(ty, bound));
    let mut range = Range::default();
    let (mut nulls, mut nan) = (false, Some(false));
    match &before {
        Before::Nothing => {}
        Before::Absent { inside } => {
            if column.initial_default.is_some() {
                range.add(decode(&column.initial_default), decode(&column.initial_default));
            }
            nulls = *inside || column.initial_default.is_none();
        }
        Before::Known { global, all_null } => {
            nulls = global.contains_null.unwrap_or(true);
            nan = global.contains_nan;
            if !(*all_null && global.min.is_none() && global.max.is_none()) {
                range.add(decode(&global.min), decode(&global.max));
            }
        }
    }
    for file in files {
        nulls |= file.nulls > 0;
        nan = merge_nan(nan, nan_of(column, file));
        if file.values > 0 {
            range.add(decode(&file.min), decode(&file.max));
        }
    }
    let (min, max) = range.texts(ty);
    let contains_nan = if ty.is_float() { nan } else { None };
    Global { contains_null: Some(nulls), contains_nan, min, max }
}

/// Whether a file may hold values that are not numbers: what is not known is "yes", since other engines skip files on
/// "no" and on NULL alike.
pub(crate) fn nan_of(column: &Column, file: &ColumnStats) -> Option<bool> {
    column.ty.is_float().then(|| file.nan.unwrap_or(file.values > 0))
}

fn merge_nan(old: Option<bool>, new: Option<bool>) -> Option<bool> {
    match (old, new) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LakeType;

    fn column(ty: LakeType) -> Column {
        Column {
            id: 1,
            name: "x".to_owned(),
            physical: "x".to_owned(),
            ty,
            nullable: true,
            initial_default: None,
            default: None,
            comment: None,
            children: Vec::new(),
        }
    }

    fn stats(values: u64, nulls: u64, min: Option<&str>, max: Option<&str>) -> ColumnStats {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        ColumnStats { column: 1, bytes: 1, values, nulls, min: owned(min), max: owned(max), nan: None }
    }

    fn known(min: Option<&str>, max: Option<&str>, all_null: bool) -> Before {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let global =
            Global { contains_null: Some(false), contains_nan: None, min: owned(min), max: owned(max) };
        Before::Known { global, all_null }
    }

    fn bounds(ty: LakeType, before: Before, files: &[ColumnStats]) -> (Option<String>, Option<String>) {
        let global = widen(&column(ty), before, files.iter());
        (global.min, global.max)
    }

    fn pair(min: &str, max: &str) -> (Option<String>, Option<String>) {
        (Some(min.to_owned()), Some(max.to_owned()))
    }

    #[test]
    fn values_are_compared_and_not_their_texts() {
        let decimal = LakeType::Decimal { precision: 12, scale: 2 };
        for (ty, low, middle, high) in [
            (LakeType::Int64, "-10", "9", "10"),
            (LakeType::UInt64, "9", "10", "18446744073709551615"),
            (LakeType::Float64, "-inf", "1e-7", "1e300"),
            (decimal, "-100.00", "-9.50", "99.99"),
            (LakeType::Date, "0044-03-15 (BC)", "2024-01-01", "10000-01-01"),
            (LakeType::Timestamp, "1969-12-31 23:59:59.5", "1970-01-01 00:00:00", "12024-01-01 00:00:00"),
            (LakeType::Time, "00:00:00", "09:00:00.5", "10:00:00"),
            (LakeType::Varchar, "", "Z", "a"),
            (LakeType::Blob, "00", "7F", "FF"),
            (LakeType::Boolean, "0", "0", "1"),
        ] {
            let files = [stats(1, 0, Some(high), Some(high)), stats(1, 0, Some(low), Some(low))];
            let wide = bounds(ty.clone(), known(Some(middle), Some(middle), false), &files);
            let read = |text: &Option<String>| text::decode(&ty, text.as_deref().unwrap());
            assert_eq!(
                (read(&wide.0), read(&wide.1)),
                (text::decode(&ty, low), text::decode(&ty, high)),
                "{ty}"
            );
        }
    }

    #[test]
    fn unknown_bounds_stay_unknown() {
        let file = [stats(5, 0, Some("1"), Some("2"))];
        assert_eq!(bounds(LakeType::Int32, known(None, None, false), &file), (None, None));
        assert_eq!(
            bounds(LakeType::Int32, known(Some("0"), None, false), &file),
            (Some("0".to_owned()), None)
        );
        let unknown = [stats(5, 0, None, None)];
        assert_eq!(bounds(LakeType::Int32, known(Some("0"), Some("9"), false), &unknown), (None, None));
        assert_eq!(
            bounds(LakeType::Int32, known(Some("zero"), Some("9"), false), &file),
            (None, Some("9".to_owned()))
        );
    }

    #[test]
    fn nulls_have_no_bounds() {
        let nulls = [stats(0, 3, None, None)];
        assert_eq!(bounds(LakeType::Int32, known(Some("0"), Some("9"), false), &nulls), pair("0", "9"));
        assert_eq!(bounds(LakeType::Int32, Before::Nothing, &nulls), (None, None));
        let values = [stats(1, 0, Some("4"), Some("5"))];
        assert_eq!(bounds(LakeType::Int32, known(None, None, true), &values), pair("4", "5"));
        assert!(widen(&column(LakeType::Int32), Before::Nothing, nulls.iter()).contains_null == Some(true));
    }

    #[test]
    fn an_added_column_counts_its_default() {
        let values = [stats(1, 0, Some("4"), Some("5"))];
        let mut added = column(LakeType::Int32);
        let global = widen(&added, Before::Absent { inside: false }, values.iter());
        assert_eq!((global.contains_null, global.min.as_deref()), (Some(true), Some("4")));
        added.initial_default = Some("-7".to_owned());
        let global = widen(&added, Before::Absent { inside: false }, values.iter());
        assert_eq!((global.contains_null, global.min.as_deref()), (Some(false), Some("-7")));
        // The struct that it is in may be NULL.
        let global = widen(&added, Before::Absent { inside: true }, values.iter());
        assert_eq!((global.contains_null, global.min.as_deref()), (Some(true), Some("-7")));
    }

    #[test]
    fn what_may_be_nan_is_nan() {
        let float = column(LakeType::Float64);
        let mut file = stats(1, 0, Some("1.0"), Some("1.0"));
        assert_eq!(widen(&float, Before::Nothing, [&file].into_iter()).contains_nan, Some(true));
        file.nan = Some(false);
        assert_eq!(widen(&float, Before::Nothing, [&file].into_iter()).contains_nan, Some(false));
        assert_eq!(widen(&column(LakeType::Int8), Before::Nothing, [&file].into_iter()).contains_nan, None);
    }
}
