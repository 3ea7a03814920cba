//! What every task of every job wrote, and where it is.
//!
//! Ballista passes the locations of outputs on from stage to stage. When a stage runs again, those of both runs are passed on,
//! and whoever reads all of them reads rows twice. So each end of a task is written down here, once, and what a task or a
//! client reads is chosen from here: one complete output of every part.
//!
//! # Invariants
//! - Of every part of a stage's input, at most one output is read.
//! - Outputs of lost workers are not chosen, nor, in a job, those of workers that the job avoids because others cannot reach them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ballista_core::execution_plans::ShuffleReaderExec;
use ballista_core::serde::protobuf::ShuffleWritePartition;
use ballista_core::serde::scheduler::{ExecutorMetadata, PartitionId, PartitionLocation, PartitionStats};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_plan::ExecutionPlan;
use parking_lot::Mutex;
use skep_cluster::durable::{GIVEN_UP, node_of};
use skep_common::{Error, Result};
use tokio::time::Instant;

/// Which run of which task.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) job: String,
    pub(super) stage: usize,
    pub(super) attempt: usize,
    pub(super) task: usize,
}

/// A task that was handed out.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) executor: String,
    /// Parts of the stage's input that it takes.
    pub(super) parts: Vec<usize>,
    /// Whether the worker holds what the task scans; absent: it scans nothing.
    pub(super) near: Option<bool>,
    /// Rows that it has produced so far.
    pub(super) rows: u64,
    /// Whether its end was taken.
    pub(super) ended: bool,
}

/// The outputs of one task that succeeded.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) executor: String,
    /// Which task of its stage's attempt it was.
    task: usize,
    pub(super) parts: Vec<usize>,
    pub(super) outputs: Vec<ShuffleWritePartition>,
}

/// What one stage came to.
#[derive(Debug, Default, Clone)]
pub(super) struct Stage {
    /// Parts of its input.
    pub(super) parts: usize,
    /// Every complete output that is not lost, by part, the latest last.
    done: BTreeMap<usize, Vec<Arc<Done>>>,
    /// The last of the outputs of a part that were lost.
    lost: BTreeMap<usize, Arc<Done>>,
    /// Tasks that were handed out.
    pub(super) given: usize,
    /// Of them, those whose end was taken and that had failed or were lost.
    pub(super) failed: usize,
}

impl Stage {
    /// Whether the output of `given` is there.
    pub(super) fn has(&self, given: &Given) -> bool {
        let mut outputs = self.done.values().flatten();
        outputs.any(|done| done.executor == given.executor && done.parts == given.parts)
    }

    pub(super) fn done_parts(&self) -> usize {
        self.done.values().filter(|outputs| !outputs.is_empty()).count()
    }

    /// Forgets the outputs on `executor`. Whether there were any.
    fn lose(&mut self, executor: &str) -> bool {
        let mut any = false;
        for (part, outputs) in &mut self.done {
            let gone = outputs.iter().rfind(|done| done.executor == executor).cloned();
            any |= gone.is_some();
            outputs.retain(|done| done.executor != executor);
            if let Some(gone) = gone.filter(|_| outputs.is_empty()) {
                self.lost.insert(*part, gone);
            }
        }
        any
    }

    /// The latest output of every part, each output once; `None` if one is missing.
    pub(super) fn complete(&self) -> Option<Vec<Arc<Done>>> {
        self.choose(|part| self.done.get(&part)?.last())
    }

    /// The same, with lost outputs where there are no others: whoever reads those finds that they are lost.
    fn with_lost(&self) -> Option<Vec<Arc<Done>>> {
        self.choose(|part| self.done.get(&part).and_then(|done| done.last()).or_else(|| self.lost.get(&part)))
    }

    fn choose<'a>(&'a self, of: impl Fn(usize) -> Option<&'a Arc<Done>>) -> Option<Vec<Arc<Done>>> {
        let mut chosen: Vec<Arc<Done>> = Vec::new();
        for part in 0..self.parts {
            let latest = of(part)?;
            if !chosen.iter().any(|other| Arc::ptr_eq(other, latest)) {
                chosen.push(Arc::clone(latest));
            }
        }
        // Tasks that took several parts at once, cut differently each time, might overlap.
        let taken: usize = chosen.iter().map(|done| done.parts.len()).sum();
        (taken == self.parts && self.parts > 0).then_some(chosen)
    }
}

