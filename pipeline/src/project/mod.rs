//! A project, read from its files and checked as far as that goes without a catalog.
//!
//! ```text
//! pipeline.toml --config--> settings, variables, defaults
//! models/SCHEMA/**/NAME.sql --model--> kind, query, what it reads, tests      seeds/NAME.csv: a model as well
//! tests/NAME.sql --> a query whose rows are failures          tests/unit/NAME.sql --unit--> rows given, rows expected
//! ```
//!
//! # Not here
//! Tables, columns and types (`run::check`): they need a catalog.

mod config;
mod model;
mod timing;

use std::collections::{BTreeMap, BTreeSet};

use skep_common::{Error, Kind as ErrorKind, Result};

use crate::bundle::{Bundle, SETTINGS};
use crate::event::Finding;
use crate::graph::Graph;
use crate::rewrite::{self, Reads};
use crate::schedule::{Notify, Spec};
use crate::unit::{self, Unit};

pub(crate) use config::{Config, Kind, OnFail, SchemaChange, header, read as read_toml, span};
pub(crate) use model::{Load, Model, Name, Rule, Test, literal, quoted};

/// Something wrong in a file of a project.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The file, by its path in the project.
    pub file: String,
    /// What is wrong, with the place in that file.
    pub error: Error,
}

impl Problem {
    pub(crate) fn new(file: &str, error: Error) -> Self {
        Self { file: file.to_owned(), error }
    }

    /// As it is told to clients.
    pub fn finding(&self) -> Finding {
        Finding {
            file: self.file.clone(),
            span: self.error.span(),
            kind: self.error.kind().name().to_owned(),
            message: self.error.report(),
            hint: self.error.hint_text().map(str::to_owned),
        }
    }
}

/// A query whose rows are failures.
#[derive(Debug, Clone)]
pub(crate) struct Custom {
    pub(crate) file: String,
    pub(crate) name: String,
    pub(crate) sql: String,
    pub(crate) reads: Reads,
}

/// A project whose files fit together.
#[derive(Debug, Clone)]
pub struct Project {
    pub(crate) config: Config,
    pub(crate) version: String,
    /// In an order in which each comes after those that it reads.
    pub(crate) models: Vec<Model>,
    pub(crate) graph: Graph,
    pub(crate) custom: Vec<Custom>,
    /// Tests of models over rows of their own.
    pub(crate) units: Vec<Unit>,
    /// Tables that others fill, with what must hold of them before anything runs.
    pub(crate) sources: Vec<(Name, Vec<Test>)>,
    /// Values of `$name`, as literals.
    pub(crate) vars: BTreeMap<String, String>,
    /// When deployed versions of it run.
    pub(crate) schedules: Vec<Spec>,
    /// Who is told of scheduled runs.
    pub(crate) notify: Vec<Notify>,
}

/// Names that are values of a run.
pub(crate) const RUN_VALUES: [&str; 3] = ["start", "end", "run_time"];

