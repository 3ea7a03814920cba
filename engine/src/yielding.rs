//! Makes operators that give many rows for few let others run in between.
//!
//! A join whose rows are wanted by an aggregate gives batch after batch without ever waiting for anything. The thread that drives it
//! is gone until it ends: nothing else of the process runs there, no heartbeat and no KILL. DataFusion makes the leaves of a plan
//! give way from time to time; these operators need few rows of a leaf for very many of their own.
//!
//! # Not here
//! Ending what runs: whoever drives the plan drops it.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::unnest::UnnestExec;

/// `plan` with a place to give way above each operator that multiplies rows.
///
/// # Errors
/// Those of building nodes again.
pub fn yielding(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let made = plan.transform_up(|node| {
        Ok(if multiplies(&node) {
            Transformed::yes(Arc::new(CooperativeExec::new(node)) as _)
        } else {
            Transformed::no(node)
        })
    });
    Ok(made?.data)
}

fn multiplies(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.is::<NestedLoopJoinExec>()
        || node.is::<CrossJoinExec>()
        || node.is::<HashJoinExec>()
        || node.is::<SortMergeJoinExec>()
        || node.is::<UnnestExec>()
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{SessionConfig, SessionContext};
    use futures::StreamExt;

    use super::*;

    /// On one thread something else runs while a join makes billions of rows that are counted.
    #[tokio::test(flavor = "current_thread")]
    async fn others_run_beside_an_endless_join() {
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        let sql = "SELECT count(*) FROM generate_series(1, 30000) AS a(v), generate_series(1, 30000) AS b(v), \
                   generate_series(1, 30000) AS c(v) WHERE a.v + b.v < a.v * b.v - c.v";
        let frame = context.sql(sql).await.unwrap();
        let plan = yielding(frame.create_physical_plan().await.unwrap()).unwrap();
        let mut rows = datafusion::physical_plan::execute_stream(plan, context.task_ctx()).unwrap();
        tokio::select! {
            biased;
            row = rows.next() => panic!("it is not endless: {row:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
}
