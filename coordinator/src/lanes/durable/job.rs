//! One run of a job: submitted, watched, read, ended.
//!
//! # Not here
//! Whether a job that failed is run again (`lanes::run`), which outputs count (`ledger`).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, UInt64Array};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use ballista_core::JobId;
use ballista_core::serde::protobuf::JobStatus;
use ballista_core::serde::protobuf::job_status::Status;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionContext;
use futures::FutureExt;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use skep_cluster::Channels;
use skep_cluster::durable::{Output, fetch, node_of, rows};
use skep_cluster::failure::to_datafusion;
use skep_common::task;
use skep_common::{ByteSize, Error, Kind, NodeId, Result};
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;

use super::Engine;
use super::ledger::{Done, Given, Key, Progress};
use super::plan::{Durable, stages};
use crate::lanes::{Ran, StageFigures, locality};

/// How often a job is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a job that was submitted may be unknown.
const PATIENCE: Duration = Duration::from_secs(10);
/// Outputs that are read at once.
const READ_AT_ONCE: usize = 4;

/// Ends a job when nobody wants it any more.
#[derive(Debug)]
struct Wanted {
    engine: Engine,
    job: String,
    running: bool,
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let (engine, job, running) = (self.engine.clone(), std::mem::take(&mut self.job), self.running);
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        task::spawn("end a durable job", async move { engine.end(&job, running).await }).detach();
    }
}

/// Submits `durable`; its rows come when all its stages have ended. Dropping them cancels it. The workers `lost` to earlier
/// attempts get none of its tasks while there are others.
///
/// # Errors
/// Those of cutting it into stages; [`Kind::Unavailable`] if no worker fetches tasks.
pub(in crate::lanes) async fn begin(
    engine: &Engine,
    durable: Box<Durable>,
    query: &str,
    write: bool,
    ran: Ran,
    lost: &HashSet<NodeId>,
) -> Result<SendableRecordBatchStream> {
    ran.plan(stages(&durable)?.len());
    let Durable { plan, state, parts, indeterminate } = *durable;
    let schema = plan.schema();
    let planned = Arc::clone(&schema);
    let memory = MemoryConsumer::new("results").register(&state.runtime_env().memory_pool);
    let context = Arc::new(SessionContext::new_with_state(state));
    // Messages that do not fit are dropped: the job is looked at anyway.
    let (news, told) = tokio::sync::mpsc::channel(16);
    let submitted = engine.0.scheduler.submit_physical_plan(query, context, plan, Some(news)).await;
    let job = submitted.map_err(|e| Error::internal("a job cannot be submitted").source(e.to_string()))?;
    let job = job.into_inner();
    engine.0.wanted.lock().insert(job.clone());
    engine.0.ledger.begin(&job, engine.lives_of(lost));
    let wanted = Wanted { engine: engine.clone(), job: job.clone(), running: true };
    tracing::debug!(query, job, "runs on the durable lane");

    let read = async move {
        let mut wanted = wanted;
        let engine = wanted.engine.clone();
        let ended = watch(&engine, &job, &ran, told).await;
        let progress = engine.0.ledger.progress(&job);
        record(&ran, &progress);
        // An attempt that follows would find out the same way, and so would each after it.
        ran.avoid(progress.avoided.iter().filter_map(|life| NodeId::new(node_of(life)).ok()));
        let last = ended?;
        wanted.running = false;
        if indeterminate && progress.again {
            return Err(Error::unavailable(
                "tasks had to run again, and the rows of this statement depend on how it runs",
            ));
        }
        let done =
            progress.stages.get(&last).and_then(super::ledger::Stage::complete).ok_or_else(|| {
                Error::unavailable("an output of the last stage was lost before it was read")
            })?;
        let mut outputs = Vec::new();
        for done in &done {
            outputs.extend(located(&engine, &job, last, done)?);
        }
        outputs.sort_by_key(|output| output.partition);
        let results =
            Results { channels: engine.0.channels.clone(), schema: planned, parts: write.then_some(parts) };
        let rows = match results.keep(&outputs, engine.0.config.results_bytes_max, memory).await? {
            Some(kept) => kept,
            None => results.stream(outputs),
        };
        // Outputs stay until their rows were read.
        Ok(rows.inspect(move |_| {
            let _ = &wanted;
        }))
    };
    let stream = futures::stream::once(read).try_flatten().map_err(to_datafusion);
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
}

