//! Starts jobs, and starts them again when a worker is lost early.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::config::ConfigNonZeroUsize;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{SendableRecordBatchStream, execute_stream};
use futures::StreamExt;
use skep_cluster::failure::{from_datafusion, to_datafusion};
use skep_common::{Error, Kind, NodeId, Result};
use skep_engine::guard::guard;
use skep_engine::settings::Retries;
use skep_engine::write::report_schema;
use skep_store::NodeInfo;

use super::cast::cast;
use super::durable::{self, Shaped};
use super::plan::{Planned, Staging, choose, durable_plan, staged, whole};
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
    lane: Lane,
    /// The workers it may have used.
    workers: Vec<NodeInfo>,
}

impl Attempt {
    fn local(planned: Planned, schema: &SchemaRef) -> Result<Self> {
        Ok(Self { stream: start(planned, schema)?, lane: Lane::Local, workers: Vec::new() })
    }
}

fn start(planned: Planned, schema: &SchemaRef) -> Result<SendableRecordBatchStream> {
    let stream = execute_stream(planned.plan, planned.context).map_err(|e| from_datafusion(&e))?;
    Ok(cast(guard(stream), schema))
}

/// How often `job` may be run again.
fn retries(job: &Job) -> usize {
    job.state.config().get_extension::<Retries>().map_or(RETRIES, |retries| retries.0)
}

/// For sessions without settings.
const RETRIES: usize = 2;

pub(super) async fn run(lanes: &Lanes, job: Job) -> Result<Running> {
    let (schema, ran) = (schema(&job), Ran::default());
    let first = begin(lanes, &job, &schema, &ran, &HashSet::new(), job.lane).await?;
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

/// Plans and starts `job` in `lane`, or in the one that is chosen for it, on the live workers without `lost`.
async fn begin(
    lanes: &Lanes,
    job: &Job,
    schema: &SchemaRef,
    ran: &Ran,
    lost: &HashSet<NodeId>,
    lane: Option<Lane>,
) -> Result<Attempt> {
    let inner = &lanes.0;
    let mut workers = inner.nodes.live();
    let all = workers.clone();
    workers.retain(|worker| !lost.contains(&worker.id));
    let lane = match lane {
        Some(lane) => lane,
        None => {
            let planned = whole(job).await?;
            let (lane, why) = choose(inner, &planned.plan, job.write.is_some(), &workers);
            tracing::debug!(query = %job.query, lane = lane.name(), why, "chosen");
            if lane == Lane::Local {
                ran.begin(lane, None);
                return Attempt::local(planned, schema);
            }
            lane
        }
    };
    let reason = match lane {
        Lane::Local => {
            ran.begin(lane, None);
            return Attempt::local(whole(job).await?, schema);
        }
        Lane::Pipelined => {
            ran.begin(Lane::Pipelined, None);
            match staged(inner, job, workers.clone(), ran, false).await? {
                Staging::Staged(planned) => {
                    tracing::debug!(query = %job.query, workers = workers.len(), "runs on the workers");
                    return Ok(Attempt { stream: start(planned, schema)?, lane, workers });
                }
                Staging::Whole(reason) => Some(reason),
            }
        }
        Lane::Durable => {
            ran.begin(Lane::Durable, None);
            // It may do better with workers that were lost than with none.
            let workers = if workers.is_empty() { all } else { workers };
            match durable_plan(lanes, job, &workers).await? {
                Shaped::Durable(planned) => {
                    let engine = lanes.durable().await?;
                    let (query, write) = (job.query.to_string(), job.write.is_some());
                    let rows = durable::begin(engine, planned, &query, write, ran.clone(), lost).await?;
                    return Ok(Attempt { stream: cast(guard(rows), schema), lane, workers });
                }
                Shaped::Whole(reason) => Some(reason),
            }
        }
    };
    ran.local(reason);
    Attempt::local(whole(job).await?, schema)
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
            let lane = attempt.lane;
            let culprit = culprit(&error, &attempt.workers);
            // The tasks that still run are cancelled before others start.
            self.attempt = None;
            let error = match &culprit {
                Some(worker) => name(error, worker),
                None => error,
            };
            if let Some(thrifty) = self.thrifty(&error) {
                tracing::info!(query = %self.job.query, error = error.report(), "run again with less memory");
                self.job.state = thrifty;
                released(self.job.state.runtime_env().memory_pool.as_ref()).await;
                let next =
                    begin(&self.lanes, &self.job, &self.schema, &self.ran, &self.lost, Some(lane)).await?;
                self.attempt = Some(next);
                continue;
            }
            let lost = culprit.is_some() || lane == Lane::Durable;
            if self.begun || error.kind() != Kind::Unavailable || !lost {
                return Err(error);
            }
            let Some(next) = self.again(lane) else { return Err(error) };
            tracing::warn!(query = %self.job.query, error = error.report(), lane = next.name(), "run again");
            if let Some(worker) = culprit {
                self.lost.insert(worker.id);
            }
            self.lost.extend(self.ran.avoided());
            let next = begin(&self.lanes, &self.job, &self.schema, &self.ran, &self.lost, Some(next)).await;
            match next {
                Ok(next) => self.attempt = Some(next),
                // The loss is what the caller should hear of.
                Err(_) => return Err(error),
            }
        }
    }

    /// The session for another attempt at a statement that ran out of memory. First with joins that sort and merge, and
    /// spill, where those by hash keep a side in memory; then with little side by side and small batches, which sorts that
    /// merge what they spilled hold in memory. `None`: all that was tried, or rows have left.
    fn thrifty(&self, error: &Error) -> Option<SessionState> {
        let (joins, sorts) = joins_and_sorts(&self.job.logical);
        if self.begun || error.kind() != Kind::Exhausted || !(joins || sorts) {
            return None;
        }
        let mut builder = SessionStateBuilder::new_from_existing(self.job.state.clone());
        let options = builder.config().get_or_insert_default().options_mut();
        if options.optimizer.prefer_hash_join && joins {
            options.optimizer.prefer_hash_join = false;
        } else if options.execution.batch_size.get() > THRIFTY_BATCH {
            // With one partition there would be joins by hash again.
            options.execution.target_partitions = options.execution.target_partitions.min(2);
            if let Ok(small) = ConfigNonZeroUsize::try_new(THRIFTY_BATCH) {
                options.execution.batch_size = small;
            }
        } else {
            return None;
        }
        Some(builder.build())
    }

    /// The lane of the next attempt after one in `lane` that lost a worker, if there is to be one.
    fn again(&self, lane: Lane) -> Option<Lane> {
        let (attempts, retries) = (self.ran.attempts(), retries(&self.job));
        match lane {
            _ if retries == 0 => None,
            Lane::Pipelined if attempts <= retries => Some(Lane::Pipelined),
            // The durable lane has its own attempts.
            Lane::Pipelined => Some(Lane::Durable),
            Lane::Durable => (attempts <= 2 * retries + 1).then_some(Lane::Durable),
            Lane::Local => None,
        }
    }
}

