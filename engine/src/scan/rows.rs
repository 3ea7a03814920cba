//! Numbers the rows of files.
//!
//! ```text
//! WholeFiles scan: columns, embedded row id, file, first row id, rows of the file
//!        |
//!     RowsExec: columns, file, position in it, row id
//! ```
//!
//! A row id is for ever a row's own. A file that moved rows carries theirs in a column; any other gives them out from its
//! first on, in the order of its rows. Rows of a transaction that is not committed have none yet: theirs is NULL.
//!
//! # Invariants
//! - A position is that of the row in its file, whatever partition reads it. The scan below reads files whole and in
//!   order; a file of which another number of rows came than the catalog says is an error.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ColumnStatistics, Result, Statistics, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, CardinalityEffect, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, StatisticsArgs,
};
use futures::StreamExt;
use skep_common::{Error, Result as OurResult};

use crate::codec::NodeCodec;

/// The id of the file that a row is in.
pub(crate) const FILE: &str = "__skep_file";
/// The position of a row in its file, from 0.
pub(crate) const POSITION: &str = "__skep_position";
/// What a row is for ever.
pub(crate) const ROW_ID: &str = "__skep_row_id";
/// The row id of a file's first row, unless its rows carry their own.
pub(crate) const FIRST: &str = "__skep_first";
/// The rows of a file.
pub(crate) const ROWS: &str = "__skep_rows";

/// The columns of a [`RowsExec`] behind those of the table.
pub(crate) fn fields() -> [Field; 3] {
    [(FILE, false), (POSITION, false), (ROW_ID, true)]
        .map(|(name, nullable)| Field::new(name, DataType::Int64, nullable))
}

/// Columns that the input has behind those of the table.
const INPUT_EXTRA: usize = 4;

/// See [the module](self).
#[derive(Debug)]
pub(crate) struct RowsExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl RowsExec {
    /// Over `input`, which has the embedded row id, the file, its first row id and its rows as last columns.
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>) -> Result<Self> {
        let schema = input.schema();
        let Some(columns) = schema.fields().len().checked_sub(INPUT_EXTRA) else {
            return internal_err!("the rows to number have no file");
        };
        let own = schema.fields().iter().take(columns).cloned();
        let out = Arc::new(Schema::new(own.chain(fields().map(Arc::new)).collect::<Vec<_>>()));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(out),
            input.output_partitioning().clone(),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self { input, properties: Arc::new(properties) })
    }
}

impl DisplayAs for RowsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("RowsExec")
    }
}

impl ExecutionPlan for RowsExec {
    fn name(&self) -> &str {
        "RowsExec"
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

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match <[_; 1]>::try_from(children) {
            Ok([input]) => Ok(Arc::new(Self::new(input)?)),
            Err(children) => internal_err!("RowsExec has one child, not {}", children.len()),
        }
    }

    /// An exchange below would tear files apart.
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let schema = self.schema();
        let Some(input) = inputs.first() else { return Ok(Arc::new(Statistics::new_unknown(&schema))) };
        let own = schema.fields().len() - fields().len();
        let columns = input.column_statistics.iter().take(own).cloned();
        let unknown = std::iter::repeat_n(ColumnStatistics::new_unknown(), fields().len());
        Ok(Arc::new(Statistics {
            num_rows: input.num_rows,
            total_byte_size: input.total_byte_size,
            column_statistics: columns.chain(unknown).collect(),
        }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context)?;
        let mut numbering = Numbering { schema: self.schema(), files: HashMap::new() };
        let schema = self.schema();
        // The end is a batch of its own, so that files cut short are seen.
        let all = rows.map(Some).chain(futures::stream::once(std::future::ready(None)));
        let numbered = all.filter_map(move |batch| {
            std::future::ready(match batch {
                Some(Ok(batch)) => Some(numbering.number(&batch)),
                Some(Err(error)) => Some(Err(error)),
                None => numbering.check().err().map(|error| Err(external(error))),
            })
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, numbered)))
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

struct Numbering {
    schema: SchemaRef,
    /// How many rows of which file came, and how many it has.
    files: HashMap<i64, (i64, i64)>,
}

impl Numbering {
    fn number(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let own = self.schema.fields().len() - fields().len();
        let column = |at: usize| batch.column(own + at).as_primitive::<Int64Type>();
        let (embedded, file, first, rows) = (column(0), column(1), column(2), column(3));
        let (mut positions, mut ids) =
            (Vec::with_capacity(batch.num_rows()), Vec::with_capacity(batch.num_rows()));
        for row in 0..batch.num_rows() {
            let (seen, _) = self.files.entry(file.value(row)).or_insert((0, rows.value(row)));
            let position = *seen;
            *seen += 1;
            positions.push(position);
            ids.push(match (embedded.is_valid(row), first.is_valid(row)) {
                (true, _) => Some(embedded.value(row)),
                (false, true) => Some(first.value(row) + position),
                (false, false) => None,
            });
        }
        let extra: [ArrayRef; 3] =
            [Arc::new(file.clone()), Arc::new(Int64Array::from(positions)), Arc::new(Int64Array::from(ids))];
        let columns = batch.columns().iter().take(own).map(Arc::clone).chain(extra).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    fn check(&self) -> OurResult<()> {
        match self.files.iter().find(|(_, (seen, rows))| seen != rows) {
            None => Ok(()),
            Some((file, (seen, rows))) => {
                Err(Error::internal(format!("{seen} rows of file {file} came, and it has {rows}"))
                    .hint("nothing was changed; please report this"))
            }
        }
    }
}

/// How a [`RowsExec`] travels: by its name alone.
#[derive(Debug)]
pub(crate) struct RowsCodec;

impl NodeCodec for RowsCodec {
    fn name(&self) -> &'static str {
        "rows"
    }

    fn encode(&self, node: &dyn ExecutionPlan) -> Option<OurResult<Vec<u8>>> {
        node.downcast_ref::<RowsExec>().map(|_| Ok(Vec::new()))
    }

    fn decode(&self, _: &[u8], inputs: &[Arc<dyn ExecutionPlan>]) -> OurResult<Arc<dyn ExecutionPlan>> {
        match inputs {
            [input] => RowsExec::new(Arc::clone(input))
                .map(|node| Arc::new(node) as _)
                .map_err(crate::error::from_datafusion),
            _ => Err(Error::internal("numbering rows takes one input")),
        }
    }
}
