//! What is seen of one plan while it runs: its scans in the coordinator, and what arrives from tasks on workers.
//!
//! The plan is made inside a lane, and made again where the lane changes. A rule at the end of the physical optimizer sees
//! each, and the last one is the one that runs.

use std::fmt;
use std::sync::Arc;

use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use parking_lot::Mutex;
use skep_cluster::exchange::Arrivals;

/// What is seen of one plan.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    scans: Mutex<Vec<Scan>>,
    pub(crate) arrivals: Arc<Arrivals>,
}

/// A scan of files, and how much there is to read.
struct Scan {
    plan: Arc<dyn ExecutionPlan>,
    bytes: u64,
    /// Files, or parts of files that are read by themselves.
    files: usize,
    rows: Option<usize>,
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan").field("bytes", &self.bytes).field("files", &self.files).finish_non_exhaustive()
    }
}

impl Scan {
    fn of(plan: &Arc<dyn ExecutionPlan>) -> Option<Self> {
        let source = plan.downcast_ref::<DataSourceExec>()?.data_source();
        let scan = source.downcast_ref::<FileScanConfig>()?;
        let files = || scan.file_groups.iter().flat_map(|group| group.iter());
        let known = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new());
        let rows = match known.ok()?.num_rows {
            Precision::Exact(rows) | Precision::Inexact(rows) => Some(rows),
            Precision::Absent => None,
        };
        let bytes = files().map(|file| file.effective_size()).sum();
        Some(Self { plan: Arc::clone(plan), bytes, files: files().count(), rows })
    }

    /// The share of it that was read: whole files, or rows where their number is known.
    fn done(&self) -> f64 {
        let Some(metrics) = self.plan.metrics() else { return 0.0 };
        let share = |done: usize, of: usize| if of == 0 { 1.0 } else { done as f64 / of as f64 };
        let files = metrics.sum_by_name("files_processed").map_or(0, |value| value.as_usize());
        let rows = self.rows.map_or(0.0, |rows| share(metrics.output_rows().unwrap_or(0), rows));
        share(files, self.files).max(rows).clamp(0.0, 1.0)
    }
}

impl Sight {
    /// The share of the scans that was read, by their bytes. `None` if the plan that runs here has none.
    pub(crate) fn scanned(&self) -> Option<f64> {
        let scans = self.scans.lock();
        let all: u64 = scans.iter().map(|scan| scan.bytes).sum();
        if all == 0 {
            return None;
        }
        Some(scans.iter().map(|scan| scan.done() * scan.bytes as f64).sum::<f64>() / all as f64)
    }
}

/// Notes the scans of each plan that is made.
#[derive(Debug)]
pub(crate) struct Observe(pub(crate) Arc<Sight>);

impl PhysicalOptimizerRule for Observe {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        let mut scans = Vec::new();
        plan.apply(|node| {
            scans.extend(Scan::of(node));
            Ok(TreeNodeRecursion::Continue)
        })?;
        *self.0.scans.lock() = scans;
        Ok(plan)
    }

    fn name(&self) -> &str {
        "observe"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