impl Project {
    /// Reads `bundle`, with other values for some of its variables.
    ///
    /// # Errors
    /// Everything that is wrong, not just the first.
    pub fn read(bundle: &Bundle, values: &BTreeMap<String, String>) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let text = bundle.files.get(SETTINGS).map(String::as_str).unwrap_or_default();
        let config: Config = match config::read(text, 1) {
            Ok(config) => config,
            Err(error) => return Err(vec![Problem::new(SETTINGS, error)]),
        };
        let vars = match variables(&config, values) {
            Ok(vars) => vars,
            Err(error) => return Err(vec![Problem::new(SETTINGS, error)]),
        };
        let mut models: Vec<Model> = Vec::new();
        let mut custom = Vec::new();
        for (file, text) in &bundle.files {
            let read = match file.split('/').next() {
                Some("models") => model::read(file, text, &config).map(|model| models.push(model)),
                Some("seeds") => model::seed(file, text, &config).map(|model| models.push(model)),
                // When all models are known.
                Some("tests") if file.starts_with(unit::FOLDER) => Ok(()),
                Some("tests") => custom_test(file, text).map(|test| custom.push(test)),
                _ => Ok(()),
            };
            if let Err(error) = read {
                problems.push(Problem::new(file, error));
            }
        }
        if models.is_empty() && problems.is_empty() {
            let error = Error::invalid("the project has no models").hint("write one: models/mart/NAME.sql");
            problems.push(Problem::new(SETTINGS, error));
        }
        let mut seen: BTreeMap<Name, String> = BTreeMap::new();
        for model in &models {
            if let Some(other) = seen.insert(model.name.clone(), model.file.clone()) {
                let error = Error::already_exists(format!("'{}' is the model of '{other}' too", model.name))
                    .hint("a model is called after its folder and file: rename one of them");
                problems.push(Problem::new(&model.file, error));
            }
        }
        for model in &models {
            problems.extend(unknown(&model.file, &model.reads, &vars, model.in_intervals()));
        }
        for test in &custom {
            problems.extend(unknown(&test.file, &test.reads, &vars, false));
        }
        for model in &mut models {
            if let Err(error) = with_values(&mut model.tests, &vars) {
                problems.push(Problem::new(&model.file, error));
            }
        }
        let mut units = Vec::new();
        for (file, text) in bundle.files.iter().filter(|(file, _)| file.starts_with(unit::FOLDER)) {
            match unit::read(file, text, &models, &config, &vars) {
                Ok(unit) => units.push(unit),
                Err(error) => problems.push(Problem::new(file, error)),
            }
        }
        let mut sources = Vec::new();
        for source in &config.source {
            let read = || -> Result<(Name, Vec<Test>)> {
                let mut tests = model::source_tests(&source.tests)?;
                with_values(&mut tests, &vars)?;
                Ok((Name::parse(&source.name)?, tests))
            };
            match read() {
                Ok(source) => sources.push(source),
                Err(error) => {
                    problems.push(Problem::new(SETTINGS, error.context(format!("source '{}'", source.name))));
                }
            }
        }
        let (schedules, notify) = timing::read(&config, text, &mut problems);
        let graph = match Graph::new(&models) {
            Ok(graph) => graph,
            Err(found) => {
                problems.extend(found);
                Graph::default()
            }
        };
        if !problems.is_empty() {
            problems.sort_by(|a, b| a.file.cmp(&b.file));
            return Err(problems);
        }
        let models = graph.order().iter().map(|&at| models[at].clone()).collect::<Vec<_>>();
        // Anew over the models in their order.
        let graph = Graph::new(&models)?;
        let version = bundle.version();
        let project =
            Self { version, config, models, graph, custom, units, sources, vars, schedules, notify };
        let problems = timing::unknown_models(&project, text);
        if problems.is_empty() { Ok(project) } else { Err(problems) }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.config.pipeline.name
    }

    /// Whether it reads files whose paths start at the project's folder.
    pub(crate) fn needs_folder(&self) -> bool {
        let elsewhere = self.config.pipeline.directory.as_deref().is_some_and(skep_catalog::stands_alone);
        let from_here =
            |model: &Model| model.reads.files.iter().any(|file| !skep_catalog::stands_alone(file));
        !elsewhere && self.models.iter().any(from_here)
    }

    /// Its models as a graph, for people and programs: `text`, `mermaid` or `json`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for another form.
    pub fn drawn(&self, form: &str) -> Result<String> {
        self.graph.drawn(&self.models, form)
    }

    /// The models that `select` chooses and `exclude` does not, each as a line: name, kind, file, tags.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for a name that none has.
    pub fn listed(&self, select: &[String], exclude: &[String]) -> Result<Vec<[String; 5]>> {
        let chosen = crate::select::chosen(self, select, exclude, &BTreeSet::new())?;
        let line = |model: &Model| {
            let custom = self.custom.iter().filter(|test| reads_model(&test.reads, model)).count();
            let units = self.units.iter().filter(|unit| unit.model == model.name).count();
            let tests = model.tests.len() + custom + units;
            [
                model.name.to_string(),
                model.kind.name().to_owned(),
                model.file.clone(),
                model.header.tags.join(", "),
                tests.to_string(),
            ]
        };
        Ok(chosen.into_iter().map(|at| line(&self.models[at])).collect())
    }
}

