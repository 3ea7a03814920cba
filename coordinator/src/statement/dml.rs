//! Statements that change rows which are there: find, rewrite, insert, commit once.
//!
//! ```text
//! Edit --find--> counts for each file --> files that go
//!                                    \--> files to rewrite --> files in their place  \
//!      --insert-------------------------------------------> files of added rows      -- one commit
//! ```
//!
//! The rewrite is a plan under a write like any other and runs in either lane; here are counts only. What it writes must
//! add up with what was found, or nothing is committed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::logical_expr::LogicalPlan;
use datafusion::scalar::ScalarValue;
use futures::TryStreamExt;
use skep_catalog::{Change, NewFile, Transaction};
use skep_common::{Error, Result};
use skep_engine::error::from_datafusion;
use skep_engine::planner::{Edit, Noted, Planner};
use skep_engine::write::{Moved, WriteTarget, changed_rows, collect_report};
use skep_engine::{Statement, explain};

use super::Run;
use super::query::lane;
use crate::commit::{next_attempt, publish_with};
use crate::lanes::Job;
use crate::session::Outcome;
use crate::transaction::refused;

/// What was found in one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    file: i64,
    updated: u64,
    deleted: u64,
    /// How often one of its rows was found at most.
    most: u64,
}

/// What a statement does to files.
#[derive(Debug, Default, PartialEq, Eq)]
struct Work {
    /// All their rows go.
    removed: Vec<i64>,
    /// Some of their rows stay or change.
    rewritten: Vec<i64>,
    updated: u64,
    deleted: u64,
    /// Rows that the rewritten files must have together.
    kept: u64,
}

impl Work {
    /// Divides the files of a table, each with its rows, by what was found in them.
    fn new(files: impl IntoIterator<Item = (i64, u64)>, found: &[Found]) -> Result<Self> {
        let rows: HashMap<i64, u64> = files.into_iter().collect();
        let mut work = Self::default();
        for found in found {
            let rows = rows.get(&found.file).copied();
            let kept = rows.and_then(|rows| rows.checked_sub(found.deleted));
            let kept = kept.filter(|kept| *kept >= found.updated).ok_or_else(|| {
                Error::internal(format!("file {} has fewer rows than were found in it", found.file))
            })?;
            work.updated += found.updated;
            work.deleted += found.deleted;
            if kept == 0 {
                work.removed.push(found.file);
            } else {
                work.kept += kept;
                work.rewritten.push(found.file);
            }
        }
        Ok(work)
    }

    /// Refuses a second pass that saw other rows than the first.
    fn check(&self, written: u64, changed: u64) -> Result<()> {
        if (written, changed) == (self.kept, self.updated) {
            return Ok(());
        }
        let message = if written == self.kept {
            format!("{} rows were found to change, and {changed} did", self.updated)
        } else {
            format!("{} rows were to be kept, and {written} were", self.kept)
        };
        Err(Error::invalid(message).hint(
            "nothing was changed; the condition does not choose the same rows each time: give a LIMIT in it an ORDER BY, or \
             write the rows that it chooses into a table first",
        ))
    }
}

impl Run {
    /// Plans, runs and commits; again on a later snapshot if another commit came in between.
    pub(super) async fn edit(self, statement: &Statement, parameters: Vec<ScalarValue>) -> Result<Outcome> {
        let tag = statement.tag().unwrap_or("OK");
        self.watch.several();
        let mut attempt = 0;
        loop {
            match self.edit_once(statement, &parameters, attempt).await {
                Ok(rows) => return Ok(self.done(tag, Some(rows))),
                Err(error) => attempt = next_attempt(attempt, error).await?,
            }
        }
    }

    /// The types of the parameters of a statement that changes rows.
    pub(super) async fn edit_parameters(&self, statement: &Statement) -> Result<SchemaRef> {
        let planner = self.planner(self.snapshot().await?).await?;
        edit_of(&planner, statement).await?.parameters()
    }

    async fn edit_once(
        &self,
        statement: &Statement,
        parameters: &[ScalarValue],
        attempt: u32,
    ) -> Result<u64> {
        let base = self.snapshot().await?;
        let planner = self.planner(Arc::clone(&base)).await?.with_parameters(parameters.to_vec());
        let edit = edit_of(&planner, statement).await?;
        let work = self.work(&planner, &edit).await?;
        let mut files = Vec::new();
        let written = self.write_edit(&planner, &edit, &work, &mut files).await;
        let folder = &edit.table().path;
        let paths: Vec<String> = files.iter().map(|file| format!("{folder}{}", file.path)).collect();
        let inserted = match written {
            Ok(inserted) => inserted,
            Err(error) => {
                self.shared.discard(paths).await;
                return Err(error);
            }
        };
        let mut changes = Vec::new();
        let table = edit.table().id;
        let gone: Vec<i64> = work.removed.iter().chain(&work.rewritten).copied().collect();
        if !gone.is_empty() {
            changes.push(Change::RemoveFiles { table, files: gone });
        }
        if !files.is_empty() {
            changes.push(Change::Append { table, files });
        }
        let truncates = matches!(statement, Statement::Truncate(_));
        if changes.is_empty() && !truncates {
            return Ok(0);
        }
        let catalog = &self.shared.environment.catalog;
        let forget = truncates.then(|| self.forget_loads(edit.table()));
        let side = |transaction: &Transaction| {
            if let Some(forget) = forget {
                forget(transaction);
            }
        };
        if let Err(error) = publish_with(catalog, base, &self.author(), attempt, changes, side).await {
            if refused(&error) {
                self.shared.discard(paths).await;
            }
            return Err(error);
        }
        Ok(work.updated + work.deleted + inserted)
    }

