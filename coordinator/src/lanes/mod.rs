//! Runs a plan where it belongs: in the coordinator, or on the workers.
//!
//! ```text
//! LogicalPlan --choose--> local      physical plan --> rows
//!                 |
//!                 +-----> pipelined  physical plan --stage--> stages --validate--> tasks on workers --> rows
//!                 |                      (plan.rs)   (leaf.rs)                (route.rs)
//!                 +-----> durable    physical plan --> stages one after the other, outputs on disk --> rows
//!                                        (durable/)
//! ```
//!
//! The pipelined lane is datafusion-distributed with our own exchange of rows ([`skep_cluster::exchange`]), our own split of
//! scans, routing by replicas, and a check of every staged plan. All its stages run at once; it recovers from nothing,
//! so a query that loses a worker before its first row left is planned again without that worker, and at last runs on the
//! durable lane, which is Ballista's scheduler with our own workers, exchange and ledger of outputs (`durable/`).
//!
//! # Invariants
//! - A plan runs on the workers only after [`validate()`] accepted its stages.
//! - Each attempt is planned anew from the logical plan: staged plans run once.
//! - The rows have the schema of the logical plan, in either lane.
//! - A stream ends without an error only if every row of every task arrived.
//!
//! # Not here
//! Sessions, catalogs, commits.

mod cast;
mod durable;
mod explain;
mod leaf;
pub mod locality;
mod plan;
mod route;
mod run;
mod shape;
mod split;
mod validate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::SendableRecordBatchStream;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use skep_cluster::exchange::Channels;
use skep_common::{ByteSize, NodeId, QueryId, Result};
use skep_engine::codec::Codec;
use skep_engine::write::WriteTarget;
use skep_store::Nodes;
use url::Url;

pub use durable::{DurableConfig, DurableService};
pub use validate::validate;

/// How lanes are chosen and watched. Table `[coordinator.lanes]` of the config file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bytes a plan must scan before `auto` sends it to the workers. Less: more queries pay for the way there.
    pub pipelined_bytes_min: ByteSize,
    /// Bytes that a read must scan before `auto` prefers the durable lane to the pipelined one. Less: more queries survive the
    /// death of a worker, and pay for it with writing their stages to disk.
    pub durable_bytes_min: ByteSize,
    /// Bytes that a write must scan before `auto` puts it on the durable lane.
    pub durable_write_bytes_min: ByteSize,
    /// Longest wait for what workers say of a query that has ended (EXPLAIN ANALYZE).
    #[serde(with = "skep_common::unit::duration")]
    pub metrics_timeout: Duration,
    /// The durable lane.
    pub durable: DurableConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pipelined_bytes_min: ByteSize::mib(64),
            durable_bytes_min: ByteSize::gib(64),
            durable_write_bytes_min: ByteSize::mib(256),
            metrics_timeout: Duration::from_secs(5),
            durable: DurableConfig::default(),
        }
    }
}

/// Where a plan runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// In the coordinator's process.
    Local,
    /// On the workers, all stages at once.
    Pipelined,
    /// On the workers, stage by stage, with outputs on disk: what is lost is made again.
    Durable,
}

impl Lane {
    /// As `SET skep.execution` names it.
    pub fn name(self) -> &'static str {
        match self {
            Lane::Local => "local",
            Lane::Pipelined => "pipelined",
            Lane::Durable => "durable",
        }
    }
}

/// A statement to run.
pub struct Job {
    /// The session the plan was made in: its settings, functions and memory.
    pub state: SessionState,
    /// What to run. Unoptimised is fine: it is optimised for the lane.
    pub logical: LogicalPlan,
    /// Where to write the rows instead of returning them; the rows are then the report of the write.
    pub write: Option<WriteTarget>,
    /// The lane that was asked for; absent: choose.
    pub lane: Option<Lane>,
    /// For logs and messages.
    pub query: QueryId,
}

/// A statement that runs. Dropping the stream cancels it on every node.
pub struct Running {
    /// The schema of the rows.
    pub schema: SchemaRef,
    /// The rows, as they come.
    pub stream: SendableRecordBatchStream,
    /// What ran where; complete when the stream has ended.
    pub ran: Ran,
}

