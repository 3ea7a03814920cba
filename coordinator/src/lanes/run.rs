//! Starts jobs, and starts them again when a worker is lost early.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{SendableRecordBatchStream, execute_stream};
use futures::StreamExt;
use skep_cluster::failure::{from_datafusion, to_datafusion};
use skep_common::{Error, Kind, NodeId, Result};
use skep_engine::guard::guard;
use skep_engine::write::report_schema;
use skep_store::NodeInfo;

use super::cast::cast;
use super::plan::{Planned, Staging, choose, staged, whole};
use super::{Job, Lane, Lanes, Ran, Running};

/// The schema of the rows of `job`.
fn schema(job: &Job) -> SchemaRef {
    match &job.write {
        Some(_) => report_schema(),
        None => Arc::clone(job.logical.schema().inner()),
    }
}

/// A started attempt.
struct Attempt {
    stream: SendableRecordBatchStream,
    /// The workers it may have used.
    workers: Vec<NodeInfo>,
}

fn start(planned: Planned, schema: &SchemaRef) -> Result<SendableRecordBatchStream> {
    let stream = execute_stream(planned.plan, planned.context).map_err(|e| from_datafusion(&e))?;
    Ok(cast(guard(stream), schema))
}

pub(super) async fn run(lanes: &Lanes, job: Job) -> Result<Running> {
    let (schema, ran) = (schema(&job), Ran::default());
    let first = begin(lanes, &job, &schema, &ran, &HashSet::new()).await?;
    let run = Run {
        lanes: lanes.clone(),
        job,
        schema: Arc::clone(&schema),
        ran: ran.clone(),
        attempt: Some(first),
        lost: HashSet::new(),
        begun: false,
    };
    let rows = futures::stream::unfold(run, |mut run| async move {
        let item = run.next().await.transpose()?;
        Some((item.map_err(to_datafusion), run))
    });
    let stream = Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), rows));
    Ok(Running { schema, stream, ran })
}

/// Plans and starts `job` on the live workers without `lost`.
async fn begin(
    lanes: &Lanes,
    job: &Job,
    schema: &SchemaRef,
    ran: &Ran,
    lost: &HashSet<NodeId>,
) -> Result<Attempt> {
    let inner = &lanes.0;
    let mut workers = inner.nodes.live();
    workers.retain(|worker| !lost.contains(&worker.id));
    let lane = match job.lane {
        Some(lane) => lane,
        None => {
            let planned = whole(job).await?;
            if choose(inner, &planned.plan, &workers) == Lane::Local {
                ran.begin(Lane::Local, None);
                return Ok(Attempt { stream: start(planned, schema)?, workers: Vec::new() });
            }
            Lane::Pipelined
        }
    };
    let reason = match lane {
        Lane::Local => None,
        Lane::Pipelined => {
            ran.begin(Lane::Pipelined, None);
            match staged(inner, job, workers.clone(), ran, false).await? {
                Staging::Staged(planned) => {
                    tracing::debug!(query = %job.query, workers = workers.len(), "runs on the workers");
                    return Ok(Attempt { stream: start(planned, schema)?, workers });
                }
                Staging::Whole(reason) => Some(reason),
            }
        }
    };
    ran.local(reason);
    let planned = whole(job).await?;
    Ok(Attempt { stream: start(planned, schema)?, workers: Vec::new() })
}

/// A job that runs, over its attempts.
struct Run {
    lanes: Lanes,
    job: Job,
    schema: SchemaRef,
    ran: Ran,
    attempt: Option<Attempt>,
    lost: HashSet<NodeId>,
    /// Whether a row left, after which there is no other attempt.
    begun: bool,
}

impl Run {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            let Some(attempt) = &mut self.attempt else { return Ok(None) };
            let error = match attempt.stream.next().await {
                Some(Ok(batch)) => {
                    self.begun |= batch.num_rows() > 0;
                    return Ok(Some(batch));
                }
                None => {
                    self.attempt = None;
                    return Ok(None);
                }
                Some(Err(error)) => from_datafusion(&error),
            };
            let culprit = culprit(&error, &attempt.workers);
            // The tasks that still run are cancelled before others start.
            self.attempt = None;
            let error = match &culprit {
                Some(worker) => name(error, worker),
                None => error,
            };
            let again = !self.begun
                && error.kind() == Kind::Unavailable
                && self.ran.attempts() < self.lanes.0.config.attempts.get();
            let Some(worker) = culprit.filter(|_| again) else { return Err(error) };
            tracing::warn!(query = %self.job.query, worker = %worker.id, error = error.report(), "planned again");
            self.lost.insert(worker.id);
            let next = begin(&self.lanes, &self.job, &self.schema, &self.ran, &self.lost).await;
            match next {
                Ok(next) => self.attempt = Some(next),
                // The loss is what the caller should hear of.
                Err(_) => return Err(error),
            }
        }
    }
}

/// The worker that `error` speaks of.
fn culprit(error: &Error, workers: &[NodeInfo]) -> Option<NodeInfo> {
    if error.kind() != Kind::Unavailable {
        return None;
    }
    let text = error.report();
    workers.iter().find(|worker| text.contains(worker.url.as_str())).cloned()
}

fn name(error: Error, worker: &NodeInfo) -> Error {
    error.context(format!("worker '{}' was lost while the query ran", worker.id))
}
