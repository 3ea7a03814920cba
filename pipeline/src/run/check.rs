//! Looks whether a project fits the catalog, without running anything: each model's query is planned over what those before
//! it will be, in a transaction that is given up.
//!
//! # Not here
//! What is wrong with the texts alone (`project`).

use skep_common::{Error, Result};
use skep_engine::names::{INFORMATION_SCHEMA, SYSTEM_SCHEMA};

use super::stage::{column_is_there, seed};
use super::{Runner, placed, rows};
use crate::event::{Event, Finding, State};
use crate::project::{Kind, Model, Name, Problem, near};
use crate::statements;
use crate::unit;

/// Tells every problem as an event; the last one says whether there were some.
pub(crate) async fn check(runner: Runner) {
    let started = runner.clock.instant();
    let found = runner.problems().await;
    let took_ms = super::millis(runner.clock.instant() - started);
    let (state, message) = match found {
        Ok(problems) => {
            let count = problems.len();
            for finding in problems {
                runner.tell(Event::Wrong(finding)).await;
            }
            let (models, units) = (runner.project.models.len(), runner.project.units.len());
            let units = match units {
                0 => String::new(),
                1 => ", 1 unit test passes".to_owned(),
                units => format!(", {units} unit tests pass"),
            };
            match count {
                0 => (State::Done, format!("{models} models fit together{units}")),
                1 => (State::Failed, "1 problem".to_owned()),
                count => (State::Failed, format!("{count} problems")),
            }
        }
        Err(error) => (State::Failed, error.report()),
    };
    runner.tell(Event::Over { run: None, state, snapshot: None, took_ms, message }).await;
}

impl Runner {
    /// What does not fit the catalog.
    ///
    /// # Errors
    /// Those of the catalog.
    pub(crate) async fn problems(&self) -> Result<Vec<Finding>> {
        self.session.begin_under(uuid::Uuid::now_v7(), "pipeline check").await?;
        let mut problems = Vec::new();
        self.make_schemas().await?;
        // Names of models that could not be made: what reads them is not asked.
        let mut missing: Vec<Name> = Vec::new();
        for model in &self.project.models {
            if model.reads.tables.iter().any(|table| missing.contains(&Name::of(table))) {
                missing.push(model.name.clone());
                continue;
            }
            if let Err(error) = self.check_model(model).await {
                missing.push(model.name.clone());
                problems.push(Problem::new(&model.file, error));
            }
        }
        for test in &self.project.custom {
            if test.reads.tables.iter().any(|table| missing.contains(&Name::of(table))) {
                continue;
            }
            let span = crate::interval::Span { start: self.begun.naive_utc(), end: self.begun.naive_utc() };
            let query = self.bound(&test.sql, &test.reads, span);
            if let Err(error) = self.columns(&query).await {
                problems.push(Problem::new(&test.file, error));
            }
        }
        rows::run(&self.session, "ROLLBACK").await?;
        let mut findings: Vec<Finding> = problems.iter().map(Problem::finding).collect();
        let all = (0..self.project.models.len()).collect();
        let tested = unit::run_chosen(&self.project, &all, &self.clock).await?;
        findings.extend(tested.into_iter().filter_map(|tested| tested.wrong));
        Ok(findings)
    }

    async fn check_model(&self, model: &Model) -> Result<()> {
        self.references(model).await?;
        let name = self.table(&model.name);
        let query = self.bound(&model.sql, &model.reads, self.any_span(model));
        if model.kind == Kind::View {
            self.columns(&query).await?;
            let sql = format!("CREATE OR REPLACE VIEW {} AS\n{}", statements::table(&name), query.text);
            self.free(&name, true).await?;
            return rows::run(&self.session, &sql).await.map(drop).map_err(|e| placed(e, &query, 1));
        }
        let columns = match model.kind {
            Kind::Seed => seed(model)?.0,
            Kind::Load if model.header.columns.is_some() => {
                std::sync::Arc::new(arrow::datatypes::Schema::empty())
            }
            _ => self.columns(&query).await?,
        };
        let header = &model.header;
        for column in header.time.iter().chain(&header.key).chain(&header.check) {
            column_is_there(model, &columns, column)?;
        }
        let kept = if model.kind == Kind::Snapshot {
            std::sync::Arc::new(statements::snapshot_columns(&columns))
        } else {
            columns
        };
        self.free(&name, false).await?;
        rows::run(&self.session, &statements::create(&name, model, &kept)).await.map_err(unplaced)?;
        for test in &model.tests {
            let to = |other: &Name| self.table(other);
            let sql = statements::count(&name, &test.rule, "now()", to);
            let described = self.session.describe(&sql).await;
            described.map_err(|e| unplaced(e).context(format!("test {}", test.name)))?;
        }
        Ok(())
    }

    /// Looks whether every table that a model names is one of the project or of the catalog.
    pub(super) async fn references(&self, model: &Model) -> Result<()> {
        let snapshot = self.session.sees().await?;
        for table in &model.reads.tables {
            let name = Name::of(table);
            let there = self.table(&name);
            let known = [SYSTEM_SCHEMA, INFORMATION_SCHEMA].contains(&name.schema.as_str())
                || self.project.models.iter().any(|other| other.name == name)
                || snapshot.table(&there.schema, &there.name).is_some()
                || snapshot.view(&there.schema, &there.name).is_some();
            if known {
                continue;
            }
            let mut names: Vec<String> =
                self.project.models.iter().map(|other| other.name.to_string()).collect();
            names
                .extend(snapshot.tables(&name.schema).map(|table| format!("{}.{}", name.schema, table.name)));
            let error = Error::not_found(format!("table '{name}' does not exist"));
            let error = near(error, &name.to_string(), names.iter().map(String::as_str));
            return Err(error.at(table.span));
        }
        Ok(())
    }

    /// A view where a table comes, or a table where a view does.
    async fn free(&self, name: &Name, for_view: bool) -> Result<()> {
        let snapshot = self.session.sees().await?;
        let (table, view) =
            (snapshot.table(&name.schema, &name.name), snapshot.view(&name.schema, &name.name));
        let word = match (table, view) {
            (Some(_), _) if for_view => "TABLE",
            (_, Some(_)) if !for_view => "VIEW",
            _ => return Ok(()),
        };
        rows::run(&self.session, &format!("DROP {word} {}", statements::table(name))).await.map(drop)
    }
}

/// An error of SQL that is nobody's, without its place.
fn unplaced(error: Error) -> Error {
    let bare = Error::new(error.kind(), error.message().to_owned());
    match error.hint_text() {
        Some(hint) => bare.hint(hint.to_owned()),
        None => bare,
    }
}