fn reads_model(reads: &Reads, model: &Model) -> bool {
    reads.tables.iter().any(|table| Name::of(table) == model.name)
}

fn custom_test(file: &str, sql: &str) -> Result<Custom> {
    let (_, reads) = rewrite::reads(sql)?;
    let name = file.rsplit('/').next().unwrap_or(file).trim_end_matches(".sql").to_owned();
    Ok(Custom { file: file.to_owned(), name, sql: sql.to_owned(), reads })
}

/// The values of `$name` as literals.
fn variables(config: &Config, given: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let mut vars = BTreeMap::new();
    for (name, value) in &config.vars {
        if RUN_VALUES.contains(&name.as_str()) {
            return Err(Error::invalid(format!("'{name}' is a value of the run"))
                .hint("give the variable another name"));
        }
        let value = match given.get(name) {
            None => literal(value)?,
            Some(text) => as_declared(name, value, text)?,
        };
        vars.insert(name.to_ascii_lowercase(), value);
    }
    match given.keys().find(|name| !config.vars.contains_key(*name)) {
        None => Ok(vars),
        Some(name) => Err(near(
            Error::new(ErrorKind::NotFound, format!("the project has no variable '{name}'")),
            name,
            config.vars.keys().map(String::as_str),
        )),
    }
}

/// `text` with the type that the project's own value has.
fn as_declared(name: &str, declared: &toml::Value, text: &str) -> Result<String> {
    let wrong = || {
        Error::invalid(format!("variable '{name}' cannot be '{text}'"))
            .hint(format!("the project gives it a value of type {}", declared.type_str()))
    };
    match declared {
        toml::Value::String(_) => literal(&toml::Value::String(text.to_owned())),
        _ => {
            let read: toml::Table = toml::from_str(&format!("v = {text}")).map_err(|e| wrong().source(e))?;
            let value = read.get("v").filter(|value| value.same_type(declared)).ok_or_else(wrong)?;
            literal(value)
        }
    }
}

/// `error` with the nearest of `names` as a hint.
pub(crate) fn near<'a>(error: Error, name: &str, names: impl Iterator<Item = &'a str>) -> Error {
    match skep_engine::names::nearest(name, names) {
        Some(other) => error.hint(format!("did you mean '{other}'?")),
        None => error,
    }
}

/// Puts the values of variables into the conditions of tests.
fn with_values(tests: &mut [Test], vars: &BTreeMap<String, String>) -> Result<()> {
    for test in tests {
        let Rule::Expression(condition) = &mut test.rule else { continue };
        let wrong = |error: Error| Error::new(error.kind(), error.message().to_owned()).source(error);
        let mut edits = Vec::new();
        for (name, span) in rewrite::parameters(condition).map_err(wrong)? {
            let Some(value) = vars.get(&name) else {
                let error = Error::not_found(format!("${name} has no value in the test '{}'", test.name));
                return Err(near(error, &name, vars.keys().map(String::as_str)));
            };
            edits.push((span, value.clone()));
        }
        *condition = rewrite::Rewritten::new(condition, edits).text;
    }
    Ok(())
}

/// `$name`s that have no value.
fn unknown(file: &str, reads: &Reads, vars: &BTreeMap<String, String>, intervals: bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, span) in &reads.parameters {
        let of_run = RUN_VALUES.contains(&name.as_str());
        let error = if of_run && !intervals && name != "run_time" {
            Error::invalid(format!("${name} has no value: the model has no intervals"))
                .hint("kinds interval and append with a time and a grain are run for intervals")
        } else if of_run || vars.contains_key(name) {
            continue;
        } else {
            let known = vars.keys().map(String::as_str).chain(RUN_VALUES);
            near(Error::new(ErrorKind::NotFound, format!("${name} has no value")), name, known)
        };
        problems.push(Problem::new(file, error.at(*span)));
    }
    problems
}