/// Where the outputs of a task of the last stage are.
fn located(engine: &Engine, job: &str, stage: usize, done: &Done) -> Result<Vec<Output>> {
    let lost = || Error::unavailable(format!("the worker '{}' left with results", node_of(&done.executor)));
    let url = engine.url_of(&done.executor).ok_or_else(lost)?;
    let output = |written: &ballista_core::serde::protobuf::ShuffleWritePartition| {
        let file = written.file_id.ok_or_else(|| Error::internal("an output has no file"))?;
        let partition = usize::try_from(written.partition_id);
        Ok(Output {
            executor: done.executor.clone(),
            url: url.clone(),
            job: job.to_owned(),
            stage,
            partition: partition.map_err(|_| Error::internal("an output has no partition"))?,
            from: 0,
            file,
            sorted: written.is_sort_shuffle,
            rows: written.num_rows,
            bytes: written.num_bytes,
            given_up: false,
        })
    };
    done.outputs.iter().map(output).collect()
}

/// How the outputs of the last stage are read.
#[derive(Clone)]
struct Results {
    channels: Channels,
    schema: SchemaRef,
    /// Of a write: how many parts it has. Its reports are numbered by the part that they are of.
    parts: Option<usize>,
}

impl Results {
    fn open(&self, output: Output) -> BoxStream<'static, Result<RecordBatch>> {
        let Self { channels, schema, parts } = self.clone();
        let opened = async move {
            let chunks = fetch(&channels, &output).await.map_err(|e| unread(e, &output))?;
            let batches = rows(chunks, schema, output.rows);
            Ok::<_, Error>(batches.map(move |batch| {
                let batch = batch.map_err(|e| unread(e, &output))?;
                match parts {
                    Some(parts) => numbered(&batch, output.partition, parts),
                    None => Ok(batch),
                }
            }))
        };
        futures::stream::once(opened).try_flatten().boxed()
    }

    /// All rows, read before the first of them leaves: until then what is lost can be made again. `None`: they are more than
    /// `most` bytes as they lie on disk, or than `memory` has room for.
    async fn keep(
        &self,
        outputs: &[Output],
        most: ByteSize,
        memory: MemoryReservation,
    ) -> Result<Option<BoxStream<'static, Result<RecordBatch>>>> {
        let bytes: u64 = outputs.iter().map(|output| output.bytes).sum();
        if bytes > most.bytes() {
            return Ok(None);
        }
        let all: Vec<_> =
            outputs.iter().map(|output| gather(self.open(output.clone()), &memory).boxed()).collect();
        let kept: Vec<_> = futures::stream::iter(all).buffered(READ_AT_ONCE).try_collect().await?;
        let Some(kept) = kept.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
        // Given back one by one, as they leave.
        let leaving = kept.into_iter().flatten().map(move |batch| {
            memory.shrink(batch.get_array_memory_size());
            Ok(batch)
        });
        Ok(Some(futures::stream::iter(leaving).boxed()))
    }

    /// The rows as they are read, from several outputs at once.
    fn stream(&self, outputs: Vec<Output>) -> BoxStream<'static, Result<RecordBatch>> {
        let streams: Vec<_> = outputs.into_iter().map(|output| self.open(output)).collect();
        futures::stream::iter(streams).flatten_unordered(READ_AT_ONCE).boxed()
    }
}

/// All of `rows`; `None` when `memory` has no room for them.
async fn gather(
    mut rows: BoxStream<'static, Result<RecordBatch>>,
    memory: &MemoryReservation,
) -> Result<Option<Vec<RecordBatch>>> {
    let mut kept = Vec::new();
    while let Some(batch) = rows.try_next().await? {
        if memory.try_grow(batch.get_array_memory_size()).is_err() {
            return Ok(None);
        }
        kept.push(batch);
    }
    Ok(Some(kept))
}

fn unread(error: Error, output: &Output) -> Error {
    match error.kind() {
        Kind::Unavailable | Kind::NotFound | Kind::Corrupt => Error::unavailable(format!(
            "results on the worker '{}' cannot be read",
            node_of(&output.executor)
        ))
        .hint("run the statement again")
        .source(error),
        _ => error,
    }
}

