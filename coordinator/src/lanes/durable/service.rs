//! Answers workers that fetch tasks.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ballista_core::serde::protobuf::failed_task::FailedReason;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpc;
use ballista_core::serde::protobuf::task_status::Status as Ended;
use ballista_core::serde::protobuf::{FailedTask, IoError, PollWorkParams, PollWorkResult, TaskStatus};
use ballista_core::serde::scheduler::ExecutorMetadata;
use prost::Message;
use skep_cluster::proto::durable::durable_server::{Durable, DurableServer};
use skep_cluster::proto::durable::{PollReply, PollRequest, Trouble};
use skep_common::task;
use skep_common::{Error, NodeId, Result};
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use url::Url;

use super::ledger::Key;
use super::{Engine, Known};
use crate::lanes::Lanes;

/// Longest time that a call waits for work.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// What workers of the durable lane call on the coordinator.
#[derive(Debug)]
pub struct DurableService {
    lanes: Lanes,
}

impl DurableService {
    /// The service of `lanes`, for a server that checks the secret before every call.
    pub fn server(lanes: Lanes) -> DurableServer<Self> {
        DurableServer::new(Self { lanes })
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }
}

#[tonic::async_trait]
impl Durable for DurableService {
    async fn poll(&self, request: Request<PollRequest>) -> std::result::Result<Response<PollReply>, Status> {
        let engine = self.lanes.durable().await.map_err(|e| e.to_status())?.clone();
        let request = request.into_inner();
        let wait = Duration::from_millis(u64::from(request.wait_ms)).min(WAIT_MAX);
        // Watched from before the first look, so that nothing is missed in between.
        let work = Arc::clone(&engine.0.work);
        let told = work.notified();
        tokio::pin!(told);
        told.as_mut().enable();
        let again = PollRequest { wait_ms: 0, ..request.clone() };
        let mut reply = answer(&engine, request).await.map_err(|e| e.to_status())?;
        let idle = |reply: &PollReply| reply.work.is_empty() && reply.gone.is_empty();
        if idle(&reply) && tokio::time::timeout(wait, told).await.is_ok() {
            reply = answer(&engine, again).await.map_err(|e| e.to_status())?;
        }
        Ok(Response::new(reply))
    }
}

/// Answers to the end, even if the caller goes away: what was taken is passed on, what was handed out is known.
async fn answer(engine: &Engine, request: PollRequest) -> Result<PollReply> {
    let (reply, answered) = tokio::sync::oneshot::channel();
    let engine = engine.clone();
    let work = async move {
        // Whoever asked may be gone.
        let _ = reply.send(engine.answer(request).await);
    };
    task::spawn("answer a worker", work).detach();
    answered.await.map_err(|_| Error::internal("the answer to a worker was lost"))?
}