#[derive(Debug, Default)]
struct Job {
    stages: BTreeMap<usize, Stage>,
    given: HashMap<Key, Given>,
    /// Whether anything that was complete had to be made again.
    again: bool,
    /// Lives of workers that get no more of its tasks while there are others.
    avoided: Vec<String>,
    /// Why it cannot go on.
    broken: Option<Error>,
    /// Since when a stage waits for outputs that Ballista thinks are there.
    waits: HashMap<usize, Instant>,
}

impl Job {
    fn avoids(&self, executor: &str) -> bool {
        self.avoided.iter().any(|avoided| avoided == executor)
    }

    /// Counts the tasks that run on `executor` as lost.
    fn end_on(&mut self, executor: &str) {
        for (key, given) in &mut self.given {
            if given.executor == executor && !given.ended {
                given.ended = true;
                if let Some(stage) = self.stages.get_mut(&key.stage) {
                    stage.failed += 1;
                }
            }
        }
    }
}

/// How far a job is.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    pub(super) stages: BTreeMap<usize, Stage>,
    pub(super) given: Vec<(Key, Given)>,
    pub(super) again: bool,
    /// Lives of workers that the job avoids.
    pub(super) avoided: Vec<String>,
    pub(super) broken: Option<Error>,
}

impl Progress {
    /// Grows with every row and every ended task.
    pub(super) fn moved(&self) -> u64 {
        let rows: u64 = self.given.iter().map(|(_, given)| given.rows).sum();
        let ended = self.given.iter().filter(|(_, given)| given.ended).count() as u64;
        rows.saturating_add(ended).saturating_add(self.given.len() as u64)
    }
}

/// Longest time that a stage waits for outputs that Ballista thinks are there.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a stage waits for outputs that nobody makes before Ballista is told that they are lost.
const UNTOLD: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    jobs: HashMap<String, Job>,
    executors: HashMap<String, ExecutorMetadata>,
    /// Executors that are lost, whose addresses are kept while there are jobs.
    dead: Vec<String>,
}

impl Ledger {
    /// A task was handed out.
    pub(super) fn give(&self, key: Key, given: Given, parts: usize) {
        let mut state = self.0.lock();
        let job = state.jobs.entry(key.job.clone()).or_default();
        let stage = job.stages.entry(key.stage).or_default();
        stage.parts = parts;
        stage.given += 1;
        if given.parts.iter().any(|part| stage.done.contains_key(part)) {
            job.again = true;
        }
        job.given.insert(key, given);
    }

    /// Takes the end of a task. `false`: it was taken before, or nobody knows the task.
    pub(super) fn end(&self, key: &Key, outputs: Option<Vec<ShuffleWritePartition>>) -> bool {
        let mut state = self.0.lock();
        let Some(job) = state.jobs.get_mut(&key.job) else { return false };
        let Some(given) = job.given.get_mut(key).filter(|given| !given.ended) else { return false };
        given.ended = true;
        let stage = job.stages.entry(key.stage).or_default();
        match outputs {
            Some(outputs) => {
                given.rows = outputs.iter().map(|output| output.num_rows).sum();
                let done = Arc::new(Done {
                    executor: given.executor.clone(),
                    task: key.task,
                    parts: given.parts.clone(),
                    outputs,
                });
                for part in &done.parts {
                    stage.done.entry(*part).or_default().push(Arc::clone(&done));
                }
            }
            None => stage.failed += 1,
        }
        true
    }

    /// How far a running task is.
    pub(super) fn rows(&self, key: &Key, rows: u64) {
        if let Some(job) = self.0.lock().jobs.get_mut(&key.job)
            && let Some(given) = job.given.get_mut(key).filter(|given| !given.ended)
        {
            given.rows = rows;
        }
    }

