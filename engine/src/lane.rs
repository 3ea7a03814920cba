//! From a logical plan to the physical plan that a lane wants. Both run on one node, and return the same rows.

use std::sync::Arc;

use datafusion::execution::SessionStateBuilder;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use skep_common::Result;

use crate::error;
use crate::scan::Reports;

/// Partitions that a plan for several nodes has at least: with one, exchanges are left out that it needs.
const PIPELINED_PARTITIONS_MIN: usize = 2;

/// How a plan will run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// In this process.
    Local,
    /// In stages on several nodes, all at once.
    Pipelined,
}

/// A physical plan, and the session it is run with.
#[derive(Debug)]
pub struct Physical {
    /// The plan.
    pub plan: Arc<dyn ExecutionPlan>,
    /// The session: `state.task_ctx()` runs the plan.
    pub state: SessionState,
}

/// Optimises `plan` and makes its physical plan for `lane`, in the session of `state` as `extend` completes it.
///
/// Files are chosen anew, so that [`Planner::reports`](crate::Planner::reports) are those of this plan.
///
/// # Errors
/// Those of planning.
pub async fn physical(
    state: &SessionState,
    plan: &LogicalPlan,
    lane: Lane,
    extend: impl FnOnce(SessionStateBuilder) -> SessionStateBuilder,
) -> Result<Physical> {
    let config = options(state.config().clone(), lane);
    let builder = SessionStateBuilder::new_from_existing(state.clone()).with_config(config);
    let state = extend(builder).build();
    if let Some(reports) = state.config().get_extension::<Reports>() {
        reports.clear();
    }
    let plan = state.create_physical_plan(plan).await.map_err(error::from_datafusion)?;
    Ok(Physical { plan, state })
}

/// `config` as `lane` wants it.
fn options(mut config: SessionConfig, lane: Lane) -> SessionConfig {
    match lane {
        Lane::Local => config,
        Lane::Pipelined => {
            let partitions = config.target_partitions().max(PIPELINED_PARTITIONS_MIN);
            // A subquery that runs beside the plan has no place in its stages.
            config.options_mut().optimizer.enable_physical_uncorrelated_scalar_subquery = false;
            config.with_target_partitions(partitions)
        }
    }
}
