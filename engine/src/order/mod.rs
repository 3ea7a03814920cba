//! Chooses in which order tables are joined.
//!
//! DataFusion joins in the order of the text, as far as conditions allow. Here a tree of inner joins is taken apart into its
//! inputs and conditions; the catalog's counts say how many rows each part of it would have, and the tree that makes the fewest
//! rows on the way takes its place.
//!
//! ```text
//! tree of inner joins --graph--> inputs, conditions --estimate--> rows of any part --search--> tree --> plan
//! ```
//!
//! # Guarantees
//! - The same rows, and the same columns in the same order.
//! - The order of the text stays unless another makes clearly fewer rows, and whenever an input's rows are not known.
//!
//! # Not here
//! Which side of a join is kept in memory (DataFusion, from the statistics of the physical plan); outer joins, which stay where
//! they are and are inputs of the joins around them.

mod estimate;
mod graph;
mod search;
#[cfg(test)]
mod tests;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::{Optimizer, OptimizerConfig, OptimizerRule};
use std::sync::Arc;

use estimate::estimate;
use graph::Graph;
use search::{cost, search};

/// DataFusion's rules and this one.
pub(crate) fn rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let mut rules = Optimizer::new().rules;
    // Where conditions lie at the joins they belong to, and no columns were cut off between joins yet.
    let after = rules.iter().position(|rule| rule.name() == "push_down_filter");
    rules.insert(after.map_or(rules.len(), |at| at + 1), Arc::new(OrderJoins));
    rules
}

/// How many times the rows of another order a text must make, counting the rows of the inputs in both.
const WORTH: f64 = 1.5;
/// With fewer inputs there is one order.
const INPUTS_MIN: usize = 3;

/// Puts inner joins into the order that makes the fewest rows.
#[derive(Debug)]
pub(crate) struct OrderJoins;

impl OptimizerRule for OrderJoins {
    fn name(&self) -> &'static str {
        "order_joins"
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        order(plan)
    }
}

fn order(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let plan = plan.map_uncorrelated_subqueries(order)?;
    plan.transform_sibling(|plan| {
        if !graph::inner(&plan) {
            return plan.map_children(order);
        }
        match Graph::of(&plan).and_then(|graph| better(&graph)) {
            Some(tree) => {
                let (inputs, schema) = (graph::inputs(&plan), Arc::clone(plan.schema()));
                let mut ordered = Vec::with_capacity(inputs.len());
                for input in inputs {
                    ordered.push(Arc::new(order(input)?.data));
                }
                let graph = Graph::of(&plan);
                let made = graph.map(|graph| graph.build(&tree, &ordered, &schema)).transpose()?;
                Ok(made.map_or_else(|| Transformed::no(plan), Transformed::yes))
            }
            None => below(plan),
        }
    })
}

/// Orders what lies below the joins of one tree.
fn below(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    plan.map_children(|child| if graph::inner(&child) { below(child) } else { order(child) })
}

/// A tree that makes clearly fewer rows than the text's.
fn better(graph: &Graph) -> Option<search::Tree> {
    if graph.inputs.len() < INPUTS_MIN {
        return None;
    }
    let estimates = graph.inputs.iter().map(|input| estimate(input)).collect::<Option<Vec<_>>>()?;
    let sizes = search::Sizes::new(graph, &estimates);
    let found = search(&sizes)?;
    let read: f64 = estimates.iter().map(|estimate| estimate.rows).sum();
    let (old, new) = (cost(&sizes, &graph.tree), cost(&sizes, &found));
    tracing::debug!(old, new, read, "orders of joins");
    (old + read > WORTH * (new + read)).then_some(found)
}
