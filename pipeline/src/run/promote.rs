//! Publishes as production what an environment has, and was tested there: one transaction, as a run.
//!
//! ```text
//! look     texts are those that the environment has; production would lose nothing
//! stage    rows of its tables are copied, views are made anew over production's names
//! test     as in a run
//! COMMIT   with its lines of the ledger under production's name
//! ```
//!
//! Rows are copied: a file belongs to one table, whose folder it lies in, and a table to the schema that its folder is in.
//!
//! # Not here
//! Making what is promoted: a run in the environment.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDateTime;
use skep_catalog::{ForgetLoads, Load, RecordLoads, Snapshot};
use skep_common::{Error, Kind as ErrorKind, Result};

use super::{Outcome, Runner, rows};
use crate::event::{Event, State};
use crate::ledger::{Publish, Seen};
use crate::project::{Kind, Model, Name};
use crate::statements;

/// What is published as production.
pub(crate) struct Promotion {
    /// The environment that has it.
    pub(crate) from: Runner,
    /// Also where production loses something.
    pub(crate) force: bool,
}

/// What the ledger says of an environment.
struct Known {
    seen: BTreeMap<String, Seen>,
    intervals: BTreeMap<String, BTreeSet<NaiveDateTime>>,
}

impl Runner {
    pub(super) async fn begin_and_promote(
        &mut self,
        promotion: Promotion,
    ) -> Result<(State, Option<i64>, String)> {
        let Promotion { from, force } = promotion;
        let beating = self.begin().await?;
        let environment = from.of.environment.clone();
        let message = format!("pipeline {} run {}: {environment} is promoted", self.of.pipeline, self.run);
        self.forget_old().await?;
        self.session.begin_under(self.key, &message).await?;
        let base = self.session.sees().await?;
        self.base = base.id;
        let known = Known {
            seen: self.ledger.seen(&from.of).await?,
            intervals: self.ledger.intervals(&from.of).await?,
        };
        // No run of production goes on from here on.
        self.seen = self.ledger.seen(&self.of).await?;
        self.intervals = self.ledger.intervals(&self.of).await?;
        self.chosen.retain(|&at| known.seen.contains_key(&self.project.models[at].name.to_string()));
        if self.chosen.is_empty() {
            return Err(Error::not_found(format!("'{environment}' has none of these models of its own"))
                .hint(format!("run them there first: skep pipeline run --env {environment}")));
        }
        self.promotable(&from, &base, &known, force).await?;
        self.tell(Event::Begun {
            run: self.run,
            pipeline: self.of.pipeline.clone(),
            environment: self.of.environment.clone(),
            models: self.chosen_models().map(|model| model.name.to_string()).collect(),
        })
        .await;
        self.make_schemas().await?;
        for at in self.chosen.clone() {
            self.promote_one(at, &from, &known).await?;
        }
        self.custom_tests().await?;
        let snapshot = self.publish_promoted(&known).await?;
        drop(beating);
        let shown = snapshot.map(|snapshot| format!(" in snapshot {snapshot}")).unwrap_or_default();
        let tables = if self.chosen.len() == 1 { "table" } else { "tables" };
        Ok((
            State::Done,
            snapshot,
            format!("promoted {} {tables} of {environment}{shown}", self.chosen.len()),
        ))
    }

