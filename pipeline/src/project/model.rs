//! One model: what it is called, how its rows get into its table, what it reads, and what must hold of them.
//!
//! # Not here
//! What a run does with it (`run`).

use std::fmt;

use chrono::NaiveDateTime;
use skep_common::{Error, Result};

use super::config::{self, Bounds, Config, Header, Kind, OnFail, RawTest, SchemaChange};
use crate::bundle::fingerprint;
use crate::interval::{self, Grain};
use crate::rewrite::{self, Reads, Reference};

/// The schema of names without one.
const MAIN: &str = "main";

/// Schema and name of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) schema: String,
    pub(crate) name: String,
}

impl Name {
    /// What a query means by a name.
    pub(crate) fn of(reference: &Reference) -> Self {
        let schema = reference.schema.clone().unwrap_or_else(|| MAIN.to_owned());
        Self { schema, name: reference.name.clone() }
    }

    /// Reads `schema.name`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for anything else.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        match text.split('.').collect::<Vec<_>>().as_slice() {
            [schema, name] if !schema.is_empty() && !name.is_empty() => {
                Ok(Self { schema: (*schema).to_owned(), name: (*name).to_owned() })
            }
            _ => Err(Error::invalid(format!("'{text}' is no name of a table")).hint("write schema.table")),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// What must hold of a model's rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Test {
    pub(crate) name: String,
    pub(crate) rule: Rule,
    pub(crate) on_fail: OnFail,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Rule {
    NotNull(String),
    Unique(Vec<String>),
    /// The values as literals.
    Accepted {
        column: String,
        values: Vec<String>,
    },
    Relationship {
        column: String,
        to: Name,
        theirs: String,
    },
    Expression(String),
    RowCount(Bounds),
    Freshness {
        column: String,
        within: String,
    },
}

impl Rule {
    /// Whether rows can be told that do not fulfil it.
    fn of_rows(&self) -> bool {
        matches!(
            self,
            Self::NotNull(_) | Self::Accepted { .. } | Self::Relationship { .. } | Self::Expression(_)
        )
    }
}

/// What a model of kind load loads.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Load {
    /// The files.
    pub(crate) pattern: String,
    /// As in COPY INTO: names with literals.
    pub(crate) options: Vec<(String, String)>,
}

/// A model.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) name: Name,
    pub(crate) file: String,
    pub(crate) kind: Kind,
    pub(crate) header: Header,
    /// Its query as it is written; the rows of a seed.
    pub(crate) sql: String,
    pub(crate) reads: Reads,
    pub(crate) load: Option<Load>,
    pub(crate) tests: Vec<Test>,
    /// What tells its text from all others.
    pub(crate) fingerprint: String,
    /// Where its intervals start.
    pub(crate) start: Option<NaiveDateTime>,
}

impl Model {
    /// Its time column and grain, if it is run for intervals.
    pub(crate) fn intervals(&self) -> Option<(&str, Grain)> {
        match (self.kind, &self.header.time, self.header.grain) {
            (Kind::Append | Kind::Interval, Some(time), Some(grain)) => Some((time, grain)),
            _ => None,
        }
    }

    pub(crate) fn in_intervals(&self) -> bool {
        self.intervals().is_some()
    }

    /// What is done when its query has other columns than its table.
    pub(crate) fn on_schema_change(&self) -> SchemaChange {
        self.header.on_schema_change.unwrap_or(match self.kind {
            Kind::Table | Kind::Seed | Kind::View => SchemaChange::Replace,
            _ => SchemaChange::Fail,
        })
    }
}

/// Reads `models/SCHEMA/**/NAME.sql`.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) with the place in the file.
pub(crate) fn read(file: &str, text: &str, config: &Config) -> Result<Model> {
    let parts: Vec<&str> = file.split('/').collect();
    let [_, schema, .., last] = parts.as_slice() else {
        return Err(Error::invalid("a model lies in the folder of its schema")
            .hint("move it to models/lake, models/warehouse or models/mart"));
    };
    let name = named(schema, last.trim_end_matches(".sql"))?;
    let header = match config::header(text)? {
        Some((toml, line)) => config::read(toml, line)?,
        None => Header::default(),
    };
    let header = merged(header, config.defaults.get(*schema));
    let kind = header.kind.unwrap_or(Kind::Table);
    if kind == Kind::Seed {
        return Err(Error::invalid("a seed is a CSV file").hint("put it to seeds/SCHEMA/NAME.csv"));
    }
    let (query, reads) = rewrite::reads(text)?;
    let load = (kind == Kind::Load).then(|| load(&query, &reads, &header)).transpose()?;
    finish(Model {
        start: start(&header, config)?,
        tests: tests(&header.tests)?,
        fingerprint: fingerprint([text]),
        name,
        file: file.to_owned(),
        kind,
        header,
        sql: text.to_owned(),
        reads,
        load,
    })
}

