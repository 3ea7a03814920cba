//! The queries of a coordinator: what they do, what they did, and their end from outside.
//!
//! ```text
//! Session::execute --begin--> Watch --states, plans, rows, end--> Registry --changes--> History --> skep_queries
//!                              ^                                     |                                  |
//! KILL QUERY, the client ------+                                     +----------> system.queries <------+
//! ```
//!
//! # Guarantees
//! - Every statement is here: those that fail, those refused when they are planned, and DDL.
//! - A killed query stops wherever it is, unless its commit has begun; then it is left alone.
//! - A query that was running when its coordinator died is `failed` after the restart.
//!
//! # Not guaranteed
//! The history is written behind the queries: of the last moment before a crash it may know nothing. While the database
//! is away it keeps what it can, and then forgets the oldest.

mod history;
mod meter;
mod sight;
mod stages;
mod state;
mod status;
mod table;
mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use skep_catalog::Catalog;
use skep_cluster::membership::{Work, Workshop};
use skep_common::{Error, NodeId, QueryId, Result, SessionId};
use skep_metadb::MetaDb;
use tokio_util::sync::CancellationToken;

pub use history::TABLE;
pub use status::{Stage, Status};

pub(crate) use meter::Meter;
pub(crate) use sight::{Observe, Sight};
pub(crate) use stages::{stages_schema, stages_table, tasks_schema, tasks_table};
pub(crate) use state::State;
pub(crate) use table::{queries_schema, queries_table};
pub(crate) use watch::Watch;

use history::History;
use state::{End, Entry, Query, Registry};

use crate::coordinator::Coordinator;

/// Queries that are remembered in memory after their end, with their stages.
const ENDED_MAX: usize = 500;

/// What is remembered of queries. Table `[coordinator.queries]` of the config file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Ended queries that the metadata database keeps. 0 to 10 million; 0: none.
    pub history: u64,
    /// How long changes are gathered before they are written. 10 ms to 1 min. Less: more writes, and less is lost in a crash.
    #[serde(with = "skep_common::unit::duration")]
    pub flush_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { history: 10_000, flush_interval: Duration::from_secs(1) }
    }
}

impl Config {
    /// Whether every value is in its range.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid), naming the key.
    pub fn validate(&self) -> Result<()> {
        if self.history > 10_000_000 {
            return Err(Error::invalid(format!(
                "[coordinator.queries] history = {} is too many",
                self.history
            ))
            .hint("0 to 10000000"));
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(60)).contains(&self.flush_interval) {
            return Err(Error::invalid(format!(
                "[coordinator.queries] flush_interval = {:?} is out of range",
                self.flush_interval
            ))
            .hint("10ms to 1min"));
        }
        Ok(())
    }
}

/// The queries of one coordinator.
#[derive(Debug)]
pub(crate) struct Queries {
    catalog: Catalog,
    registry: Mutex<Registry>,
    history: OnceLock<History>,
}

impl Queries {
    pub(crate) fn new(catalog: Catalog) -> Self {
        Self { catalog, registry: Mutex::new(Registry::new(ENDED_MAX)), history: OnceLock::new() }
    }

    /// A statement came. `outer` is cancelled when its client does not want it any more.
    pub(crate) fn begin(
        self: &Arc<Self>,
        session: SessionId,
        user: &str,
        text: &str,
        outer: CancellationToken,
    ) -> Arc<Watch> {
        let id = QueryId::generate();
        let (meter, stop) = (Arc::<Meter>::default(), CancellationToken::new());
        let mut query = Query::new(id, session, user, text, self.catalog.now());
        query.coordinator = self.history.get().map(|history| Arc::clone(history.owner()));
        self.registry.lock().begin(query, Arc::clone(&meter), stop.clone());
        Arc::new(Watch::new(id, Arc::clone(self), meter, stop, outer))
    }

    fn advance(&self, id: QueryId, state: State) -> Result<()> {
        let now = self.catalog.now();
        let mut registry = self.registry.lock();
        registry.advance(id, state, now)?;
        if let Some(history) = self.history.get()
            && let Some(entry) = registry.one(id)
        {
            history.offer(entry.seen());
        }
        Ok(())
    }

    fn end(&self, id: QueryId, end: &End) {
        let now = self.catalog.now();
        let ended = self.registry.lock().end(id, end, now);
        if let Some(query) = ended
            && let Some(history) = self.history.get()
        {
            history.offer(query);
        }
    }

