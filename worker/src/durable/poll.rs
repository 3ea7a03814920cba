//! Fetches tasks, runs them, and reports what they came to.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ballista_core::BALLISTA_PROTOCOL_VERSION;
use ballista_core::serde::protobuf::failed_task::FailedReason;
use ballista_core::serde::protobuf::task_status::Status as Ended;
use ballista_core::serde::protobuf::{
    ExecutionError, ExecutorRegistration, FailedTask, FetchPartitionError, IoError, PollWorkParams,
    PollWorkResult, ShuffleWritePartition, SuccessfulTask, TaskDefinition, TaskKilled, TaskStatus,
};
use ballista_core::serde::scheduler::{ExecutorOperatingSystemSpecification, ExecutorSpecification};
use datafusion::error::DataFusionError;
use datafusion_proto::physical_plan::PhysicalExtensionCodec;
use prost::Message;
use skep_cluster::AuthChannel;
use skep_cluster::durable::{codec, executor};
use skep_cluster::failure::from_datafusion;
use skep_cluster::proto::durable::durable_client::DurableClient;
use skep_cluster::proto::durable::{PollReply, PollRequest, Task as Named, Trouble};
use skep_common::clock::Clock;
use skep_common::task::{self, Task};
use skep_common::{Error, Kind, Result};
use tokio::sync::mpsc;

use super::Inner;
use super::read::{Lost, Reads};
use super::stage::{self, Watch};

/// Pauses after calls that failed: doubled each time, up to the heartbeat.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// How much longer than it was told to a coordinator may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which run of which task.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    job: String,
    stage: u32,
    attempt: u32,
    task: u32,
}

/// A run of a task that has ended.
struct Finished {
    key: Key,
    status: TaskStatus,
    trouble: Option<Trouble>,
}

struct Running {
    watch: Watch,
    _task: Task<()>,
}

/// The loop of one worker.
pub(super) struct Poller {
    inner: Arc<Inner>,
    codec: Arc<dyn PhysicalExtensionCodec>,
    client: DurableClient<AuthChannel>,
    reads: Reads,
    registration: ExecutorRegistration,
    running: HashMap<Key, Running>,
    /// Ended, and not yet taken by the coordinator.
    ended: Vec<TaskStatus>,
    /// What they ran into.
    troubles: Vec<Trouble>,
    finished: mpsc::Receiver<Finished>,
    finish: mpsc::Sender<Finished>,
    files: AtomicU32,
}

fn millis(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.now().timestamp_millis()).unwrap_or(0)
}

impl Poller {
    pub(super) fn new(inner: Arc<Inner>) -> Result<Self> {
        let options = &inner.options;
        let name = executor(&options.node, &inner.life);
        let address = || Error::invalid(format!("'{}' is not an address", options.url));
        let slots = options.config.slots();
        let vcores = u32::try_from(slots.get()).unwrap_or(u32::MAX);
        let registration = ExecutorRegistration {
            id: name.clone(),
            host: Some(options.url.host_str().ok_or_else(address)?.to_owned()),
            port: u32::from(options.url.port().ok_or_else(address)?),
            // Ballista would connect there to stop tasks; ours are stopped by the answer to a poll.
            grpc_port: 0,
            specification: Some(ExecutorSpecification::default().with_vcores(vcores).into()),
            os_info: Some(ExecutorOperatingSystemSpecification::default().into()),
            ballista_protocol_version: BALLISTA_PROTOCOL_VERSION,
        };
        let client = DurableClient::new(options.channels.channel(&options.coordinator)?)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        let reads =
            Reads { executor: name, scratch: options.scratch.clone(), channels: options.channels.clone() };
        let (finish, finished) = mpsc::channel(slots.get());
        Ok(Self {
            codec: codec(options.codec.clone()),
            client,
            reads,
            registration,
            running: HashMap::new(),
            ended: Vec::new(),
            troubles: Vec::new(),
            finished,
            finish,
            files: AtomicU32::new(1),
            inner,
        })
    }

