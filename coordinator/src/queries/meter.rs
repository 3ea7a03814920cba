//! What one query has measured so far.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use skep_cluster::membership::Work;
use skep_common::NodeId;
use skep_engine::memory::QueryPool;

use super::sight::Sight;
use super::state::Query;
use crate::lanes::{Lane, Ran};

/// Plans of one statement that are remembered, the latest. OPTIMIZE runs one for each group of files.
const PLANS_MAX: usize = 64;

/// What a query measures while it runs. Written by the query, read by whoever looks.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Whether it returns rows.
    reads: AtomicBool,
    rows: AtomicU64,
    bytes: AtomicU64,
    /// What workers said of it.
    workers: Mutex<BTreeMap<NodeId, Worked>>,
    /// The memory of all its plans in the coordinator.
    memory: OnceLock<Arc<QueryPool>>,
    plans: Mutex<Plans>,
}

/// What one worker did for a query.
#[derive(Debug, Clone, Copy, Default)]
struct Worked {
    read: u64,
    /// Most memory held at a time.
    most: u64,
}

#[derive(Debug, Default)]
struct Plans {
    /// How many there were.
    count: usize,
    /// The latest.
    latest: Vec<Plan>,
    /// Whether the statement runs a number of plans that nobody knows before.
    several: bool,
    /// What was said last: it never goes back.
    progress: f64,
}

/// One of the plans of a statement.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// From 1.
    pub(crate) number: usize,
    pub(crate) ran: Ran,
    pub(crate) sight: Arc<Sight>,
}

impl Meter {
    /// Rows are about to leave.
    pub(crate) fn open(&self) {
        self.reads.store(true, Ordering::Relaxed);
    }

    /// Rows left.
    pub(crate) fn count(&self, rows: usize, bytes: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The memory of its plans: the first that is offered.
    pub(crate) fn memory(&self, pool: &Arc<QueryPool>) {
        self.memory.get_or_init(|| Arc::clone(pool));
    }

    /// The memory of its plans, once one was about to run.
    pub(crate) fn pool(&self) -> Option<&Arc<QueryPool>> {
        self.memory.get()
    }

    /// What a worker did for it so far.
    pub(crate) fn works(&self, node: &NodeId, work: &Work) {
        let mut workers = self.workers.lock();
        let worked = workers.entry(node.clone()).or_default();
        worked.read = worked.read.max(work.read_bytes);
        worked.most = worked.most.max(work.memory_bytes);
    }

    /// Bytes that workers read for it so far, as they said last.
    pub(crate) fn worked(&self) -> u64 {
        self.workers.lock().values().map(|worked| worked.read).sum()
    }

    /// Most memory that its operators held at a time on one node, if they held any.
    pub(crate) fn most(&self) -> Option<u64> {
        let here = self.pool().map_or(0, |pool| pool.most() as u64);
        let there = self.workers.lock().values().map(|worked| worked.most).max();
        Some(here.max(there.unwrap_or(0))).filter(|most| *most > 0)
    }

    /// The statement runs several plans one after the other, as one that changes rows does.
    pub(crate) fn several(&self) {
        self.plans.lock().several = true;
    }

    /// A plan of the statement started.
    pub(crate) fn ran(&self, ran: &Ran, sight: &Arc<Sight>) {
        let mut plans = self.plans.lock();
        plans.count += 1;
        if plans.latest.len() == PLANS_MAX {
            plans.latest.remove(0);
        }
        let number = plans.count;
        plans.latest.push(Plan { number, ran: ran.clone(), sight: Arc::clone(sight) });
    }

    /// The plans, the latest last.
    pub(crate) fn plans(&self) -> Vec<Plan> {
        self.plans.lock().latest.clone()
    }

    /// The share of the work that is done, as far as somebody knows: of the bytes that its plan scans, of the stages of a
    /// durable one.
    fn progress(&self) -> Option<f64> {
        let mut plans = self.plans.lock();
        if plans.several {
            return None;
        }
        let Plan { ran, sight, .. } = plans.latest.last()?;
        let now = match ran.lane()? {
            Lane::Local => sight.scanned()?,
            Lane::Durable => ran.share()?,
            Lane::Pipelined => sight.share(self.worked() as f64)?,
        };
        plans.progress = plans.progress.max(now);
        Some(plans.progress)
    }

    /// Writes what is known into `query`.
    pub(crate) fn read(&self, query: &mut Query) {
        if self.reads.load(Ordering::Relaxed) {
            query.rows = Some(self.rows.load(Ordering::Relaxed));
            query.bytes = Some(self.bytes.load(Ordering::Relaxed));
        }
        query.memory = self.most();
        query.progress = self.progress();
        let plans = self.plans();
        if let Some(last) = plans.last() {
            query.lane = last.ran.lane().map(|lane| lane.name().to_owned());
            query.attempts = plans.iter().map(|plan| plan.ran.attempts() as u64).max();
        }
    }
}