impl Engine {
    async fn answer(&self, request: PollRequest) -> Result<PollReply> {
        let unread = |e| Error::invalid("what a worker reports cannot be read").source(e);
        let mut work = PollWorkParams::decode(request.work).map_err(unread)?;
        let node = NodeId::new(&request.node)?;
        let executor = skep_cluster::durable::executor(&node, &request.life);
        let lacks = |what: &str| Error::invalid(format!("what a worker reports has no {what}"));
        let registration = work.metadata.as_ref().ok_or_else(|| lacks("address"))?;
        if registration.id != executor {
            return Err(Error::invalid(format!("'{}' is not the name of '{executor}'", registration.id)));
        }
        let slots = registration.specification.as_ref().map_or(0, |spec| {
            let spec: ballista_core::serde::scheduler::ExecutorSpecification = spec.clone().into();
            spec.vcores as usize
        });
        let url =
            format!("http://{}:{}", registration.host.as_deref().unwrap_or_default(), registration.port);
        let url: Url = url.parse().map_err(|e| lacks("address").source(e))?;
        self.0.ledger.meet(ExecutorMetadata {
            id: executor.clone(),
            host: registration.host.clone().unwrap_or_default(),
            port: u16::try_from(registration.port).map_err(|e| lacks("port").source(e))?,
            grpc_port: 0,
            specification: registration.specification.clone().ok_or_else(|| lacks("slots"))?.into(),
            os_info: registration.os_info.clone().ok_or_else(|| lacks("system"))?.into(),
        });
        let turn = self.meet(&request.node, &executor, url, slots).await;
        let _turn = turn.lock().await;

        let running: HashSet<Key> = request
            .running
            .iter()
            .map(|task| {
                let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
                let key = Key {
                    job: task.job.clone(),
                    stage: number(task.stage),
                    attempt: number(task.attempt),
                    task: number(task.task),
                };
                self.0.ledger.rows(&key, task.rows);
                key
            })
            .collect();
        for trouble in &request.troubles {
            let Trouble { job, executor: avoided, unreachable } = trouble;
            self.avoid(job, avoided, &executor, *unreachable).await;
        }
        for status in &work.task_status {
            if let Some(Ended::Failed(failed)) = &status.status
                && let Some(FailedReason::FetchPartitionError(lost)) = &failed.failed_reason
            {
                let stage = lost.map_stage_id as usize;
                self.0.ledger.distrust(&status.job_id, stage, &lost.executor_id, &executor);
            }
        }
        // Each end counts once, however often it is reported.
        work.task_status.retain(|status| self.0.ledger.end(&key(status), outputs(status)));
        for lost in self.0.ledger.running_on(&executor) {
            if !running.contains(&lost) {
                tracing::debug!(?lost, "a task never arrived");
                self.0.ledger.end(&lost, None);
                work.task_status.push(never_ran(&lost));
            }
        }
        let polled = self.0.scheduler.poll_work(Request::new(work)).await;
        let result = polled.map_err(|status| Error::internal("tasks cannot be handed out").source(status))?;
        let result = result.into_inner();
        Ok(PollReply {
            gone: request.jobs.into_iter().filter(|job| !self.is_wanted(job)).collect(),
            work: if result == PollWorkResult::default() { Vec::new() } else { result.encode_to_vec() }
                .into(),
        })
    }

    /// Notes that `executor` lives. An earlier life of the same worker is over.
    async fn meet(&self, node: &str, executor: &str, url: Url, slots: usize) -> Arc<tokio::sync::Mutex<()>> {
        let (before, turn) = {
            let mut workers = self.0.workers.lock();
            let before = workers.get(node).cloned();
            let turn = match &before {
                Some(known) if known.executor == executor => Arc::clone(&known.turn),
                _ => Arc::default(),
            };
            let known = Known {
                executor: executor.to_owned(),
                url,
                slots,
                seen: Instant::now(),
                turn: Arc::clone(&turn),
            };
            workers.insert(node.to_owned(), known);
            (before, turn)
        };
        if let Some(before) = before.filter(|before| before.executor != executor) {
            self.give_up(&before.executor, "it was started again").await;
        }
        turn
    }

    fn is_wanted(&self, job: &str) -> bool {
        // Between its submission and its name being known here, the scheduler knows it.
        self.0.wanted.lock().contains(job)
            || self.0.scheduler.state.task_manager.get_running_job_cache().keys().any(|id| id.as_str() == job)
    }
}

fn key(status: &TaskStatus) -> Key {
    Key {
        job: status.job_id.clone(),
        stage: status.stage_id as usize,
        attempt: status.stage_attempt_num as usize,
        task: status.task_id as usize,
    }
}

fn outputs(status: &TaskStatus) -> Option<Vec<ballista_core::serde::protobuf::ShuffleWritePartition>> {
    match &status.status {
        Some(Ended::Successful(done)) => Some(done.partitions.clone()),
        _ => None,
    }
}

/// The end of a task that was handed out and never ran.
fn never_ran(key: &Key) -> TaskStatus {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    TaskStatus {
        task_id: number(key.task),
        job_id: key.job.clone(),
        stage_id: number(key.stage),
        stage_attempt_num: number(key.attempt),
        status: Some(Ended::Failed(FailedTask {
            error: "the task never arrived".to_owned(),
            retryable: true,
            count_to_failures: false,
            failed_reason: Some(FailedReason::IoError(IoError {})),
        })),
        ..TaskStatus::default()
    }
}
