//! Sends each task to a worker.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_distributed::{
    DistributedLeafExec, NetworkBoundaryExt, RouteTasksEvent, RouteTasksEventResponse, RouteTasksHandler,
    WorkerResolver,
};
use skep_cluster::failure::to_datafusion;
use skep_common::{Error, NodeId};
use skep_store::NodeInfo;
use url::Url;

use super::Ran;
use super::leaf::{file_scan, held_bytes, on_coordinator};
use super::locality::reads;

/// The workers of one attempt, in a fixed order. Planning counts them, routing sends to them.
#[derive(Debug, Clone)]
pub(super) struct Workers(pub(super) Arc<Vec<NodeInfo>>);

impl WorkerResolver for Workers {
    fn get_urls(&self) -> Result<Vec<Url>> {
        Ok(self.0.iter().map(|worker| worker.url.clone()).collect())
    }
}

/// Where one task goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// To the worker of this position.
    Worker(usize),
    /// To the coordinator's own service.
    Coordinator,
}

/// Chooses a place for each task of the stage under `head`: where most of its bytes are, at most one task on a worker while
/// there are as many workers as tasks.
pub(super) fn places(
    head: &Arc<dyn ExecutionPlan>,
    tasks: usize,
    workers: &[NodeInfo],
    stage: usize,
) -> Vec<Place> {
    let mut held: Vec<HashMap<NodeId, u64>> = vec![HashMap::new(); tasks];
    let mut pinned = false;
    visit(head, &mut |plan| {
        if let Some(scan) = file_scan(plan) {
            pinned |= on_coordinator(scan);
            if let [only] = held.as_mut_slice() {
                add(only, held_bytes(scan));
            }
        }
        if let Some(leaf) = plan.downcast_ref::<DistributedLeafExec>() {
            pinned |= file_scan(leaf.original()).is_some_and(on_coordinator);
            for (held, variant) in held.iter_mut().zip(leaf.variants()) {
                add(held, file_scan(variant).map(held_bytes).unwrap_or_default());
            }
        }
    });
    if pinned {
        return vec![Place::Coordinator; tasks];
    }
    if workers.is_empty() {
        return vec![Place::Coordinator; tasks];
    }
    let mut chosen: Vec<Option<usize>> = vec![None; tasks];
    let mut taken: HashSet<usize> = HashSet::new();
    let mut wishes: Vec<(u64, usize, usize)> = Vec::new();
    for (task, held) in held.iter().enumerate() {
        for (position, worker) in workers.iter().enumerate() {
            if let Some(bytes) = held.get(&worker.id).filter(|bytes| **bytes > 0) {
                wishes.push((*bytes, task, position));
            }
        }
    }
    let preferred = |task: usize, position: usize| usize::from(task != position);
    wishes.sort_by_key(|&(bytes, task, at)| (std::cmp::Reverse(bytes), preferred(task, at), task, at));
    let one_each = tasks <= workers.len();
    for (_, task, position) in wishes {
        if chosen[task].is_none() && (!one_each || !taken.contains(&position)) {
            chosen[task] = Some(position);
            taken.insert(position);
        }
    }
    // Tasks without bytes of their own: each its own worker, single ones a different one in each stage.
    let offset = if tasks < workers.len() { stage } else { 0 };
    (0..tasks)
        .map(|task| {
            let own = chosen[task].unwrap_or_else(|| {
                let ring = (0..workers.len()).map(|step| (task + offset + step) % workers.len());
                let free = ring.clone().find(|position| !taken.contains(position));
                let position = free.unwrap_or((task + offset) % workers.len());
                taken.insert(position);
                position
            });
            Place::Worker(own)
        })
        .collect()
}

fn add(to: &mut HashMap<NodeId, u64>, more: HashMap<NodeId, u64>) {
    for (node, bytes) in more {
        *to.entry(node).or_default() += bytes;
    }
}

/// The nodes of one stage: down to the boundaries of the stages that feed it.
pub(super) fn visit(head: &Arc<dyn ExecutionPlan>, see: &mut dyn FnMut(&Arc<dyn ExecutionPlan>)) {
    // The closure never fails.
    let _ = head.apply(|plan| {
        if plan.is_network_boundary() {
            return Ok(TreeNodeRecursion::Jump);
        }
        see(plan);
        Ok(TreeNodeRecursion::Continue)
    });
}

/// Routes the tasks of one attempt, and keeps a record.
pub(super) struct Router {
    pub(super) workers: Workers,
    pub(super) own: Option<Url>,
    pub(super) ran: Ran,
}

impl RouteTasksHandler for Router {
    fn handle(&self, event: RouteTasksEvent) -> Option<Result<RouteTasksEventResponse>> {
        Some(self.route(event.plan, event.task_count).map(RouteTasksEventResponse::new))
    }
}

