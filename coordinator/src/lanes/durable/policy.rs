//! Which tasks a worker gets.
//!
//! Fair between jobs: the one with the fewest running tasks first. Near to the data: a part whose files the worker holds
//! before others; parts that other live workers hold are left to them for a while. One part of the input a task, so that a
//! part is made again alone; a stage that brings its input together gets all of it in one task.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::execution_plans::{RangeShuffleReaderExec, ShuffleReaderExec};
use ballista_core::serde::protobuf::{AvailableVcores, job_status};
use ballista_core::serde::scheduler::TaskKey;
use ballista_scheduler::cluster::{BoundTask, DistributionPolicy};
use ballista_scheduler::state::execution_graph::{TaskDescription, create_task_info};
use ballista_scheduler::state::execution_stage::RunningStage;
use ballista_scheduler::state::task_manager::JobInfoCache;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use parking_lot::Mutex;
use skep_cluster::durable::node_of;
use skep_engine::Replicas;
use skep_store::Nodes;
use tokio::time::Instant;

use super::ledger::{Given, Key, Ledger};
use crate::lanes::leaf::{file_scan, on_coordinator};

/// The name of the coordinator among those who run tasks. It runs those over files that only it has, and no others.
pub(super) const COORDINATOR: &str = "coordinator";

#[derive(Debug)]
pub(super) struct Policy {
    ledger: Arc<Ledger>,
    nodes: Arc<dyn Nodes>,
    locality_wait: Duration,
    /// When each stage of each job was first seen to have tasks.
    seen: Mutex<HashMap<(String, usize, usize), Instant>>,
}

impl Policy {
    pub(super) fn new(ledger: Arc<Ledger>, nodes: Arc<dyn Nodes>, locality_wait: Duration) -> Self {
        Self { ledger, nodes, locality_wait, seen: Mutex::default() }
    }

    /// How long `stage` has had tasks to hand out.
    fn age(&self, job: &str, stage: &RunningStage) -> Duration {
        let key = (job.to_owned(), stage.stage_id, stage.stage_attempt_num);
        self.seen.lock().entry(key).or_insert_with(Instant::now).elapsed()
    }

    /// The parts of the next task of `stage` for `node`, taken from those that wait, and whether it holds their data.
    fn take(
        &self,
        job: &str,
        stage: &mut RunningStage,
        node: &str,
        live: &HashSet<String>,
    ) -> Option<(Vec<usize>, Option<bool>)> {
        let data = Data::of(&stage.plan, stage.partitions);
        if data.pinned != (node == COORDINATOR) {
            return None;
        }
        if brings_together(&stage.plan) {
            let all = stage.pending.next_slice(usize::MAX);
            return (!all.is_empty()).then_some((all, None));
        }
        let mut waiting = stage.pending.next_slice(usize::MAX);
        if waiting.is_empty() {
            return None;
        }
        let holds = |part: usize| data.holders.get(part).is_some_and(|holders| holders.contains(node));
        let free = |part: usize| data.holders.get(part).is_none_or(|holders| holders.is_disjoint(live));
        let near = waiting.iter().position(|part| holds(*part));
        let at = near.or_else(|| waiting.iter().position(|part| free(*part))).or_else(|| {
            // The others are left to their holders, for a while.
            (self.age(job, stage) >= self.locality_wait).then_some(0)
        });
        let part = at.map(|at| waiting.remove(at));
        stage.pending.reschedule(waiting);
        let known = data.holders.iter().any(|holders| !holders.is_empty());
        part.map(|part| (vec![part], known.then_some(near.is_some())))
    }