    /// Tasks of `executor` whose end was not taken.
    pub(super) fn running_on(&self, executor: &str) -> Vec<Key> {
        let state = self.0.lock();
        let given = state.jobs.values().flat_map(|job| &job.given);
        given
            .filter(|(_, given)| !given.ended && given.executor == executor)
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Tasks of `job` that run now.
    pub(super) fn running_of(&self, job: &str) -> usize {
        let state = self.0.lock();
        state.jobs.get(job).map_or(0, |job| job.given.values().filter(|given| !given.ended).count())
    }

    /// The outputs of `executor` are gone, and so are its tasks. Whether any job had some.
    pub(super) fn lose(&self, executor: &str) -> bool {
        let mut any = false;
        let mut state = self.0.lock();
        state.dead.push(executor.to_owned());
        for job in state.jobs.values_mut() {
            for stage in job.stages.values_mut() {
                job.again |= stage.lose(executor);
            }
            any |= job.given.values().any(|given| given.executor == executor);
            job.end_on(executor);
        }
        any
    }

    /// From here on `job` avoids `executor`. If others cannot reach it, its outputs and its tasks are lost to this job.
    ///
    /// `false`: it does so already, or it avoids the one who `says` so: of two workers that cannot reach each other one is enough.
    pub(super) fn avoid(&self, job: &str, executor: &str, says: &str, unreachable: bool) -> bool {
        let mut state = self.0.lock();
        let Some(job) = state.jobs.get_mut(job) else { return false };
        if job.avoids(executor) || (executor != says && job.avoids(says)) {
            return false;
        }
        job.avoided.push(executor.to_owned());
        if unreachable {
            for stage in job.stages.values_mut() {
                job.again |= stage.lose(executor);
            }
            job.end_on(executor);
        }
        true
    }

    /// The new `job` avoids `executors` from its first task on.
    pub(super) fn begin(&self, job: &str, executors: Vec<String>) {
        self.0.lock().jobs.entry(job.to_owned()).or_default().avoided = executors;
    }

    /// Whether `job` avoids `executor`, and has one of the `live` workers instead.
    pub(super) fn avoids(&self, job: &str, executor: &str, live: &HashSet<String>) -> bool {
        let state = self.0.lock();
        let Some(job) = state.jobs.get(job).filter(|job| job.avoids(executor)) else { return false };
        live.iter().any(|node| !job.avoided.iter().any(|avoided| node_of(avoided) == node))
    }

    /// An output of `stage` of `job` on `executor` could not be read: none of that stage there is trusted.
    ///
    /// Nothing changes if the job avoids the one who `says` so.
    pub(super) fn distrust(&self, job: &str, stage: usize, executor: &str, says: &str) {
        if let Some(job) = self.0.lock().jobs.get_mut(job)
            && !job.avoids(says)
            && let Some(stage) = job.stages.get_mut(&stage)
        {
            job.again |= stage.lose(executor);
        }
    }

    pub(super) fn forget(&self, job: &str) {
        self.0.lock().jobs.remove(job);
    }

    /// Forgets jobs that are not `kept`.
    pub(super) fn retain(&self, kept: impl Fn(&str) -> bool) {
        let mut state = self.0.lock();
        state.jobs.retain(|job, _| kept(job));
        if state.jobs.is_empty() {
            for executor in std::mem::take(&mut state.dead) {
                state.executors.remove(&executor);
            }
        }
    }

    pub(super) fn fail(&self, job: &str, error: Error) {
        if let Some(job) = self.0.lock().jobs.get_mut(job) {
            job.broken.get_or_insert(error);
        }
    }

    pub(super) fn progress(&self, job: &str) -> Progress {
        let state = self.0.lock();
        let Some(job) = state.jobs.get(job) else { return Progress::default() };
        let mut given: Vec<_> = job.given.iter().map(|(key, given)| (key.clone(), given.clone())).collect();
        given.sort_by(|a, b| a.0.cmp(&b.0));
        let (avoided, broken) = (job.avoided.clone(), job.broken.clone());
        Progress { stages: job.stages.clone(), given, again: job.again, avoided, broken }
    }

    /// Where the outputs of an executor are served.
    pub(super) fn meet(&self, executor: ExecutorMetadata) {
        self.0.lock().executors.insert(executor.id.clone(), executor);
    }

    /// `plan` of a stage of `job`, reading one complete output of every part of the stages below, wherever Ballista thinks
    /// that they are. `None`: they are not all there; the stage has to wait until they are made again.
    ///
    /// Ballista hears that outputs of an earlier stage are lost only from a task that reads in vain. So after a while the plan is
    /// given with outputs that are lost: a task either needs none of them, or fails and has them made again.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](skep_common::Kind::Unavailable) if the stage has waited too long;
    /// [`Kind::Internal`](skep_common::Kind::Internal) if the plan cannot be made.
    pub(super) fn reading(
        &self,
        job: &str,
        stage: usize,
        plan: &Arc<dyn ExecutionPlan>,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let mut state = self.0.lock();
        let State { jobs, executors, dead } = &mut *state;
        let name = job;
        let job = jobs.entry(name.to_owned()).or_default();
        let read = reading(name, &job.stages, plan, executors, Stage::complete)?;
        let below = match read {
            Ok(read) => {
                job.waits.remove(&stage);
                return Ok(Some(read));
            }
            Err(below) => below,
        };
        let waited = job.waits.entry(stage).or_insert_with(Instant::now).elapsed();
        if waited > PATIENCE {
            let text = format!("stage {stage} waits for outputs of stage {below} that nobody makes again");
            return Err(Error::unavailable(text));
        }
        let remade = job.given.iter().any(|(key, given)| key.stage == below && !given.ended);
        if waited < UNTOLD || remade {
            return Ok(None);
        }
        let avoided = &job.avoided;
        let given_up: HashMap<String, ExecutorMetadata> = executors
            .iter()
            .map(|(id, executor)| {
                let gone = dead.contains(id) || avoided.contains(id);
                let port = if gone { GIVEN_UP } else { executor.grpc_port };
                (id.clone(), ExecutorMetadata { grpc_port: port, ..executor.clone() })
            })
            .collect();
        reading(name, &job.stages, plan, &given_up, Stage::with_lost).map(std::result::Result::ok)
    }
}

/// `plan` reading of every stage below what `of` says; or the stage of which that is not all there.
fn reading(
    job: &str,
    stages: &BTreeMap<usize, Stage>,
    plan: &Arc<dyn ExecutionPlan>,
    executors: &HashMap<String, ExecutorMetadata>,
    of: impl Fn(&Stage) -> Option<Vec<Arc<Done>>>,
) -> Result<std::result::Result<Arc<dyn ExecutionPlan>, usize>> {
    let mut missing = None;
    let read = Arc::clone(plan).transform_up(|node| {
        let Some(reader) = node.downcast_ref::<ShuffleReaderExec>() else {
            return Ok(Transformed::no(node));
        };
        let done = stages.get(&reader.stage_id).and_then(&of);
        match done.and_then(|done| located(job, reader, &done, executors)) {
            Some(partitions) => Ok(Transformed::yes(with_partitions(reader, partitions)?)),
            None => {
                missing = Some(reader.stage_id);
                Ok(Transformed::no(node))
            }
        }
    });
    let read = read.map_err(|e| Error::internal("the inputs of a stage cannot be chosen").source(e))?;
    Ok(match missing {
        Some(below) => Err(below),
        None => Ok(read.data),
    })
}

/// Where `reader` finds `done`, which is all of the stage below: by partition of its output.
fn located(
    job: &str,
    reader: &ShuffleReaderExec,
    done: &[Arc<Done>],
    executors: &HashMap<String, ExecutorMetadata>,
) -> Option<Vec<Vec<PartitionLocation>>> {
    let mut partitions = vec![Vec::new(); reader.partition.len()];
    for done in done {
        let executor = executors.get(&done.executor)?;
        for output in &done.outputs {
            let partition = usize::try_from(output.partition_id).ok()?;
            let location = PartitionLocation {
                map_partition_id: done.task,
                partition_id: PartitionId::new(&job.into(), reader.stage_id, partition),
                executor_meta: executor.clone(),
                partition_stats: PartitionStats::new(
                    Some(output.num_rows),
                    Some(output.num_batches),
                    Some(output.num_bytes),
                ),
                file_id: output.file_id,
                is_sort_shuffle: output.is_sort_shuffle,
            };
            // A broadcast has all of them in one.
            partitions.get_mut(if reader.broadcast { 0 } else { partition })?.push(location);
        }
    }
    Some(partitions)
}

fn with_partitions(
    reader: &ShuffleReaderExec,
    partitions: Vec<Vec<PartitionLocation>>,
) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
    let schema = reader.schema();
    let read = if reader.broadcast {
        let all = partitions.into_iter().flatten().collect();
        ShuffleReaderExec::try_new_broadcast(reader.stage_id, all, schema, reader.upstream_partition_count)?
    } else {
        let partitioning = reader.properties().output_partitioning().clone();
        ShuffleReaderExec::try_new(reader.stage_id, partitions, schema, partitioning)?
    };
    Ok(Arc::new(read))
}
