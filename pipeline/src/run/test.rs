//! Asks what is staged whether it fulfils its tests, before anybody else can read it.
//!
//! # Not here
//! The queries that count failures (`statements`); unit tests.

use skep_common::{Error, Result};

use super::{Runner, rows};
use crate::event::State;
use crate::project::{Model, Name, OnFail, Rule, Test};
use crate::statements;

impl Runner {
    /// All tests of a model.
    ///
    /// # Errors
    /// The first that fails and must not; those of asking.
    pub(super) async fn tests(&self, model: &Model) -> Result<()> {
        let mut failed = None;
        for test in &model.tests {
            if let Some(error) = self.test(&model.name, test).await? {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// What must hold of tables that others fill, before anything runs.
    ///
    /// # Errors
    /// As [`Runner::tests`].
    pub(super) async fn source_tests(&self) -> Result<()> {
        let mut failed = None;
        for (name, tests) in &self.project.sources {
            for test in tests {
                if let Some(error) = self.test(name, test).await? {
                    failed.get_or_insert(error.context(format!("source '{name}'")));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn test(&self, of: &Name, test: &Test) -> Result<Option<Error>> {
        let name = self.table(of);
        let now = statements::moment(self.begun);
        let to = |other: &Name| self.table(other);
        let wrong = |e: Error| e.context(format!("test {} of '{of}'", test.name));
        let count = rows::number(&self.session, &statements::count(&name, &test.rule, &now, to)).await;
        let failures = count.map_err(wrong)?;
        let shown = of.to_string();
        if failures == 0 {
            self.record_test(&shown, &test.name, State::Done, 0, None).await?;
            return Ok(None);
        }
        let examples = match statements::examples(&name, &test.rule, to) {
            Some(sql) => rows::shown(&self.session, &sql).await.map_err(wrong)?,
            None => String::new(),
        };
        match test.on_fail {
            OnFail::Warn => {
                self.record_test(&shown, &test.name, State::Warned, failures, Some(examples)).await?;
                Ok(None)
            }
            OnFail::Drop => {
                let aside = self.put_aside(&name, &test.name, &test.rule).await.map_err(wrong)?;
                let note = format!("put into {aside}: {examples}");
                self.record_test(&shown, &test.name, State::Warned, failures, Some(note)).await?;
                Ok(None)
            }
            OnFail::Fail => {
                self.record_test(&shown, &test.name, State::Failed, failures, Some(examples.clone())).await?;
                Ok(Some(
                    Error::invalid(format!("test {} fails for {failures} rows: {examples}", test.name))
                        .hint(self.look(statements::failing(&name, &test.rule, to).as_deref())),
                ))
            }
        }
    }

    /// Moves the rows that fail to a table beside the model's, with the run and the test.
    async fn put_aside(&self, name: &Name, test: &str, rule: &Rule) -> Result<Name> {
        let aside = Name { schema: name.schema.clone(), name: format!("{}__quarantine", name.name) };
        let to = |other: &Name| self.table(other);
        let Some(failing) = statements::failing_rows(name, rule, to) else {
            return Err(Error::internal("the rows that fail cannot be told"));
        };
        let own = format!(
            "CAST({} AS BIGINT) AS run_id, {} AS failed_test, {} AS failed_at",
            self.run,
            crate::project::quoted(test),
            statements::moment(self.begun)
        );
        let names = self.names.lock().await;
        let snapshot = self.session.sees().await?;
        let table = statements::table(&aside);
        if snapshot.table(&aside.schema, &aside.name).is_none() {
            let sql = format!("CREATE TABLE {table} AS SELECT {own}, m.* FROM {failing}");
            rows::run(&self.session, &sql).await?;
        } else {
            let sql = format!("INSERT INTO {table} SELECT {own}, m.* FROM {failing}");
            rows::run(&self.session, &sql).await?;
        }
        drop(names);
        let condition = failing.split_once(" AS m WHERE ").map(|(_, condition)| condition).unwrap_or("false");
        let sql = format!("DELETE FROM {} AS m WHERE {condition}", statements::table(name));
        rows::run(&self.session, &sql).await?;
        Ok(aside)
    }

    /// Tests with files of their own, after all models.
    ///
    /// # Errors
    /// The first that fails; those of asking.
    pub(super) async fn custom_tests(&self) -> Result<()> {
        let mut failed = None;
        for test in &self.project.custom {
            let of_run = test.reads.tables.iter().any(|table| {
                let name = Name::of(table);
                self.chosen.iter().any(|&at| self.project.models[at].name == name)
            });
            if !of_run {
                continue;
            }
            let span = crate::interval::Span { start: self.begun.naive_utc(), end: self.begun.naive_utc() };
            let query = self.bound(&test.sql, &test.reads, span);
            let count = format!("SELECT count(*) FROM (\n{}\n) AS failures", query.text);
            let wrong = |e: Error| super::placed(e, &query, 1).context(test.file.clone());
            let failures = rows::number(&self.session, &count).await.map_err(wrong)?;
            if failures == 0 {
                self.record_test(&test.file, &test.name, State::Done, 0, None).await?;
                continue;
            }
            let all = query.text.trim();
            let some = format!("SELECT * FROM (\n{all}\n) AS failures LIMIT 3");
            let examples = rows::shown(&self.session, &some).await.map_err(wrong)?;
            self.record_test(&test.file, &test.name, State::Failed, failures, Some(examples.clone())).await?;
            failed.get_or_insert(
                Error::invalid(format!("test '{}' gives {failures} rows: {examples}", test.file))
                    .hint(self.look(Some(all))),
            );
        }
        failed.map_or(Ok(()), Err)
    }
}
