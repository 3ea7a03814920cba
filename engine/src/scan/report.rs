//! What scans left out, for EXPLAIN.

use std::fmt;
use std::sync::Arc;

use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::AnalyzerRule;
use parking_lot::Mutex;
use skep_common::ByteSize;

/// What one scan reads of its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanReport {
    /// The table, or the files as they were written.
    pub table: String,
    /// Its files.
    pub files_total: usize,
    /// The files that are read.
    pub files_kept: usize,
    /// The bytes of its files.
    pub bytes_total: u64,
    /// The bytes of the files that are read.
    pub bytes_kept: u64,
}

impl fmt::Display for ScanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (files, bytes) = (self.files_total - self.files_kept, self.bytes_total - self.bytes_kept);
        write!(
            f,
            "{}: {} of {} files, {} of {}; skipped {files} files, {}",
            self.table,
            self.files_kept,
            self.files_total,
            ByteSize(self.bytes_kept),
            ByteSize(self.bytes_total),
            ByteSize(bytes)
        )
    }
}

/// Empties the reports whenever a plan is made anew: optimising comes before choosing files.
#[derive(Debug)]
pub(crate) struct Fresh(pub(crate) Arc<Reports>);

impl AnalyzerRule for Fresh {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        self.0.clear();
        Ok(plan)
    }

    fn name(&self) -> &str {
        "fresh_scan_reports"
    }
}

/// The reports of the plan that was made last. Lies in the session's extensions.
#[derive(Debug, Default)]
pub struct Reports(Mutex<Vec<ScanReport>>);

impl Reports {
    fn clear(&self) {
        self.0.lock().clear();
    }

    pub(crate) fn add(&self, report: ScanReport) {
        self.0.lock().push(report);
    }

    /// One for each scan, in the order of planning.
    pub fn list(&self) -> Vec<ScanReport> {
        self.0.lock().clone()
    }
}