/// What ran where. Cheap to clone; clones are one record.
#[derive(Debug, Clone, Default)]
pub struct Ran(Arc<Mutex<Record>>);

#[derive(Debug, Default)]
struct Record {
    /// By attempt and stage.
    reads: BTreeMap<(usize, usize), Vec<Option<locality::Read>>>,
    /// With the attempt.
    given: (usize, Vec<locality::Given>),
    lane: Option<Lane>,
    reason: Option<String>,
    attempts: usize,
    stages: BTreeMap<usize, Vec<Option<NodeId>>>,
    measured: BTreeMap<usize, StageFigures>,
    /// How many stages there will be, in the durable lane.
    planned: usize,
    /// Workers that an attempt in the durable lane went on without.
    avoided: BTreeSet<NodeId>,
}

/// What a stage of the durable lane came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageFigures {
    /// Its number in the plan.
    pub stage: usize,
    /// Parts of its input, and of them those whose output is there.
    pub parts: usize,
    /// Parts whose output is there.
    pub done: usize,
    /// Tasks that were handed out, those that ran again too.
    pub tasks: usize,
    /// Of them, those that failed or were lost.
    pub failed: usize,
    /// Of those that scan data which lies on workers: how many, and how many ran where it lies.
    pub placed: usize,
    /// Tasks that ran where their data lies.
    pub near: usize,
    /// Rows of its outputs.
    pub rows: u64,
    /// Bytes of its outputs on disk.
    pub bytes: u64,
}

impl std::fmt::Display for StageFigures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stage, parts, tasks, failed, placed, near, rows, bytes, .. } = self;
        write!(f, "stage {stage}: {parts} parts, {tasks} tasks, {failed} lost or failed, {rows} rows, ")?;
        write!(f, "{}", ByteSize(*bytes))?;
        if *placed > 0 {
            write!(f, ", {near} of {placed} where the data is")?;
        }
        Ok(())
    }
}

impl Ran {
    /// The lane that ran it; absent before it was planned.
    pub fn lane(&self) -> Option<Lane> {
        self.0.lock().lane
    }

    /// Why it ran in the coordinator although the workers were asked for.
    pub fn fallback(&self) -> Option<String> {
        self.0.lock().reason.clone()
    }

    /// How often it was planned.
    pub fn attempts(&self) -> usize {
        self.0.lock().attempts
    }

    /// The stages of the last attempt by number, with the worker of each task; absent: the coordinator's own service.
    pub fn stages(&self) -> BTreeMap<usize, Vec<Option<NodeId>>> {
        self.0.lock().stages.clone()
    }

    /// The stages of the last attempt in the durable lane, as far as they are.
    pub fn measured(&self) -> Vec<StageFigures> {
        self.0.lock().measured.values().copied().collect()
    }

    /// The share of a durable attempt that is done: every stage counts the same, each by its parts.
    pub(crate) fn share(&self) -> Option<f64> {
        let record = self.0.lock();
        if record.lane != Some(Lane::Durable) || record.planned == 0 {
            return None;
        }
        let share = |stage: &StageFigures| stage.done as f64 / stage.parts.max(1) as f64;
        let done: f64 = record.measured.values().map(share).sum();
        Some((done / record.planned as f64).clamp(0.0, 1.0))
    }

    /// How many tasks each worker ran in the last attempt.
    pub fn tasks(&self) -> BTreeMap<NodeId, usize> {
        let mut tasks = BTreeMap::new();
        for node in self.0.lock().stages.values().flatten().flatten() {
            *tasks.entry(node.clone()).or_default() += 1;
        }
        tasks
    }