    /// Refuses what is not what was tested, and what production would lose something by.
    async fn promotable(&self, from: &Runner, base: &Snapshot, known: &Known, force: bool) -> Result<()> {
        let environment = &from.of.environment;
        let (mut other, mut lost) = (Vec::new(), Vec::new());
        for &at in &self.chosen {
            let model = &self.project.models[at];
            let name = model.name.to_string();
            let Some(seen) = known.seen.get(&name) else { continue };
            let there = from.table(&model.name);
            if seen.snapshot > base.id {
                return Err(Error::conflict(format!("a run in '{environment}' published '{name}' just now"))
                    .hint("promote again"));
            }
            if seen.fingerprint != self.fingerprint(model) {
                other.push(format!("the text of '{name}', or a variable in it, is not the one that was run"));
            } else if base.table(&there.schema, &there.name).is_none()
                && base.view(&there.schema, &there.name).is_none()
            {
                other.push(format!("'{there}' is not there any more"));
            }
            for above in self.project.graph.above(at).difference(&self.chosen) {
                let above = &self.project.models[*above].name;
                let theirs = known.seen.get(&above.to_string());
                // What was promoted and not made again since, in neither, is the same.
                let same = |seen: &Seen| {
                    let own = self.seen.get(&above.to_string());
                    own.is_some_and(|own| (own.base, &own.fingerprint) == (seen.base, &seen.fingerprint))
                };
                if theirs.is_some_and(|seen| !same(seen)) {
                    lost.push(format!(
                        "'{name}' was made of '{}', which would not be promoted",
                        from.table(above)
                    ));
                }
            }
            lost.extend(self.loses(model, seen, base, known).await?);
        }
        if !other.is_empty() {
            return Err(Error::invalid(format!("'{environment}' has something else: {}", other.join("; ")))
                .hint(format!("run it there first: skep pipeline run --env {environment}")));
        }
        if lost.is_empty() || force {
            return Ok(());
        }
        Err(Error::conflict(format!("production would lose something: {}", lost.join("; "))).hint(format!(
            "make it in '{environment}' again, as with --full-refresh, and promote what was left out too; --force promotes all the same"
        )))
    }

    /// What production has of a model that the environment does not know of.
    async fn loses(&self, model: &Model, seen: &Seen, base: &Snapshot, known: &Known) -> Result<Vec<String>> {
        let (name, mut lost) = (model.name.to_string(), Vec::new());
        let here = self.table(&model.name);
        if let Some(table) = base.table(&here.schema, &here.name).filter(|table| table.external.is_none()) {
            let changed = match self.session.catalog().steps(table.id, seen.base + 1, base.id).await {
                Ok(steps) => steps.last().map(|step| step.snapshot),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => {
                    Some(base.id)
                }
                Err(error) => return Err(error),
            };
            if let Some(snapshot) = changed {
                lost.push(format!(
                    "'{name}' was changed in snapshot {snapshot}, after snapshot {} that the environment knows",
                    seen.base
                ));
            }
        }
        let nothing = BTreeSet::new();
        let theirs = known.intervals.get(&name).unwrap_or(&nothing);
        let own = self.intervals.get(&name).unwrap_or(&nothing);
        let missing: Vec<_> = own.difference(theirs).collect();
        if let (Some(first), Some((_, grain))) = (missing.first(), model.intervals()) {
            lost.push(format!(
                "'{name}' has {} intervals of a {} that the environment does not have, the first {}",
                missing.len(),
                grain.name(),
                crate::interval::short(**first)
            ));
        }
        Ok(lost)
    }

    async fn promote_one(&self, at: usize, from: &Runner, known: &Known) -> Result<()> {
        let model = &self.project.models[at];
        let (name, started) = (model.name.to_string(), self.clock.instant());
        let ended = match model.kind {
            Kind::View => self.stage_view(model).await,
            _ => self.copy(model, &from.table(&model.name), known).await,
        };
        let tested = match &ended {
            Ok(_) => self.tests(model).await,
            Err(_) => Ok(()),
        };
        let ended = ended.and_then(|outcome| tested.map(|()| outcome));
        let took = self.clock.instant() - started;
        let (state, outcome) = match &ended {
            Ok(outcome) => (State::Done, outcome.clone()),
            Err(error) => (State::Failed, Outcome { note: Some(error.report()), ..Outcome::default() }),
        };
        self.record(at, state, Some(took), &outcome).await?;
        let (rows, note) = (outcome.rows, outcome.note);
        self.tell(Event::Ended { model: name.clone(), state, rows, took_ms: super::millis(took), note })
            .await;
        ended.map(drop).map_err(|e| e.context(format!("model '{name}'")))
    }

