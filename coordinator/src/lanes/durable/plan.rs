//! Plans that Ballista can cut into stages.

use std::num::NonZeroUsize;
use std::sync::Arc;

use ballista_core::extension::SessionConfigExt;
use ballista_scheduler::planner::{DefaultDistributedPlanner, DistributedPlanner};
use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::JoinType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::Volatility;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use skep_cluster::failure::from_datafusion;
use skep_cluster::settings::Travel;
use skep_common::Result;
use skep_engine::Replicas;
use skep_engine::known::keep_known;
use skep_engine::write::{Spread, WriteExec, WriteTarget, plan_write};
use skep_store::NodeInfo;

use super::joins::SpillingJoins;
use crate::lanes::Job;
use crate::lanes::leaf::{divisible, file_scan, range, unsigned};
use crate::lanes::shape::{SplitScans, undistributable, with_children};
use crate::lanes::split::{Piece, deal};

/// A plan for the durable lane, or why there is none.
pub(in crate::lanes) enum Shaped {
    Durable(Box<Durable>),
    Whole(String),
}

/// A plan that Ballista can cut into stages.
pub(in crate::lanes) struct Durable {
    pub(super) plan: Arc<dyn ExecutionPlan>,
    pub(super) state: SessionState,
    /// Partitions of the plan above the last stage.
    pub(super) parts: usize,
    /// Whether its rows depend on how it runs.
    pub(super) indeterminate: bool,
}

impl Durable {
    pub(in crate::lanes) fn plan(&self) -> &Arc<dyn ExecutionPlan> {
        &self.plan
    }
}

/// The plan of `job` for `slots` slots on `workers`.
///
/// # Errors
/// Those of planning.
pub(in crate::lanes) async fn shape(job: &Job, workers: &[NodeInfo], slots: usize) -> Result<Shaped> {
    let state = durable_state(job, slots);
    let plan = state.create_physical_plan(&job.logical).await.map_err(|e| from_datafusion(&e))?;
    if let Some(reason) = undistributable(&plan) {
        return Ok(Shaped::Whole(reason));
    }
    let indeterminate = indeterminate(&plan).map_err(|e| from_datafusion(&e))?;
    let plan = near(plan, workers).and_then(whole_probes).and_then(apart).and_then(keep_known);
    let plan = plan.map_err(|e| from_datafusion(&e))?;
    let plan = match &job.write {
        Some(target) => with_write(plan, target, slots)?,
        None => plan,
    };
    // What brings the parts of the result together is whoever reads them.
    let plan = match plan.downcast_ref::<CoalescePartitionsExec>() {
        Some(all) if all.fetch().is_none() => Arc::clone(all.input()),
        _ => plan,
    };
    let parts = plan.output_partitioning().partition_count();
    Ok(Shaped::Durable(Box::new(Durable { plan, state, parts, indeterminate })))
}

/// The session with options for plans whose stages run apart from each other.
fn durable_state(job: &Job, slots: usize) -> SessionState {
    let mut builder = SessionStateBuilder::new_from_existing(job.state.clone());
    let mut rules: Vec<_> = vec![Arc::new(SplitScans) as _];
    for rule in job.state.physical_optimizers() {
        rules.push(Arc::clone(rule));
        if rule.name() == "join_selection" {
            rules.push(Arc::new(SpillingJoins));
        }
    }
    let config = builder.config().get_or_insert_default();
    let by_hash = config.options().optimizer.prefer_hash_join;
    // Filters that are not passed between stages, subqueries as joins: what Ballista asks for.
    let mut durable = config
        .clone()
        .upgrade_for_ballista()
        .with_ballista_adaptive_query_planner(false)
        .set_bool("datafusion.optimizer.prefer_hash_join", by_hash)
        .set_bool("datafusion.optimizer.enable_physical_uncorrelated_scalar_subquery", false)
        .set_bool("datafusion.optimizer.enable_dynamic_filter_pushdown", false)
        .set_bool("datafusion.execution.parquet.schema_force_view_types", false)
        .set_bool("datafusion.optimizer.enable_round_robin_repartition", false);
    durable.options_mut().execution.target_partitions = config.target_partitions().max(slots).max(2);
    let travel = Travel::of(&durable, job.query);
    *config = durable.with_option_extension(travel);
    builder.with_physical_optimizer_rules(rules).build()
}