/// Reads `seeds/NAME.csv` or `seeds/SCHEMA/NAME.csv`.
///
/// # Errors
/// As [`read`].
pub(crate) fn seed(file: &str, text: &str, config: &Config) -> Result<Model> {
    let parts: Vec<&str> = file.split('/').collect();
    let (schema, last) = match parts.as_slice() {
        [_, last] => ("lake", last),
        [_, schema, .., last] => (*schema, last),
        _ => return Err(Error::invalid("a seed lies in seeds/")),
    };
    let name = named(schema, last.trim_end_matches(".csv"))?;
    if text.lines().next().is_none_or(|line| line.trim().is_empty()) {
        return Err(Error::invalid("the first line of a seed names its columns"));
    }
    let header = config.defaults.get(&format!("seeds.{}", name.name)).cloned().unwrap_or_default();
    finish(Model {
        tests: tests(&header.tests)?,
        fingerprint: fingerprint([text]),
        name,
        file: file.to_owned(),
        kind: Kind::Seed,
        header,
        sql: text.to_owned(),
        reads: Reads::default(),
        load: None,
        start: None,
    })
}

fn named(schema: &str, name: &str) -> Result<Name> {
    let good = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    match [schema, name].into_iter().find(|part| !good(part)) {
        None => Ok(Name { schema: schema.to_owned(), name: name.to_owned() }),
        Some(part) => Err(Error::invalid(format!("'{part}' cannot be the name of a schema or table here"))
            .hint("folders and files are named in lower case letters, digits and _")),
    }
}

/// What a model says, and what its schema's defaults say where it says nothing.
fn merged(own: Header, defaults: Option<&Header>) -> Header {
    let Some(defaults) = defaults else { return own };
    let either = |own: Vec<String>, other: &[String]| if own.is_empty() { other.to_vec() } else { own };
    let mut tags = own.tags;
    tags.extend(defaults.tags.iter().filter(|tag| !tags.contains(tag)).cloned().collect::<Vec<_>>());
    let mut options = defaults.options.clone();
    options.extend(own.options);
    let mut tests = own.tests;
    tests.extend(defaults.tests.iter().cloned());
    Header {
        kind: own.kind.or(defaults.kind),
        description: own.description,
        tags,
        always: own.always.or(defaults.always),
        time: own.time.or_else(|| defaults.time.clone()),
        grain: own.grain.or(defaults.grain),
        lookback: own.lookback.or(defaults.lookback),
        start: own.start.or_else(|| defaults.start.clone()),
        key: either(own.key, &defaults.key),
        check: either(own.check, &defaults.check),
        partition: either(own.partition, &defaults.partition),
        sort: either(own.sort, &defaults.sort),
        columns: own.columns.or_else(|| defaults.columns.clone()),
        options,
        reject: own.reject || defaults.reject,
        on_schema_change: own.on_schema_change.or(defaults.on_schema_change),
        tests,
    }
}

fn start(header: &Header, config: &Config) -> Result<Option<NaiveDateTime>> {
    let text = header.start.as_deref().or(config.pipeline.start.as_deref());
    text.map(interval::parse).transpose().map_err(|e| e.context("the start"))
}

/// What its kind asks of a model.
fn finish(model: Model) -> Result<Model> {
    let header = &model.header;
    let needs = |what: &str, hint: &str| {
        Err(Error::invalid(format!("a model of kind {} needs {what}", model.kind.name()))
            .hint(hint.to_owned()))
    };
    match model.kind {
        Kind::Interval | Kind::Append if header.time.is_none() => {
            needs("a time", "name the column by which rows belong to intervals: time = \"ordered_at\"")
        }
        Kind::Interval | Kind::Append if header.grain.is_none() => {
            needs("a grain", "say how long an interval is: grain = \"day\"")
        }
        Kind::Interval | Kind::Append if model.start.is_none() => needs(
            "a start",
            "say when its first interval begins, in its header or for all in [pipeline]: start = \"2024-01-01\"",
        ),
        Kind::Merge | Kind::Snapshot if header.key.is_empty() => {
            needs("a key", "name the columns that tell rows apart: key = [\"id\"]")
        }
        Kind::Partition if header.partition.is_empty() => {
            needs("partitions", "name what divides its rows: partition = [\"day\"]")
        }
        _ => Ok(model),
    }
}

/// `SELECT * FROM 'pattern'`
fn load(query: &datafusion::sql::sqlparser::ast::Query, reads: &Reads, header: &Header) -> Result<Load> {
    use datafusion::sql::sqlparser::ast::{SelectItem, SetExpr};
    let plain = match query.body.as_ref() {
        SetExpr::Select(select) => {
            matches!(select.projection.as_slice(), [SelectItem::Wildcard(_)])
                && select.selection.is_none()
                && select.from.len() == 1
                && select.from.iter().all(|from| from.joins.is_empty())
        }
        _ => false,
    };
    let (true, [pattern], []) = (plain, reads.files.as_slice(), reads.tables.as_slice()) else {
        return Err(Error::invalid("a load takes the rows of files as they are")
            .hint("write SELECT * FROM 'folder/*.csv', and change the rows in a model that reads this one"));
    };
    let mut options = Vec::new();
    for (name, value) in &header.options {
        options.push((name.to_ascii_uppercase(), literal(value)?));
    }
    Ok(Load { pattern: pattern.clone(), options })
}

