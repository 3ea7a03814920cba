//! `pipeline.toml`, and the TOML in the first comment of a model.
//!
//! # Not here
//! What the keys lead to (`project::model`, `run`).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use skep_common::{Error, Position, Result, Span};

use crate::interval::Grain;
use crate::schedule::{RawNotify, RawSchedule};

/// `pipeline.toml`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) pipeline: Settings,
    /// Values that models name as `$name`.
    #[serde(default)]
    pub(crate) vars: BTreeMap<String, toml::Value>,
    /// What models of a schema have unless they say otherwise.
    #[serde(default)]
    pub(crate) defaults: BTreeMap<String, Header>,
    /// Tables that others fill.
    #[serde(default)]
    pub(crate) source: Vec<Source>,
    /// Environments beside production.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, Env>,
    /// When deployed versions run.
    #[serde(default)]
    pub(crate) schedule: Vec<RawSchedule>,
    /// Who is told of scheduled runs.
    #[serde(default)]
    pub(crate) notify: Vec<RawNotify>,
}

/// `[pipeline]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// What the project is called: its runs and intervals are kept under this name.
    pub(crate) name: String,
    /// The first time that models with intervals are run for.
    pub(crate) start: Option<String>,
    /// Where intervals end at most; absent: now. For data that is not of today.
    pub(crate) end: Option<String>,
    /// Models at a time.
    pub(crate) threads: Option<u8>,
    /// The lane of its statements; absent: durable.
    pub(crate) execution: Option<String>,
    /// Where relative paths of files start; absent: the project's folder.
    pub(crate) directory: Option<String>,
}

/// `[[source]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    /// `schema.table`
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) tests: Vec<RawTest>,
}

/// `[env.NAME]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Env {
    /// What stands behind the names of schemas that it writes to.
    pub(crate) schema_suffix: String,
}

/// How a model's rows get into its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// No rows: its query is run by whoever reads it.
    View,
    /// All of them, in the place of those before.
    Table,
    /// Those of each interval, once.
    Append,
    /// Those of an interval in the place of those that it had.
    Interval,
    /// Those of each partition that the query gives rows for, in the place of those that it had.
    Partition,
    /// By key: rows that are there change, others are added.
    Merge,
    /// By key: what changed is closed and kept, and the new state is added (slowly changing dimension, type 2).
    Snapshot,
    /// Those of a CSV file of the project.
    Seed,
    /// Those of files that were not loaded yet.
    Load,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Table => "table",
            Self::Append => "append",
            Self::Interval => "interval",
            Self::Partition => "partition",
            Self::Merge => "merge",
            Self::Snapshot => "snapshot",
            Self::Seed => "seed",
            Self::Load => "load",
        }
    }
}

/// What is done when a query has other columns than its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SchemaChange {
    /// The model fails.
    Fail,
    /// Columns that the table lacks are added to it.
    Add,
    /// The table is made again from nothing.
    Replace,
}

/// The TOML in the first comment of a model.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Header {
    pub(crate) kind: Option<Kind>,
    pub(crate) description: Option<String>,
    pub(crate) tags: Vec<String>,
    /// Run it in every run, whatever its sources did.
    pub(crate) always: Option<bool>,
    /// The column by which rows belong to intervals.
    pub(crate) time: Option<String>,
    pub(crate) grain: Option<Grain>,
    pub(crate) lookback: Option<u32>,
    pub(crate) start: Option<String>,
    /// The columns that tell rows apart.
    pub(crate) key: Vec<String>,
    /// The columns whose changes a snapshot keeps; none: all.
    pub(crate) check: Vec<String>,
    /// As in `PARTITIONED BY`.
    pub(crate) partition: Vec<String>,
    /// As in `SORTED BY`.
    pub(crate) sort: Vec<String>,
    /// As in `CREATE TABLE`: the columns of a load or a seed.
    pub(crate) columns: Option<String>,
    /// As in `COPY INTO`: how files are read.
    pub(crate) options: BTreeMap<String, toml::Value>,
    /// Put rows that a load cannot take into a table of their own.
    pub(crate) reject: bool,
    pub(crate) on_schema_change: Option<SchemaChange>,
    pub(crate) tests: Vec<RawTest>,
}

