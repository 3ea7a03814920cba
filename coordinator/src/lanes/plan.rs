//! Physical plans for each lane.

use std::num::NonZeroUsize;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::{SessionState, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_distributed::{DistributedConfig, DistributedExec, DistributedExt, SessionStateBuilderExt};
use skep_cluster::failure::from_datafusion;
use skep_cluster::settings::Travel;
use skep_common::{ByteSize, Error, Result};
use skep_engine::known::keep_known;
use skep_engine::write::{Spread, WriteTarget, plan_write, scanned_bytes};
use skep_engine::yielding::yielding;
use skep_store::NodeInfo;
use url::{Host, Url};

use super::durable::{self, Shaped};
use super::leaf::{Spreader, TaskCounts, file_scan, on_coordinator};
use super::route::{Router, Workers};
use super::shape::{SplitScans, free_unions, guard_stages, undistributable, without_empty};
use super::{Inner, Job, Lane, Lanes, Ran, validate};

/// A physical plan and what it runs with.
pub(super) struct Planned {
    pub(super) plan: Arc<dyn ExecutionPlan>,
    pub(super) context: Arc<TaskContext>,
}

/// A plan for the workers, or why there is none.
pub(super) enum Staging {
    Staged(Planned),
    Whole(String),
}

/// Fewest partitions of a pipelined plan: with one, DataFusion plans operators that are wrong in several tasks.
const PARTITIONS_MIN: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

fn partitions(state: &SessionState) -> NonZeroUsize {
    NonZeroUsize::new(state.config().target_partitions()).unwrap_or(NonZeroUsize::MIN)
}

fn with_write(
    plan: Arc<dyn ExecutionPlan>,
    write: Option<&WriteTarget>,
    tasks: usize,
    partitions: NonZeroUsize,
    deal: bool,
) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(target) = write else { return Ok(plan) };
    let tasks = NonZeroUsize::new(tasks).unwrap_or(NonZeroUsize::MIN);
    plan_write(plan, Arc::new(target.clone()), Spread { tasks, partitions, deal })
}

/// The plan for one node.
pub(super) async fn whole(job: &Job) -> Result<Planned> {
    let plan = job.state.create_physical_plan(&job.logical).await.map_err(|e| from_datafusion(&e))?;
    let plan = with_write(plan, job.write.as_ref(), 1, partitions(&job.state), false)?;
    let plan = yielding(plan).map_err(|e| from_datafusion(&e))?;
    Ok(Planned { plan, context: job.state.task_ctx() })
}

/// The lane for a job that asks for none, and why.
///
/// Work goes to the workers if there are at least two, on other machines than this, and the plan scans at least
/// `pipelined_bytes_min`: on one machine the same cores do the same work, and the way there costs half as much again.
///
/// What would be long to run again goes to the durable lane: large writes, and very large reads.
pub(super) fn choose(
    inner: &Inner,
    plan: &Arc<dyn ExecutionPlan>,
    write: bool,
    workers: &[NodeInfo],
) -> (Lane, String) {
    let elsewhere = workers.iter().any(|worker| !same_machine(&worker.url, inner.own.as_ref()));
    let (config, bytes) = (&inner.config, ByteSize(scanned_bytes(plan)));
    let durable = if write { config.durable_write_bytes_min } else { config.durable_bytes_min };
    let what = if write { "a write" } else { "a read" };
    if workers.len() < 2 {
        (Lane::Local, format!("{} live workers, two are needed to share work", workers.len()))
    } else if !elsewhere {
        (Lane::Local, "every worker is on this machine, whose cores would do the same work".to_owned())
    } else if bytes < config.pipelined_bytes_min {
        (Lane::Local, format!("{bytes} to scan, less than {}", config.pipelined_bytes_min))
    } else if bytes >= durable {
        (Lane::Durable, format!("{what} that scans {bytes}, at least {durable}"))
    } else {
        (Lane::Pipelined, format!("{what} that scans {bytes}, less than {durable}"))
    }
}

/// The plan in stages for the durable lane.
pub(super) async fn durable_plan(lanes: &Lanes, job: &Job, workers: &[NodeInfo]) -> Result<Shaped> {
    let inner = &lanes.0;
    if workers.is_empty() {
        return Err(Error::unavailable("no worker is alive")
            .hint("start workers with `skep worker`, or SET skep.execution = local"));
    }
    let engine = lanes.durable().await?;
    engine.await_workers().await?;
    let shaped = durable::shape(job, workers, engine.slots()).await?;
    Ok(match shaped {
        Shaped::Durable(planned) if inner.own.is_none() && reads_own_files(planned.plan()) => {
            Shaped::Whole("it reads files of the coordinator, which runs no tasks".to_owned())
        }
        shaped => shaped,
    })
}

