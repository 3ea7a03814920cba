//! Statements that add rows: plan, run, collect what the workers wrote, commit once.
//!
//! The files of a write that fails stay in the store without a snapshot that names them; they are deleted here where the
//! failure is known, and otherwise are orphans for a later collection.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::UInt64Type;
use arrow::record_batch::RecordBatch;
use datafusion::logical_expr::LogicalPlan;
use datafusion::scalar::ScalarValue;
use futures::TryStreamExt;
use skep_catalog::{Change, Column, NewFile, Snapshot, TableDef};
use skep_common::{Error, Kind, Result};
use skep_engine::error::from_datafusion;
use skep_engine::planner::{NewTable, Noted, Planner, Replaced, Replacement, WriteInput};
use skep_engine::sql::{CopyTo, CreateTableAs, Insert};
use skep_engine::write::{WriteTarget, collect_report};

use super::{Run, ddl};
use crate::commit::{next_attempt, publish};
use crate::lanes::{Job, Lane, Ran};
use crate::session::Outcome;
use crate::transaction::refused;

/// Where the rows of a write come from.
enum Source {
    Insert(Insert, Vec<ScalarValue>),
    NewTable(CreateTableAs, Vec<ScalarValue>),
}

/// Rows for a table, planned on one snapshot.
struct Planned {
    base: Arc<Snapshot>,
    planner: Planner,
    /// One column for each of the table, in its order.
    rows: LogicalPlan,
    columns: Vec<Column>,
    layout: Noted,
    /// Of the table, as the catalog has it.
    folder: String,
    /// What comes before the rows in the same commit.
    before: Vec<Change>,
    table: i64,
    /// The rows of a table that is there in whose place they come.
    replaced: Option<(Arc<TableDef>, Replaced)>,
}

impl Run {
    pub(super) async fn insert(self, insert: Insert, parameters: Vec<ScalarValue>) -> Result<Outcome> {
        let rows = self.write(&Source::Insert(insert, parameters)).await?;
        Ok(self.done("INSERT", Some(rows.unwrap_or(0))))
    }

