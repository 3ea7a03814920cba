//! Runs one task: its plan's rows become files of the scratch folder.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ballista_core::config::BallistaConfig;
use ballista_core::execution_plans::{ShuffleReaderExec, ShuffleWriterExec, SortShuffleWriterExec};
use ballista_core::serde::protobuf::{ShuffleWritePartition, TaskDefinition};
use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{UInt32Type, UInt64Type};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_datafusion_err, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use datafusion::prelude::SessionConfig;
use datafusion_proto::physical_plan::{AsExecutionPlan, PhysicalExtensionCodec};
use datafusion_proto::protobuf::PhysicalPlanNode;
use futures::stream::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use skep_cluster::failure::to_datafusion;
use skep_cluster::settings::{Travel, unpack};
use skep_common::Error;
use skep_engine::guard::guard;
use skep_engine::memory::QueryPool;
use skep_engine::runtime;
use skep_engine::yielding::yielding;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Options;
use super::read::{ReadExec, Reads};
use crate::disk::Place;

/// What a task has done so far, and how to stop it.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch {
    pub(super) rows: Arc<AtomicU64>,
    pub(super) stop: CancellationToken,
    /// What its rows ended with, typed: Ballista's writers make text of it.
    failed: Arc<Mutex<Option<Arc<DataFusionError>>>>,
}

/// Runs `task` to its end. Its outputs lie under `scratch` then, in files numbered `file`.
pub(super) async fn run(
    options: &Options,
    reads: Reads,
    codec: &dyn PhysicalExtensionCodec,
    task: TaskDefinition,
    file: u32,
    watch: Watch,
) -> Result<Vec<ShuffleWritePartition>> {
    let failed = Arc::clone(&watch.failed);
    let job = options.scratch.join(&task.job_id);
    let written = write(options, reads, codec, task, file, watch).await;
    let data = options.scratch.parent().unwrap_or(&options.scratch);
    let place = Place { node: &options.node, folder: data };
    written.map_err(|error| {
        let input = failed.lock().take();
        match input {
            Some(input) => place.named(DataFusionError::Shared(input)),
            None => place.unwritten(error, &job, file),
        }
    })
}

async fn write(
    options: &Options,
    reads: Reads,
    codec: &dyn PhysicalExtensionCodec,
    task: TaskDefinition,
    file: u32,
    watch: Watch,
) -> Result<Vec<ShuffleWritePartition>> {
    let (context, pool) = context(options, &task)?;
    let planned = PhysicalPlanNode::try_decode(&task.plan)
        .map_err(|e| to_datafusion(Error::internal("the plan of a task cannot be decoded").source(e)))?
        .try_into_physical_plan(&context, codec)?;
    let writer = writer(planned, &reads, &options.scratch, &task, file, &watch)?;
    let sorted = writer.is::<SortShuffleWriterExec>();
    let mut outputs = JoinSet::new();
    for partition in 0..writer.output_partitioning().partition_count() {
        // All at once: none is written before each was asked for.
        let stream = writer.execute(partition, Arc::clone(&context))?;
        // Aborted with the set.
        outputs.spawn(async move { guard(stream).try_collect::<Vec<_>>().await });
    }
    let mut written = Vec::new();
    loop {
        let ended = tokio::select! {
            ended = outputs.join_next() => ended,
            error = pool.ended() => return Err(to_datafusion(error)),
        };
        let Some(ended) = ended else { break };
        let batches = ended.map_err(|e| internal_datafusion_err!("a writer ended early: {e}"))??;
        for batch in &batches {
            written.extend(summaries(batch, sorted)?);
        }
    }
    // Partitions without rows have no file.
    written.retain(|output| output.num_bytes > 0);
    Ok(written)
}

fn context(options: &Options, task: &TaskDefinition) -> Result<(Arc<TaskContext>, Arc<QueryPool>)> {
    let mut config = SessionConfig::new().with_option_extension(BallistaConfig::default());
    let pairs = task.props.iter().filter_map(|pair| Some((pair.key.as_str(), pair.value.as_deref()?)));
    let travel = Travel::from_pairs(pairs).map_err(to_datafusion)?;
    unpack(&travel.options, config.options_mut()).map_err(to_datafusion)?;
    let (runtime, pool) =
        runtime::of_statement(&options.runtime, &options.memory, &travel.query, &travel.share());
    let builder =
        SessionStateBuilder::new_with_default_features().with_config(config).with_runtime_env(runtime);
    Ok(((options.prepare)(builder).build().task_ctx(), pool))
}

