//! How many tasks a stage gets, and what each of them reads.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::Result;
use datafusion::datasource::listing::{FileRange, PartitionedFile};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, Partitioning};
use datafusion_distributed::{
    DesiredTaskCountEvent, DesiredTaskCountEventResponse, DesiredTaskCountHandler, DistributedLeafExec,
    ScaleUpLeafNodeEvent, ScaleUpLeafNodeEventResponse, ScaleUpLeafNodeHandler,
};
use skep_common::NodeId;
use skep_engine::write::WriteExec;
use skep_engine::{OnCoordinator, Replicas};
use skep_store::NodeInfo;

use super::split::{Piece, deal, groups};

/// The file scan at a leaf.
pub(super) fn file_scan(plan: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    plan.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref::<FileScanConfig>()
}

pub(super) fn files(scan: &FileScanConfig) -> impl Iterator<Item = &PartitionedFile> {
    scan.file_groups.iter().flat_map(FileGroup::iter)
}

/// Whether only the coordinator can read the scan.
pub(super) fn on_coordinator(scan: &FileScanConfig) -> bool {
    files(scan).any(|file| file.extensions.get::<OnCoordinator>().is_some())
}

/// The bytes of the scan that each node holds.
pub(super) fn held_bytes(scan: &FileScanConfig) -> HashMap<NodeId, u64> {
    let mut held = HashMap::new();
    for file in files(scan) {
        let replicas = file.extensions.get::<Replicas>();
        for node in replicas.iter().flat_map(|replicas| &replicas.0) {
            *held.entry(node.clone()).or_default() += file.effective_size();
        }
    }
    held
}

/// Whether files of the scan may be read in byte ranges.
pub(super) fn divisible(scan: &FileScanConfig) -> bool {
    !scan.file_compression_type.is_compressed() && scan.file_source.supports_repartitioning()
}

/// Tasks that can share the scan. One for a scan whose order or limit holds for all its rows together.
pub(super) fn scan_tasks(plan: &Arc<dyn ExecutionPlan>, scan: &FileScanConfig, workers: usize) -> usize {
    let whole = scan.limit.is_some() && plan.output_partitioning().partition_count() == 1;
    let arranged =
        !scan.output_ordering.is_empty() || scan.output_partitioning.is_some() || scan.preserve_order;
    let count = files(scan).count();
    if whole || arranged || on_coordinator(scan) || count == 0 {
        1
    } else if divisible(scan) {
        workers
    } else {
        workers.min(count)
    }
}

/// Gives stages as many tasks as there are workers, unless an operator needs all rows in one place.
pub(super) struct TaskCounts {
    pub(super) workers: usize,
}

#[async_trait]
impl DesiredTaskCountHandler for TaskCounts {
    async fn handle(
        &self,
        event: DesiredTaskCountEvent<'_>,
    ) -> Option<Result<DesiredTaskCountEventResponse>> {
        let plan = event.plan;
        if needs_one_task(plan) {
            return Some(Ok(DesiredTaskCountEventResponse::maximum(1)));
        }
        if let Some(scan) = file_scan(plan) {
            return Some(Ok(match scan_tasks(plan, scan, self.workers) {
                0 | 1 => DesiredTaskCountEventResponse::maximum(1),
                tasks => DesiredTaskCountEventResponse::desired(tasks),
            }));
        }
        // What comes out of a shuffle can be shared by all, however few tasks fed it.
        let shuffled = plan.children().iter().any(|child| {
            child
                .downcast_ref::<RepartitionExec>()
                .is_some_and(|r| matches!(r.partitioning(), Partitioning::Hash(..)))
        });
        if shuffled || plan.is::<WriteExec>() {
            return Some(Ok(DesiredTaskCountEventResponse::desired(self.workers)));
        }
        // No rows are no rows in any number of tasks.
        plan.is::<EmptyExec>().then(|| Ok(DesiredTaskCountEventResponse::desired(1)))
    }
}

