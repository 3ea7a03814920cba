//! What tasks do, one by one, and how much of what they read lies where they run.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;
use datafusion_distributed::DistributedLeafExec;
use skep_common::NodeId;

use super::Ran;
use super::leaf::{file_scan, files, held_bytes};
use super::route::visit;

/// What one task reads of files, as planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// All of it.
    pub bytes: u64,
    /// Of it, what has a replica on the task's worker; absent where nobody knows what lies where.
    pub near: Option<u64>,
}

/// One run of one task of the durable lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The stage, as the plan numbers them.
    pub stage: usize,
    /// Which run of the stage, from 1.
    pub attempt: usize,
    /// The task within the run.
    pub task: usize,
    /// Who has it.
    pub worker: Option<NodeId>,
    /// Rows that it has produced so far.
    pub rows: u64,
    /// Whether its output is there; absent: it runs.
    pub done: Option<bool>,
    /// Whether its worker holds what it scans; absent: it scans nothing.
    pub near: Option<bool>,
}

impl Ran {
    /// The runs of tasks of the last attempt, if that is one of the durable lane.
    pub fn given(&self) -> Vec<Given> {
        let record = self.0.lock();
        let (attempt, given) = &record.given;
        if *attempt == record.attempts { given.clone() } else { Vec::new() }
    }

    pub(super) fn gave(&self, given: Vec<Given>) {
        let mut record = self.0.lock();
        record.given = (record.attempts, given);
    }

    /// What each task of the last attempt reads of files, by stage.
    pub fn reads(&self) -> BTreeMap<usize, Vec<Option<Read>>> {
        let record = self.0.lock();
        let last = record.reads.iter().filter(|((attempt, _), _)| *attempt == record.attempts);
        last.map(|((_, stage), reads)| (*stage, reads.clone())).collect()
    }

    pub(super) fn reads_of(&self, stage: usize, reads: Vec<Option<Read>>) {
        let mut record = self.0.lock();
        let attempt = record.attempts;
        record.reads.insert((attempt, stage), reads);
    }
}

/// What each task of the stage under `head` reads, placed on `nodes`. `None`: no file.
pub(super) fn reads(head: &Arc<dyn ExecutionPlan>, nodes: &[Option<NodeId>]) -> Vec<Option<Read>> {
    let mut reads = vec![None; nodes.len()];
    visit(head, &mut |plan| {
        if let Some(leaf) = plan.downcast_ref::<DistributedLeafExec>() {
            for ((read, node), variant) in reads.iter_mut().zip(nodes).zip(leaf.variants()) {
                add(read, variant, node.as_ref());
            }
        } else if let ([read], [node]) = (reads.as_mut_slice(), nodes) {
            add(read, plan, node.as_ref());
        }
    });
    reads
}

fn add(read: &mut Option<Read>, plan: &Arc<dyn ExecutionPlan>, node: Option<&NodeId>) {
    let Some(scan) = file_scan(plan) else { return };
    let bytes: u64 = files(scan).map(|file| file.effective_size()).sum();
    let held = held_bytes(scan);
    let near = (!held.is_empty()).then(|| node.and_then(|node| held.get(node)).copied().unwrap_or(0));
    let before = read.unwrap_or(Read { bytes: 0, near: None });
    let near = match (before.near, near) {
        (None, None) => None,
        (a, b) => Some(a.unwrap_or(0) + b.unwrap_or(0)),
    };
    *read = Some(Read { bytes: before.bytes + bytes, near });
}
