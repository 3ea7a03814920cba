//! Columns in the names of folders, as Hive has them: `year=2024/month=1/file`.

use std::str::FromStr;
use std::sync::Arc;

use chrono::NaiveDate;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;
use object_store::path::Path;
use skep_common::{Error, Result};

use crate::types;

/// The folder of rows without a value.
const NULL_FOLDER: &str = "__HIVE_DEFAULT_PARTITION__";

/// The values of the columns `declared` for each of `paths` below `root`, and the columns with their types found.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for a file in other folders, or a value of another type.
pub(super) fn values<'a>(
    root: &Path,
    paths: impl Iterator<Item = &'a Path>,
    declared: &[FieldRef],
    views: bool,
) -> Result<(Vec<FieldRef>, Vec<Vec<ScalarValue>>)> {
    let mut texts: Vec<Vec<Option<String>>> = Vec::new();
    for path in paths {
        texts.push(of_path(root, path, declared)?);
    }
    let fields: Vec<FieldRef> = declared
        .iter()
        .enumerate()
        .map(|(at, field)| {
            let ty = match field.data_type() {
                DataType::Null => guess(texts.iter().filter_map(|values| values[at].as_deref())),
                DataType::Utf8 if views => DataType::Utf8View,
                other => other.clone(),
            };
            let ty = if views && ty == DataType::Utf8 { DataType::Utf8View } else { ty };
            Arc::new(Field::new(field.name(), ty, true))
        })
        .collect();
    let values = texts
        .into_iter()
        .map(|values| values.into_iter().zip(&fields).map(|(text, field)| parse(text, field)).collect())
        .collect::<Result<Vec<Vec<_>>>>()?;
    Ok((fields, values))
}

fn of_path(root: &Path, path: &Path, declared: &[FieldRef]) -> Result<Vec<Option<String>>> {
    if declared.is_empty() {
        return Ok(Vec::new());
    }
    let parts: Vec<String> = path
        .prefix_match(root)
        .map(|parts| parts.map(|part| part.as_ref().to_owned()).collect())
        .unwrap_or_default();
    let folders = parts.split_last().map(|(_, folders)| folders).unwrap_or_default();
    let mut values = Vec::with_capacity(declared.len());
    for field in declared {
        let found = folders.iter().find_map(|folder| {
            let (name, value) = folder.split_once('=')?;
            name.eq_ignore_ascii_case(field.name()).then(|| decoded(value))
        });
        let value = found.ok_or_else(|| {
            Error::invalid(format!("file '{path}' is not in a folder '{}=...'", field.name()))
                .hint("every file of a partitioned table lies in one folder for each partition column")
        })?;
        values.push((value != NULL_FOLDER).then_some(value));
    }
    Ok(values)
}

/// `%20` and the like as characters.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn guess<'a>(values: impl Iterator<Item = &'a str> + Clone) -> DataType {
    let all = |fits: fn(&str) -> bool| values.clone().all(fits) && values.clone().next().is_some();
    // A leading zero is part of a name, as in month=01, and would be lost.
    if all(|value| i64::from_str(value).is_ok_and(|n| n.to_string() == value)) {
        DataType::Int64
    } else if all(|value| NaiveDate::from_str(value).is_ok()) {
        DataType::Date32
    } else {
        DataType::Utf8
    }
}

fn parse(text: Option<String>, field: &Field) -> Result<ScalarValue> {
    let Some(text) = text else {
        return ScalarValue::try_from(field.data_type()).map_err(|_| {
            Error::unsupported(format!(
                "partition column '{}' has a type that folders do not have",
                field.name()
            ))
        });
    };
    ScalarValue::try_from_string(text.clone(), field.data_type()).map_err(|_| {
        Error::invalid(format!(
            "folder '{}={text}' is not a value of the partition column, which is {}",
            field.name(),
            types::sql_name(field.data_type())
        ))
        .hint("declare the column as VARCHAR, or rename the folder")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(paths: &[&str], columns: &[(&str, DataType)]) -> Result<String> {
        let paths: Vec<Path> = paths.iter().map(|path| Path::parse(path).unwrap()).collect();
        let fields: Vec<FieldRef> = columns
            .iter()
            .map(|(name, ty)| Arc::new(Field::new(*name, ty.clone(), true)) as FieldRef)
            .collect();
        let (fields, rows) = values(&Path::from("d"), paths.iter(), &fields, false)?;
        let types: Vec<String> = fields.iter().map(|field| types::sql_name(field.data_type())).collect();
        let rows: Vec<String> = rows
            .iter()
            .map(|row| row.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
            .collect();
        Ok(format!("{} | {}", types.join(","), rows.join(" | ")))
    }

    #[test]
    fn folders_become_columns() {
        let paths =
            ["d/year=2024/m=01/a", "d/year=2023/m=12/b", "d/year=__HIVE_DEFAULT_PARTITION__/m=a%20b/c"];
        let columns = [("year", DataType::Null), ("m", DataType::Null)];
        assert_eq!(run(&paths, &columns).unwrap(), "BIGINT,VARCHAR | 2024,01 | 2023,12 | NULL,a b");
        assert_eq!(run(&["d/day=2024-02-29/a"], &[("day", DataType::Null)]).unwrap(), "DATE | 2024-02-29");
        assert_eq!(run(&["d/n=7/a"], &[("n", DataType::Int16)]).unwrap(), "SMALLINT | 7");
    }

    #[test]
    fn folders_that_do_not_fit_are_named() {
        let missing = run(&["d/a"], &[("year", DataType::Null)]).unwrap_err();
        assert_eq!(missing.message(), "file 'd/a' is not in a folder 'year=...'");
        let wrong = run(&["d/year=x/a"], &[("year", DataType::Int32)]).unwrap_err();
        assert_eq!(
            wrong.message(),
            "folder 'year=x' is not a value of the partition column, which is INTEGER"
        );
    }
}
