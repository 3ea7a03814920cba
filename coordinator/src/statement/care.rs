//! Keeping tables in shape: OPTIMIZE writes small files together, EXPIRE SNAPSHOTS forgets, VACUUM deletes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use datafusion::sql::sqlparser::ast::{Expr, Ident};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use skep_catalog::{Change, DataFile, FILE_PREFIX, NewFile, Retention, ScheduledFile, Transaction};
use skep_common::{Error, Result};
use skep_engine::Statement;
use skep_engine::error::from_datafusion;
use skep_engine::planner::{Compaction, Noted, Planner};
use skep_engine::sql::{Delete, Name, Optimize, Target};
use skep_engine::write::{Moved, collect_report};
use uuid::Uuid;

use super::Run;
use super::query::lane;
use crate::commit::{next_attempt, publish, publish_with};
use crate::coordinator::DataRoot;
use crate::lanes::Job;
use crate::queries::State;
use crate::session::Outcome;
use crate::transaction::refused;

/// How names begin that engines make up for files.
const MADE_UP: [&str; 2] = [FILE_PREFIX, "ducklake-"];
/// How long files stay that no snapshot names: queries that began before may read them.
const RETAIN_HOURS: u64 = 1;
/// Age at which a file that no commit ever named is nobody's: no statement writes for that long.
const ORPHAN_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Groups of files that are written at the same time.
const GROUPS_AT_ONCE: usize = 2;

impl Run {
    /// Writes files together, and commits: again on a later snapshot if another commit came in between.
    pub(super) async fn optimize(mut self, optimize: &Optimize) -> Result<Outcome> {
        self.alone("OPTIMIZE")?;
        self.watch.several();
        // One writer for each group, so that the rows of small files end in one file and an order holds across it.
        self.settings.set("skep.execution", Some("local"))?;
        self.settings.set("skep.partitions", Some("1"))?;
        let mut attempt = 0;
        loop {
            match self.optimize_once(optimize, attempt).await {
                Ok(files) => return Ok(self.done("OPTIMIZE", Some(files))),
                Err(error) => attempt = next_attempt(attempt, error).await?,
            }
        }
    }