/// Writes with as many writers as parts of their input: each task gets one part and is a writer.
fn with_write(
    plan: Arc<dyn ExecutionPlan>,
    target: &WriteTarget,
    slots: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let target = Arc::new(target.clone());
    let spread = Spread {
        tasks: NonZeroUsize::MIN,
        partitions: NonZeroUsize::new(slots).unwrap_or(NonZeroUsize::MIN),
        deal: false,
    };
    let plan = plan_write(plan, Arc::clone(&target), spread)?;
    let Some(write) = plan.downcast_ref::<WriteExec>() else { return Ok(plan) };
    let Some(&input) = plan.children().first() else { return Ok(plan) };
    let parts = input.output_partitioning().partition_count();
    if write.writers() == parts {
        return Ok(plan);
    }
    if write.writers() == 1 {
        let input = Arc::new(CoalescePartitionsExec::new(Arc::clone(input)));
        return Ok(Arc::new(WriteExec::new(input, target, NonZeroUsize::MIN)));
    }
    let writers = NonZeroUsize::new(parts).unwrap_or(NonZeroUsize::MIN);
    Ok(Arc::new(WriteExec::new(Arc::clone(input), target, writers)))
}

/// Deals the files of every scan to its partitions again, so that each has files of one worker: partition `i` those of
/// worker `i`, counted around.
fn near(
    plan: Arc<dyn ExecutionPlan>,
    workers: &[NodeInfo],
) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
    if workers.is_empty() {
        return Ok(plan);
    }
    let dealt = plan.transform_up(|node| {
        let Some(scan) = file_scan(&node) else { return Ok(Transformed::no(node)) };
        let arranged =
            !scan.output_ordering.is_empty() || scan.output_partitioning.is_some() || scan.preserve_order;
        let parts = scan.file_groups.len();
        let all: Vec<&PartitionedFile> = scan.file_groups.iter().flat_map(FileGroup::iter).collect();
        let held = all.iter().any(|file| file.extensions.get::<Replicas>().is_some_and(|r| !r.0.is_empty()));
        if arranged || !held || parts < 2 {
            return Ok(Transformed::no(node));
        }
        let divisible = divisible(scan);
        let pieces = all.iter().enumerate().map(|(file, known)| {
            let (start, end) = match &known.range {
                Some(range) => (unsigned(range.start), unsigned(range.end)),
                None => (0, known.object_meta.size),
            };
            let replicas = known.extensions.get::<Replicas>();
            let holds = |part: &usize| {
                let worker = &workers[part % workers.len()].id;
                replicas.is_some_and(|replicas| replicas.0.contains(worker))
            };
            Piece { file, start, end, holders: (0..parts).filter(holds).collect(), divisible }
        });
        let groups = deal(pieces.collect(), parts).into_iter().map(|pieces| {
            let files = pieces.iter().map(|piece| {
                let mut file = all[piece.file].clone();
                if file.range.is_some() || piece.start != 0 || piece.end != file.object_meta.size {
                    file.range = Some(range(piece));
                }
                file
            });
            FileGroup::new(files.collect())
        });
        let scan = FileScanConfigBuilder::from(scan.clone()).with_file_groups(groups.collect()).build();
        Ok(Transformed::yes(DataSourceExec::from_data_source(scan) as _))
    });
    Ok(dealt?.data)
}

/// Brings the probe side together of joins that give rows of their collected side by what *all* of the probe side matched: in
/// several tasks each would give them, by what its own part matched.
fn whole_probes(plan: Arc<dyn ExecutionPlan>) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
    let whole = plan.transform_up(|node| {
        let collected = if let Some(join) = node.downcast_ref::<HashJoinExec>() {
            (*join.partition_mode() == PartitionMode::CollectLeft).then(|| *join.join_type())
        } else {
            node.downcast_ref::<NestedLoopJoinExec>().map(|join| *join.join_type())
        };
        let gives_left = collected.is_some_and(|kind| {
            matches!(
                kind,
                JoinType::Left
                    | JoinType::Full
                    | JoinType::LeftSemi
                    | JoinType::LeftAnti
                    | JoinType::LeftMark
            )
        });
        let &[left, right] = node.children().as_slice() else { return Ok(Transformed::no(node)) };
        if !gives_left || right.output_partitioning().partition_count() == 1 {
            return Ok(Transformed::no(node));
        }
        // A limit without a number, because it says that it needs all rows in one place: Ballista takes away what brings rows
        // together where nothing says so.
        let right = Arc::new(CoalescePartitionsExec::new(Arc::clone(right)));
        let right = Arc::new(GlobalLimitExec::new(right, 0, None));
        let children = vec![Arc::clone(left), right as _];
        Ok(Transformed::yes(with_children(node, children)?))
    });
    Ok(whole?.data)
}

