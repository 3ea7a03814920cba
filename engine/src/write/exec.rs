//! The plan node.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::{RecordBatchReceiverStream, RecordBatchStreamAdapter};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use skep_common::{Error, Result as OurResult};

use super::file::Files;
use super::report::{Part, report};
use super::{TaskIdentity, WriteTarget, report_schema};
use crate::codec::NodeCodec;

/// Writes its rows to files of a table and returns a report, see [`super`].
///
/// Its partitions are writers: each takes the input partitions that fall to it, so that little data does not become
/// many files.
#[derive(Debug)]
pub struct WriteExec {
    input: Arc<dyn ExecutionPlan>,
    target: Arc<WriteTarget>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl WriteExec {
    /// Writes the rows of `input`, whose columns are those of `target` in their order, with at most `writers` files at
    /// once on each node.
    pub fn new(input: Arc<dyn ExecutionPlan>, target: Arc<WriteTarget>, writers: NonZeroUsize) -> Self {
        let partitions = writers.get().min(input.output_partitioning().partition_count()).max(1);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(report_schema()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self { input, target, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() }
    }

    /// Where it writes.
    pub fn target(&self) -> &Arc<WriteTarget> {
        &self.target
    }

    /// How many partitions write.
    pub fn writers(&self) -> usize {
        self.properties.output_partitioning().partition_count()
    }

    /// The rows of the input partitions that fall to `writer`.
    fn rows(&self, writer: usize, context: &Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let inputs = self.input.output_partitioning().partition_count();
        let mine: Vec<usize> = (writer..inputs).step_by(self.writers()).collect();
        if let [only] = mine.as_slice() {
            return self.input.execute(*only, Arc::clone(context));
        }
        let mut together = RecordBatchReceiverStream::builder(self.input.schema(), mine.len().max(1));
        for partition in mine {
            let mut rows = self.input.execute(partition, Arc::clone(context))?;
            let sender = together.tx();
            together.spawn(async move {
                while let Some(batch) = rows.next().await {
                    let failed = batch.is_err();
                    if sender.send(batch).await.is_err() || failed {
                        break;
                    }
                }
                Ok(())
            });
        }
        Ok(together.build())
    }
}

impl DisplayAs for WriteExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let (folder, writers) = (self.target.directory(), self.writers());
        write!(f, "WriteExec: folder={folder}, writers={writers}")
    }
}

impl ExecutionPlan for WriteExec {
    fn name(&self) -> &str {
        "WriteExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
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

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Ok([input]) = <[_; 1]>::try_from(children) else {
            return internal_err!("WriteExec has one child");
        };
        let writers = NonZeroUsize::new(self.writers()).unwrap_or(NonZeroUsize::MIN);
        Ok(Arc::new(Self::new(input, Arc::clone(&self.target), writers)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let task = context.session_config().get_extension::<TaskIdentity>();
        let (index, count) = task.map_or((0, 1), |task| (task.index, task.count));
        let part = Part { task: index, tasks: count, partition, partitions: self.writers() };
        let store = self.target.store().map_err(external)?;
        let store = context.runtime_env().object_store(store)?;
        let files = Files::new(Arc::clone(&self.target), store, context.memory_pool()).map_err(external)?;
        let rows = self.rows(partition, &context)?;
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let written = futures::stream::once(write(rows, files, part, metrics));
        Ok(Box::pin(RecordBatchStreamAdapter::new(report_schema(), written)))
    }

    fn schema(&self) -> SchemaRef {
        report_schema()
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

async fn write(
    mut rows: SendableRecordBatchStream,
    mut files: Files,
    part: Part,
    metrics: BaselineMetrics,
) -> Result<RecordBatch> {
    while let Some(batch) = rows.try_next().await? {
        files.write(&batch).await.map_err(external)?;
        // Rows that are always there and a disk that always takes them would leave no time for anything else, signs of life of
        // this node among it.
        tokio::task::yield_now().await;
    }
    let done = files.finish().await.map_err(external)?.to_vec();
    let written: u64 = done.iter().map(|file| file.rows).sum();
    metrics.record_output(usize::try_from(written).unwrap_or(usize::MAX));
    let report = report(part, &done, files.changed(), files.sources()).map_err(external)?;
    files.reported();
    metrics.done();
    Ok(report)
}

/// How a [`WriteExec`] travels.
#[derive(Debug)]
pub(crate) struct WriteCodec;

#[derive(Serialize, Deserialize)]
struct Wire {
    target: WriteTarget,
    writers: NonZeroUsize,
}

impl NodeCodec for WriteCodec {
    fn name(&self) -> &'static str {
        "write"
    }

    fn encode(&self, node: &dyn ExecutionPlan) -> Option<OurResult<Vec<u8>>> {
        let node = node.downcast_ref::<WriteExec>()?;
        let writers = NonZeroUsize::new(node.writers()).unwrap_or(NonZeroUsize::MIN);
        let wire = Wire { target: node.target.as_ref().clone(), writers };
        Some(serde_json::to_vec(&wire).map_err(|e| Error::internal("a write cannot travel").source(e)))
    }

    fn decode(&self, bytes: &[u8], inputs: &[Arc<dyn ExecutionPlan>]) -> OurResult<Arc<dyn ExecutionPlan>> {
        let wire: Wire = serde_json::from_slice(bytes)
            .map_err(|e| Error::internal("a write that travelled is not readable").source(e))?;
        let [input] = inputs else { return Err(Error::internal("a write has one input")) };
        Ok(Arc::new(WriteExec::new(Arc::clone(input), Arc::new(wire.target), wire.writers)))
    }
}
