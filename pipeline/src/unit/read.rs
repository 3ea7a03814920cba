//! The file of a unit test.
//!
//! ```sql
//! /*---
//! model = "mart.daily_revenue"
//! start = "2024-01-01"
//! ---*/
//! WITH orders(ordered_at, amount) AS (VALUES ('2024-01-01 10:00:00', 5))     -- rows of lake.orders, which the model reads
//! SELECT * FROM (VALUES ('2024-01-01', 5)) AS expected(day, revenue)         -- rows that it must make of them
//! ```
//!
//! # Not here
//! Types and columns (`unit::bench`): they need the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use chrono::NaiveDateTime;
use datafusion::sql::sqlparser::ast::{
    ObjectNamePart, Query, Spanned as _, TableFactor, Visit, Visitor, With,
};
use serde::Deserialize;
use skep_common::{Error, Position, Result, Span};
use skep_engine::names;
use toml::Spanned;

use super::lacks;
use crate::interval::{self, Span as Times};
use crate::project::{Config, Kind, Model, Name, header, literal, near, read_toml};

/// Where the files lie.
pub(crate) const FOLDER: &str = "tests/unit/";

/// The TOML in the first comment of a unit test.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Header {
    model: Option<Spanned<String>>,
    #[serde(rename = "description")]
    _description: Option<String>,
    start: Option<Spanned<String>>,
    end: Option<Spanned<String>>,
    run_time: Option<Spanned<String>>,
    vars: BTreeMap<Spanned<String>, toml::Value>,
    /// Rows as CSV, by table.
    given: BTreeMap<Spanned<String>, String>,
    /// Rows as CSV.
    expected: Option<Spanned<String>>,
}

/// Rows of a test.
#[derive(Debug, Clone)]
pub(crate) enum Rows {
    /// Those of a query, which stands by itself.
    Query(Box<Query>),
    /// Those of a CSV text.
    Csv(String),
}

/// What a model reads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    Table(Name),
    /// Files by their pattern.
    Files(String),
}

/// Rows of something that the model reads.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) of: Source,
    pub(crate) rows: Rows,
    pub(crate) at: Span,
}

/// A unit test whose file fits its model.
#[derive(Debug, Clone)]
pub(crate) struct Unit {
    pub(crate) file: String,
    pub(crate) model: Name,
    pub(crate) given: Vec<Given>,
    pub(crate) expected: Rows,
    pub(crate) expected_at: Span,
    /// The interval.
    pub(crate) times: Option<Times>,
    /// Values of the model's `$name`s, as literals.
    pub(crate) values: BTreeMap<String, String>,
}

/// Places of a header in its file.
struct Placed<'a> {
    toml: &'a str,
    line: u64,
}

impl Placed<'_> {
    fn of<T>(&self, value: &Spanned<T>) -> Span {
        let span = value.span();
        crate::project::span(self.toml, &span, self.line)
    }
}

/// Reads a unit test of one of `models`.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) and [`Kind::NotFound`](skep_common::Kind::NotFound) with the place in the file.
pub(crate) fn read(
    file: &str,
    text: &str,
    models: &[Model],
    config: &Config,
    vars: &BTreeMap<String, String>,
) -> Result<Unit> {
    let Some((toml, line)) = header(text)? else {
        return Err(lacks("the test says of which model it is in no header".to_owned(), NAMES_MODEL));
    };
    let head: Header = read_toml(toml, line)?;
    let at = Placed { toml, line };
    let model = model(&head, models, &at)?;
    let (times, values) = values(&head, model, config, vars, &at)?;
    let query = query(text)?;
    let with = query.as_ref().and_then(|query| query.with.clone());
    let mut given = Vec::new();
    for (name, csv) in &head.given {
        let place = at.of(name);
        let of = source(name.get_ref(), model)
            .and_then(|found| found.ok_or_else(|| unread(name.get_ref(), model)));
        given.push(Given { of: of.map_err(|e| e.at(place))?, rows: Rows::Csv(csv.clone()), at: place });
    }
    if let (Some(query), Some(with)) = (&query, &with) {
        tables(query, with, model, &mut given)?;
    }
    let (expected, expected_at) = match (&head.expected, query) {
        (None, Some(query)) => {
            let place = span(query.body.span());
            (Rows::Query(query), place)
        }
        (Some(csv), None) => (Rows::Csv(csv.get_ref().clone()), at.of(csv)),
        (Some(csv), Some(query)) if only_gives(&query) => (Rows::Csv(csv.get_ref().clone()), at.of(csv)),
        (Some(csv), Some(_)) => {
            return Err(Error::invalid("the test expects rows of its query, and others of its header")
                .at(at.of(csv))
                .hint("take one of them out; a query that only gives rows ends with SELECT"));
        }
        (None, None) => {
            return Err(lacks("the test expects no rows".to_owned(), EXPECTS));
        }
    };
    let unit = Unit {
        file: file.to_owned(),
        model: model.name.clone(),
        given,
        expected,
        expected_at,
        times,
        values,
    };
    complete(&unit, model)?;
    Ok(unit)
}

