//! What a model has to do in this run: nothing, all of it, or some intervals.
//!
//! # Not here
//! Doing it (`stage`).

use std::collections::BTreeSet;

use chrono::NaiveDateTime;
use skep_catalog::Snapshot;
use skep_common::{Kind as ErrorKind, Result};
use skep_engine::names::quote;

use super::late::watched;
use super::{Runner, rows};
use crate::event::Event;
use crate::interval::{self, Asked, Grain, Span};
use crate::ledger::Seen;
use crate::project::{Kind, Model, Name};
use crate::rewrite;

/// What a model has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Work {
    /// Nothing, and why.
    Nothing(String),
    /// All of it.
    Whole,
    /// Intervals, as spans; `reset`: from nothing.
    Spans { spans: Vec<Span>, starts: BTreeSet<NaiveDateTime>, reset: bool },
}

/// Views that lie over one another.
const DEPTH_MAX: usize = 32;

impl Runner {
    /// `changed` are models whose tables changed in this run.
    ///
    /// # Errors
    /// Those of the catalog, and of looking for late rows.
    pub(super) async fn decide(&self, model: &Model, changed: &BTreeSet<Name>) -> Result<Work> {
        let snapshot = self.session.sees().await?;
        let table = self.table(&model.name);
        let exists = match model.kind {
            Kind::View => snapshot.view(&table.schema, &table.name).is_some(),
            _ => snapshot.table(&table.schema, &table.name).is_some(),
        };
        let seen = self.seen.get(&model.name.to_string()).filter(|_| exists);
        let same_text = seen.is_some_and(|seen| seen.fingerprint == self.fingerprint(model));
        if let Some((time, grain)) = model.intervals() {
            return self.decide_intervals(model, changed, seen, same_text, (time, grain)).await;
        }
        let Some(seen) = seen.filter(|_| !self.request.full_refresh) else { return Ok(Work::Whole) };
        match model.kind {
            Kind::Load => Ok(Work::Whole),
            _ if !same_text || model.header.always == Some(true) => Ok(Work::Whole),
            Kind::View => Ok(Work::Nothing("its text is the same".to_owned())),
            Kind::Seed => Ok(Work::Nothing("its rows are the same".to_owned())),
            _ if !model.reads.files.is_empty() => Ok(Work::Whole),
            _ => {
                for name in self.sources(&snapshot, &model.name, &model.reads, 0)? {
                    if self.source_changed(&snapshot, &name, changed, seen).await? {
                        return Ok(Work::Whole);
                    }
                }
                Ok(Work::Nothing("nothing that it reads changed".to_owned()))
            }
        }
    }

    /// The tables that a query reads, views seen through.
    fn sources(
        &self,
        snapshot: &Snapshot,
        reader: &Name,
        reads: &rewrite::Reads,
        depth: usize,
    ) -> Result<BTreeSet<Name>> {
        let mut found = BTreeSet::new();
        for reference in &reads.tables {
            let name = Name::of(reference);
            if name == *reader || depth > DEPTH_MAX {
                continue;
            }
            let there = self.table(&name);
            match snapshot.view(&there.schema, &there.name) {
                Some(view) => {
                    let (_, inner) = rewrite::reads(&view.sql)?;
                    found.extend(self.sources(snapshot, &there, &inner, depth + 1)?);
                }
                None => {
                    found.insert(name);
                }
            }
        }
        Ok(found)
    }