/// The report of one task as that of `part` of all `parts` of the write: every task says that it is part 0 of 1.
fn numbered(batch: &RecordBatch, part: usize, parts: usize) -> Result<RecordBatch> {
    let wrong = || Error::internal("the report of a write is not as expected");
    let mut columns = batch.columns().to_vec();
    let at = |name: &str| batch.schema().index_of(name).map_err(|e| wrong().source(e));
    let all =
        |value: usize| -> ArrayRef { Arc::new(UInt64Array::from(vec![value as u64; batch.num_rows()])) };
    let (partition, partitions) = (at("partition")?, at("partitions")?);
    columns[partition] = all(part);
    columns[partitions] = all(parts);
    RecordBatch::try_new(batch.schema(), columns).map_err(|e| wrong().source(e))
}

/// Waits for the end of `job`. Gives its last stage.
async fn watch(engine: &Engine, job: &str, ran: &Ran, mut told: Receiver<JobStatus>) -> Result<usize> {
    let id = JobId::new(job);
    let begun = Instant::now();
    let (mut moved, mut since) = (0, Instant::now());
    let mut deserted: Option<Instant> = None;
    let mut still: Option<Instant> = None;
    let mut wait = Duration::from_millis(2);
    loop {
        let status = engine.0.scheduler.state.task_manager.get_job_status(&id).await;
        let status = status.map_err(|e| Error::internal("a job cannot be watched").source(e.to_string()))?;
        match status.and_then(|status| status.status) {
            Some(Status::Successful(done)) => {
                let last =
                    done.partition_location.first().and_then(|location| location.partition_id.as_ref());
                let progress = engine.0.ledger.progress(job);
                // Without rows there are no locations; the last stage is the one with the highest number.
                let highest = progress.stages.keys().next_back().copied();
                let last = last.map(|partition| partition.stage_id as usize).or(highest);
                return last.ok_or_else(|| Error::internal("a job ended without a stage"));
            }
            Some(Status::Failed(failed)) => return Err(failure(&failed.error)),
            Some(_) => {}
            // It is between two of the scheduler's lists, for a moment.
            None if begun.elapsed() < PATIENCE => {}
            None => return Err(Error::unavailable("the job was forgotten").hint("run the statement again")),
        }
        let progress = engine.0.ledger.progress(job);
        record(ran, &progress);
        if let Some(broken) = &progress.broken {
            return Err(broken.clone());
        }
        if progress.moved() != moved {
            (moved, since) = (progress.moved(), Instant::now());
        }
        let stall = engine.0.config.stall_timeout;
        if since.elapsed() > stall {
            return Err(Error::unavailable(format!("nothing of the job moved for {stall:?}")));
        }
        // Ballista can lose track of a stage when a worker dies: nothing runs, and nothing ever will.
        if engine.stands_still(&id).await {
            let begun = still.get_or_insert_with(Instant::now);
            if begun.elapsed() > engine.0.config.worker_timeout {
                return Err(Error::unavailable("no task of the job runs, and none is left to run"));
            }
        } else {
            still = None;
        }
        match (engine.has_workers(), deserted) {
            (true, _) => deserted = None,
            (false, None) => deserted = Some(Instant::now()),
            (false, Some(at)) if at.elapsed() > engine.0.config.worker_timeout => {
                return Err(no_worker());
            }
            (false, Some(_)) => {}
        }
        let news = tokio::time::timeout(wait, told.recv()).await;
        if let Ok(None) = news {
            // Nobody tells any more.
            tokio::time::sleep(wait).await;
        }
        wait = (wait * 2).min(LOOK_EVERY);
    }
}

fn no_worker() -> Error {
    Error::unavailable("no worker is alive")
        .hint("start workers with `skep worker`, or SET skep.execution = local")
}

/// What a failed job says: the error of ours that a task ended with, if there is one.
fn failure(text: &str) -> Error {
    // Where a task failed too often, Ballista quotes what it said last.
    let quoted =
        || Some(Error::decode(&unquoted(text))?.context("a task failed on every worker that tried it"));
    Error::decode(text).or_else(quoted).unwrap_or_else(|| {
        Error::unavailable("a stage failed too often").hint("run the statement again").source(text.to_owned())
    })
}