    /// The first pass.
    async fn work(&self, planner: &Planner, edit: &Edit) -> Result<Work> {
        let files = edit.live()?.into_iter();
        let Some(find) = edit.find()? else {
            let all = |(file, deleted)| Found { file, updated: 0, deleted, most: 1 };
            let found: Vec<Found> = if edit.all() { files.clone().map(all).collect() } else { Vec::new() };
            return Work::new(files, &found);
        };
        let found = found(&self.collect(planner, find).await?);
        if edit.strict() && found.iter().any(|found| found.most > 1) {
            let example = self.collect(planner, edit.twice()?).await?;
            return Err(twice(&example));
        }
        Work::new(files, &found)
    }

    /// Takes the rows of `edit` out: the files that go, with those that keep the rest of their rows added to `files`,
    /// whatever happens.
    pub(super) async fn take_out(
        &self,
        planner: &Planner,
        edit: &Edit,
        files: &mut Vec<NewFile>,
    ) -> Result<Vec<i64>> {
        let work = self.work(planner, edit).await?;
        let mut kept = Vec::new();
        let written = self.write_edit(planner, edit, &work, &mut kept).await;
        files.extend(kept);
        written?;
        Ok(work.removed.into_iter().chain(work.rewritten).collect())
    }

    /// The files of `edit` in which rows are found.
    pub(super) async fn files_of(&self, planner: &Planner, edit: &Edit) -> Result<HashSet<i64>> {
        let work = self.work(planner, edit).await?;
        Ok(work.removed.into_iter().chain(work.rewritten).collect())
    }

    /// The second pass, and the rows that are added, whose number it returns. Files are in `files` whatever happens.
    async fn write_edit(
        &self,
        planner: &Planner,
        edit: &Edit,
        work: &Work,
        files: &mut Vec<NewFile>,
    ) -> Result<u64> {
        let mut changed = 0;
        let rewritten: HashSet<i64> = work.rewritten.iter().copied().collect();
        for moved in [Moved::WithIds, Moved::WithoutIds] {
            let touched = edit.files().iter().filter(|file| Moved::from(file.as_ref()) == moved);
            let touched = touched.map(|file| file.id).filter(|file| rewritten.contains(file));
            let touched: HashSet<i64> = touched.collect();
            if touched.is_empty() {
                continue;
            }
            let rows = edit.rewrite(touched)?;
            let report = self.run_report(planner, rows, self.edit_target(edit, Some(moved))?).await?;
            files.extend(collect_report(&report)?);
            changed += changed_rows(&report);
        }
        work.check(files.iter().map(|file| file.rows).sum(), changed)?;
        let Some(rows) = edit.insert() else { return Ok(0) };
        let report = self.run_report(planner, rows.clone(), self.edit_target(edit, None)?).await?;
        let added = collect_report(&report)?;
        let inserted = added.iter().map(|file| file.rows).sum();
        files.extend(added);
        Ok(inserted)
    }

    fn edit_target(&self, edit: &Edit, moved: Option<Moved>) -> Result<WriteTarget> {
        let table = edit.table();
        let mut target = self.shared.root.target(&table.path, table.columns.clone())?;
        target.file_size = self.settings.file_size();
        target.moved = moved;
        Noted::of(table).lay_out(&mut target)?;
        Ok(target)
    }

    async fn collect(&self, planner: &Planner, logical: LogicalPlan) -> Result<Vec<RecordBatch>> {
        let running = self.start(self.edit_job(planner, logical, None)).await?;
        let batches = running.stream.try_collect().await.map_err(from_datafusion)?;
        self.shared.count_tasks(&running.ran);
        Ok(batches)
    }

    fn edit_job(&self, planner: &Planner, logical: LogicalPlan, write: Option<WriteTarget>) -> Job {
        let (state, lane) = (planner.state().clone(), lane(&self.settings));
        Job { state, logical, write, lane, query: self.query }
    }

