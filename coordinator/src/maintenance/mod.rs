//! Care for tables that nobody is using: small files are put together, old snapshots forgotten, files deleted.
//!
//! ```text
//! every interval: health, activity --decide--> statements, one after the other, until the budget is spent
//!                                                   \-- a statement of somebody else ends the one that runs
//! ```
//!
//! # Guarantees
//! - It does nothing while a statement runs or a transaction is open, and stops when one begins.
//! - What it does are statements that people can run; what it did is in `system.maintenance` and in the log.
//!
//! # Not guaranteed
//! Progress on a cluster that is never quiet: `system.table_health` says what to run there. What it did is forgotten when
//! the coordinator ends.

mod decide;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use skep_catalog::SnapshotInfo;
use skep_common::task::{self, Task};
use skep_common::{Result, unit};
use skep_engine::planner::{Health, MAINTENANCE, Planner, SNAPSHOT_RETENTION};
use skep_engine::settings::Settings;
use tokio::sync::Notify;

use crate::coordinator::{Coordinator, Shared};
use crate::session::Outcome;
use decide::{Action, CatalogState, TableState, decide};

/// Files that no snapshot names stay so long, for queries that began before: what VACUUM does by itself.
const GRACE: Duration = Duration::from_secs(60 * 60);
/// Lines of `system.maintenance`.
const LOG_MAX: usize = 1_000;

/// When tables are cared for. Table `[maintenance]` of the config file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether it happens at all. A table says no by its property `skep.maintenance` = 'off'.
    pub enabled: bool,
    /// How often to look. 1 s to 1 day.
    #[serde(with = "skep_common::unit::duration")]
    pub interval: Duration,
    /// How long a pass may take. More: fewer small files. Less: less work at a time.
    #[serde(with = "skep_common::unit::duration")]
    pub budget: Duration,
    /// How long a table must have been left alone.
    #[serde(with = "skep_common::unit::duration")]
    pub idle: Duration,
    /// Files that can be put together from which on it is worth while.
    pub small_files: u64,
    /// How long snapshots stay of tables that do not say so themselves, by `skep.snapshot_retention`. Absent: for ever.
    #[serde(with = "optional_duration", skip_serializing_if = "Option::is_none")]
    pub snapshot_retention: Option<Duration>,
}

/// As [`unit::duration`], for one that may be absent.
pub(crate) mod optional_duration {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};
    use skep_common::unit::duration;

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => duration::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        duration::deserialize(deserializer).map(Some)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Duration::from_secs(60),
            budget: Duration::from_secs(5 * 60),
            idle: Duration::from_secs(10 * 60),
            small_files: 8,
            snapshot_retention: None,
        }
    }
}

/// Who is at work: statements, open transactions.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    running: AtomicUsize,
    arrived: Notify,
}

/// Somebody at work, until it is dropped.
#[derive(Debug)]
pub(crate) struct Active(Arc<Activity>);

impl Activity {
    pub(crate) fn enter(self: &Arc<Self>) -> Active {
        self.running.fetch_add(1, Ordering::AcqRel);
        self.arrived.notify_waiters();
        Active(Arc::clone(self))
    }

    fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One thing that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) started: DateTime<Utc>,
    pub(crate) statement: String,
    pub(crate) took: Duration,
    /// What the statement counts.
    pub(crate) count: Option<u64>,
    /// Absent: it was done.
    pub(crate) error: Option<String>,
}

/// What was done, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Log(Mutex<VecDeque<Entry>>);

impl Log {
    fn add(&self, entry: Entry) {
        let mut entries = self.0.lock();
        if entries.len() == LOG_MAX {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.0.lock().iter().cloned().collect()
    }
}

impl Coordinator {
    /// Cares for tables until the task is dropped.
    pub fn maintain(&self, config: Config) -> Task<()> {
        let coordinator = self.clone();
        task::spawn("maintenance", async move {
            if !config.enabled {
                return;
            }
            loop {
                tokio::time::sleep(config.interval).await;
                if let Err(error) = coordinator.maintain_once(&config).await {
                    tracing::warn!(error = error.report(), "maintenance failed, and is tried again");
                }
            }
        })
    }