/// `text` without the escapes of Rust's debug format.
fn unquoted(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let escaped = if c == '\\' { rest.next() } else { None };
        match escaped {
            None => plain.push(c),
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('t') => plain.push('\t'),
            Some('0') => plain.push('\0'),
            Some('u') => {
                let code: String = rest.by_ref().skip(1).take_while(|c| *c != '}').collect();
                plain.extend(u32::from_str_radix(&code, 16).ok().and_then(char::from_u32));
            }
            Some(other) => plain.push(other),
        }
    }
    plain
}

/// Writes into `ran` where the tasks run, and what they came to.
fn record(ran: &Ran, progress: &Progress) {
    let mut nodes: BTreeMap<usize, Vec<Option<NodeId>>> = BTreeMap::new();
    let mut figures: BTreeMap<usize, StageFigures> = BTreeMap::new();
    for (number, stage) in &progress.stages {
        let outputs = stage.complete().unwrap_or_default();
        let outputs = || outputs.iter().flat_map(|done| &done.outputs);
        let of_stage = StageFigures {
            stage: *number,
            parts: stage.parts,
            done: stage.done_parts(),
            tasks: stage.given,
            failed: stage.failed,
            rows: outputs().map(|output| output.num_rows).sum(),
            bytes: outputs().map(|output| output.num_bytes).sum(),
            ..StageFigures::default()
        };
        figures.insert(*number, of_stage);
    }
    for (key, given) in &progress.given {
        nodes.entry(key.stage).or_default().push(NodeId::new(node_of(&given.executor)).ok());
        if let (Some(figures), Some(near)) = (figures.get_mut(&key.stage), given.near) {
            figures.placed += 1;
            figures.near += usize::from(near);
        }
    }
    for (stage, nodes) in nodes {
        ran.routed(stage, nodes);
    }
    let mut given: Vec<_> = progress.given.iter().map(|(key, given)| run_of(progress, key, given)).collect();
    given.sort_unstable_by_key(|run| (run.stage, run.attempt, run.task));
    ran.gave(given);
    for figures in figures.into_values() {
        ran.measure(figures);
    }
}

fn run_of(progress: &Progress, key: &Key, given: &Given) -> locality::Given {
    let there = || progress.stages.get(&key.stage).is_some_and(|stage| stage.has(given));
    locality::Given {
        stage: key.stage,
        attempt: key.attempt + 1,
        task: key.task,
        worker: NodeId::new(node_of(&given.executor)).ok(),
        rows: given.rows,
        done: given.ended.then(there),
        near: given.near,
    }
}

impl Engine {
    /// Waits until a worker fetches tasks.
    pub(in crate::lanes) async fn await_workers(&self) -> Result<()> {
        let wait = async {
            while !self.has_workers() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // They begin when they have joined, a moment after they count as alive.
        tokio::time::timeout(self.0.config.worker_timeout, wait).await.map_err(|_| no_worker())
    }

    /// Whether `job` has neither tasks that run nor tasks to hand out.
    async fn stands_still(&self, job: &JobId) -> bool {
        let running = self.0.scheduler.state.task_manager.get_running_job_cache();
        let Some(info) = running.get(job) else { return false };
        let graph = info.execution_graph.read().await;
        graph.available_tasks() == 0 && graph.running_tasks().is_empty()
    }

    fn lives_of(&self, nodes: &HashSet<NodeId>) -> Vec<String> {
        let workers = self.0.workers.lock();
        nodes.iter().filter_map(|node| Some(workers.get(node.as_str())?.executor.clone())).collect()
    }

    fn url_of(&self, executor: &str) -> Option<url::Url> {
        let workers = self.0.workers.lock();
        let known = workers.values().find(|known| known.executor == executor)?;
        Some(known.url.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_task_said_last_is_found_however_it_is_quoted() {
        let said = Error::no_space("the disk of 'w1' is full:\n\"\\no\" \u{e9}").hint("make room");
        for text in [said.encode(), format!("Task 4 failed 6 times, most recent: {:?}\n", said.encode())] {
            let found = failure(&text);
            assert_eq!((found.kind(), found.hint_text()), (Kind::NoSpace, Some("make room")), "{text}");
            assert!(found.report().ends_with(&said.report()), "{}", found.report());
        }
        assert_eq!(failure("Stage 3 has failed 6 times: \"\\u{zz}").kind(), Kind::Unavailable);
    }
}
