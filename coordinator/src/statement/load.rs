//! COPY INTO: files that were not loaded before go to a table, and into its ledger, in one commit.
//!
//! ```text
//! ledger --plan--> files to load --write--> files of the table \
//!                        \---write--> rejected rows             -- one commit, the ledger in it
//! ```
//!
//! # Invariants
//! - A file is loaded once: of two statements that load it at the same time one commits, and the other decides again.
//! - What a transaction loaded before counts as loaded for its later statements.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::logical_expr::LogicalPlanBuilder;
use futures::TryStreamExt;
use parking_lot::Mutex;
use skep_catalog::{
    Change, Column, FileVersion, ForgetLoads, LedgerEntry, Load, NewFile, RecordLoads, Snapshot, TableDef,
    Transaction,
};
use skep_common::{Error, Kind, Result};
use skep_engine::error::from_datafusion;
use skep_engine::planner::{LoadFile, Loading, Noted, Planner, rejects_columns};
use skep_engine::sql::{CopyInto, Name};
use skep_engine::write::{WriteTarget, collect_report, source_rows};
use uuid::Uuid;

use super::{Run, ddl};
use crate::commit::{next_attempt, publish_with};
use crate::lanes::{Job, Lane};
use crate::session::{Done, Outcome};
use crate::transaction::refused;

/// What an open transaction did to the ledgers of tables.
#[derive(Debug, Default)]
pub(crate) struct Pending(Mutex<HashMap<Uuid, PendingTable>>);

#[derive(Debug, Default, Clone)]
struct PendingTable {
    /// Whether what was loaded before the transaction no longer counts.
    forgotten: bool,
    loaded: HashMap<String, LedgerEntry>,
}

impl Pending {
    /// The rows of `table` are gone, and what was loaded into it with them.
    pub(crate) fn forget(&self, table: Uuid) {
        self.0.lock().insert(table, PendingTable { forgotten: true, loaded: HashMap::new() });
    }

    fn add(&self, table: &TableDef, record: &RecordLoads, snapshot: i64) {
        let mut tables = self.0.lock();
        let pending = tables.entry(table.uuid).or_default();
        for load in &record.loads {
            let entry = LedgerEntry { table: table.id, load: load.clone(), snapshot, time: record.time };
            pending.loaded.insert(load.path.clone(), entry);
        }
    }

    fn of(&self, table: Uuid) -> PendingTable {
        self.0.lock().get(&table).cloned().unwrap_or_default()
    }
}

/// The columns of the answer: one row for each file.
pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("file", DataType::Utf8, false),
        Field::new("status", DataType::Utf8, false),
        Field::new("rows_loaded", DataType::Int64, false),
        Field::new("rows_rejected", DataType::Int64, false),
        Field::new("reason", DataType::Utf8, true),
    ]))
}

/// Rows by the file that they come from.
type Counts = BTreeMap<String, u64>;

/// Where the rejected rows of a load go.
struct Rejects {
    /// Before the rows, in the same commit.
    before: Vec<Change>,
    table: i64,
    folder: String,
    columns: Vec<Column>,
    layout: Noted,
}

impl Run {
    pub(super) async fn copy_into(self, copy: CopyInto) -> Result<Outcome> {
        let mut attempt = 0;
        loop {
            match self.load_once(&copy, attempt).await {
                Ok((rows, files)) => {
                    return Ok(Outcome::Done(Done {
                        query: self.query,
                        tag: "COPY",
                        rows: Some(rows),
                        details: Some(files),
                    }));
                }
                Err(error) => attempt = next_attempt(attempt, error).await?,
            }
        }
    }