    /// The plans of both passes. With `analyze` they run, and write nothing.
    pub(super) async fn explain_edit(
        &self,
        statement: &Statement,
        analyze: bool,
        parameters: Vec<ScalarValue>,
    ) -> Result<Vec<(String, String)>> {
        let planner = self.planner(self.snapshot().await?).await?.with_parameters(parameters);
        let edit = edit_of(&planner, statement).await?;
        let mut parts = Vec::new();
        if let Some(find) = edit.find()? {
            self.explain_part(&planner, "find", find, None, analyze, &mut parts).await?;
        }
        let touched: HashSet<i64> = if analyze || edit.all() {
            let work = self.work(&planner, &edit).await?;
            parts.push(("files".to_owned(), shown(&edit, &work)));
            work.rewritten.iter().copied().collect()
        } else {
            edit.files().iter().map(|file| file.id).collect()
        };
        if edit.find()?.is_some() && !touched.is_empty() {
            let write = (!analyze).then(|| self.edit_target(&edit, Some(Moved::WithIds))).transpose()?;
            self.explain_part(&planner, "rewrite", edit.rewrite(touched)?, write, analyze, &mut parts)
                .await?;
        }
        if let Some(rows) = edit.insert() {
            let write = (!analyze).then(|| self.edit_target(&edit, None)).transpose()?;
            self.explain_part(&planner, "insert", rows.clone(), write, analyze, &mut parts).await?;
        }
        Ok(parts)
    }

    async fn explain_part(
        &self,
        planner: &Planner,
        name: &str,
        logical: LogicalPlan,
        write: Option<WriteTarget>,
        analyze: bool,
        parts: &mut Vec<(String, String)>,
    ) -> Result<()> {
        let optimised = planner.state().optimize(&logical).map_err(from_datafusion)?;
        parts.push((format!("{name}_logical_plan"), explain::logical(&optimised)));
        let job = self.edit_job(planner, logical, write);
        let physical =
            if analyze { self.analyzed(job).await? } else { self.shared.lanes.explain(&job).await? };
        parts.push((format!("{name}_physical_plan"), physical));
        let scans = explain::scans(&planner.reports());
        if !scans.is_empty() {
            parts.push((format!("{name}_scans"), scans));
        }
        Ok(())
    }
}

async fn edit_of(planner: &Planner, statement: &Statement) -> Result<Edit> {
    let edit = planner.edit(statement).await?;
    edit.ok_or_else(|| Error::internal("the statement changes no rows that are there"))
}

fn shown(edit: &Edit, work: &Work) -> String {
    let all = edit.files().len();
    let (removed, rewritten) = (work.removed.len(), work.rewritten.len());
    format!(
        "{}.{}: of {all} files {rewritten} are rewritten, {removed} removed, {} left; {} rows change, {} go",
        edit.table().schema_name,
        edit.table().name,
        all - removed - rewritten,
        work.updated,
        work.deleted
    )
}

/// The rows of the first pass.
fn found(batches: &[RecordBatch]) -> Vec<Found> {
    let rows = batches.iter().flat_map(|batch| {
        let number = |column: usize, row: usize| batch.column(column).as_primitive::<Int64Type>().value(row);
        let count = move |column, row| u64::try_from(number(column, row)).unwrap_or(0);
        (0..batch.num_rows()).map(move |row| Found {
            file: number(0, row),
            updated: count(1, row),
            deleted: count(2, row),
            most: count(3, row),
        })
    });
    rows.collect()
}

/// The error for a row that several rows of the source want to change.
fn twice(example: &[RecordBatch]) -> Error {
    let options = FormatOptions::default().with_null("NULL");
    let row = example.iter().find(|batch| batch.num_rows() > 0).map(|batch| {
        let schema = batch.schema();
        let values = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
            let value = ArrayFormatter::try_new(column.as_ref(), &options)
                .map(|formatter| formatter.value(0).to_string())
                .unwrap_or_default();
            format!("{} = {value}", field.name())
        });
        values.collect::<Vec<_>>().join(", ")
    });
    let example = row.map(|row| format!(", such as the one with {row}")).unwrap_or_default();
    Error::invalid(format!("a row of the table matches several rows of the source{example}")).hint(
        "it can only be changed once: make the source's rows unique, for example with GROUP BY or DISTINCT",
    )
}

#[cfg(test)]
mod tests {
    use skep_common::Kind;

    use super::*;

    fn found(file: i64, updated: u64, deleted: u64) -> Found {
        Found { file, updated, deleted, most: 1 }
    }

    #[test]
    fn files_go_or_are_rewritten_by_what_was_found() {
        let files = [(1, 10), (2, 5), (3, 7), (4, 1)];
        let work = Work::new(files, &[found(1, 0, 10), found(2, 5, 0), found(3, 2, 4)]).unwrap();
        let expected = Work { removed: vec![1], rewritten: vec![2, 3], updated: 7, deleted: 14, kept: 8 };
        assert_eq!(work, expected);
        assert!(Work::new(files, &[found(1, 1, 10)]).is_err(), "more than the file has");
        assert!(Work::new(files, &[found(9, 0, 1)]).is_err(), "a file that is not there");
    }

    #[test]
    fn passes_that_differ_are_refused() {
        let work = Work { kept: 8, updated: 3, ..Work::default() };
        assert!(work.check(8, 3).is_ok());
        for (written, changed) in [(7, 3), (9, 3), (8, 2), (8, 4)] {
            let error = work.check(written, changed).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.hint_text().unwrap().contains("nothing was changed"), "{error:?}");
        }
    }
}