/// One test, as it is written: exactly one of the first seven says which.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawTest {
    pub(crate) not_null: Vec<String>,
    pub(crate) unique: Vec<String>,
    pub(crate) accepted_values: Option<String>,
    pub(crate) relationships: Option<String>,
    pub(crate) expression: Option<String>,
    pub(crate) row_count: Option<Bounds>,
    pub(crate) freshness: Option<String>,
    /// Of accepted_values.
    pub(crate) values: Vec<toml::Value>,
    /// Of relationships: the table.
    pub(crate) to: Option<String>,
    /// Of relationships: the column there; absent: of the same name.
    pub(crate) column: Option<String>,
    /// Of freshness: the age that the newest row has at most.
    pub(crate) within: Option<String>,
    pub(crate) on_fail: OnFail,
    pub(crate) name: Option<String>,
}

/// `{ min = 1, max = 10 }`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bounds {
    pub(crate) min: Option<u64>,
    pub(crate) max: Option<u64>,
}

/// What a test that fails does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnFail {
    /// Nothing of the run is published.
    #[default]
    Fail,
    /// It is told.
    Warn,
    /// The rows go to a table of their own.
    Drop,
}

/// Reads TOML that begins at line `first` of a file.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) with the place.
pub(crate) fn read<T: DeserializeOwned>(text: &str, first: u64) -> Result<T> {
    toml::from_str(text).map_err(|e| {
        let error = Error::invalid(e.message().trim().replace('\n', " "));
        match e.span() {
            Some(range) => error.at(span(text, &range, first)),
            None => error,
        }
    })
}

/// The places of a piece of TOML that begins at line `first` of a file.
pub(crate) fn span(text: &str, range: &std::ops::Range<usize>, first: u64) -> Span {
    Span {
        start: Position::of(text, range.start, first),
        end: Position::of(text, range.end.max(range.start), first),
    }
}

/// The TOML of a model and the line that it begins at: `/*---` to `---*/`, before anything else but space.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for one that does not end.
pub(crate) fn header(sql: &str) -> Result<Option<(&str, u64)>> {
    let start = sql.len() - sql.trim_start().len();
    let Some(inside) = sql[start..].strip_prefix("/*---") else { return Ok(None) };
    let line = sql[..start].matches('\n').count() as u64 + 1;
    match inside.find("---*/") {
        Some(end) => Ok(Some((&inside[..end], line))),
        None => Err(Error::invalid("the header does not end")
            .at(Position { line, column: 1 })
            .hint("a header is TOML between /*--- and ---*/")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_the_first_comment() {
        let sql = "\n/*---\nkind = \"interval\"\ngrain = \"day\"\n---*/\nSELECT 1";
        let (text, line) = header(sql).unwrap().unwrap();
        let read: Header = super::read(text, line).unwrap();
        assert_eq!((read.kind, read.grain, line), (Some(Kind::Interval), Some(Grain::Day), 2));
        assert!(header("SELECT 1 /*--- kind ---*/").unwrap().is_none());
        assert!(header("/*--- kind = 1").is_err());
    }

    #[test]
    fn what_is_wrong_is_shown_where_it_stands() {
        let sql = "/*---\nkind = \"intervall\"\n---*/\nSELECT 1";
        let (text, line) = header(sql).unwrap().unwrap();
        let error = super::read::<Header>(text, line).unwrap_err();
        assert_eq!(error.position(), Some(Position { line: 2, column: 8 }), "{error:?}");
        assert!(error.message().contains("intervall") && error.message().contains("`interval`"), "{error:?}");
        let error = super::read::<Header>("kinds = 1", 1).unwrap_err();
        assert!(error.message().contains("unknown field `kinds`"), "{error:?}");
    }
}