    async fn load_once(&self, copy: &CopyInto, attempt: u32) -> Result<(u64, RecordBatch)> {
        let base = self.snapshot().await?;
        let planner = self.planner(Arc::clone(&base)).await?;
        let ledger = self.ledger(&*planner.writable(&copy.table)?).await?;
        let loading = planner.copy_into(copy, &ledger).await?;
        if loading.rows.is_none() {
            return Ok((0, answer(&loading.files, &Counts::new(), &Counts::new(), None)?));
        }
        let mut staged = Vec::new();
        let done = self.load_files(copy, &planner, &loading, attempt, &mut staged).await;
        match done {
            Ok(done) => Ok(done),
            Err((error, known)) => {
                if known {
                    self.shared.discard(staged).await;
                }
                Err(error)
            }
        }
    }

    /// Writes the rows and commits. The files that were written are in `staged` whatever happens; the error says whether they
    /// are nobody's for sure.
    async fn load_files(
        &self,
        copy: &CopyInto,
        planner: &Planner,
        loading: &Loading,
        attempt: u32,
        staged: &mut Vec<String>,
    ) -> std::result::Result<(u64, RecordBatch), (Error, bool)> {
        let nobodys = |error| (error, true);
        let table = &loading.table;
        let (mut changes, rejected) = match &copy.rejects {
            None => (Vec::new(), Counts::new()),
            Some(name) => self.write_rejects(planner, name, loading, staged).await.map_err(nobodys)?,
        };
        let (files, loaded) = self.write_rows(copy, planner, loading, staged).await.map_err(nobodys)?;
        if !files.is_empty() {
            changes.push(Change::Append { table: table.id, files });
        }
        let record = record(loading, copy.force, &loaded, &rejected, self.shared.environment.catalog.now());
        let (base, catalog) = (Arc::clone(planner.snapshot()), &self.shared.environment.catalog);
        let snapshot = base.id;
        let open = self.open.as_ref();
        let side = |transaction: &Transaction| {
            if let Some(open) = open {
                open.loads.add(table, &record, snapshot);
            }
            transaction.with(record);
        };
        if let Err(error) = publish_with(catalog, base, &self.author(), attempt, changes, side).await {
            let known = refused(&error);
            return Err((error, known));
        }
        let shown =
            answer(&loading.files, &loaded, &rejected, copy.rejects.as_ref()).map_err(|e| (e, false))?;
        Ok((loaded.values().sum(), shown))
    }

    async fn write_rows(
        &self,
        copy: &CopyInto,
        planner: &Planner,
        loading: &Loading,
        staged: &mut Vec<String>,
    ) -> Result<(Vec<NewFile>, Counts)> {
        let table = &loading.table;
        let Some(rows) = loading.rows.clone() else { return Ok((Vec::new(), Counts::new())) };
        let target = self.counted(&table.path, table.columns.clone(), &Noted::of(table))?;
        let report = match self.run_report(planner, rows, target).await {
            Ok(report) => report,
            Err(error) => return Err(self.located(copy, planner, loading, error).await),
        };
        let files = collect_report(&report)?;
        staged.extend(files.iter().map(|file| format!("{}{}", table.path, file.path)));
        Ok((files, source_rows(&report)?))
    }

    /// Writes the rows that the table does not take to the table that is to have them.
    async fn write_rejects(
        &self,
        planner: &Planner,
        name: &Name,
        loading: &Loading,
        staged: &mut Vec<String>,
    ) -> Result<(Vec<Change>, Counts)> {
        let Some(rows) = loading.rejects.clone() else { return Ok((Vec::new(), Counts::new())) };
        let Rejects { before: mut changes, table, folder, columns, layout } = self.rejects(planner, name)?;
        if table == loading.table.id {
            return Err(Error::invalid(format!("rows that '{name}' does not take cannot be put into it"))
                .hint("name another table for them"));
        }
        let target = self.counted(&folder, columns, &layout)?;
        let report = self.run_report(planner, rows, target).await?;
        let files = collect_report(&report)?;
        staged.extend(files.iter().map(|file| format!("{folder}{}", file.path)));
        if !files.is_empty() {
            changes.push(Change::Append { table, files });
        }
        Ok((changes, source_rows(&report)?))
    }

