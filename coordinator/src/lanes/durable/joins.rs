//! Which joins of the durable lane keep a side in memory.
//!
//! A task that runs out of memory is a task to run again, and the whole statement after it. So a join keeps a side in memory where
//! that side is known to be small, and sorts both sides, which spills, everywhere else.
//!
//! # Not here
//! Small sides that are sent to every task: Ballista makes those of joins by hash when it cuts the plan into stages.

use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode, SortMergeJoinExec};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

/// Bytes of a side for each task, by the statistics, up to which it is kept in memory.
const KEPT_MAX: usize = 32 << 20;
/// Bytes of a row for each column of which no size is known.
const COLUMN_BYTES: usize = 16;

/// Puts joins by merge in the place of joins by hash whose side in memory may be large. Comes after DataFusion has chosen the sides,
/// and before it brings rows to the tasks of the joins.
#[derive(Debug)]
pub(super) struct SpillingJoins;

impl PhysicalOptimizerRule for SpillingJoins {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        options: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let most = KEPT_MAX.saturating_mul(options.execution.target_partitions.max(1));
        let chosen = plan.transform_up(|node| {
            let Some(join) = node.downcast_ref::<HashJoinExec>() else { return Ok(Transformed::no(node)) };
            // What NOT IN asks for, no other join knows.
            if join.null_aware || join.on().is_empty() {
                return Ok(Transformed::no(node));
            }
            if bytes(join.left()).is_some_and(|bytes| bytes <= most) {
                // Ballista knows best which of them every task gets whole.
                let join = join.builder().with_partition_mode(PartitionMode::Partitioned).build()?;
                return Ok(Transformed::yes(Arc::new(join) as _));
            }
            let merge = SortMergeJoinExec::try_new(
                Arc::clone(join.left()),
                Arc::clone(join.right()),
                join.on().to_vec(),
                join.filter().cloned(),
                *join.join_type(),
                vec![SortOptions::default(); join.on().len()],
                join.null_equality(),
            )?;
            Ok(Transformed::yes(Arc::new(merge) as _))
        });
        Ok(chosen?.data)
    }

    fn name(&self) -> &'static str {
        "spilling_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// How large the rows of `plan` are thought to be.
fn bytes(plan: &Arc<dyn ExecutionPlan>) -> Option<usize> {
    let known = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new()).ok()?;
    let columns = || plan.schema().fields().len().max(1);
    let by_rows = known.num_rows.get_value().map(|rows| rows.saturating_mul(COLUMN_BYTES * columns()));
    // The size of files is that of what they hold packed.
    match (by_rows, known.total_byte_size.get_value().copied()) {
        (Some(rows), Some(size)) => Some(rows.max(size)),
        (one, other) => one.or(other),
    }
}