/// Gives every branch of a union that is one partition of a join a stage of its own: Ballista may swap the sides of such a join when
/// the stage begins, after which the branch has a partition in every task of the union.
fn apart(plan: Arc<dyn ExecutionPlan>) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
    fn joins(plan: &Arc<dyn ExecutionPlan>) -> bool {
        plan.is::<NestedLoopJoinExec>()
            || plan.is::<CrossJoinExec>()
            || plan.is::<HashJoinExec>()
            || plan.children().into_iter().any(joins)
    }
    let apart = plan.transform_up(|node| {
        if !node.is::<UnionExec>() {
            return Ok(Transformed::no(node));
        }
        let whole = |child: &Arc<dyn ExecutionPlan>| -> Arc<dyn ExecutionPlan> {
            if child.output_partitioning().partition_count() == 1 && joins(child) {
                Arc::new(GlobalLimitExec::new(Arc::clone(child), 0, None))
            } else {
                Arc::clone(child)
            }
        };
        let children = node.children().into_iter().map(whole).collect();
        Ok(Transformed::yes(with_children(node, children)?))
    });
    Ok(apart?.data)
}

/// Whether `plan` counts rows in a way that Ballista may answer from the counts of outputs, which count an output that was made
/// twice twice: an aggregate of everything that gets its rows from one partition.
fn counted(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let Some(aggregate) = plan.downcast_ref::<AggregateExec>() else { return false };
    let last = matches!(aggregate.mode(), AggregateMode::Single | AggregateMode::Final);
    if !last || !aggregate.group_expr().is_empty() {
        return false;
    }
    let mut next = Arc::clone(aggregate.input());
    loop {
        let cut = next.is::<CoalescePartitionsExec>()
            || next.is::<SortPreservingMergeExec>()
            || next.is::<RepartitionExec>();
        match next.children().as_slice() {
            [only] if !cut => next = Arc::clone(only),
            _ => return !cut,
        }
    }
}

/// Whether a part of `plan` that runs twice may give other rows: functions that are volatile, limits that take the rows that come
/// first, windows whose order leaves ties, counts that may be taken from statistics.
fn indeterminate(plan: &Arc<dyn ExecutionPlan>) -> datafusion::common::Result<bool> {
    let mut found = false;
    plan.apply(|node| {
        found |= counted(node)
            || node.fetch().is_some()
            || node.is::<GlobalLimitExec>()
            || node.is::<LocalLimitExec>()
            || node.is::<WindowAggExec>()
            || node.is::<BoundedWindowAggExec>();
        node.apply_expressions(&mut |expr| {
            found |= volatile(expr);
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

fn volatile(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let own = expr
        .downcast_ref::<ScalarFunctionExpr>()
        .is_some_and(|call| call.fun().signature().volatility == Volatility::Volatile);
    own || expr.children().into_iter().any(volatile)
}

/// A stage as it would run.
pub(in crate::lanes) struct Planned {
    pub(in crate::lanes) number: usize,
    pub(in crate::lanes) tasks: usize,
    pub(in crate::lanes) plan: Arc<dyn ExecutionPlan>,
}

/// The stages of a plan, the first to run first.
///
/// # Errors
/// Those of cutting it.
pub(in crate::lanes) fn stages(durable: &Durable) -> Result<Vec<Planned>> {
    let mut planner = DefaultDistributedPlanner::new();
    let options = durable.state.config().options();
    let cut = planner.plan_query_stages(&"explain".into(), Arc::clone(&durable.plan), options);
    let cut = cut.map_err(|e| {
        skep_common::Error::internal("a plan cannot be cut into stages").source(e.to_string())
    })?;
    Ok(cut
        .into_iter()
        .map(|writer| Planned {
            number: writer.stage_id(),
            tasks: writer.children().first().map_or(1, |input| input.output_partitioning().partition_count()),
            plan: writer as Arc<dyn ExecutionPlan>,
        })
        .collect())
}