impl Router {
    fn route(&self, head: &Arc<dyn ExecutionPlan>, tasks: usize) -> Result<Vec<Url>> {
        // The event does not say which stage it is. They come in the order of their numbers.
        let stage = self.ran.stages().len() + 1;
        let places = places(head, tasks, &self.workers.0, stage);
        let (mut urls, mut nodes) = (Vec::with_capacity(tasks), Vec::with_capacity(tasks));
        for place in places {
            match place {
                Place::Worker(position) => {
                    let worker = &self.workers.0[position];
                    urls.push(worker.url.clone());
                    nodes.push(Some(worker.id.clone()));
                }
                Place::Coordinator => {
                    let own = self.own.clone().ok_or_else(|| {
                        to_datafusion(Error::internal(
                            "a task has to run on the coordinator, which serves none",
                        ))
                    })?;
                    urls.push(own);
                    nodes.push(None);
                }
            }
        }
        self.ran.reads_of(stage, reads(head, &nodes));
        self.ran.routed(stage, nodes);
        Ok(urls)
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::catalog::memory::DataSourceExec;
    use datafusion::datasource::listing::PartitionedFile;
    use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
    use datafusion::execution::object_store::ObjectStoreUrl;
    use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
    use skep_engine::{OnCoordinator, Replicas};

    use super::*;
    use crate::lanes::leaf::{Spreader, scan_tasks};

    fn workers(count: usize) -> Vec<NodeInfo> {
        let worker = |i| NodeInfo {
            id: NodeId::new(format!("w{i}")).unwrap(),
            zone: None,
            url: format!("http://127.0.0.1:{}", 4000 + i).parse().unwrap(),
            free: 0,
        };
        (1..=count).map(worker).collect()
    }

    fn scan(files: Vec<PartitionedFile>) -> Arc<dyn ExecutionPlan> {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let source = Arc::new(ParquetSource::new(schema));
        let store = ObjectStoreUrl::local_filesystem();
        let groups = vec![FileGroup::new(files)];
        DataSourceExec::from_data_source(
            FileScanConfigBuilder::new(store, source).with_file_groups(groups).build(),
        )
    }

    fn held(name: &str, bytes: u64, by: &[usize]) -> PartitionedFile {
        let nodes = by.iter().map(|i| NodeId::new(format!("w{i}")).unwrap()).collect();
        PartitionedFile::new(name, bytes).with_extension(Replicas(nodes))
    }

    fn spread(leaf: &Arc<dyn ExecutionPlan>, workers: &[NodeInfo]) -> Arc<dyn ExecutionPlan> {
        let spreader = Spreader { workers: workers.to_vec() };
        let variants = spreader.variants(file_scan(leaf).unwrap(), workers.len(), 2);
        let leaf = DistributedLeafExec::try_new(Arc::clone(leaf), variants).unwrap();
        Arc::new(CoalescePartitionsExec::new(Arc::new(leaf)))
    }

    #[test]
    fn tasks_go_to_the_holders_of_their_files() {
        let workers = workers(3);
        let files = vec![
            held("a", 100, &[3]),
            held("b", 100, &[2, 3]),
            held("c", 100, &[1]),
            held("d", 100, &[1, 2]),
            held("e", 100, &[2]),
            held("f", 100, &[3, 1]),
        ];
        let head = spread(&scan(files), &workers);
        let places = places(&head, 3, &workers, 1);
        assert_eq!(places, [Place::Worker(0), Place::Worker(1), Place::Worker(2)]);
        let leaf = head.children()[0].downcast_ref::<DistributedLeafExec>().unwrap();
        for (variant, worker) in leaf.variants().iter().zip(&workers) {
            let held = held_bytes(file_scan(variant).unwrap());
            assert_eq!(held[&worker.id], 200, "both files of a task are at its worker");
        }
    }

    #[test]
    fn a_single_task_goes_where_most_bytes_are() {
        let workers = workers(3);
        let leaf = scan(vec![held("a", 10, &[1]), held("b", 100, &[3]), held("c", 30, &[2])]);
        assert_eq!(places(&leaf, 1, &workers, 1), [Place::Worker(2)]);
    }

    #[test]
    fn tasks_without_hints_go_to_different_workers() {
        let workers = workers(4);
        let head =
            spread(&scan((0..8).map(|i| PartitionedFile::new(format!("{i}"), 10)).collect()), &workers);
        for (stage, tasks) in [(1, 4), (2, 3), (3, 2), (4, 1)] {
            let mut chosen = places(&head, tasks, &workers, stage);
            chosen.sort_by_key(|place| format!("{place:?}"));
            chosen.dedup();
            assert_eq!(chosen.len(), tasks, "stage {stage}");
        }
        let more = places(&head, 8, &workers, 1);
        assert!((0..4).all(|i| more.iter().filter(|p| **p == Place::Worker(i)).count() == 2), "{more:?}");
    }

    #[test]
    fn files_of_the_coordinator_stay_there() {
        let workers = workers(3);
        let leaf =
            scan(vec![PartitionedFile::new("a", 100).with_extension(OnCoordinator), held("b", 900, &[2])]);
        assert_eq!(scan_tasks(&leaf, file_scan(&leaf).unwrap(), 3), 1);
        assert_eq!(places(&leaf, 1, &workers, 1), [Place::Coordinator]);
    }
}
