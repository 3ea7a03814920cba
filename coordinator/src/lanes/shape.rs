//! Rewrites of single-node plans that let stages spread. Each keeps the plan valid on one node, with the same rows.

use std::sync::Arc;

use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, Partitioning, ReplaceChildrenOptions,
};
use datafusion_distributed::{BroadcastExec, DistributedExec, NetworkBoundaryExt};
use skep_engine::guard::GuardExec;

use super::leaf::{divisible, file_scan, files, needs_one_task, range, scan_tasks, unsigned};
use super::split::{Piece, groups};

/// Reads every scan in as many partitions as a plan has, before DataFusion decides what to do in parallel.
///
/// DataFusion leaves small files whole and plans for one partition what it gets in one, which then cannot be spread.
#[derive(Debug)]
pub(super) struct SplitScans;

impl PhysicalOptimizerRule for SplitScans {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let partitions = config.execution.target_partitions;
        let split = plan.transform_up(|node| {
            Ok(match split_scan(&node, partitions) {
                Some(split) => Transformed::yes(split),
                None => Transformed::no(node),
            })
        });
        Ok(split?.data)
    }

    fn name(&self) -> &str {
        "split_scans"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn split_scan(plan: &Arc<dyn ExecutionPlan>, partitions: usize) -> Option<Arc<dyn ExecutionPlan>> {
    let scan = file_scan(plan)?;
    let arranged =
        !scan.output_ordering.is_empty() || scan.output_partitioning.is_some() || scan.preserve_order;
    if arranged || scan.file_groups.len() >= partitions {
        return None;
    }
    let all: Vec<_> = files(scan).collect();
    if all.is_empty() || (all.len() == 1 && !divisible(scan)) {
        return None;
    }
    let divisible = divisible(scan);
    let pieces = all.iter().enumerate().map(|(index, file)| {
        let (start, end) = match &file.range {
            Some(range) => (unsigned(range.start), unsigned(range.end)),
            None => (0, file.object_meta.size),
        };
        Piece { file: index, start, end, holders: Vec::new(), divisible }
    });
    let split = groups(pieces.collect(), partitions).into_iter().map(|group| {
        let cut = group.iter().map(|piece| {
            let mut file = all[piece.file].clone();
            if file.range.is_some() || piece.start != 0 || piece.end != file.object_meta.size {
                file.range = Some(range(piece));
            }
            file
        });
        FileGroup::new(cut.collect())
    });
    let scan = FileScanConfigBuilder::from(scan.clone()).with_file_groups(split.collect()).build();
    Some(DataSourceExec::from_data_source(scan))
}

/// Why the plan cannot be cut into stages, if it cannot.
pub(super) fn undistributable(plan: &Arc<dyn ExecutionPlan>) -> Option<String> {
    if ["RecursiveQueryExec", "WorkTableExec"].contains(&plan.name()) {
        return Some("a recursive query runs in one place".to_owned());
    }
    if plan.children().is_empty() {
        let memory = plan
            .downcast_ref::<DataSourceExec>()
            .is_some_and(|source| source.data_source().is::<MemorySourceConfig>());
        let known =
            memory || file_scan(plan).is_some() || plan.is::<EmptyExec>() || plan.is::<PlaceholderRowExec>();
        return (!known).then(|| format!("{} reads what only the coordinator has", plan.name()));
    }
    plan.children().into_iter().find_map(undistributable)
}

/// Puts no rows in the place of what makes none of no rows: every task has them, which above a scan looks like copies.
pub(super) fn without_empty(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let done = plan.transform_up(|node| {
        let passes = node.is::<FilterExec>()
            || node.is::<ProjectionExec>()
            || node.is::<HashJoinExec>()
            || node.is::<NestedLoopJoinExec>()
            || node.is::<CrossJoinExec>()
            || node
                .downcast_ref::<RepartitionExec>()
                .is_some_and(|node| matches!(node.partitioning(), Partitioning::RoundRobinBatch(_)));
        if !passes || !node.children().iter().all(|child| child.is::<EmptyExec>()) {
            return Ok(Transformed::no(node));
        }
        let partitions = node.output_partitioning().partition_count();
        Ok(Transformed::yes(Arc::new(EmptyExec::new(node.schema()).with_partitions(partitions)) as _))
    });
    Ok(done?.data)
}

/// Gives the inputs of a union that fit one task only an exchange of their own, so that the others can spread.
pub(super) fn free_unions(
    plan: Arc<dyn ExecutionPlan>,
    workers: usize,
    partitions: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let freed = plan.transform_up(|node| {
        if !node.is::<UnionExec>() {
            return Ok(Transformed::no(node));
        }
        let bound: Vec<bool> = node.children().iter().map(|child| one_task(child, workers)).collect();
        let sorted = node.children().iter().any(|child| child.output_ordering().is_some());
        if sorted || !bound.contains(&true) || !bound.contains(&false) {
            return Ok(Transformed::no(node));
        }
        let children = node.children().into_iter().zip(bound).map(|(child, bound)| {
            if bound { exchange(Arc::clone(child), partitions) } else { Ok(Arc::clone(child)) }
        });
        let children = children.collect::<Result<Vec<_>>>()?;
        Ok(Transformed::yes(with_children(node, children)?))
    });
    Ok(freed?.data)
}

/// Whether the stage that `plan` is in fits one task only.
fn one_task(plan: &Arc<dyn ExecutionPlan>, workers: usize) -> bool {
    if let Some(scan) = file_scan(plan) {
        return scan_tasks(plan, scan, workers) <= 1;
    }
    if plan.is::<EmptyExec>() {
        return false;
    }
    if plan.children().is_empty() || needs_one_task(plan) {
        return true;
    }
    let cut = plan.is::<CoalescePartitionsExec>() || plan.is::<SortPreservingMergeExec>();
    if cut {
        return true;
    }
    let shuffle = plan
        .downcast_ref::<RepartitionExec>()
        .is_some_and(|repartition| matches!(repartition.partitioning(), Partitioning::Hash(..)));
    !shuffle && plan.children().into_iter().any(|child| one_task(child, workers))
}

fn exchange(input: Arc<dyn ExecutionPlan>, partitions: usize) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = input.schema();
    let keys = schema.fields().iter().enumerate().filter(|(_, field)| !field.data_type().is_nested());
    let keys: Vec<Arc<dyn PhysicalExpr>> =
        keys.take(4).map(|(i, field)| Arc::new(Column::new(field.name(), i)) as _).collect();
    if keys.is_empty() {
        return Ok(input);
    }
    Ok(Arc::new(RepartitionExec::try_new(input, Partitioning::Hash(keys, partitions))?))
}

pub(super) fn with_children(
    node: Arc<dyn ExecutionPlan>,
    children: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    node.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// Puts a guard below the head of every stage that drives its input in tasks of its own.
pub(super) fn guard_stages(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    if !plan.is::<DistributedExec>() {
        return Ok(plan);
    }
    let guarded = plan.transform_up(|node| {
        if !node.is_network_boundary() {
            return Ok(Transformed::no(node));
        }
        let Some(head) = node.children().into_iter().next().map(Arc::clone) else {
            return Ok(Transformed::no(node));
        };
        if !head.is::<BroadcastExec>() && !head.is::<RepartitionExec>() {
            return Ok(Transformed::no(node));
        }
        let input = Arc::clone(head.children()[0]);
        let head = with_children(head, vec![Arc::new(GuardExec::new(input))])?;
        Ok(Transformed::yes(with_children(node, vec![head])?))
    });
    Ok(guarded?.data)
}
