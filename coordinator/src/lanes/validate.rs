//! Checks a staged plan before it runs.
//!
//! datafusion-distributed cuts a plan at its exchanges. A stage of several tasks gives each task a part of the rows, so an
//! operator that needs all rows in one place gives wrong answers there, silently. This walks every stage and knows, at
//! each operator, how the rows below it are spread over the tasks:
//!
//! ```text
//! Parts   each task has some rows (a scan that was split)
//! Hashed  rows with equal keys are in one task (above a shuffle)
//! Copies  every task has all rows (above a broadcast)
//! ```
//!
//! # Invariants
//! - Pure. Refuses, never repairs.

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode, SortMergeJoinExec, SymmetricHashJoinExec,
};
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, Partitioning};
use datafusion_distributed::{
    BroadcastExec, DistributedExec, DistributedLeafExec, NetworkBoundaryExt, NetworkBroadcastExec,
    NetworkCoalesceExec, NetworkShuffleExec,
};
use skep_common::{Error, Result};

/// How the rows of an operator are spread over the tasks of its stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    Parts,
    Hashed,
    Copies,
}

/// A stage on the way down.
#[derive(Clone, Copy)]
struct Stage {
    number: usize,
    tasks: usize,
    /// All rows that anything above still wants, if that is known to be few.
    wanted: Option<usize>,
    /// Whether a merge above puts the sorted rows of all tasks in order.
    merged: bool,
}

/// Accepts a plan that gives the same rows in its stages as on one node.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) naming the operator and the stage otherwise.
pub fn validate(plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
    let Some(staged) = plan.downcast_ref::<DistributedExec>() else { return Ok(()) };
    for child in staged.children() {
        check(child, Stage { number: 0, tasks: 1, wanted: None, merged: false })?;
    }
    Ok(())
}

fn refuse(plan: &Arc<dyn ExecutionPlan>, stage: Stage, why: &str) -> Error {
    let (name, number, tasks) = (plan.name(), stage.number, stage.tasks);
    Error::internal(format!("{name} {why}, but stage {number} runs as {tasks} tasks")).hint(
        "this plan would give wrong rows and was not run; SET skep.execution = local runs the statement, please \
         report it",
    )
}

fn check(plan: &Arc<dyn ExecutionPlan>, stage: Stage) -> Result<Rows> {
    if let Some(boundary) = plan.as_network_boundary() {
        return check_boundary(plan, boundary.input_stage(), stage);
    }
    let merged = stage.merged || plan.is::<SortPreservingMergeExec>();
    let below = Stage { wanted: wanted_below(plan, stage), merged, ..stage };
    let mut children = Vec::with_capacity(plan.children().len());
    for child in plan.children() {
        children.push(check(child, below)?);
    }
    if stage.tasks > 1 {
        check_fetch(plan, stage, &children)?;
        check_operator(plan, stage, &children)?;
    }
    Ok(rows_of(plan, &children))
}

fn check_boundary(
    plan: &Arc<dyn ExecutionPlan>,
    input: &datafusion_distributed::Stage,
    stage: Stage,
) -> Result<Rows> {
    let Some(inner) = input.local_plan() else {
        return Err(refuse(plan, stage, "has no input to check"));
    };
    let below = Stage { number: input.num(), tasks: input.task_count(), ..stage };
    let spread = check(inner, below)?;
    if spread == Rows::Copies && below.tasks > 1 && !inner.is::<EmptyExec>() {
        return Err(refuse(inner, below, "passes on rows that every task has"));
    }
    if plan.is::<NetworkShuffleExec>() {
        if !matches!(inner.output_partitioning(), Partitioning::Hash(..)) || !inner.is::<RepartitionExec>() {
            return Err(refuse(inner, below, "feeds a shuffle without a hash repartition"));
        }
        Ok(Rows::Hashed)
    } else if plan.is::<NetworkBroadcastExec>() {
        if !inner.is::<BroadcastExec>() {
            return Err(refuse(inner, below, "feeds a broadcast without a broadcast node"));
        }
        Ok(Rows::Copies)
    } else if plan.is::<NetworkCoalesceExec>() {
        if stage.tasks > 1 {
            return Err(refuse(plan, stage, "collects all rows"));
        }
        Ok(Rows::Parts)
    } else {
        Err(refuse(plan, stage, "is a boundary of an unknown kind"))
    }
}