fn same_machine(worker: &Url, own: Option<&Url>) -> bool {
    let loopback = match worker.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    loopback || own.is_some_and(|own| own.host() == worker.host())
}

/// The plan in stages over `workers`, checked.
pub(super) async fn staged(
    inner: &Inner,
    job: &Job,
    workers: Vec<NodeInfo>,
    ran: &Ran,
    metrics: bool,
) -> Result<Staging> {
    if workers.is_empty() {
        return Err(Error::unavailable("no worker is alive")
            .hint("start workers with `skep worker`, or SET skep.execution = local"));
    }
    let parallel = parallel_state(job);
    let plan = parallel.create_physical_plan(&job.logical).await.map_err(|e| from_datafusion(&e))?;
    if let Some(reason) = undistributable(&plan) {
        return Ok(Staging::Whole(reason));
    }
    if inner.own.is_none() && reads_own_files(&plan) {
        return Ok(Staging::Whole("it reads files of the coordinator, which serves no tasks".to_owned()));
    }
    let count = workers.len();
    let plan = without_empty(plan).map_err(|e| from_datafusion(&e))?;
    let plan = free_unions(plan, count, partitions(&parallel).get()).and_then(keep_known);
    let plan = plan.map_err(|e| from_datafusion(&e))?;
    // A write whose rows nothing spreads, such as those of a file that one node has, gets an exchange to spread them.
    for deal in [false, true] {
        let plan = with_write(Arc::clone(&plan), job.write.as_ref(), count, partitions(&parallel), deal)?;
        let state = staging_state(inner, job, parallel.clone(), plan, workers.clone(), ran, metrics)
            .map_err(|e| from_datafusion(&e))?;
        let planner = Arc::clone(state.query_planner());
        let plan =
            planner.create_physical_plan(&job.logical, &state).await.map_err(|e| from_datafusion(&e))?;
        if plan.is::<DistributedExec>() {
            let plan = guard_stages(plan).and_then(yielding).map_err(|e| from_datafusion(&e))?;
            validate(&plan)?;
            return Ok(Staging::Staged(Planned { plan, context: state.task_ctx() }));
        }
        if job.write.is_none() || count == 1 {
            break;
        }
    }
    Ok(Staging::Whole("nothing in it can be shared between tasks".to_owned()))
}

fn reads_own_files(plan: &Arc<dyn ExecutionPlan>) -> bool {
    file_scan(plan).is_some_and(on_coordinator) || plan.children().into_iter().any(reads_own_files)
}

/// The session with options for plans that are cut into stages.
fn parallel_state(job: &Job) -> SessionState {
    let mut builder = SessionStateBuilder::new_from_existing(job.state.clone());
    let partitions = partitions(&job.state).max(PARTITIONS_MIN);
    let config = builder.config().get_or_insert_default();
    let options = config.options_mut();
    options.execution.target_partitions = partitions.get();
    options.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
    let mut rules: Vec<_> = vec![Arc::new(SplitScans) as _];
    rules.extend(job.state.physical_optimizers().iter().map(Arc::clone));
    builder.with_physical_optimizer_rules(rules).build()
}

fn staging_state(
    inner: &Inner,
    job: &Job,
    parallel: SessionState,
    plan: Arc<dyn ExecutionPlan>,
    workers: Vec<NodeInfo>,
    ran: &Ran,
    metrics: bool,
) -> datafusion::error::Result<SessionState> {
    let travel = Travel::of(parallel.config(), job.query);
    let shared = Workers(Arc::new(workers.clone()));
    let router = Router { workers: shared.clone(), own: inner.own.clone(), ran: ran.clone() };
    let mut builder = SessionStateBuilder::new_from_existing(parallel)
        .with_query_planner(Arc::new(Ready(plan)))
        .with_distributed_planner()
        .with_distributed_worker_resolver(shared)
        .with_distributed_channel_resolver(inner.channels.clone())
        .with_distributed_user_codec(inner.codec.clone())
        .with_distributed_option_extension(travel)
        .with_distributed_desired_task_count_handler(TaskCounts { workers: workers.len() })
        .with_distributed_scale_up_leaf_node_handler(Spreader { workers })
        .with_distributed_route_tasks_handler(router);
    let config = builder.config().get_or_insert_default();
    let distributed = DistributedConfig::from_config_options_mut(config.options_mut())?;
    distributed.collect_metrics = metrics;
    distributed.children_isolator_unions = false;
    Ok(builder.build())
}

/// A planner that has planned already: what datafusion-distributed is handed to cut into stages.
#[derive(Debug)]
struct Ready(Arc<dyn ExecutionPlan>);

#[async_trait]
impl QueryPlanner for Ready {
    async fn create_physical_plan(
        &self,
        _: &LogicalPlan,
        _: &dyn Session,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::clone(&self.0))
    }
}