    pub(super) async fn create_table_as(
        self,
        create: CreateTableAs,
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome> {
        let rows = self.write(&Source::NewTable(create, parameters)).await?;
        Ok(self.done("CREATE TABLE", rows))
    }

    pub(super) async fn copy_to(self, copy: CopyTo, parameters: Vec<ScalarValue>) -> Result<Outcome> {
        let planner = self.planner(self.snapshot().await?).await?.with_parameters(parameters);
        let logical = planner.copy_to(&copy).await?;
        planner.can_write(&copy.path).await.map_err(|e| unwritten(e, &copy.path))?;
        let job = Job {
            state: planner.state().clone(),
            logical,
            write: None,
            // The file is the coordinator's, and one task writes it.
            lane: Some(Lane::Local),
            query: self.query,
        };
        let running = self.start(job).await?;
        let counts: Vec<RecordBatch> =
            running.stream.try_collect().await.map_err(|e| unwritten(from_datafusion(e), &copy.path))?;
        let rows = counts
            .iter()
            .flat_map(|batch| batch.column(0).as_primitive::<UInt64Type>().values().iter())
            .sum();
        Ok(self.done("COPY", Some(rows)))
    }

    /// Plans, runs and commits; again on a later snapshot if another commit came in between. `None`: nothing to do.
    async fn write(&self, source: &Source) -> Result<Option<u64>> {
        let mut attempt = 0;
        loop {
            let planned = match source {
                Source::Insert(insert, parameters) => Some(self.plan_insert(insert, parameters).await?),
                Source::NewTable(create, parameters) => self.plan_create(create, parameters).await?,
            };
            let Some(planned) = planned else { return Ok(None) };
            match self.write_once(planned, attempt).await {
                Ok(rows) => return Ok(Some(rows)),
                // The rows that came with the statement are read by now.
                Err(error) if self.given.is_some() => return Err(error),
                Err(error) => attempt = next_attempt(attempt, error).await?,
            }
        }
    }

    async fn write_once(&self, planned: Planned, attempt: u32) -> Result<u64> {
        let Planned { base, planner, rows, columns, layout, folder, before, table, replaced } = planned;
        let mut target = self.shared.root.target(&folder, columns)?;
        target.file_size = self.settings.file_size();
        layout.lay_out(&mut target)?;
        let mut files = self.run_write(&planner, rows, target).await?;
        let written = files.iter().map(|file| file.rows).sum();
        let mut changes = before;
        let room = match &replaced {
            Some((table, replaced)) => self.make_room(&planner, table, replaced, &mut files).await,
            None => Ok(None),
        };
        let paths: Vec<String> = files.iter().map(|file| format!("{folder}{}", file.path)).collect();
        match room {
            Ok(Some(gone)) => changes.push(Change::RemoveFiles { table, files: gone }),
            Ok(None) => {}
            Err(error) => {
                self.shared.discard(paths).await;
                return Err(error);
            }
        }
        if !files.is_empty() {
            changes.push(Change::Append { table, files });
        }
        if changes.is_empty() {
            return Ok(0);
        }
        let published =
            publish(&self.shared.environment.catalog, base, &self.author(), attempt, changes).await;
        if let Err(error) = published {
            if refused(&error) {
                self.shared.discard(paths).await;
            }
            return Err(error);
        }
        Ok(written)
    }

    /// The files that go for rows in `files`, to which those are added that keep the rest of what they held.
    async fn make_room(
        &self,
        planner: &Planner,
        table: &Arc<TableDef>,
        replaced: &Replaced,
        files: &mut Vec<NewFile>,
    ) -> Result<Option<Vec<i64>>> {
        if *replaced == Replaced::Nothing {
            return Ok(None);
        }
        let Replacement { mut removed, mixed, .. } = planner.replacement(table, replaced, files).await?;
        if let Some(edit) = mixed {
            removed.extend(self.take_out(planner, &edit, files).await?);
        }
        // No row that is there and none that comes: no commit.
        Ok((!removed.is_empty() || !files.is_empty()).then_some(removed))
    }

    /// Runs the write to its end; nothing is visible yet.
    async fn run_write(
        &self,
        planner: &Planner,
        rows: LogicalPlan,
        target: WriteTarget,
    ) -> Result<Vec<NewFile>> {
        collect_report(&self.run_report(planner, rows, target).await?)
    }

    /// As [`Self::run_write`]; what the write reported.
    pub(super) async fn run_report(
        &self,
        planner: &Planner,
        rows: LogicalPlan,
        target: WriteTarget,
    ) -> Result<Vec<RecordBatch>> {
        let job = Job {
            state: planner.state().clone(),
            logical: rows,
            write: Some(target),
            lane: if self.given.is_some() { Some(Lane::Local) } else { super::query::lane(&self.settings) },
            query: self.query,
        };
        let running = self.start(job).await?;
        let ran: Ran = running.ran.clone();
        *self.session.last.lock() = Some(ran.clone());
        let reports: Vec<_> = running.stream.try_collect().await.map_err(from_datafusion)?;
        self.shared.count_tasks(&ran);
        Ok(reports)
    }

    async fn plan_insert(&self, insert: &Insert, parameters: &[ScalarValue]) -> Result<Planned> {
        let planner = self.planner(self.snapshot().await?).await?.with_parameters(parameters.to_vec());
        let input = planner.insert(insert).await?;
        Ok(Planned::append(planner, input))
    }

    async fn plan_create(
        &self,
        create: &CreateTableAs,
        parameters: &[ScalarValue],
    ) -> Result<Option<Planned>> {
        let base = self.snapshot().await?;
        let schema = create.name.schema_or(self.settings.schema());
        let room =
            ddl::make_room(&base, schema, &create.name, create.if_not_exists, create.or_replace, false)?;
        let Some(mut before) = room else { return Ok(None) };
        let planner = self.planner(Arc::clone(&base)).await?.with_parameters(parameters.to_vec());
        let NewTable { columns, noted, plan: rows } = planner.create_table_as(create).await?;
        self.check_location(&noted, &base, &create.name).await?;
        let table = base.fresh_id();
        before.push(Change::CreateTable {
            id: table,
            schema: schema.to_owned(),
            name: create.name.name.clone(),
            columns: columns.clone(),
            comment: create.comment.clone(),
        });
        before.extend(noted.changes(table));
        let layout = noted;
        let folder = layout.folder(&base, schema, &create.name.name);
        Ok(Some(Planned { base, planner, rows, columns, layout, folder, before, table, replaced: None }))
    }
}

impl Planned {
    fn append(planner: Planner, input: WriteInput) -> Self {
        let WriteInput { table, plan: rows, replaced } = input;
        Self {
            base: Arc::clone(planner.snapshot()),
            planner,
            rows,
            columns: table.columns.clone(),
            layout: Noted::of(&table),
            folder: table.path.clone(),
            before: Vec::new(),
            table: table.id,
            replaced: Some((table, replaced)),
        }
    }
}

/// Names the file in an error of writing it, which may not name its own cause.
fn unwritten(error: Error, path: &str) -> Error {
    match error.kind() {
        Kind::Internal | Kind::Unavailable | Kind::Exhausted | Kind::NoSpace | Kind::Denied => error
            .context(format!("cannot write '{path}'"))
            .hint("the folder must be one that the server may write to, on a disk with room"),
        _ => error,
    }
}