const NAMES_MODEL: &str = "as in /*--- model = \"mart.daily_revenue\" ---*/";
const EXPECTS: &str =
    "the rows of the query are those expected: SELECT * FROM (VALUES (1, 'x')) AS expected(id, name)";

fn model<'a>(head: &Header, models: &'a [Model], at: &Placed<'_>) -> Result<&'a Model> {
    let Some(written) = &head.model else {
        let start = Position { line: at.line, column: 1 };
        return Err(lacks("the test does not say of which model it is".to_owned(), NAMES_MODEL).at(start));
    };
    let name = written.get_ref();
    let Some(model) = models.iter().find(|model| model.name.to_string() == *name) else {
        let names: Vec<String> = models.iter().map(|model| model.name.to_string()).collect();
        let error = Error::not_found(format!("there is no model '{name}'"));
        return Err(near(error, name, names.iter().map(String::as_str)).at(at.of(written)));
    };
    if matches!(model.kind, Kind::Load | Kind::Seed) {
        return Err(Error::invalid(format!("'{name}' takes the rows of files as they are"))
            .at(at.of(written))
            .hint("test a model with a query of its own"));
    }
    Ok(model)
}

/// The interval, and the values of the names that the model's query has behind `$`.
fn values(
    head: &Header,
    model: &Model,
    config: &Config,
    vars: &BTreeMap<String, String>,
    at: &Placed<'_>,
) -> Result<(Option<Times>, BTreeMap<String, String>)> {
    let time = |written: &Option<Spanned<String>>| -> Result<Option<NaiveDateTime>> {
        let Some(written) = written else { return Ok(None) };
        interval::parse(written.get_ref()).map(Some).map_err(|e| e.at(at.of(written)))
    };
    let (start, end, run_time) = (time(&head.start)?, time(&head.end)?, time(&head.run_time)?);
    let times = match (start, end.or_else(|| Some(model.intervals()?.1.step(start?, 1)))) {
        (Some(start), Some(end)) if start < end => Some(Times { start, end }),
        (Some(_), Some(_)) => {
            let error = Error::invalid("the end is not after the start");
            return Err(head.end.as_ref().map_or(error.clone(), |end| error.at(at.of(end))));
        }
        _ => None,
    };
    if model.in_intervals() && times.is_none() {
        return Err(lacks(
            format!("the test does not say for which interval '{}' is run", model.name),
            "as in start = \"2024-01-01\"; it ends one grain later unless there is an end",
        ));
    }
    let mut values = vars.clone();
    for (name, value) in &head.vars {
        let own = config.vars.get(name.get_ref()).ok_or_else(|| {
            let error = Error::not_found(format!("the project has no variable '{}'", name.get_ref()));
            near(error, name.get_ref(), config.vars.keys().map(String::as_str)).at(at.of(name))
        })?;
        if !own.same_type(value) {
            return Err(Error::invalid(format!(
                "variable '{}' is of type {} here and of type {} in the project",
                name.get_ref(),
                value.type_str(),
                own.type_str()
            ))
            .at(at.of(name)));
        }
        values.insert(name.get_ref().to_ascii_lowercase(), literal(value)?);
    }
    if let Some(times) = times {
        values.insert("start".to_owned(), crate::statements::time(times.start));
        values.insert("end".to_owned(), crate::statements::time(times.end));
    }
    if let Some(run_time) = run_time {
        values.insert("run_time".to_owned(), crate::statements::time(run_time));
    }
    match model.reads.parameters.iter().find(|(name, _)| !values.contains_key(name)) {
        None => Ok((times, values)),
        Some((name, _)) => Err(lacks(
            format!("the query of '{}' asks for ${name}, and the test does not say it", model.name),
            "as in run_time = \"2024-01-02 06:00:00\"",
        )),
    }
}