    /// The rows of `there`, in the place of those that the model's table has.
    async fn copy(&self, model: &Model, there: &Name, known: &Known) -> Result<Outcome> {
        let here = self.table(&model.name);
        let snapshot = self.session.sees().await?;
        let gone = || Error::not_found(format!("table '{there}' does not exist"));
        let theirs = snapshot.table(&there.schema, &there.name).ok_or_else(gone)?;
        let columns = theirs.arrow_schema();
        let (to, source) = (statements::table(&here), statements::table(there));
        if snapshot.view(&here.schema, &here.name).is_some() {
            rows::run(&self.session, &format!("DROP VIEW {to}")).await?;
        }
        let name = model.name.to_string();
        // A table of the same text keeps its identity, and with it what readers know of its changes.
        let same_text = self.seen.get(&name).map(|seen| &seen.fingerprint)
            == known.seen.get(&name).map(|seen| &seen.fingerprint);
        let same = snapshot
            .table(&here.schema, &here.name)
            .is_some_and(|own| same_text && own.arrow_schema() == columns);
        if same {
            rows::run(&self.session, &format!("DELETE FROM {to}")).await?;
        } else {
            rows::run(&self.session, &statements::create(&here, model, &columns)).await?;
        }
        let (copied, _) = rows::run(&self.session, &statements::copy(&here, &columns, &source)).await?;
        if model.kind == Kind::Load {
            self.loaded(&here, theirs.id).await?;
        }
        let note = Some(format!("copied from {there}"));
        Ok(Outcome { rows: copied, changed: true, note, ..Outcome::default() })
    }

    /// The files whose rows a table has are those that the other one loaded.
    async fn loaded(&self, here: &Name, theirs: i64) -> Result<()> {
        let snapshot = self.session.sees().await?;
        let Some(own) = snapshot.table(&here.schema, &here.name) else { return Ok(()) };
        let entries = self.session.catalog().loads(Some(theirs)).await?;
        let loads: Vec<Load> =
            entries.into_iter().filter(|entry| entry.snapshot <= self.base).map(|entry| entry.load).collect();
        self.session.add(ForgetLoads { table: own.uuid })?;
        self.session.add(RecordLoads { table: own.uuid, loads, expected: None, time: self.clock.now() })
    }

    /// Nobody goes on with a promotion that failed: it is made again, from what is there then.
    pub(super) async fn drop_promotion(&self) {
        let dropped = async {
            // Unless its commit took it.
            if self.session.changed().is_ok() {
                rows::run(&self.session, "ROLLBACK").await?;
            }
            let key = self.ledger.drop_staged(self.run).await?;
            self.session.give_up(key).await
        };
        if let Err(error) = dropped.await {
            tracing::warn!(
                run = self.run,
                error = error.report(),
                "what was to be promoted was not given up"
            );
        }
    }

    /// Commits it, with the environment's lines as production's.
    async fn publish_promoted(&self, known: &Known) -> Result<Option<i64>> {
        let (mut seen, mut intervals) = (Vec::new(), Vec::new());
        for model in self.chosen_models() {
            let name = model.name.to_string();
            let Some(theirs) = known.seen.get(&name) else { continue };
            seen.push((name.clone(), theirs.fingerprint.clone(), theirs.base));
            if let Some((_, grain)) = model.intervals() {
                for &start in known.intervals.get(&name).into_iter().flatten() {
                    intervals.push((name.clone(), theirs.fingerprint.clone(), start, grain.step(start, 1)));
                }
            }
        }
        let reset = self.chosen_models().map(|model| model.name.to_string()).collect();
        let publish =
            Publish { run: self.run, of: self.of.clone(), seen, intervals, reset, now: self.clock.now() };
        self.commit(publish).await
    }
}
