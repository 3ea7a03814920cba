//! The parts of EXPLAIN that are the same in every lane.

use std::sync::Arc;

use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, displayable};

use crate::scan::ScanReport;

/// The logical plan, indented.
pub fn logical(plan: &LogicalPlan) -> String {
    plan.display_indent().to_string().trim_end().to_owned()
}

/// The physical plan, indented.
pub fn physical(plan: &Arc<dyn ExecutionPlan>) -> String {
    displayable(plan.as_ref()).indent(true).to_string().trim_end().to_owned()
}

/// What the scans left out, one on each line.
pub fn scans(reports: &[ScanReport]) -> String {
    reports.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