    async fn optimize_once(&self, optimize: &Optimize, attempt: u32) -> Result<u64> {
        let base = self.snapshot().await?;
        let planner = self.planner(Arc::clone(&base)).await?;
        let among = self.files_with(&planner, optimize).await?;
        let compaction = planner.optimize(optimize).await?;
        let table = compaction.table();
        let file_size = Noted::of(table).file_size()?.unwrap_or_else(|| self.settings.file_size());
        let groups = compaction.groups(file_size.bytes(), among.as_ref());
        let remove: Vec<i64> = groups.iter().flatten().map(|file| file.id).collect();
        if remove.is_empty() {
            return Ok(0);
        }
        let written = futures::stream::iter(groups)
            .map(|group| self.compact(&planner, &compaction, group))
            .buffer_unordered(GROUPS_AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        let (mut add, mut failed) = (Vec::new(), None);
        for group in written {
            match group {
                Ok(files) => add.extend(files),
                Err(error) => failed = Some(error),
            }
        }
        let paths: Vec<String> = add.iter().map(|file| format!("{}{}", table.path, file.path)).collect();
        if let Some(error) = failed {
            self.shared.discard(paths).await;
            return Err(error);
        }
        let count = remove.len() as u64;
        let changes = vec![Change::Compact { table: table.id, remove, add }];
        let catalog = &self.shared.environment.catalog;
        if let Err(error) = publish(catalog, base, &self.author(), attempt, changes).await {
            if refused(&error) {
                self.shared.discard(paths).await;
            }
            return Err(error);
        }
        Ok(count)
    }

    async fn compact(
        &self,
        planner: &Planner,
        compaction: &Compaction,
        group: Vec<Arc<DataFile>>,
    ) -> Result<Vec<NewFile>> {
        let rows = compaction.live(&group)?;
        let plan = compaction.rows(group.iter().map(|file| file.id).collect())?;
        let table = compaction.table();
        let mut target = self.shared.root.target(&table.path, table.columns.clone())?;
        target.file_size = self.settings.file_size();
        target.moved = Some(Moved::WithIds);
        // The same values as before.
        target.sketches = false;
        compaction.lay_out(&mut target)?;
        let files = collect_report(&self.run_report(planner, plan, target).await?)?;
        let written: u64 = files.iter().map(|file| file.rows).sum();
        if written != rows {
            let paths = files.iter().map(|file| format!("{}{}", table.path, file.path)).collect();
            self.shared.discard(paths).await;
            return Err(Error::internal(format!(
                "{rows} rows were to be written together, and {written} were"
            )));
        }
        Ok(files)
    }

    /// The files with rows that WHERE chooses. `None`: all.
    async fn files_with(&self, planner: &Planner, optimize: &Optimize) -> Result<Option<HashSet<i64>>> {
        if optimize.selection.is_none() {
            return Ok(None);
        }
        let target = Target { table: optimize.table.clone(), alias: None };
        let rows = Delete { target, using: Vec::new(), selection: optimize.selection.clone() };
        let edit = planner.edit(&Statement::Delete(Box::new(rows))).await?;
        let edit = edit.ok_or_else(|| Error::internal("DELETE changes no rows"))?;
        self.files_of(planner, &edit).await.map(Some)
    }

    /// Counts the different values of columns, and commits; again if rows were added meanwhile.
    pub(super) async fn analyze(self, table: &Name, columns: Option<&[Ident]>) -> Result<Outcome> {
        self.alone("ANALYZE")?;
        let mut attempt = 0;
        loop {
            match self.analyze_once(table, columns, attempt).await {
                Ok(rows) => return Ok(self.done("ANALYZE", Some(rows))),
                Err(error) => attempt = next_attempt(attempt, error).await?,
            }
        }
    }

    async fn analyze_once(&self, table: &Name, columns: Option<&[Ident]>, attempt: u32) -> Result<u64> {
        let base = self.snapshot().await?;
        let planner = self.planner(Arc::clone(&base)).await?;
        let analysis = planner.analyze(table, columns).await?;
        let job = Job {
            state: planner.state().clone(),
            logical: analysis.plan.clone(),
            write: None,
            lane: lane(&self.settings),
            query: self.query,
        };
        let running = self.start(job).await?;
        let batches: Vec<_> = running.stream.try_collect().await.map_err(from_datafusion)?;
        self.shared.count_tasks(&running.ran);
        let record = analysis.record(&batches)?;
        let rows = record.rows;
        let side = |transaction: &Transaction| {
            transaction.with(record);
        };
        let catalog = &self.shared.environment.catalog;
        publish_with(catalog, base, &self.author(), attempt, Vec::new(), side).await?;
        Ok(rows)
    }

    pub(super) async fn expire(self, older_than: &Expr, retain: u64) -> Result<Outcome> {
        self.alone("EXPIRE SNAPSHOTS")?;
        let since = self.planner(self.snapshot().await?).await?.time(older_than).await?;
        self.watch.advance(State::Finishing)?;
        let expired = self.shared.environment.catalog.expire(Retention { since, last: retain }).await?;
        tracing::info!(snapshots = expired.snapshots.len(), files = expired.files, "snapshots expired");
        Ok(self.done("EXPIRE SNAPSHOTS", Some(expired.snapshots.len() as u64)))
    }

    pub(super) async fn vacuum(self, retain_hours: Option<u64>) -> Result<Outcome> {
        self.alone("VACUUM")?;
        let catalog = &self.shared.environment.catalog;
        let now = self.shared.environment.catalog.now();
        let retain = Duration::from_secs(60 * 60 * retain_hours.unwrap_or(RETAIN_HOURS).min(24 * 365));
        let scheduled = catalog.scheduled(now - retain).await?;
        let mut deleted = self.delete(&scheduled).await?;
        catalog.deleted(&scheduled).await?;
        deleted += self.orphans(now - ORPHAN_AGE).await?;
        Ok(self.done("VACUUM", Some(deleted)))
    }

    /// Deletes files. One that is gone already is as good as deleted.
    async fn delete(&self, files: &[ScheduledFile]) -> Result<u64> {
        let mut deleted = 0;
        for file in files {
            let name = file.path.rsplit('/').next().unwrap_or_default();
            if file.absolute && !MADE_UP.iter().any(|prefix| name.starts_with(prefix)) {
                return Err(Error::unsupported(format!(
                    "file '{}' is not under the catalog's data path, and has a name that people gave it",
                    file.path
                ))
                .hint("another engine took it into a table: delete it with that engine"));
            }
            let gone = self.shared.delete(&file.path).await;
            deleted += u64::from(gone.map_err(|e| e.hint("nothing is lost: VACUUM goes on from there"))?);
        }
        Ok(deleted)
    }

    /// Deletes files of ours that were begun before `until` and that nothing names: under the data path, and in the
    /// locations of tables.
    async fn orphans(&self, until: DateTime<Utc>) -> Result<u64> {
        let failed =
            |e: object_store::Error| Error::unavailable("cannot list the files of the catalog").source(e);
        let mut roots = vec![self.shared.root.clone()];
        for location in self.shared.environment.catalog.locations().await? {
            roots.push(DataRoot::parse(&location)?);
        }
        let mut listed = Vec::new();
        for DataRoot { store, folder } in roots {
            let store = self.shared.store(&store)?;
            let old: Vec<Path> = store
                .list(Some(&folder))
                .map_ok(|file| file.location)
                .try_filter(|path| std::future::ready(begun(path).is_some_and(|time| time < until)))
                .try_collect()
                .await
                .map_err(failed)?;
            listed.extend(old.into_iter().map(|path| (Arc::clone(&store), path)));
        }
        // After the listing: what was committed in between is known by now. Names of files are unique, whatever a store
        // makes of the names of their folders.
        let known = self.shared.environment.catalog.known_files().await?;
        let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let known: HashSet<String> = known.iter().map(|path| name(path)).collect();
        let mut deleted = 0;
        for (store, path) in listed.into_iter().filter(|(_, path)| !known.contains(&name(path.as_ref()))) {
            store
                .delete(&path)
                .await
                .map_err(|e| Error::unavailable(format!("cannot delete '{path}'")).source(e))?;
            deleted += 1;
        }
        Ok(deleted)
    }

    fn alone(&self, what: &str) -> Result<()> {
        match self.open {
            None => Ok(()),
            Some(_) => {
                Err(Error::invalid(format!("{what} does not run inside a transaction")).hint("COMMIT first"))
            }
        }
    }
}

/// When a file was begun, if it is one of ours: its name says it.
fn begun(path: &Path) -> Option<DateTime<Utc>> {
    let name = path.filename()?.strip_prefix(FILE_PREFIX)?.strip_suffix(".parquet")?;
    let (seconds, nanos) = Uuid::parse_str(name).ok()?.get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
}