fn rows_of(plan: &Arc<dyn ExecutionPlan>, children: &[Rows]) -> Rows {
    if plan.is::<EmptyExec>() {
        return Rows::Copies;
    }
    // A join has the spread of its probe side, whatever its build side has.
    if (plan.is::<NestedLoopJoinExec>() || plan.is::<CrossJoinExec>() || collects_left(plan))
        && let [_, probe] = children
    {
        return *probe;
    }
    match children {
        [] => Rows::Parts,
        [one] => *one,
        many if many.iter().all(|rows| *rows == many[0]) => many[0],
        _ => Rows::Parts,
    }
}

fn collects_left(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.downcast_ref::<HashJoinExec>().is_some_and(|join| join.mode == PartitionMode::CollectLeft)
}

/// How many rows `plan` wants from below, if something above or `plan` itself takes few of them in one place.
fn wanted_below(plan: &Arc<dyn ExecutionPlan>, stage: Stage) -> Option<usize> {
    let fewer = |a: Option<usize>, b: Option<usize>| match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    if let Some(limit) = plan.downcast_ref::<GlobalLimitExec>() {
        let own = limit.fetch().filter(|_| stage.tasks == 1).map(|fetch| fetch + limit.skip());
        return fewer(own, stage.wanted.map(|wanted| wanted + limit.skip()));
    }
    let single = stage.tasks == 1 && plan.output_partitioning().partition_count() == 1;
    let own = plan.fetch().filter(|_| single);
    let one_to_one = plan.is::<CoalescePartitionsExec>()
        || plan.is::<SortPreservingMergeExec>()
        || plan.is::<SortExec>()
        || plan.is::<ProjectionExec>()
        || plan.is::<CooperativeExec>()
        || plan.is::<RepartitionExec>();
    if one_to_one { fewer(own, stage.wanted) } else { None }
}

/// A limit inside a stage limits each task. That is an answer only if something above limits all of them together.
fn check_fetch(plan: &Arc<dyn ExecutionPlan>, stage: Stage, children: &[Rows]) -> Result<()> {
    let fetch = match plan.downcast_ref::<DistributedLeafExec>() {
        Some(leaf) => leaf.original().fetch(),
        None => plan.fetch(),
    };
    let Some(fetch) = fetch else { return Ok(()) };
    let copies = !children.is_empty() && children.iter().all(|rows| *rows == Rows::Copies);
    // With several partitions on one node there is a limit of all of them above already.
    let partitions = match plan.downcast_ref::<DistributedLeafExec>() {
        Some(leaf) => leaf.original().output_partitioning().partition_count(),
        None => plan.output_partitioning().partition_count(),
    };
    if copies || partitions > 1 || stage.wanted.is_some_and(|wanted| wanted <= fetch) {
        return Ok(());
    }
    Err(refuse(plan, stage, &format!("takes {fetch} rows of all")))
}

