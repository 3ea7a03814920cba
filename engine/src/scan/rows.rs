//! Numbers the rows of files.
//!
//! ```text
//! WholeFiles scan: columns, embedded row id, file, first row id, rows of the file
//!        |
//!     RowsExec: columns, file, position in it, row id
//! ```
//!
//! Rows that are [hidden](super::hidden) are counted and left out. Where some were added after the snapshot that is read,
//! the snapshot of each row stands before its embedded row id.
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

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, Int64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::stats::Precision;
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
use futures::stream::try_unfold;
use prost::Message;
use skep_common::{Error, Result as OurResult};

use super::hidden::{Absent, Hidden};
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

/// The snapshot that a file is looked at for, where it is for several.
pub(crate) const STAMP: &str = "__skep_snapshot";

/// The columns of a [`RowsExec`] behind those of the table.
pub(crate) fn fields() -> [Field; 3] {
    [(FILE, false), (POSITION, false), (ROW_ID, true)]
        .map(|(name, nullable)| Field::new(name, DataType::Int64, nullable))
}

/// Columns that the input has behind those of the table, without the snapshot.
const INPUT_EXTRA: usize = 4;

/// See [the module](self).
#[derive(Debug)]
pub(crate) struct RowsExec {
    input: Arc<dyn ExecutionPlan>,
    hidden: Option<Hidden>,
    properties: Arc<PlanProperties>,
}

impl RowsExec {
    /// Over `input`, which has the snapshot if rows may be late, the embedded row id, the file, its first row id and its
    /// rows as last columns.
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>, hidden: Option<Hidden>) -> Result<Self> {
        let schema = input.schema();
        let Some(columns) = schema.fields().len().checked_sub(extra(hidden.as_ref())) else {
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
        Ok(Self { input, hidden, properties: Arc::new(properties) })
    }
}

/// How many columns the input has behind those of the table.
fn extra(hidden: Option<&Hidden>) -> usize {
    INPUT_EXTRA + usize::from(hidden.is_some_and(|hidden| hidden.late))
}

impl DisplayAs for RowsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.hidden {
            None => f.write_str("RowsExec"),
            Some(hidden) => write!(f, "RowsExec: files with hidden rows={}", hidden.count()),
        }
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
            Ok([input]) => Ok(Arc::new(Self::new(input, self.hidden.clone())?)),
            Err(children) => internal_err!("RowsExec has one child, not {}", children.len()),
        }
    }

    /// An exchange below would tear files apart.
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    /// A sort below would number sorted rows: this is what keeps it above.
    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false]
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        if self.hidden.is_some() { CardinalityEffect::LowerEqual } else { CardinalityEffect::Equal }
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        arguments: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let schema = self.schema();
        let Some(input) = inputs.first() else { return Ok(Arc::new(Statistics::new_unknown(&schema))) };
        let own = schema.fields().len() - fields().len();
        let columns = input.column_statistics.iter().take(own).cloned();
        let unknown = std::iter::repeat_n(ColumnStatistics::new_unknown(), fields().len());
        let live = self.hidden.as_ref().and_then(|hidden| hidden.live);
        let live =
            live.filter(|_| arguments.partition().is_none()).and_then(|live| usize::try_from(live).ok());
        Ok(Arc::new(Statistics {
            num_rows: live.map_or(input.num_rows, Precision::Exact),
            total_byte_size: input.total_byte_size,
            column_statistics: columns.chain(unknown).collect(),
        }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, Arc::clone(&context))?;
        let schema = self.schema();
        let numbering = Numbering {
            schema: Arc::clone(&schema),
            hidden: self.hidden.clone(),
            context,
            files: HashMap::new(),
        };
        let numbered = try_unfold((rows, numbering), |(mut rows, mut numbering)| async move {
            let Some(batch) = rows.next().await else {
                // A file that was cut short is seen at the end.
                numbering.check().map_err(external)?;
                return Ok(None);
            };
            let batch = batch?;
            numbering.meet(&batch).await.map_err(external)?;
            let batch = numbering.number(&batch)?;
            Ok(Some((batch, (rows, numbering))))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, numbered)))
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

struct Numbering {
    schema: SchemaRef,
    hidden: Option<Hidden>,
    context: Arc<TaskContext>,
    files: HashMap<i64, Seen>,
}

