//! Inner joins as inputs and the conditions between them.
//!
//! # Not here
//! Choosing a tree (`search`).

use std::sync::Arc;

use datafusion::common::{Column, DFSchema, DFSchemaRef, JoinConstraint, JoinType, NullEquality};
use datafusion::error::Result;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{BinaryExpr, Expr, Filter, Join, LogicalPlan, Operator, Projection};

use super::search::Tree;

/// Inputs that one graph has at most: as many as bits.
const INPUTS_MAX: usize = 32;

/// A set of inputs.
pub(super) type Set = u32;

/// A tree of inner joins, taken apart.
pub(super) struct Graph<'a> {
    pub(super) inputs: Vec<&'a LogicalPlan>,
    pub(super) conditions: Vec<Condition>,
    /// How the text joins them.
    pub(super) tree: Tree,
}

/// What has to hold between inputs.
pub(super) struct Condition {
    pub(super) expr: Expr,
    /// The inputs it speaks of.
    pub(super) needs: Set,
    /// The sides of an equality that each speak of other inputs.
    pub(super) equal: Option<[(Expr, Set); 2]>,
}

/// Whether `plan` is a join that may change places with others like it.
pub(super) fn inner(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Join(join) if join.join_type == JoinType::Inner
        && join.null_equality == NullEquality::NullEqualsNothing
        && !join.null_aware)
}

/// The inputs of the tree of inner joins at `plan`, as [`Graph::inputs`].
pub(super) fn inputs(plan: &LogicalPlan) -> Vec<LogicalPlan> {
    match plan {
        LogicalPlan::Join(join) if inner(plan) => {
            let mut all = inputs(&join.left);
            all.extend(inputs(&join.right));
            all
        }
        _ => vec![plan.clone()],
    }
}

impl<'a> Graph<'a> {
    /// The graph of the inner joins at `plan`. `None` if it has too many inputs, or a condition that cannot be moved.
    pub(super) fn of(plan: &'a LogicalPlan) -> Option<Self> {
        let (mut inputs, mut exprs) = (Vec::new(), Vec::new());
        let tree = take_apart(plan, &mut inputs, &mut exprs);
        if inputs.len() > INPUTS_MAX {
            return None;
        }
        let schemas: Vec<&DFSchemaRef> = inputs.iter().map(|input| input.schema()).collect();
        let conditions = exprs.into_iter().map(|expr| condition(expr, &schemas)).collect::<Option<_>>()?;
        Some(Self { inputs, conditions, tree })
    }

    /// The joins of `tree` over `inputs`, which stand for those of the graph, with the columns of `schema`.
    pub(super) fn build(
        &self,
        tree: &Tree,
        inputs: &[Arc<LogicalPlan>],
        schema: &DFSchemaRef,
    ) -> Result<LogicalPlan> {
        let mut used = vec![false; self.conditions.len()];
        let joined = self.join(tree, inputs, &mut used)?;
        // Those that speak of no input, or of one.
        let rest = self.conditions.iter().zip(&used).filter(|(_, used)| !**used);
        let joined = match conjunction(rest.map(|(condition, _)| condition.expr.clone())) {
            Some(rest) => Arc::new(LogicalPlan::Filter(Filter::try_new(rest, joined)?)),
            None => joined,
        };
        if joined.schema() == schema {
            return Ok(Arc::unwrap_or_clone(joined));
        }
        Ok(LogicalPlan::Projection(Projection::new_from_schema(joined, Arc::clone(schema))))
    }

    fn join(&self, tree: &Tree, inputs: &[Arc<LogicalPlan>], used: &mut [bool]) -> Result<Arc<LogicalPlan>> {
        let (left, right) = match tree {
            Tree::Input(at) => return Ok(Arc::clone(&inputs[*at])),
            Tree::Join(left, right) => (left, right),
        };
        let (in_left, in_right) = (left.set(), right.set());
        let (mut on, mut filter) = (Vec::new(), Vec::new());
        for (condition, used) in self.conditions.iter().zip(used.iter_mut()) {
            let needs = condition.needs;
            let here = needs & in_left != 0 && needs & in_right != 0 && needs & !(in_left | in_right) == 0;
            if !here {
                continue;
            }
            *used = true;
            match &condition.equal {
                Some([(a, of_a), (b, of_b)]) if of_a & !in_left == 0 && of_b & !in_right == 0 => {
                    on.push((a.clone(), b.clone()));
                }
                Some([(a, of_a), (b, of_b)]) if of_b & !in_left == 0 && of_a & !in_right == 0 => {
                    on.push((b.clone(), a.clone()));
                }
                _ => filter.push(condition.expr.clone()),
            }
        }
        let (left, right) = (self.join(left, inputs, used)?, self.join(right, inputs, used)?);
        let join = Join::try_new(
            left,
            right,
            on,
            conjunction(filter),
            JoinType::Inner,
            JoinConstraint::On,
            NullEquality::NullEqualsNothing,
            false,
        )?;
        Ok(Arc::new(LogicalPlan::Join(join)))
    }
}

fn take_apart<'a>(plan: &'a LogicalPlan, inputs: &mut Vec<&'a LogicalPlan>, exprs: &mut Vec<Expr>) -> Tree {
    match plan {
        LogicalPlan::Join(join) if inner(plan) => {
            let left = take_apart(&join.left, inputs, exprs);
            let right = take_apart(&join.right, inputs, exprs);
            exprs.extend(join.on.iter().map(|(a, b)| a.clone().eq(b.clone())));
            exprs.extend(join.filter.iter().flat_map(split_conjunction).cloned());
            Tree::Join(Box::new(left), Box::new(right))
        }
        _ => {
            inputs.push(plan);
            Tree::Input(inputs.len() - 1)
        }
    }
}

fn condition(expr: Expr, schemas: &[&DFSchemaRef]) -> Option<Condition> {
    if expr.is_volatile() {
        return None;
    }
    let needs = speaks_of(&expr, schemas)?;
    let equal = match &expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            let (of_left, of_right) = (speaks_of(left, schemas)?, speaks_of(right, schemas)?);
            let apart = of_left != 0 && of_right != 0 && of_left & of_right == 0;
            apart.then(|| [(left.as_ref().clone(), of_left), (right.as_ref().clone(), of_right)])
        }
        _ => None,
    };
    Some(Condition { expr, needs, equal })
}

/// The inputs whose columns are in `expr`. `None` if that is not clear.
fn speaks_of(expr: &Expr, schemas: &[&DFSchemaRef]) -> Option<Set> {
    let mut set = 0;
    for column in expr.column_refs() {
        let mut owners = (0..schemas.len()).filter(|at| has(schemas[*at], column));
        let (owner, other) = (owners.next()?, owners.next());
        if other.is_some() {
            return None;
        }
        set |= 1 << owner;
    }
    Some(set)
}

fn has(schema: &DFSchema, column: &Column) -> bool {
    schema.maybe_index_of_column(column).is_some()
}