fn check_operator(plan: &Arc<dyn ExecutionPlan>, stage: Stage, children: &[Rows]) -> Result<()> {
    let all = |wanted: Rows| children.iter().all(|rows| *rows == wanted);
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        return match aggregate.mode() {
            AggregateMode::Partial | AggregateMode::PartialReduce => Ok(()),
            _ if all(Rows::Copies) => Ok(()),
            AggregateMode::FinalPartitioned | AggregateMode::SinglePartitioned
                if all(Rows::Hashed) && !aggregate.group_expr().expr().is_empty() =>
            {
                Ok(())
            }
            AggregateMode::FinalPartitioned | AggregateMode::SinglePartitioned => {
                Err(refuse(plan, stage, "needs the rows of a group in one task"))
            }
            AggregateMode::Final | AggregateMode::Single => {
                Err(refuse(plan, stage, "needs all rows in one task"))
            }
        };
    }
    if plan.is::<CoalescePartitionsExec>()
        || plan.is::<SortPreservingMergeExec>()
        || plan.is::<GlobalLimitExec>()
    {
        return if all(Rows::Copies) { Ok(()) } else { Err(refuse(plan, stage, "collects all rows")) };
    }
    if let Some(sort) = plan.downcast_ref::<SortExec>() {
        let placed = sort.preserve_partitioning() || stage.merged || !all(Rows::Parts);
        return if placed { Ok(()) } else { Err(refuse(plan, stage, "sorts all rows")) };
    }
    if let Some(keys) = window_keys(plan) {
        let safe = all(Rows::Copies) || (all(Rows::Hashed) && !keys.is_empty());
        return if safe {
            Ok(())
        } else {
            Err(refuse(plan, stage, "needs the rows of a window in one task"))
        };
    }
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        return match join.mode {
            PartitionMode::Partitioned if all(Rows::Hashed) || all(Rows::Copies) => Ok(()),
            PartitionMode::CollectLeft => {
                check_collected(plan, stage, children, *join.join_type(), join.null_aware)
            }
            _ => Err(refuse(plan, stage, "needs equal keys of both sides in one task")),
        };
    }
    if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
        return check_collected(plan, stage, children, *join.join_type(), false);
    }
    if plan.is::<CrossJoinExec>() {
        return check_collected(plan, stage, children, JoinType::Inner, false);
    }
    if plan.is::<SortMergeJoinExec>() || plan.is::<SymmetricHashJoinExec>() {
        let met = all(Rows::Hashed) || all(Rows::Copies);
        return if met {
            Ok(())
        } else {
            Err(refuse(plan, stage, "needs equal keys of both sides in one task"))
        };
    }
    if plan.is::<UnionExec>() || plan.is::<InterleaveExec>() {
        let copies = children.iter().filter(|rows| **rows == Rows::Copies).count();
        let empty = plan.children().iter().filter(|child| child.is::<EmptyExec>()).count();
        return if copies == empty || copies == children.len() {
            Ok(())
        } else {
            Err(refuse(plan, stage, "adds rows that every task has to parts of others"))
        };
    }
    if plan.children().is_empty() && !plan.is::<DistributedLeafExec>() && !plan.is::<EmptyExec>() {
        return Err(refuse(plan, stage, "is a leaf that was not split"));
    }
    if ["ChildrenIsolatorUnionExec", "RecursiveQueryExec", "WorkTableExec", "DataSinkExec"]
        .contains(&plan.name())
    {
        return Err(refuse(plan, stage, "cannot be checked"));
    }
    Ok(())
}

/// The keys by which every window of `plan` is partitioned.
fn window_keys(plan: &Arc<dyn ExecutionPlan>) -> Option<Vec<Arc<dyn PhysicalExpr>>> {
    let keys = plan.downcast_ref::<WindowAggExec>().map(WindowAggExec::partition_keys);
    keys.or_else(|| plan.downcast_ref::<BoundedWindowAggExec>().map(BoundedWindowAggExec::partition_keys))
}

/// A join that holds its whole left side in every task: that must be all of it, and no task may speak of its rows.
fn check_collected(
    plan: &Arc<dyn ExecutionPlan>,
    stage: Stage,
    children: &[Rows],
    kind: JoinType,
    null_aware: bool,
) -> Result<()> {
    if children.first() != Some(&Rows::Copies) {
        return Err(refuse(plan, stage, "needs all rows of its build side in every task"));
    }
    let emits_probe = matches!(
        kind,
        JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark
    );
    if (!emits_probe || null_aware) && children.last() != Some(&Rows::Copies) {
        return Err(refuse(plan, stage, "gives rows of its build side, which every task has"));
    }
    Ok(())
}