/// A value of TOML as a literal of SQL.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for tables, and lists.
pub(crate) fn literal(value: &toml::Value) -> Result<String> {
    match value {
        toml::Value::String(text) => Ok(quoted(text)),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) if number.is_finite() => Ok(format!("CAST({number:?} AS DOUBLE)")),
        toml::Value::Boolean(truth) => Ok(truth.to_string()),
        toml::Value::Datetime(time) => {
            let text = time.to_string().replace('T', " ");
            match (time.date.is_some(), time.time.is_some(), time.offset.is_some()) {
                (true, false, false) => Ok(format!("DATE '{text}'")),
                (true, true, false) => Ok(format!("TIMESTAMP '{text}'")),
                (true, true, true) => Ok(format!("TIMESTAMP WITH TIME ZONE '{text}'")),
                _ => Ok(format!("TIME '{text}'")),
            }
        }
        other => Err(Error::invalid(format!("a value cannot be of type {}", other.type_str()))
            .hint("texts, numbers, true, false, dates and times can")),
    }
}

pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Tests of a table that is not the project's.
///
/// # Errors
/// As for those of models, and for rows that would be taken out of it.
pub(super) fn source_tests(written: &[RawTest]) -> Result<Vec<Test>> {
    let tests = tests(written)?;
    match tests.iter().find(|test| test.on_fail == OnFail::Drop) {
        None => Ok(tests),
        Some(test) => Err(Error::invalid(format!("'{}' would take rows out of a source", test.name))
            .hint("on_fail is \"fail\" or \"warn\" there")),
    }
}

fn tests(written: &[RawTest]) -> Result<Vec<Test>> {
    let mut tests = Vec::new();
    for raw in written {
        let rules = rules(raw)?;
        let several = rules.len() > 1;
        for (name, rule) in rules {
            if raw.on_fail == OnFail::Drop && !rule.of_rows() {
                return Err(Error::invalid(format!(
                    "the rows that break '{name}' cannot be told, and not be dropped"
                ))
                .hint("on_fail = \"drop\" is for not_null, accepted_values, relationships and expression"));
            }
            let name = raw.name.clone().filter(|_| !several).unwrap_or(name);
            tests.push(Test { name, rule, on_fail: raw.on_fail });
        }
    }
    Ok(tests)
}

fn rules(raw: &RawTest) -> Result<Vec<(String, Rule)>> {
    let mut rules: Vec<(String, Rule)> = Vec::new();
    let mut said = 0;
    if !raw.not_null.is_empty() {
        said += 1;
        rules.extend(raw.not_null.iter().map(|c| (format!("not_null({c})"), Rule::NotNull(c.clone()))));
    }
    if !raw.unique.is_empty() {
        said += 1;
        rules.push((format!("unique({})", raw.unique.join(", ")), Rule::Unique(raw.unique.clone())));
    }
    if let Some(column) = &raw.accepted_values {
        said += 1;
        if raw.values.is_empty() {
            return Err(Error::invalid(format!("accepted_values of '{column}' has no values"))
                .hint("as in { accepted_values = \"status\", values = [\"new\", \"paid\"] }"));
        }
        let values = raw.values.iter().map(literal).collect::<Result<_>>()?;
        rules.push((format!("accepted_values({column})"), Rule::Accepted { column: column.clone(), values }));
    }
    if let Some(column) = &raw.relationships {
        said += 1;
        let Some(to) = &raw.to else {
            return Err(Error::invalid(format!("relationships of '{column}' names no table"))
                .hint("as in { relationships = \"carrier\", to = \"warehouse.airlines\" }"));
        };
        let theirs = raw.column.clone().unwrap_or_else(|| column.clone());
        let name = format!("relationships({column} -> {to}.{theirs})");
        rules.push((name, Rule::Relationship { column: column.clone(), to: Name::parse(to)?, theirs }));
    }
    if let Some(condition) = &raw.expression {
        said += 1;
        rules.push((format!("expression({condition})"), Rule::Expression(condition.clone())));
    }
    if let Some(bounds) = raw.row_count {
        said += 1;
        rules.push(("row_count".to_owned(), Rule::RowCount(bounds)));
    }
    if let Some(column) = &raw.freshness {
        said += 1;
        let Some(within) = &raw.within else {
            return Err(Error::invalid(format!("freshness of '{column}' has no limit"))
                .hint("as in { freshness = \"loaded_at\", within = \"2 days\" }"));
        };
        let rule = Rule::Freshness { column: column.clone(), within: within.clone() };
        rules.push((format!("freshness({column})"), rule));
    }
    match said {
        1 => Ok(rules),
        0 => Err(Error::invalid("a test asks for nothing").hint(KINDS)),
        _ => Err(Error::invalid("a test asks for several things at once").hint("write a test for each")),
    }
}

const KINDS: &str =
    "not_null, unique, accepted_values, relationships, expression, row_count and freshness can be asked for";