    /// One line for people: `pipelined: 7 tasks (w1 3, w2 2, w3 2)`.
    pub fn summary(&self) -> String {
        let tasks = self.tasks();
        match self.lane() {
            Some(lane @ (Lane::Pipelined | Lane::Durable)) => {
                let each: Vec<_> = tasks.iter().map(|(node, count)| format!("{node} {count}")).collect();
                let all: usize = self.0.lock().stages.values().map(Vec::len).sum();
                format!("{}: {all} tasks ({})", lane.name(), each.join(", "))
            }
            Some(Lane::Local) => match self.fallback() {
                Some(reason) => format!("local: {reason}"),
                None => "local".to_owned(),
            },
            None => "not planned".to_owned(),
        }
    }

    fn begin(&self, lane: Lane, reason: Option<String>) {
        let mut record = self.0.lock();
        record.lane = Some(lane);
        record.reason = reason;
        record.attempts += 1;
        record.stages.clear();
        record.measured.clear();
    }

    /// The attempt that was begun turned out to be a local one.
    fn local(&self, reason: Option<String>) {
        let mut record = self.0.lock();
        if record.lane.is_none() {
            record.attempts += 1;
        }
        record.lane = Some(Lane::Local);
        record.reason = reason;
        record.stages.clear();
    }

    fn routed(&self, stage: usize, nodes: Vec<Option<NodeId>>) {
        self.0.lock().stages.insert(stage, nodes);
    }

    /// The next attempts do better without `workers`.
    fn avoid(&self, workers: impl Iterator<Item = NodeId>) {
        self.0.lock().avoided.extend(workers);
    }

    fn avoided(&self) -> BTreeSet<NodeId> {
        self.0.lock().avoided.clone()
    }

    fn plan(&self, stages: usize) {
        self.0.lock().planned = stages;
    }

    fn measure(&self, figures: StageFigures) {
        self.0.lock().measured.insert(figures.stage, figures);
    }
}

/// The lanes of one coordinator. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lanes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    nodes: Arc<dyn Nodes>,
    own: Option<Url>,
    channels: Channels,
    codec: Codec,
    durable: durable::Lazy,
}

impl Lanes {
    /// Lanes over the live workers of `nodes`. `own` is where this coordinator serves tasks itself
    /// (`skep_worker::Tasks` beside its other services), for scans that only it can run; without it such plans stay local.
    pub fn new(
        config: Config,
        nodes: Arc<dyn Nodes>,
        own: Option<Url>,
        channels: Channels,
        codec: Codec,
    ) -> Self {
        let lane = (config.durable.clone(), codec.clone(), Arc::clone(&nodes), channels.clone());
        let durable = durable::Lazy::new(lane.0, lane.1, lane.2, lane.3);
        Self(Arc::new(Inner { config, nodes, own, channels, codec, durable }))
    }

    /// The durable lane, started.
    async fn durable(&self) -> Result<&durable::Engine> {
        self.0.durable.engine().await
    }

    /// Plans and starts `job`.
    ///
    /// # Errors
    /// Those of planning; [`Kind::Unavailable`](skep_common::Kind::Unavailable) if the workers are asked for and there are
    /// none. A job that fails later fails in its stream.
    pub async fn run(&self, job: Job) -> Result<Running> {
        run::run(self, job).await
    }

    /// The plan as text: lane, stages, tasks and workers, operators.
    ///
    /// # Errors
    /// As [`Lanes::run`].
    pub async fn explain(&self, job: &Job) -> Result<String> {
        explain::explain(self, job).await
    }

    /// Runs `job` to its end, and gives the plan as text with what its operators measured.
    ///
    /// # Errors
    /// As [`Lanes::run`], and those of running.
    pub async fn analyze(&self, job: Job) -> Result<String> {
        explain::analyze(self, job).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_a_durable_job_counts_stages() {
        let ran = Ran::default();
        assert_eq!(ran.share(), None);
        ran.begin(Lane::Durable, None);
        ran.plan(4);
        assert_eq!(ran.share(), Some(0.0));
        ran.measure(StageFigures { stage: 1, parts: 6, done: 6, ..StageFigures::default() });
        ran.measure(StageFigures { stage: 2, parts: 2, done: 1, ..StageFigures::default() });
        assert_eq!(ran.share(), Some(1.5 / 4.0));
        ran.begin(Lane::Pipelined, None);
        assert_eq!(ran.share(), None);
    }
}