/// Operators that are right only with all rows in one task, and have no exchange of their own below.
///
/// datafusion-distributed knows this of collected joins only; with one partition it would give such operators to several
/// tasks. What feeds a merge is not meant: a boundary comes in between.
pub(super) fn needs_one_task(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let fed_by_merge = plan
        .children()
        .iter()
        .any(|child| child.is::<CoalescePartitionsExec>() || child.is::<SortPreservingMergeExec>());
    let shuffled = plan.children().iter().any(|child| child.is::<RepartitionExec>());
    if fed_by_merge || plan.is::<CoalescePartitionsExec>() || plan.is::<SortPreservingMergeExec>() {
        return false;
    }
    let one_partition = plan.output_partitioning().partition_count() == 1;
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        return matches!(aggregate.mode(), AggregateMode::Single | AggregateMode::Final);
    }
    if plan.is::<WindowAggExec>() || plan.is::<BoundedWindowAggExec>() {
        return one_partition && !shuffled;
    }
    if let Some(sort) = plan.downcast_ref::<SortExec>() {
        return one_partition && !sort.preserve_partitioning();
    }
    plan.is::<GlobalLimitExec>() || (one_partition && plan.fetch().is_some() && file_scan(plan).is_none())
}

/// Deals the files of a scan to its tasks, task `i` being the `i`th of `workers` where there are as many.
pub(super) struct Spreader {
    pub(super) workers: Vec<NodeInfo>,
}

impl ScaleUpLeafNodeHandler for Spreader {
    fn handle(&self, event: ScaleUpLeafNodeEvent) -> Option<Result<ScaleUpLeafNodeEventResponse>> {
        let scan = file_scan(event.plan)?;
        let variants =
            self.variants(scan, event.task_count, event.plan.output_partitioning().partition_count());
        let leaf = DistributedLeafExec::try_new(Arc::clone(event.plan), variants);
        Some(leaf.map(|leaf| ScaleUpLeafNodeEventResponse::new(Arc::new(leaf))))
    }
}

impl Spreader {
    pub(super) fn variants(
        &self,
        scan: &FileScanConfig,
        tasks: usize,
        partitions: usize,
    ) -> Vec<Arc<dyn ExecutionPlan>> {
        let variant = |groups: Vec<FileGroup>| -> Arc<dyn ExecutionPlan> {
            let scan = FileScanConfigBuilder::from(scan.clone()).with_file_groups(groups).build();
            DataSourceExec::from_data_source(scan)
        };
        if tasks <= 1 {
            return vec![variant(scan.file_groups.clone())];
        }
        let all: Vec<&PartitionedFile> = files(scan).collect();
        let divisible = divisible(scan);
        let pieces = all.iter().enumerate().map(|(index, file)| {
            let (start, end) = match &file.range {
                Some(range) => (unsigned(range.start), unsigned(range.end)),
                None => (0, file.object_meta.size),
            };
            let replicas = file.extensions.get::<Replicas>();
            let holds = |node: &NodeId| replicas.is_some_and(|replicas| replicas.0.contains(node));
            let holders = self.workers.iter().take(tasks).enumerate().filter(|(_, worker)| holds(&worker.id));
            Piece { file: index, start, end, holders: holders.map(|(i, _)| i).collect(), divisible }
        });
        let file_of = |piece: &Piece| {
            let file = all[piece.file].clone();
            let whole = file.range.is_none() && piece.start == 0 && piece.end == file.object_meta.size;
            if whole { file } else { PartitionedFile { range: Some(range(piece)), ..file } }
        };
        let dealt = deal(pieces.collect(), tasks).into_iter().map(|mine| {
            let groups = groups(mine, partitions.max(1)).into_iter();
            variant(groups.map(|group| FileGroup::new(group.iter().map(file_of).collect())).collect())
        });
        dealt.collect()
    }
}

pub(super) fn unsigned(position: i64) -> u64 {
    u64::try_from(position).unwrap_or_default()
}

pub(super) fn range(piece: &Piece) -> FileRange {
    let signed = |position: u64| i64::try_from(position).unwrap_or(i64::MAX);
    FileRange { start: signed(piece.start), end: signed(piece.end) }
}
