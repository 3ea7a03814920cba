//! How much of what plans read was read.
//!
//! # Not here
//! Adding it up for a statement and over workers (`skep-coordinator`'s queries).

use std::fmt;
use std::sync::Arc;

use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

/// A scan of files in a plan that runs, and how much there is to read.
pub struct Scan {
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

/// The scans of files in `plan`.
///
/// # Errors
/// Those of walking it.
pub fn scans(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<Scan>> {
    let mut scans = Vec::new();
    plan.apply(|node| {
        scans.extend(Scan::of(node));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(scans)
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

    /// Bytes that there are to read.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of them that were read: those of whole files, or by rows where their number is known.
    pub fn read(&self) -> f64 {
        let Some(metrics) = self.plan.metrics() else { return 0.0 };
        let share = |done: usize, of: usize| if of == 0 { 1.0 } else { done as f64 / of as f64 };
        let files = metrics.sum_by_name("files_processed").map_or(0, |value| value.as_usize());
        let rows = self.rows.map_or(0.0, |rows| share(metrics.output_rows().unwrap_or(0), rows));
        share(files, self.files).max(rows).clamp(0.0, 1.0) * self.bytes as f64
    }
}