/// What is known of a file of which rows came.
struct Seen {
    /// How many rows came.
    came: i64,
    /// How many it has.
    rows: i64,
    absent: Absent,
}

impl Numbering {
    fn own(&self) -> usize {
        self.schema.fields().len() - fields().len()
    }

    /// The column at `at` of those behind the columns of the table and the snapshot.
    fn column<'a>(&self, batch: &'a RecordBatch, at: usize) -> &'a Int64Array {
        let first = self.own() + extra(self.hidden.as_ref()) - INPUT_EXTRA;
        batch.column(first + at).as_primitive::<Int64Type>()
    }

    /// Learns what is hidden of the files that the rows of `batch` are from.
    async fn meet(&mut self, batch: &RecordBatch) -> OurResult<()> {
        let (files, rows) = (self.column(batch, 1), self.column(batch, 3));
        for row in 0..batch.num_rows() {
            let (file, rows) = (files.value(row), rows.value(row));
            if self.files.contains_key(&file) {
                continue;
            }
            let absent = match &self.hidden {
                None => Absent::default(),
                Some(hidden) => hidden.absent(file, rows, &self.context).await?,
            };
            self.files.insert(file, Seen { came: 0, rows, absent });
        }
        Ok(())
    }

    fn number(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let own = self.own();
        let [embedded, file, first] = [0, 1, 2].map(|at| self.column(batch, at));
        let late = self.hidden.as_ref().is_some_and(|hidden| hidden.late);
        let snapshots = late.then(|| batch.column(own).as_primitive::<Int64Type>());
        let count = batch.num_rows();
        let (mut positions, mut ids) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut shown = BooleanBufferBuilder::new(count);
        for row in 0..count {
            let Some(seen) = self.files.get_mut(&file.value(row)) else {
                return internal_err!("a row came of a file that was not met");
            };
            let position = seen.came;
            seen.came += 1;
            if seen.came > seen.rows {
                break;
            }
            let snapshot = snapshots.filter(|snapshots| snapshots.is_valid(row));
            shown.append(seen.absent.shows(position, snapshot.map(|snapshots| snapshots.value(row))));
            positions.push(position);
            ids.push(match (embedded.is_valid(row), first.is_valid(row)) {
                (true, _) => Some(embedded.value(row)),
                (false, true) => Some(first.value(row) + position),
                (false, false) => None,
            });
        }
        if positions.len() < count {
            self.check().map_err(external)?;
        }
        let extra: [ArrayRef; 3] =
            [Arc::new(file.clone()), Arc::new(Int64Array::from(positions)), Arc::new(Int64Array::from(ids))];
        let columns = batch.columns().iter().take(own).map(Arc::clone).chain(extra).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let numbered = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        if self.hidden.is_none() {
            return Ok(numbered);
        }
        Ok(filter_record_batch(&numbered, &BooleanArray::new(shown.finish(), None))?)
    }

    fn check(&self) -> OurResult<()> {
        match self.files.iter().find(|(_, seen)| seen.came != seen.rows) {
            None => Ok(()),
            Some((file, Seen { came, rows, .. })) => {
                Err(Error::internal(format!("{came} rows of file {file} came, and it has {rows}"))
                    .hint("nothing was changed; please report this"))
            }
        }
    }
}

/// How a [`RowsExec`] travels: by what is hidden, or by its name alone.
#[derive(Debug)]
pub(crate) struct RowsCodec;

impl NodeCodec for RowsCodec {
    fn name(&self) -> &'static str {
        "rows"
    }

    fn encode(&self, node: &dyn ExecutionPlan) -> Option<OurResult<Vec<u8>>> {
        let node = node.downcast_ref::<RowsExec>()?;
        Some(Ok(node.hidden.as_ref().map(Message::encode_to_vec).unwrap_or_default()))
    }

    fn decode(&self, bytes: &[u8], inputs: &[Arc<dyn ExecutionPlan>]) -> OurResult<Arc<dyn ExecutionPlan>> {
        let hidden = match bytes {
            [] => None,
            bytes => Some(
                Hidden::decode(bytes)
                    .map_err(|e| Error::internal("what is hidden of files cannot be decoded").source(e))?,
            ),
        };
        match inputs {
            [input] => RowsExec::new(Arc::clone(input), hidden)
                .map(|node| Arc::new(node) as _)
                .map_err(crate::error::from_datafusion),
            _ => Err(Error::internal("numbering rows takes one input")),
        }
    }
}