    pub(super) async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let config = &self.inner.options.config;
            let (interval, heartbeat) = (config.poll_interval, config.heartbeat);
            match self.poll().await {
                Ok(got) => {
                    pause = FIRST_PAUSE;
                    if got && self.free() > 0 {
                        continue;
                    }
                    // Without tasks the coordinator has waited for work already.
                    let wait = match (self.running.is_empty(), self.free() > 0) {
                        (true, _) => Duration::ZERO,
                        (false, true) => interval,
                        (false, false) => heartbeat,
                    };
                    self.wait(wait).await;
                }
                Err(error) => {
                    tracing::debug!(error = error.report(), "tasks cannot be fetched");
                    self.wait(pause).await;
                    pause = (pause * 2).min(heartbeat);
                }
            }
        }
    }

    /// Waits until a task ends, at most `longest`.
    async fn wait(&mut self, longest: Duration) {
        if let Ok(Some(first)) = tokio::time::timeout(longest, self.finished.recv()).await {
            self.take(first);
        }
        while let Ok(next) = self.finished.try_recv() {
            self.take(next);
        }
    }

    fn take(&mut self, finished: Finished) {
        self.running.remove(&finished.key);
        self.ended.push(finished.status);
        self.troubles.extend(finished.trouble);
    }

    fn free(&self) -> usize {
        self.inner.options.config.slots().get().saturating_sub(self.running.len())
    }

    /// One call. Whether tasks came.
    async fn poll(&mut self) -> Result<bool> {
        let heartbeat = self.inner.options.config.heartbeat;
        let wait = if self.running.is_empty() && self.ended.is_empty() { heartbeat } else { Duration::ZERO };
        let work = PollWorkParams {
            metadata: Some(self.registration.clone()),
            num_free_vcores: u32::try_from(self.free()).unwrap_or(u32::MAX),
            task_status: self.ended.clone(),
        };
        let request = PollRequest {
            node: self.inner.options.node.to_string(),
            life: self.inner.life.clone(),
            work: work.encode_to_vec().into(),
            running: self.running.iter().map(|(key, running)| named(key, running)).collect(),
            jobs: self.jobs(),
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            troubles: self.troubles.clone(),
        };
        let mut client = self.client.clone();
        let reply = tokio::time::timeout(wait + PATIENCE, client.poll(request)).await;
        let reply = reply.map_err(|_| Error::unavailable("the coordinator does not answer"))?;
        let PollReply { work, gone } = reply.map_err(|status| Error::from_status(&status))?.into_inner();
        self.ended.clear();
        self.troubles.clear();
        let unread = |e| Error::internal("the coordinator's answer cannot be read").source(e);
        let PollWorkResult { tasks, jobs_to_clean } = PollWorkResult::decode(work).map_err(unread)?;
        for job in &gone {
            self.forget(job);
        }
        for clean in jobs_to_clean {
            let job = self.inner.options.scratch.join(&clean.job_id);
            let stages = clean.remove_stage_ids.iter().map(|stage| job.join(stage.to_string())).collect();
            delete(stages);
        }
        let got = !tasks.is_empty();
        for task in tasks {
            self.begin(task);
        }
        Ok(got)
    }

    /// Jobs that it runs tasks of or keeps outputs of.
    fn jobs(&self) -> Vec<String> {
        let mut jobs: HashSet<String> = self.running.keys().map(|key| key.job.clone()).collect();
        for entry in std::fs::read_dir(&self.inner.options.scratch).into_iter().flatten().flatten() {
            jobs.extend(entry.file_name().into_string());
        }
        jobs.into_iter().collect()
    }

    fn forget(&mut self, job: &str) {
        for (key, running) in &self.running {
            if key.job == job {
                running.watch.stop.cancel();
            }
        }
        self.running.retain(|key, _| key.job != job);
        delete(vec![self.inner.options.scratch.join(job)]);
    }

    fn begin(&mut self, task: TaskDefinition) {
        let key = Key {
            job: task.job_id.clone(),
            stage: task.stage_id,
            attempt: task.stage_attempt_num,
            task: task.task_id,
        };
        let file = self.files.fetch_add(1, Ordering::Relaxed);
        let (inner, codec) = (Arc::clone(&self.inner), Arc::clone(&self.codec));
        let (reads, finish) = (self.reads.clone(), self.finish.clone());
        let (watch, clock) = (Watch::default(), Arc::clone(&self.inner.options.clock));
        let (ending, named, watched) = (key.clone(), self.registration.id.clone(), watch.clone());
        let running = task::spawn("durable task", async move {
            let begun = millis(clock.as_ref());
            let (launch_time, task) = (task.launch_time, task);
            let status = |status| TaskStatus {
                task_id: ending.task,
                job_id: ending.job.clone(),
                stage_id: ending.stage,
                stage_attempt_num: ending.attempt,
                launch_time,
                start_exec_time: begun,
                end_exec_time: millis(clock.as_ref()),
                metrics: Vec::new(),
                status: Some(status),
            };
            let ran = stage::run(&inner.options, reads, codec.as_ref(), task, file, watched).await;
            let trouble = ran.as_ref().err().and_then(|error| trouble(error, &ending.job, &named));
            let ended = match ran {
                Ok(outputs) => succeeded(named, outputs),
                Err(error) => Ended::Failed(failed(&error)),
            };
            let status = status(ended);
            // The loop has ended: nobody is told.
            let _ = finish.send(Finished { key: ending.clone(), status, trouble }).await;
        });
        self.running.insert(key, Running { watch, _task: running });
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        for running in self.running.values() {
            running.watch.stop.cancel();
        }
    }
}

