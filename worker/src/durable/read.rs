//! Reads the outputs that a task is made from.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ballista_core::error::BallistaError;
use ballista_core::execution_plans::ShuffleReaderExec;
use ballista_core::serde::protobuf;
use bytes::Bytes;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use skep_cluster::Channels;
use skep_cluster::durable::{Output, fetch, rows};
use skep_cluster::failure::to_datafusion;
use skep_common::{Error, Kind};
use tokio::time::Instant;

use super::serve::{Place, read};

/// Outputs that one partition reads at once.
const AT_ONCE: usize = 4;
/// How often a worker that cannot be reached is asked before its outputs count as lost, and the pause in between. One that says
/// nothing is found by the keepalive of its connection, and not asked again.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);
const ASK_FOR: Duration = Duration::from_secs(2);

/// An output that is lost: whoever made it must make it again.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) output: Output,
    error: Error,
}

impl Lost {
    /// Whether its worker may still have it: nobody knows, for it cannot be reached.
    pub(super) fn unreachable(&self) -> bool {
        self.error.kind() == Kind::Unavailable
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Output { partition, stage, executor, .. } = &self.output;
        write!(f, "partition {partition} of stage {stage} on {executor} is lost: {}", self.error.report())
    }
}

impl std::error::Error for Lost {}

/// Where a worker reads outputs.
#[derive(Debug, Clone)]
pub(super) struct Reads {
    /// This life of this worker.
    pub(super) executor: String,
    pub(super) scratch: PathBuf,
    pub(super) channels: Channels,
}

/// The rows of an earlier stage. In the place of Ballista's own node, which buffers every partition whole, connects
/// without the secret and ends a stream that was cut as if it were complete.
#[derive(Debug)]
pub(super) struct ReadExec {
    reads: Reads,
    stage: usize,
    partitions: Vec<Vec<Output>>,
    broadcast: bool,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ReadExec {
    pub(super) fn new(reads: Reads, planned: &ShuffleReaderExec) -> Result<Self> {
        let output = |location: &ballista_core::serde::scheduler::PartitionLocation| {
            let location: protobuf::PartitionLocation =
                location.clone().try_into().map_err(BallistaError::into_datafusion)?;
            Output::try_from(location).map_err(to_datafusion)
        };
        let partition = |locations: &Vec<_>| locations.iter().map(output).collect::<Result<Vec<_>>>();
        Ok(Self {
            reads,
            stage: planned.stage_id,
            partitions: planned.partition.iter().map(partition).collect::<Result<Vec<_>>>()?,
            broadcast: planned.broadcast,
            properties: Arc::clone(planned.properties()),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }
}

impl DisplayAs for ReadExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outputs: usize = self.partitions.iter().map(Vec::len).sum();
        write!(f, "ReadExec: stage={}, outputs={outputs}, broadcast={}", self.stage, self.broadcast)
    }
}

impl ExecutionPlan for ReadExec {
    fn name(&self) -> &str {
        "ReadExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
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
        if children.is_empty() { Ok(self) } else { internal_err!("ReadExec has no children") }
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let of = if self.broadcast { 0 } else { partition };
        let Some(outputs) = self.partitions.get(of) else {
            return internal_err!("stage {} has no partition {of}", self.stage);
        };
        let schema = self.schema();
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let local = MetricBuilder::new(&self.metrics).counter("bytes_read_locally", partition);
        let remote = MetricBuilder::new(&self.metrics).counter("bytes_fetched", partition);
        for output in outputs {
            let bytes = usize::try_from(output.bytes).unwrap_or(usize::MAX);
            if output.executor == self.reads.executor { local.add(bytes) } else { remote.add(bytes) }
        }
        let (reads, wanted) = (self.reads.clone(), Arc::clone(&schema));
        let streams: Vec<_> = outputs
            .iter()
            .map(|output| batches(reads.clone(), output.clone(), Arc::clone(&wanted)))
            .collect();
        let stream = futures::stream::iter(streams).flatten_unordered(AT_ONCE);
        let stream = stream.inspect_ok(move |batch: &RecordBatch| {
            metrics.record_output(batch.num_rows());
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }
}

/// The rows of one output; what cannot be read is lost.
fn batches(reads: Reads, output: Output, schema: SchemaRef) -> BoxStream<'static, Result<RecordBatch>> {
    let lost = {
        let output = output.clone();
        move |error: Error| match error.kind() {
            Kind::Unavailable | Kind::NotFound | Kind::Corrupt => {
                DataFusionError::External(Box::new(Lost { output: output.clone(), error }))
            }
            _ => to_datafusion(error),
        }
    };
    let opened = async move {
        let chunks = open(&reads, &output).await?;
        Ok::<_, Error>(rows(chunks, schema, output.rows))
    };
    futures::stream::once(opened).try_flatten().map_err(lost).boxed()
}

async fn open(
    reads: &Reads,
    output: &Output,
) -> skep_common::Result<BoxStream<'static, skep_common::Result<Bytes>>> {
    if output.executor == reads.executor {
        let place = Place {
            job: output.job.clone(),
            stage: output.stage,
            partition: output.partition,
            file: output.file,
            sorted: output.sorted,
        };
        return read(&reads.scratch, &place).await;
    }
    if output.given_up {
        return Err(Error::not_found("the worker that has it was given up"));
    }
    let (mut attempt, begun) = (1, Instant::now());
    loop {
        match fetch(&reads.channels, output).await {
            Err(error)
                if error.kind() == Kind::Unavailable && attempt < ATTEMPTS && begun.elapsed() < ASK_FOR =>
            {
                attempt += 1;
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}
