//! Keeps what is known of rows when a plan is cut into stages.
//!
//! The optimizer leaves out of a sort what it does not need: keys that have one value, and keys that equal another. A window that
//! reads the sort asserts, when it runs, that its keys are sorted. Whoever gets a stage alone does not know what the stages below
//! know, so it takes such a sort for too short. A [`KnownExec`] below the window says it again.
//!
//! # Invariants
//! - Says only what the plan below it said on one node: it changes no row, and no order.
//!
//! # Not here
//! Orders: every stage makes its own.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, Statistics, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::equivalence::AcrossPartitions;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{ConstExpr, EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    PlanProperties, ReplaceChildrenOptions, StatisticsArgs,
};
use prost::Message;
use skep_common::{Error, Result as OurResult};

use crate::codec::NodeCodec;
use crate::error;

/// Columns of one value, and columns that equal each other, by position.
#[derive(Clone, PartialEq, Message)]
struct Facts {
    /// They have one value in all partitions.
    #[prost(uint32, repeated, tag = "1")]
    constant: Vec<u32>,
    /// They have one value in each partition.
    #[prost(uint32, repeated, tag = "2")]
    constant_in_partition: Vec<u32>,
    #[prost(message, repeated, tag = "3")]
    equal: Vec<Equal>,
}

#[derive(Clone, PartialEq, Message)]
struct Equal {
    #[prost(uint32, repeated, tag = "1")]
    columns: Vec<u32>,
}

impl Facts {
    fn of(input: &EquivalenceProperties) -> Self {
        let position = |expr: &Arc<dyn PhysicalExpr>| {
            expr.downcast_ref::<Column>().and_then(|column| u32::try_from(column.index()).ok())
        };
        let mut facts = Self::default();
        for constant in input.constants() {
            let Some(column) = position(&constant.expr) else { continue };
            match constant.across_partitions {
                AcrossPartitions::Uniform(_) => facts.constant.push(column),
                AcrossPartitions::Heterogeneous => facts.constant_in_partition.push(column),
            }
        }
        let classes = input.eq_group().iter().map(|class| class.iter().filter_map(position).collect());
        facts.equal =
            classes.filter(|class: &Vec<u32>| class.len() > 1).map(|columns| Equal { columns }).collect();
        facts
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is known of `input` and these facts.
    fn add_to(&self, input: &EquivalenceProperties) -> Result<EquivalenceProperties> {
        let mut all = input.clone();
        let schema = Arc::clone(input.schema());
        let column = |position: u32| -> Result<Arc<dyn PhysicalExpr>> {
            let position = position as usize;
            let Some(field) = schema.fields().get(position) else {
                return internal_err!("there is no column {position} that something is known of");
            };
            Ok(Arc::new(Column::new(field.name(), position)))
        };
        for class in &self.equal {
            for pair in class.columns.windows(2) {
                all.add_equal_conditions(column(pair[0])?, column(pair[1])?)?;
            }
        }
        let everywhere = self.constant.iter().map(|&c| (c, AcrossPartitions::Uniform(None)));
        let in_each = self.constant_in_partition.iter().map(|&c| (c, AcrossPartitions::Heterogeneous));
        let constants = everywhere.chain(in_each).map(|(c, across)| Ok(ConstExpr::new(column(c)?, across)));
        all.add_constants(constants.collect::<Result<Vec<_>>>()?)?;
        Ok(all)
    }
}

/// Passes rows through, and knows what was known of them before the plan was cut.
#[derive(Debug)]
pub struct KnownExec {
    input: Arc<dyn ExecutionPlan>,
    facts: Facts,
    properties: Arc<PlanProperties>,
}

impl KnownExec {
    fn new(input: Arc<dyn ExecutionPlan>, facts: Facts) -> Result<Self> {
        let known = facts.add_to(input.equivalence_properties())?;
        let properties = PlanProperties::clone(input.properties()).with_eq_properties(known);
        Ok(Self { input, facts, properties: Arc::new(properties) })
    }
}

/// Keeps what is known of the rows that windows read. To be called before the plan is cut, the last of all that changes it.
///
/// # Errors
/// Those of putting a plan together.
pub fn keep_known(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let kept = plan.transform_up(|node| {
        if !node.is::<WindowAggExec>() && !node.is::<BoundedWindowAggExec>() {
            return Ok(Transformed::no(node));
        }
        let input = Arc::clone(node.children()[0]);
        let facts = Facts::of(input.equivalence_properties());
        if facts.is_empty() {
            return Ok(Transformed::no(node));
        }
        let input: Arc<dyn ExecutionPlan> = Arc::new(KnownExec::new(input, facts)?);
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        Ok(Transformed::yes(node.replace_children(vec![input], options)?))
    });
    Ok(kept?.data)
}

impl DisplayAs for KnownExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("KnownExec")
    }
}

impl ExecutionPlan for KnownExec {
    fn name(&self) -> &str {
        "KnownExec"
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
            Ok([input]) => Ok(Arc::new(Self::new(input, self.facts.clone())?)),
            Err(children) => internal_err!("KnownExec has one child, not {}", children.len()),
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
        self.input.execute(partition, context)
    }
}

/// How a [`KnownExec`] travels: as positions of columns.
#[derive(Debug)]
pub(crate) struct KnownCodec;

impl NodeCodec for KnownCodec {
    fn name(&self) -> &'static str {
        "known"
    }

    fn encode(&self, node: &dyn ExecutionPlan) -> Option<OurResult<Vec<u8>>> {
        node.downcast_ref::<KnownExec>().map(|known| Ok(known.facts.encode_to_vec()))
    }

    fn decode(&self, bytes: &[u8], inputs: &[Arc<dyn ExecutionPlan>]) -> OurResult<Arc<dyn ExecutionPlan>> {
        let facts = Facts::decode(bytes)
            .map_err(|e| Error::internal("what is known of rows cannot be decoded").source(e))?;
        match inputs {
            [input] => {
                Ok(Arc::new(KnownExec::new(Arc::clone(input), facts).map_err(error::from_datafusion)?))
            }
            _ => Err(Error::internal("what is known is known of one input")),
        }
    }
}