/// Waits until the tasks of an attempt that was dropped have given their memory back, as far as that can be seen.
async fn released(pool: &dyn MemoryPool) {
    let mut before = pool.reserved();
    for _ in 0..RELEASE_LOOKS {
        tokio::time::sleep(RELEASE_PAUSE).await;
        let now = pool.reserved();
        if now >= before {
            return;
        }
        before = now;
    }
}

/// Rows of a batch when memory is short.
const THRIFTY_BATCH: usize = 1024;
const RELEASE_LOOKS: usize = 20;
const RELEASE_PAUSE: Duration = Duration::from_millis(50);

/// Whether `plan` joins, and whether it sorts: what can do with less memory when told to.
fn joins_and_sorts(plan: &LogicalPlan) -> (bool, bool) {
    let (mut joins, mut sorts) = (false, false);
    // The closure never fails.
    let _ = plan.apply_with_subqueries(|node| {
        joins |= matches!(node, LogicalPlan::Join(_) | LogicalPlan::Subquery(_));
        sorts |= matches!(node, LogicalPlan::Sort(_) | LogicalPlan::Window(_));
        Ok(TreeNodeRecursion::Continue)
    });
    (joins, sorts)
}

/// The worker that `error` speaks of.
fn culprit(error: &Error, workers: &[NodeInfo]) -> Option<NodeInfo> {
    if error.kind() != Kind::Unavailable {
        return None;
    }
    let text = error.report();
    let cut_off = |worker: &&NodeInfo| {
        let says = |what: &str| text.contains(&format!("worker '{}' {what}", worker.id));
        says("is cut off") || says("stopped in the middle")
    };
    let named = workers.iter().find(|worker| text.contains(worker.url.as_str()));
    named.or_else(|| workers.iter().find(cut_off)).cloned()
}

fn name(error: Error, worker: &NodeInfo) -> Error {
    if error.message().contains(worker.id.as_str()) {
        return error;
    }
    error.context(format!("worker '{}' was lost while the query ran", worker.id))
}