/// The plan with our reader below, and its writer on top ready for this run of the task.
fn writer(
    planned: Arc<dyn ExecutionPlan>,
    reads: &Reads,
    scratch: &Path,
    task: &TaskDefinition,
    file: u32,
    watch: &Watch,
) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = planned.transform_up(|node| {
        Ok(match node.downcast_ref::<ShuffleReaderExec>() {
            Some(planned) => Transformed::yes(Arc::new(ReadExec::new(reads.clone(), planned)?) as _),
            None => Transformed::no(node),
        })
    })?;
    let plan = yielding(plan.data)?;
    let Some(&input) = plan.children().first() else {
        return internal_err!("the plan of a task has no input");
    };
    let input: Arc<dyn ExecutionPlan> =
        Arc::new(WatchExec { input: Arc::clone(input), watch: watch.clone() });
    let (job, stage) = (task.job_id.as_str().into(), task.stage_id as usize);
    let folder = scratch.to_string_lossy().into_owned();
    let partitions = task.global_output_partition_ids.iter().map(|id| *id as usize).collect();
    if plan.is::<ShuffleWriterExec>() {
        let writer = ShuffleWriterExec::try_new(job, stage, input, folder)?
            .with_task_id(file as usize)
            .with_global_output_partition_ids(partitions);
        return Ok(Arc::new(writer));
    }
    if let Some(sorted) = plan.downcast_ref::<SortShuffleWriterExec>() {
        let partitioning = sorted.shuffle_output_partitioning().clone();
        let writer =
            SortShuffleWriterExec::try_new(job, stage, input, folder, partitioning, sorted.config().clone())?
                .with_task_id(file as usize)
                .with_global_output_partition_ids(partitions);
        return Ok(Arc::new(writer));
    }
    internal_err!("the plan of a task ends in {}, which is not a writer known here", plan.name())
}

/// What a writer reports: one row for each file.
fn summaries(batch: &RecordBatch, is_sort_shuffle: bool) -> Result<Vec<ShuffleWritePartition>> {
    let unknown =
        || internal_datafusion_err!("the report of an output is not as expected: {}", batch.schema());
    let partitions =
        batch.columns().first().and_then(|c| c.as_primitive_opt::<UInt32Type>()).ok_or_else(unknown)?;
    let files =
        batch.columns().get(2).and_then(|c| c.as_primitive_opt::<UInt64Type>()).ok_or_else(unknown)?;
    let stats = batch.columns().get(3).and_then(|c| c.as_struct_opt()).ok_or_else(unknown)?;
    let mut counts = HashMap::new();
    for name in ["num_rows", "num_batches", "num_bytes"] {
        let column = stats.column_by_name(name).and_then(|c| c.as_primitive_opt::<UInt64Type>());
        counts.insert(name, column.ok_or_else(unknown)?);
    }
    let rows = 0..batch.num_rows();
    Ok(rows
        .map(|row| ShuffleWritePartition {
            partition_id: u64::from(partitions.value(row)),
            file_id: (!files.is_null(row)).then(|| files.value(row)),
            num_rows: counts["num_rows"].value(row),
            num_batches: counts["num_batches"].value(row),
            num_bytes: counts["num_bytes"].value(row),
            is_sort_shuffle,
        })
        .collect())
}

/// Counts the rows that pass, and ends them when the task is stopped: Ballista's writers go on by themselves otherwise.
#[derive(Debug)]
struct WatchExec {
    input: Arc<dyn ExecutionPlan>,
    watch: Watch,
}

impl DisplayAs for WatchExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WatchExec")
    }
}

impl ExecutionPlan for WatchExec {
    fn name(&self) -> &str {
        "WatchExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Ok([input]) = <[_; 1]>::try_from(children) else {
            return internal_err!("WatchExec has one child");
        };
        Ok(Arc::new(Self { input, watch: self.watch.clone() }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = guard(self.input.execute(partition, context)?);
        let schema = rows.schema();
        let (stop, counted) = (self.watch.stop.clone(), Arc::clone(&self.watch.rows));
        let stopped = stop.clone();
        let failed = Arc::clone(&self.watch.failed);
        let counting = rows
            .inspect_ok(move |batch| {
                counted.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            })
            .map_err(move |error| {
                let error = Arc::new(error);
                failed.lock().get_or_insert_with(|| Arc::clone(&error));
                DataFusionError::Shared(error)
            });
        // An end that is no end of rows is an error, or the output would count as complete.
        let last = futures::stream::once(async move {
            stopped.is_cancelled().then(|| Err(to_datafusion(Error::cancelled("the task was stopped"))))
        });
        let rows =
            counting.take_until(stop.cancelled_owned()).map(Some).chain(last).filter_map(std::future::ready);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}