    fn enters(&self, id: QueryId, group: &str) {
        self.registry.lock().enters(id, group);
    }

    /// Whether its commit has begun.
    fn commits(&self, id: QueryId) -> bool {
        self.registry.lock().one(id).is_some_and(|entry| entry.query.state == State::Finishing)
    }

    /// The share of its work that is done, while it lives and as far as somebody knows.
    pub(crate) fn share(&self, id: QueryId) -> Option<f64> {
        let entry = self.registry.lock().one(id).cloned();
        entry.and_then(|entry| entry.seen().progress)
    }

    fn forget(&self, id: QueryId) {
        self.registry.lock().forget(id);
    }

    fn killed(&self, id: QueryId) -> Option<Error> {
        self.registry.lock().killed(id)
    }

    fn kill_now(&self, id: QueryId, by: &str) -> Result<()> {
        self.registry.lock().kill(id, by)
    }

    /// Ends a query of this coordinator; `by` says who did, as a sentence.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) if it has ended or makes its commit,
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) if nobody knows it,
    /// [`Kind::Unsupported`](skep_common::Kind::Unsupported) if another coordinator runs it.
    pub(crate) async fn kill(&self, id: QueryId, by: &str) -> Result<()> {
        let Err(error) = self.kill_now(id, by) else { return Ok(()) };
        let known = match self.history.get() {
            Some(history) if error.kind() == skep_common::Kind::NotFound => history.one(id).await?,
            _ => None,
        };
        Err(match known {
            None => error,
            Some(query) if query.state.ended() => state::over(id, query.state),
            Some(query) => {
                let coordinator = query.coordinator.unwrap_or_default();
                Error::unsupported(format!("query '{id}' runs on the coordinator '{coordinator}'"))
                    .hint("connect to that coordinator and kill it there")
            }
        })
    }

    /// Every query that is known, oldest first.
    ///
    /// # Errors
    /// Those of the metadata database.
    pub(crate) async fn list(&self) -> Result<Vec<Query>> {
        let mut all: BTreeMap<QueryId, Query> = BTreeMap::new();
        if let Some(history) = self.history.get() {
            // Read before what is in memory: what moves from there to here in the meantime is found twice, and not never.
            let waiting = history.waiting();
            all.extend(history.list().await?.into_iter().map(|query| (query.id, query)));
            all.extend(waiting.into_iter().map(|query| (query.id, query)));
        }
        all.extend(self.entries().into_iter().map(|entry| (entry.query.id, entry.seen())));
        Ok(all.into_values().collect())
    }

    /// The queries in memory, oldest first.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.registry.lock().entries()
    }
}

impl Workshop for Queries {
    fn works(&self, node: &NodeId, work: &Work) {
        // A worker of another version may name things in another way.
        let Ok(id) = work.statement.parse() else { return };
        if let Some(entry) = self.registry.lock().one(id) {
            entry.meter.works(node, work);
        }
    }
}

impl Coordinator {
    /// Keeps the history of queries in the database `apart`, or else in the catalog's, as `owner`: who this coordinator is in
    /// all its lives. What it left running in an earlier one has failed.
    ///
    /// # Errors
    /// Those of the database; [`Kind::Invalid`](skep_common::Kind::Invalid) for settings out of range.
    pub async fn keep_history(&self, owner: &str, config: &Config, apart: Option<&MetaDb>) -> Result<()> {
        config.validate()?;
        let queries = &self.0.queries;
        let db = apart.unwrap_or_else(|| queries.catalog.db());
        let history = History::open(db, owner, config, queries.catalog.now()).await?;
        queries.history.set(history).map_err(|_| Error::internal("the history of queries is kept already"))
    }

    /// Ends what still runs, and writes the last of the history.
    pub async fn close(&self) {
        self.drain();
        let queries = &self.0.queries;
        let stopped = Error::unavailable("the coordinator was stopped").hint("run the statement again");
        let live = queries.registry.lock().live();
        for id in live {
            // One that makes its commit is left to it.
            let end = match queries.kill_now(id, stopped.message()) {
                Ok(()) => End::Error(stopped.clone()),
                Err(_) => End::Left,
            };
            queries.end(id, &end);
        }
        if let Some(history) = queries.history.get() {
            history.close().await;
        }
    }
}