/// The query behind the header, if there is one.
fn query(text: &str) -> Result<Option<Box<Query>>> {
    if skep_engine::parse(text)?.is_empty() {
        return Ok(None);
    }
    skep_engine::sql::parse_query(text)
        .map(Some)
        .map_err(|e| if e.span().is_some() { e } else { e.hint(EXPECTS) })
}

/// Whether a query has rows for others only: `WITH ... SELECT`.
fn only_gives(query: &Query) -> bool {
    use datafusion::sql::sqlparser::ast::SetExpr;
    matches!(query.body.as_ref(), SetExpr::Select(select) if select.projection.is_empty() && select.from.is_empty())
}

/// The tables that WITH gives, and nothing in it that nobody uses.
fn tables(query: &Query, with: &With, model: &Model, given: &mut Vec<Given>) -> Result<()> {
    let mut used = Used::default();
    let _ = query.visit(&mut used);
    for (count, table) in (1..).zip(&with.cte_tables) {
        let name = names::normalise(&table.alias.name);
        let place = span(table.alias.name.span);
        match source(&name, model).map_err(|e| e.at(place))? {
            Some(of) => {
                if given.iter().any(|other| other.of == of) {
                    return Err(Error::already_exists(format!("'{name}' is given twice")).at(place));
                }
                let sql = format!("SELECT * FROM {}", names::quote(&name));
                let mut rows = skep_engine::sql::parse_query(&sql)?;
                let mut with = with.clone();
                with.cte_tables.truncate(count);
                rows.with = Some(with);
                given.push(Given { of, rows: Rows::Query(rows), at: place });
            }
            None if used.0.contains(&name) => {}
            None => return Err(unread(&name, model).at(place)),
        }
    }
    Ok(())
}

#[derive(Default)]
struct Used(BTreeSet<String>);

impl Visitor for Used {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: None, .. } = factor
            && let [ObjectNamePart::Identifier(only)] = name.0.as_slice()
        {
            self.0.insert(names::normalise(only));
        }
        ControlFlow::Continue(())
    }
}

fn span(span: datafusion::sql::sqlparser::tokenizer::Span) -> Span {
    let position =
        |at: datafusion::sql::sqlparser::tokenizer::Location| Position { line: at.line, column: at.column };
    Span { start: position(span.start), end: position(span.end) }
}

/// All that a model reads, each once.
fn sources(model: &Model) -> BTreeSet<Source> {
    let tables = model.reads.tables.iter().map(|table| Source::Table(Name::of(table)));
    tables.chain(model.reads.files.iter().cloned().map(Source::Files)).collect()
}

/// What `written` means of that which a model reads: `schema.name`, or `name` if one table alone has it.
fn source(written: &str, model: &Model) -> Result<Option<Source>> {
    let mut found = Vec::new();
    for source in sources(model) {
        match &source {
            Source::Files(pattern) if pattern == written => return Ok(Some(source)),
            Source::Table(name) if name.to_string() == written => return Ok(Some(source)),
            Source::Table(name) if name.name == written => found.push(name.clone()),
            _ => {}
        }
    }
    match found.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(Source::Table(only.clone()))),
        [first, second, ..] => Err(Error::invalid(format!("'{written}' may be {first} or {second}"))
            .hint(format!("write \"{first}\""))),
    }
}

fn unread(written: &str, model: &Model) -> Error {
    let error = Error::not_found(format!("'{}' reads no table '{written}'", model.name));
    let all: Vec<String> = sources(model)
        .into_iter()
        .flat_map(|source| match source {
            Source::Table(name) => vec![name.name.clone(), name.to_string()],
            Source::Files(pattern) => vec![pattern],
        })
        .collect();
    near(error, written, all.iter().map(String::as_str))
}

/// Whether everything is given that the model reads.
fn complete(unit: &Unit, model: &Model) -> Result<()> {
    let given: BTreeSet<&Source> = unit.given.iter().map(|given| &given.of).collect();
    let all = sources(model);
    let missing: Vec<String> = all
        .iter()
        .filter(|source| !given.contains(source))
        .map(|source| match source {
            Source::Table(name) => name.to_string(),
            Source::Files(pattern) => format!("'{pattern}'"),
        })
        .collect();
    let Some(first) = missing.first() else { return Ok(()) };
    let name = first.rsplit('.').next().unwrap_or(first);
    Err(Error::not_found(format!(
        "'{}' reads {}, and the test gives no rows of it",
        model.name,
        missing.join(" and ")
    ))
    .at(unit.expected_at)
    .hint(format!("as in WITH {name}(id, at) AS (VALUES (1, '2024-01-01')) before the rows expected")))
}