    /// The next task of one job for `node`.
    async fn next(
        &self,
        job: &JobId,
        info: &JobInfoCache,
        executor: &str,
        live: &HashSet<String>,
    ) -> Option<BoundTask> {
        let node = node_of(executor);
        if self.ledger.avoids(job.as_str(), executor, live) {
            return None;
        }
        let mut graph = info.execution_graph.write().await;
        let session_id = graph.session_id().to_owned();
        let mut skipped = Vec::new();
        while let Some(stage) = graph.fetch_running_stage(&skipped) {
            let id = stage.stage_id;
            let plan = match self.ledger.reading(job.as_str(), id, &stage.plan) {
                Ok(plan) => plan,
                Err(error) => {
                    self.ledger.fail(job.as_str(), error);
                    return None;
                }
            };
            let taken = plan.and_then(|plan| Some((plan, self.take(job.as_str(), stage, node, live)?)));
            let Some((plan, (parts, near))) = taken else {
                skipped.push(id);
                continue;
            };
            let task_id = stage.task_infos.len();
            let mut info = create_task_info(executor.to_owned(), task_id);
            info.global_input_partition_ids.clone_from(&parts);
            info.vcores_consumed = 1;
            stage.task_infos.push(info);
            let failures = parts.iter().filter_map(|part| stage.task_failure_numbers.get(*part));
            let task = TaskDescription {
                session_id,
                key: TaskKey { job_id: job.clone(), stage_id: id, task_id },
                stage_attempt_num: stage.stage_attempt_num,
                task_attempt: failures.copied().max().unwrap_or(0),
                global_input_partition_ids: parts.clone(),
                vcores_consumed: 1,
                plan,
                session_config: Arc::clone(&stage.session_config),
            };
            let key =
                Key { job: job.to_string(), stage: id, attempt: stage.stage_attempt_num, task: task_id };
            let given = Given { executor: executor.to_owned(), parts, near, rows: 0, ended: false };
            self.ledger.give(key, given, stage.partitions);
            return Some((executor.to_owned(), task));
        }
        None
    }
}

#[async_trait]
impl DistributionPolicy for Policy {
    async fn bind_tasks(
        &self,
        mut budgets: Vec<&mut AvailableVcores>,
        running: Arc<HashMap<JobId, JobInfoCache>>,
    ) -> datafusion::error::Result<Vec<BoundTask>> {
        self.seen.lock().retain(|(job, ..), _| running.contains_key(&JobId::new(job.as_str())));
        let live: HashSet<String> = self.nodes.live().into_iter().map(|node| node.id.to_string()).collect();
        let mut bound = Vec::new();
        for budget in &mut budgets {
            while budget.vcores > 0 {
                let mut jobs: Vec<_> = running
                    .iter()
                    .filter(|(_, info)| matches!(info.status, Some(job_status::Status::Running(_))))
                    .map(|(job, info)| (self.ledger.running_of(job.as_str()), job, info))
                    .collect();
                jobs.sort_by(|a, b| (a.0, a.1.as_str()).cmp(&(b.0, b.1.as_str())));
                let mut got = None;
                for (_, job, info) in jobs {
                    got = self.next(job, info, &budget.executor_id, &live).await;
                    if got.is_some() {
                        break;
                    }
                }
                let Some(task) = got else { break };
                budget.vcores -= 1;
                bound.push(task);
            }
        }
        Ok(bound)
    }

    fn name(&self) -> &str {
        "near"
    }
}

/// Where the data of a stage's scans is.
struct Data {
    /// Only the coordinator has it.
    pinned: bool,
    /// For every part, who holds most of it.
    holders: Vec<HashSet<String>>,
}

impl Data {
    fn of(plan: &Arc<dyn ExecutionPlan>, parts: usize) -> Self {
        let mut pinned = false;
        let mut bytes: Vec<HashMap<String, u64>> = vec![HashMap::new(); parts];
        // The closure never fails.
        let _ = plan.apply(|node| {
            if let Some(scan) = file_scan(node) {
                pinned |= on_coordinator(scan);
                if scan.file_groups.len() == parts {
                    for (held, group) in bytes.iter_mut().zip(&scan.file_groups) {
                        for file in group.files() {
                            let replicas = file.extensions.get::<Replicas>();
                            for node in replicas.iter().flat_map(|replicas| &replicas.0) {
                                *held.entry(node.to_string()).or_default() += file.effective_size();
                            }
                        }
                    }
                }
            }
            Ok(TreeNodeRecursion::Continue)
        });
        let holders = bytes.into_iter().map(|held| {
            let most = held.values().copied().max().unwrap_or(0);
            held.into_iter().filter(|(_, bytes)| *bytes == most).map(|(node, _)| node).collect()
        });
        Self { pinned, holders: holders.collect() }
    }
}

/// Whether something in the stage under the writer `plan` needs the rows of all parts of its input. The rule of Ballista's own
/// policies, which is not public: a way down from the writer with one partition, before any exchange or second input.
fn brings_together(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let mut next = plan.children().first().map(|input| Arc::clone(input));
    while let Some(node) = next {
        if node.is::<ShuffleReaderExec>() || node.is::<RangeShuffleReaderExec>() {
            return false;
        }
        if node.output_partitioning().partition_count() == 1 {
            return true;
        }
        next = match node.children().as_slice() {
            [only] => Some(Arc::clone(only)),
            _ => None,
        };
    }
    false
}