    /// The table of rejected rows, or what makes it.
    fn rejects(&self, planner: &Planner, name: &Name) -> Result<Rejects> {
        let base: &Snapshot = planner.snapshot();
        let schema = name.schema_or(self.settings.schema());
        let columns = rejects_columns()?;
        if base.table(schema, &name.name).is_none() {
            let before = ddl::make_room(base, schema, name, false, false, false)?;
            let mut before = before.unwrap_or_default();
            let table = base.fresh_id();
            before.push(Change::CreateTable {
                id: table,
                schema: schema.to_owned(),
                name: name.name.clone(),
                columns: columns.clone(),
                comment: Some("rows that COPY INTO did not load".to_owned()),
            });
            let folder = base.path_of_new_table(schema, &name.name);
            return Ok(Rejects { before, table, folder, columns, layout: Noted::default() });
        }
        let table = planner.writable(name)?;
        let same = |(ours, theirs): (&Column, &Column)| {
            ours.name == theirs.name && ours.ty == theirs.ty && theirs.nullable
        };
        if table.columns.len() != columns.len() || !columns.iter().zip(&table.columns).all(same) {
            return Err(Error::invalid(format!("table '{name}' is none of rejected rows"))
                .hint("it must have the columns file VARCHAR, line BIGINT, raw VARCHAR, reason VARCHAR; one that does not exist is made"));
        }
        let layout = Noted { checks: Vec::new(), ..Noted::of(&table) };
        Ok(Rejects {
            before: Vec::new(),
            table: table.id,
            folder: table.path.clone(),
            columns: table.columns.clone(),
            layout,
        })
    }

    fn counted(&self, folder: &str, columns: Vec<Column>, layout: &Noted) -> Result<WriteTarget> {
        let mut target = self.shared.root.target(folder, columns)?;
        target.file_size = self.settings.file_size();
        target.sources = true;
        layout.lay_out(&mut target)?;
        Ok(target)
    }

    /// What was loaded into `table`, as this statement sees it.
    async fn ledger(&self, table: &TableDef) -> Result<HashMap<String, LedgerEntry>> {
        let pending = self.open.as_ref().map(|open| open.loads.of(table.uuid)).unwrap_or_default();
        let mut ledger = HashMap::new();
        if !pending.forgotten {
            for entry in self.shared.environment.catalog.loads(Some(table.id)).await? {
                ledger.insert(entry.load.path.clone(), entry);
            }
        }
        ledger.extend(pending.loaded);
        Ok(ledger)
    }

    /// `error` of a load, with the file and line of a row that is wrong, if one is.
    async fn located(&self, copy: &CopyInto, planner: &Planner, loading: &Loading, error: Error) -> Error {
        let named = |file: &LoadFile| error.message().starts_with(&format!("'{}', line ", file.path));
        if error.kind() != Kind::Invalid || loading.files.iter().any(named) {
            return error;
        }
        match self.first_reject(planner, loading).await {
            Ok(Some(message)) => {
                let found = Error::invalid(message).hint(
                    "correct the row, or load the others: ON_ERROR = CONTINUE REJECTED DATA AS TABLE name",
                );
                match copy.at {
                    Some(at) => found.at(at),
                    None => found,
                }
            }
            Ok(None) => error,
            Err(other) => {
                tracing::debug!(error = other.report(), "the row that fails a load was not found");
                error
            }
        }
    }

