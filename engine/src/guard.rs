//! Turns a panic below it into an error.
//!
//! Some operators drive their input in a task of their own and take the end of that task for the end of the rows:
//! `BroadcastExec` of datafusion-distributed does when the task panics. A [`GuardExec`] below such an operator makes the
//! panic an error like any other, which it passes on.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, StatisticsArgs,
};
use futures::{Stream, StreamExt};
use skep_common::task::panic_text;
use skep_common::{Error, Result as OurResult};

use crate::codec::NodeCodec;

/// Passes rows through; a panic below becomes an error of [`Kind::Internal`](skep_common::Kind::Internal).
#[derive(Debug)]
pub struct GuardExec {
    input: Arc<dyn ExecutionPlan>,
}

impl GuardExec {
    /// Guards `input`.
    pub fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        Self { input }
    }
}

impl DisplayAs for GuardExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("GuardExec")
    }
}

impl ExecutionPlan for GuardExec {
    fn name(&self) -> &str {
        "GuardExec"
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
        match <[_; 1]>::try_from(children) {
            Ok([input]) => Ok(Arc::new(Self::new(input))),
            Err(children) => internal_err!("GuardExec has one child, not {}", children.len()),
        }
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        Ok(inputs.first().map_or_else(|| Arc::new(Statistics::new_unknown(&self.schema())), Arc::clone))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let started = catch_unwind(AssertUnwindSafe(|| self.input.execute(partition, context)));
        let stream = started.unwrap_or_else(|panic| Err(panicked(panic.as_ref())))?;
        Ok(guard(stream))
    }
}

/// The rows of `stream`; a panic in it becomes an error, and the end.
pub fn guard(stream: SendableRecordBatchStream) -> SendableRecordBatchStream {
    Box::pin(Guarded { schema: stream.schema(), stream: Some(stream) })
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> DataFusionError {
    let error = Error::internal(format!("an operator panicked: {}", panic_text(panic)))
        .hint("this is a bug in skep; the query did not finish, no part of it was committed");
    DataFusionError::External(Box::new(error))
}

struct Guarded {
    schema: SchemaRef,
    stream: Option<SendableRecordBatchStream>,
}

impl Stream for Guarded {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        match catch_unwind(AssertUnwindSafe(|| stream.poll_next_unpin(context))) {
            Ok(polled) => polled,
            Err(panic) => {
                self.stream = None;
                Poll::Ready(Some(Err(panicked(panic.as_ref()))))
            }
        }
    }
}

impl RecordBatchStream for Guarded {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// How a [`GuardExec`] travels: by its name alone.
#[derive(Debug)]
pub(crate) struct GuardCodec;

impl NodeCodec for GuardCodec {
    fn name(&self) -> &'static str {
        "guard"
    }

    fn encode(&self, node: &dyn ExecutionPlan) -> Option<OurResult<Vec<u8>>> {
        node.downcast_ref::<GuardExec>().map(|_| Ok(Vec::new()))
    }

    fn decode(&self, _: &[u8], inputs: &[Arc<dyn ExecutionPlan>]) -> OurResult<Arc<dyn ExecutionPlan>> {
        match inputs {
            [input] => Ok(Arc::new(GuardExec::new(Arc::clone(input)))),
            _ => Err(Error::internal("a guard has one input")),
        }
    }
}