fn named(key: &Key, running: &Running) -> Named {
    Named {
        job: key.job.clone(),
        stage: u64::from(key.stage),
        attempt: u64::from(key.attempt),
        task: u64::from(key.task),
        rows: running.watch.rows.load(Ordering::Relaxed),
    }
}

fn succeeded(executor_id: String, partitions: Vec<ShuffleWritePartition>) -> Ended {
    Ended::Successful(SuccessfulTask { executor_id, partitions, ..SuccessfulTask::default() })
}

/// What `error` means to the coordinator: make a lost output again, try the task again, or fail the job.
fn failed(error: &DataFusionError) -> FailedTask {
    if let Some(lost) = lost(error) {
        let reason = FetchPartitionError {
            executor_id: lost.output.executor.clone(),
            map_stage_id: lost.output.stage as u32,
            map_partition_id: lost.output.from as u32,
        };
        return FailedTask {
            error: lost.to_string(),
            retryable: false,
            count_to_failures: false,
            failed_reason: Some(FailedReason::FetchPartitionError(reason)),
        };
    }
    let error = from_datafusion(error);
    // Another worker may have room.
    let again = matches!(error.kind(), Kind::Unavailable | Kind::NoSpace);
    let (retryable, failed_reason) = match error.kind() {
        _ if again => (true, FailedReason::IoError(IoError {})),
        Kind::Cancelled => (true, FailedReason::TaskKilled(TaskKilled {})),
        _ => (false, FailedReason::ExecutionError(ExecutionError {})),
    };
    FailedTask {
        error: error.encode(),
        retryable,
        count_to_failures: again,
        failed_reason: Some(failed_reason),
    }
}

/// The output that could not be read.
fn lost(error: &DataFusionError) -> Option<&Lost> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(lost) = error.downcast_ref::<Lost>() {
            return Some(lost);
        }
        cause = error.source();
    }
    None
}

/// Whom `job` does better without after `error` of a task of the worker `own`.
fn trouble(error: &DataFusionError, job: &str, own: &str) -> Option<Trouble> {
    let (executor, unreachable) = match lost(error) {
        Some(lost) if lost.unreachable() => (lost.output.executor.as_str(), true),
        None if from_datafusion(error).kind() == Kind::NoSpace => (own, false),
        _ => return None,
    };
    Some(Trouble { job: job.to_owned(), executor: executor.to_owned(), unreachable })
}

/// Deletes folders of outputs that nobody needs any more. What cannot be deleted now goes when the worker starts again.
fn delete(folders: Vec<PathBuf>) {
    task::spawn("delete outputs", async move {
        for folder in folders {
            let gone = |folder: &Path| match std::fs::remove_dir_all(folder) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            };
            let path = folder.clone();
            let done = tokio::task::spawn_blocking(move || gone(&path)).await;
            if let Ok(Err(error)) = done {
                tracing::debug!(folder = %folder.display(), %error, "outputs stay behind");
            }
        }
    })
    .detach();
}
