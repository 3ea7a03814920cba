//! What statements do on this worker, for the coordinator to say how far they are.
//!
//! # Not here
//! Sending it (`skep_cluster::membership`); the progress of durable tasks, which report themselves (`durable::poll`).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_distributed::{
    WorkerPlanRewriteEvent, WorkerPlanRewriteEventResponse, WorkerPlanRewriteHandler,
};
use parking_lot::Mutex;
use skep_cluster::membership::Work;
use skep_engine::memory::Memory;
use skep_engine::progress::{Scan, scans};

/// The scans of pipelined tasks by statement, and the memory of all. Cheap to clone; clones are one record.
#[derive(Debug, Clone)]
pub(crate) struct Works {
    memory: Memory,
    tasks: Arc<Mutex<HashMap<String, Vec<Task>>>>,
}

/// A task as it was planned.
#[derive(Debug)]
struct Task {
    /// Its plan, as long as somebody wants it.
    plan: Weak<dyn ExecutionPlan>,
    scans: Vec<Scan>,
}

impl Works {
    pub(crate) fn new(memory: Memory) -> Self {
        Self { memory, tasks: Arc::default() }
    }

    /// A task of `statement` is about to run.
    fn note(&self, statement: &str, plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
        let scans = scans(plan)?;
        if !scans.is_empty() {
            let task = Task { plan: Arc::downgrade(plan), scans };
            self.tasks.lock().entry(statement.to_owned()).or_default().push(task);
        }
        Ok(())
    }

    /// What there is to say now. Statements whose plans are gone are said for the last time.
    pub(crate) fn report(&self) -> Vec<Work> {
        let mut works: BTreeMap<String, Work> = BTreeMap::new();
        let work = |statement: &str| Work { statement: statement.to_owned(), ..Work::default() };
        for (statement, most) in self.memory.held() {
            works.entry(statement.clone()).or_insert_with(|| work(&statement)).memory_bytes = most;
        }
        self.tasks.lock().retain(|statement, tasks| {
            let read: f64 = tasks.iter().flat_map(|task| &task.scans).map(Scan::read).sum();
            // Bytes of files: far below what a float cannot count.
            works.entry(statement.clone()).or_insert_with(|| work(statement)).read_bytes = read as u64;
            tasks.iter().any(|task| task.plan.strong_count() > 0)
        });
        works.into_values().collect()
    }
}

/// Notes the plans of one statement as they arrive.
pub(crate) struct Noting {
    pub(crate) works: Works,
    pub(crate) statement: String,
}

impl WorkerPlanRewriteHandler for Noting {
    fn rewrite_worker_plan(&self, event: WorkerPlanRewriteEvent) -> Result<WorkerPlanRewriteEventResponse> {
        self.works.note(&self.statement, &event.plan)?;
        Ok(WorkerPlanRewriteEventResponse::new(event.plan))
    }
}
