//! How many writers a write gets, and what stands below it so that they share the rows.

use std::num::NonZeroUsize;
use std::sync::Arc;

use arrow::compute::SortOptions;
use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{AcrossPartitions, LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, Partitioning};
use skep_common::{Error, Result};

use super::{WriteExec, WriteTarget};
use crate::functions;

/// Where a write may spread to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// Nodes that take part; 1 on one node.
    pub tasks: NonZeroUsize,
    /// Writers that one node has cores for.
    pub partitions: NonZeroUsize,
    /// Whether rows of several partitions are dealt anew, because nothing below spreads them over the nodes.
    pub deal: bool,
}

/// Input bytes for each writer: with less than that, more writers only make more and smaller files.
const BYTES_PER_WRITER: u64 = 16 << 20;
/// Columns that decide where a row goes. More cost time, fewer risk that all rows go to one writer.
const HASHED_COLUMNS: usize = 8;

/// A plan that writes the rows of `input` to `target`.
///
/// There are as many writers as the bytes scanned below make worth while, but at least one on each of `spread.tasks`.
/// Rows of a single partition are dealt to them by a hash over their columns: that is the one exchange that both
/// distributed lanes make a stage of (round-robin ones are dropped by Ballista and stay inside a task of
/// datafusion-distributed). Rows that already come in several partitions are
/// written where they are, unless `spread.deal`. For a table with partitions the hash is over those, so that few files
/// result, and the rows are sorted by them below each writer. Rows that are known to be of one partition, as those of
/// `INSERT ... PARTITION (key = value)`, are dealt like those of a table without: one writer would have all of them.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) if a hash over the columns cannot be planned.
pub fn plan_write(
    input: Arc<dyn ExecutionPlan>,
    target: Arc<WriteTarget>,
    spread: Spread,
) -> Result<Arc<dyn ExecutionPlan>> {
    let (tasks, cores) = (spread.tasks.get(), spread.partitions.get());
    let wanted = usize::try_from(scanned_bytes(&input).div_ceil(BYTES_PER_WRITER)).unwrap_or(usize::MAX);
    let per_task = wanted.clamp(tasks, tasks.saturating_mul(cores)).div_ceil(tasks);
    let per_task = NonZeroUsize::new(per_task).unwrap_or(NonZeroUsize::MIN);
    let count = input.output_partitioning().partition_count();
    let (keys, order) = layout(&target, &input)?;
    let writers = tasks * per_task.get();
    let input = if !keys.is_empty() && (writers > 1 || count > 1) {
        let spread = writers > 1 && one_partition(&target, &input);
        if spread { deal(input, per_task)? } else { hashed(input, keys, per_task)? }
    } else if (count == 1 || spread.deal) && writers > 1 {
        deal(input, per_task)?
    } else {
        input
    };
    let (input, per_task) = match LexOrdering::new(order) {
        None => (input, per_task),
        Some(order) => {
            // Each writer has a partition of its own, or rows of several would mix.
            let parts = NonZeroUsize::new(input.output_partitioning().partition_count());
            let sorted = SortExec::new(order, input).with_preserve_partitioning(true);
            (Arc::new(sorted) as Arc<dyn ExecutionPlan>, parts.unwrap_or(NonZeroUsize::MIN))
        }
    };
    let write: Arc<dyn ExecutionPlan> = Arc::new(WriteExec::new(input, target, per_task));
    // Reports of several tasks meet above the write, even if each task has one partition.
    Ok(if tasks > 1 { Arc::new(CoalescePartitionsExec::new(write)) } else { write })
}

/// What decides the partition of a row.
type PartitionExprs = Vec<Arc<dyn PhysicalExpr>>;

/// What decides the partition of a row, and the order of rows: by partition, and inside one as the table has it.
fn layout(
    target: &WriteTarget,
    input: &Arc<dyn ExecutionPlan>,
) -> Result<(PartitionExprs, Vec<PhysicalSortExpr>)> {
    let schema = input.schema();
    let column = |id: i64| -> Result<Arc<dyn PhysicalExpr>> {
        let at = target.columns.iter().position(|column| column.id == id);
        let at = at.filter(|&at| at < schema.fields().len());
        let at = at.ok_or_else(|| Error::internal("a key of the table's layout has no column"))?;
        Ok(Arc::new(Column::new(schema.field(at).name(), at)))
    };
    let mut keys = Vec::with_capacity(target.partitions.len());
    for key in &target.partitions {
        keys.push(functions::partition(column(key.column)?, key.transform));
    }
    let mut order: Vec<PhysicalSortExpr> =
        keys.iter().map(|key| PhysicalSortExpr::new(Arc::clone(key), SortOptions::default())).collect();
    for key in &target.sorting {
        let options = SortOptions { descending: key.descending, nulls_first: key.nulls_first };
        order.push(PhysicalSortExpr::new(column(key.column)?, options));
    }
    Ok((keys, order))
}

/// Whether every row has the same value for each key of the table's partitions.
fn one_partition(target: &WriteTarget, input: &Arc<dyn ExecutionPlan>) -> bool {
    let (schema, known) = (input.schema(), input.equivalence_properties());
    target.partitions.iter().all(|key| {
        let at = target.columns.iter().position(|column| column.id == key.column);
        let field = at.and_then(|at| Some((at, schema.fields().get(at)?)));
        field.is_some_and(|(at, field)| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), at));
            matches!(known.is_expr_constant(&column), Some(AcrossPartitions::Uniform(_)))
        })
    })
}

fn hashed(
    input: Arc<dyn ExecutionPlan>,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    partitions: NonZeroUsize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let dealt = RepartitionExec::try_new(input, Partitioning::Hash(keys, partitions.get()));
    Ok(Arc::new(dealt.map_err(|e| Error::internal("cannot spread the rows of a write").source(e))?))
}

/// A hash repartition over the columns of `input`.
fn deal(input: Arc<dyn ExecutionPlan>, partitions: NonZeroUsize) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = input.schema();
    let column = |(i, field): (usize, &Arc<arrow::datatypes::Field>)| -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(field.name(), i))
    };
    let fields = || schema.fields().iter().enumerate();
    let plain = fields().filter(|(_, field)| !field.data_type().is_nested());
    let mut keys: Vec<_> = plain.map(column).take(HASHED_COLUMNS).collect();
    if keys.is_empty() {
        keys = fields().map(column).take(1).collect();
    }
    hashed(input, keys, partitions)
}

/// Bytes of the files that `plan` reads, as far as it reads files.
pub fn scanned_bytes(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let mut bytes: u64 = 0;
    // The closure never fails.
    let _ = plan.apply(|node| {
        if let Some(source) = node.downcast_ref::<DataSourceExec>()
            && let Some(scan) = source.data_source().downcast_ref::<FileScanConfig>()
        {
            let files = scan.file_groups.iter().flat_map(|group| group.files());
            bytes = files.fold(bytes, |sum, file| sum.saturating_add(file.effective_size()));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    bytes
}