    /// One pass.
    async fn maintain_once(&self, config: &Config) -> Result<()> {
        let shared = &self.0;
        if shared.activity.running() > 0 || !self.ready() {
            return Ok(());
        }
        let state = state(shared).await?;
        let now = shared.environment.catalog.now();
        let activity = decide::Activity { running: shared.activity.running() };
        let actions = decide(&state, activity, config, now);
        let _ = tokio::time::timeout(config.budget, self.perform(actions)).await;
        Ok(())
    }

    /// Runs `actions` until somebody else comes.
    async fn perform(&self, actions: Vec<Action>) {
        let shared = &self.0;
        let session = self.open_session("maintenance");
        for action in actions {
            let arrived = shared.activity.arrived.notified();
            if shared.activity.running() > 0 {
                return;
            }
            let statement = action.sql();
            let started = shared.environment.catalog.now();
            // Writes itself down even when the budget ends it.
            let mut note = Note { shared, started, statement: &statement, ended: None };
            let ended = tokio::select! {
                ended = session.execute_quietly(&statement) => Some(ended),
                () = arrived => None,
            };
            let gone = ended.is_none();
            note.ended = ended;
            drop(note);
            if gone {
                return;
            }
        }
    }
}

/// A statement that is being run.
struct Note<'a> {
    shared: &'a Shared,
    started: DateTime<Utc>,
    statement: &'a str,
    /// Absent: it was cut short.
    ended: Option<Result<Outcome>>,
}

impl Drop for Note<'_> {
    fn drop(&mut self) {
        let took = (self.shared.environment.catalog.now() - self.started).to_std().unwrap_or_default();
        let (count, error) = match self.ended.take() {
            Some(Ok(Outcome::Done(done))) => (done.rows, None),
            Some(Ok(Outcome::Rows(_))) => (None, None),
            Some(Err(error)) => (None, Some(error.report())),
            None => (None, Some("cut short: a statement came, or the budget was spent".to_owned())),
        };
        let statement = self.statement.to_owned();
        tracing::info!(statement, ?took, count, error, "maintenance");
        self.shared.maintenance.add(Entry { started: self.started, statement, took, count, error });
    }
}

async fn state(shared: &Shared) -> Result<CatalogState> {
    let catalog = &shared.environment.catalog;
    let snapshot = catalog.snapshot().await?;
    let planner =
        Planner::new(Arc::clone(&shared.environment), Arc::clone(&snapshot), &Settings::default()).await?;
    let history = catalog.history().await?;
    let mut tables: Vec<TableState> = Vec::new();
    for health in planner.health().await? {
        tables.push(table(&health, &history, snapshot.time)?);
    }
    // A table without files has a say in how long snapshots stay as well.
    let all = snapshot.schemas().flat_map(|schema| snapshot.tables(&schema.name));
    for def in all.filter(|def| def.external.is_none()) {
        let name = Planner::name_of(def);
        if tables.iter().all(|table| table.name != name) {
            let retention = retention(def)?;
            let (changed, off) = (snapshot.time, false);
            tables.push(TableState { name, together: 0, changed, off, retention, foreign: false });
        }
    }
    let deletable = !catalog.scheduled(catalog.now() - GRACE).await?.is_empty();
    Ok(CatalogState { tables, oldest: history.get(1).map(|info| info.time), deletable })
}

fn retention(def: &skep_catalog::TableDef) -> Result<Option<Duration>> {
    def.properties.get(SNAPSHOT_RETENTION).map(|text| unit::parse_duration(text)).transpose()
}

fn table(health: &Health, history: &[SnapshotInfo], latest: DateTime<Utc>) -> Result<TableState> {
    let properties = &health.table.properties;
    let at = history.binary_search_by_key(&health.newest, |info| info.id);
    // A snapshot that was expired is older than the oldest that is there.
    let changed =
        at.map_or_else(|at| history.get(at).map_or(latest, |info| info.time), |at| history[at].time);
    Ok(TableState {
        name: health.name(),
        together: health.together,
        changed,
        off: properties.get(MAINTENANCE).is_some_and(|value| value.eq_ignore_ascii_case("off")),
        retention: retention(&health.table)?,
        foreign: health.delete_files > 0,
    })
}