    /// Whether the rows of a table may be others than a model saw.
    async fn source_changed(
        &self,
        snapshot: &Snapshot,
        name: &Name,
        changed: &BTreeSet<Name>,
        seen: &Seen,
    ) -> Result<bool> {
        let there = self.table(name);
        if changed.contains(name) {
            return Ok(true);
        }
        // What is not there is an error of the query; what others keep may have changed.
        let Some(table) = snapshot.table(&there.schema, &there.name) else { return Ok(true) };
        if table.external.is_some() || table.id < 0 {
            return Ok(true);
        }
        for (first, last) in seen.unseen(snapshot.id) {
            match self.session.catalog().steps(table.id, first, last).await {
                Ok(steps) if steps.is_empty() => {}
                Ok(_) => return Ok(true),
                // Expired, or too many to look at: whatever it was, it is looked at anew.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => {
                    return Ok(true);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    async fn decide_intervals(
        &self,
        model: &Model,
        changed: &BTreeSet<Name>,
        seen: Option<&Seen>,
        same_text: bool,
        (_, grain): (&str, Grain),
    ) -> Result<Work> {
        let name = model.name.to_string();
        let until = self.until()?;
        let start = model.start.unwrap_or(until);
        let nothing = BTreeSet::new();
        let reset = self.request.full_refresh || seen.is_none();
        let done = if reset { &nothing } else { self.intervals.get(&name).unwrap_or(&nothing) };
        let mut late = BTreeSet::new();
        if let Some(seen) = seen.filter(|_| !reset) {
            if !same_text {
                let message = format!(
                    "the text of '{name}' changed since its intervals were made: --full-refresh makes them again"
                );
                self.tell(Event::Warning { message }).await;
            }
            if model.kind == Kind::Interval {
                late = self.late(model, changed, seen, grain).await?;
            }
        }
        let asked = Asked {
            grain,
            start,
            until,
            lookback: if model.kind == Kind::Interval { model.header.lookback.unwrap_or(0) } else { 0 },
            range: self.range,
            done,
            late: &late,
        };
        let wanted = asked.wanted()?;
        // What was appended stays: it is never made twice.
        let again = if model.kind == Kind::Append { BTreeSet::new() } else { wanted.again };
        let starts: BTreeSet<NaiveDateTime> = &wanted.missing | &again;
        if starts.is_empty() && !reset {
            return Ok(Work::Nothing(match self.range {
                Some(_) => "its intervals there were appended already".to_owned(),
                None => format!("every {} up to {} is there", grain.name(), interval::short(until)),
            }));
        }
        Ok(Work::Spans { spans: grain.spans(&starts), starts, reset })
    }

    /// Whether a table was there in a snapshot: one that came later, as by a promotion, has no changes before. What nobody
    /// knows any more may have been.
    async fn was_there(&self, table: i64, snapshot: i64) -> Result<bool> {
        match self.session.catalog().snapshot_at(snapshot).await {
            Ok(snapshot) => Ok(snapshot.table_by_id(table).is_some()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The intervals that rows belong to which changed since the model saw its sources.
    async fn late(
        &self,
        model: &Model,
        changed: &BTreeSet<Name>,
        seen: &Seen,
        grain: Grain,
    ) -> Result<BTreeSet<NaiveDateTime>> {
        let snapshot = self.session.sees().await?;
        let (query, _) = rewrite::reads(&model.sql)?;
        let mut late = BTreeSet::new();
        for watched in watched(&query) {
            let there = self.table(&watched.table);
            let Some(table) = snapshot.table(&there.schema, &there.name) else { continue };
            if table.external.is_some() {
                continue;
            }
            let mut calls = Vec::new();
            for (first, last) in seen.unseen(snapshot.id) {
                if self.was_there(table.id, last).await? {
                    calls.push(format!("{first}, {last}"));
                }
            }
            if changed.contains(&watched.table) && self.session.changed()? {
                // What this run staged itself.
                calls.push((snapshot.id + 1).to_string());
            }
            for range in calls {
                let sql = format!(
                    "SELECT DISTINCT CAST(date_trunc('{}', CAST({} AS TIMESTAMP)) AS VARCHAR) FROM table_changes({}, {range}) AS {}",
                    grain.name(),
                    watched.time,
                    crate::statements::table(&there),
                    quote(&watched.alias)
                );
                match rows::texts(&self.session, &sql).await {
                    Ok(starts) => {
                        for start in starts {
                            late.insert(interval::parse(&start.replace('T', " "))?);
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        let message = format!(
                            "what changed in '{there}' since '{}' saw it was expired: late rows are not found; \
                             --start and --end make intervals again",
                            model.name
                        );
                        self.tell(Event::Warning { message }).await;
                    }
                    Err(error) => return Err(error.context(format!("looking for late rows of '{there}'"))),
                }
            }
        }
        Ok(late)
    }
}