    async fn first_reject(&self, planner: &Planner, loading: &Loading) -> Result<Option<String>> {
        let Some(rejects) = loading.rejects.clone() else { return Ok(None) };
        let first = LogicalPlanBuilder::from(rejects).limit(0, Some(1)).and_then(LogicalPlanBuilder::build);
        let job = Job {
            state: planner.state().clone(),
            logical: first.map_err(from_datafusion)?,
            write: None,
            lane: Some(Lane::Local),
            query: self.query,
        };
        let stream = self.start(job).await?.stream;
        let batches: Vec<RecordBatch> = stream.try_collect().await.map_err(from_datafusion)?;
        let Some(row) = batches.iter().find(|batch| batch.num_rows() > 0) else { return Ok(None) };
        let text = |at: usize| row.column(at).as_string_opt::<i32>().map(|texts| texts.value(0).to_owned());
        let line = row.column(1).as_primitive_opt::<Int64Type>().map(|lines| lines.value(0));
        let (Some(file), Some(line), Some(reason)) = (text(0), line, text(3)) else { return Ok(None) };
        Ok(Some(format!("'{file}', line {line}: {reason}")))
    }
}

/// What goes into the ledger.
fn record(
    loading: &Loading,
    force: bool,
    loaded: &Counts,
    rejected: &Counts,
    time: chrono::DateTime<chrono::Utc>,
) -> RecordLoads {
    let count = |counts: &Counts, path: &String| counts.get(path).copied().unwrap_or(0);
    let files = || loading.files.iter().filter(|file| file.loads);
    let load = |file: &LoadFile| Load {
        path: file.path.clone(),
        version: file.version.clone(),
        rows: count(loaded, &file.path),
        rejected: count(rejected, &file.path),
    };
    let known = |file: &LoadFile| -> Option<(String, FileVersion)> {
        Some((file.path.clone(), file.known.as_ref()?.load.version.clone()))
    };
    RecordLoads {
        table: loading.table.uuid,
        loads: files().map(load).collect(),
        expected: (!force).then(|| files().filter_map(known).collect()),
        time,
    }
}

/// One row for each file.
fn answer(
    files: &[LoadFile],
    loaded: &Counts,
    rejected: &Counts,
    rejects: Option<&Name>,
) -> Result<RecordBatch> {
    let count = |counts: &Counts, file: &LoadFile| {
        i64::try_from(counts.get(&file.path).copied().unwrap_or(0)).unwrap_or(i64::MAX)
    };
    let describe = |file: &LoadFile| -> (&'static str, Option<String>) {
        let before = file.known.as_ref().map(|known| known.time.format("%Y-%m-%d %H:%M:%SZ").to_string());
        match (file.loads, before, count(rejected, file), rejects) {
            (false, before, ..) => {
                let time = before.unwrap_or_default();
                ("skipped", Some(format!("loaded at {time} and unchanged since; FORCE loads it again")))
            }
            (true, _, bad, Some(table)) if bad > 0 => {
                ("partially loaded", Some(format!("table {table} says what is wrong with {bad} rows")))
            }
            (true, Some(time), ..) => ("loaded", Some(format!("it was loaded before, at {time}"))),
            (true, ..) => ("loaded", None),
        }
    };
    let described: Vec<_> = files.iter().map(describe).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(files.iter().map(|file| &file.path))),
        Arc::new(StringArray::from_iter_values(described.iter().map(|(status, _)| status))),
        Arc::new(Int64Array::from_iter_values(files.iter().map(|file| count(loaded, file)))),
        Arc::new(Int64Array::from_iter_values(files.iter().map(|file| count(rejected, file)))),
        Arc::new(described.iter().map(|(_, reason)| reason.as_deref()).collect::<StringArray>()),
    ];
    RecordBatch::try_new(schema(), columns)
        .map_err(|e| Error::internal("the files of a load do not fit their columns").source(e))
}

impl Run {
    /// What TRUNCATE adds to its commit: the ledger of `table` is emptied.
    pub(super) fn forget_loads(&self, table: &TableDef) -> impl FnOnce(&Transaction) + use<> {
        let (uuid, open) = (table.uuid, self.open.clone());
        move |transaction| {
            if let Some(open) = open {
                open.loads.forget(uuid);
            }
            transaction.with(ForgetLoads { table: uuid });
        }
    }
}
