//! Subqueries that are used as values, and IN where it is a value too.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Expr, ExprSchemable, Filter, LogicalPlan, LogicalPlanBuilder, Subquery, lit, when,
};

use super::literals::rewritten;
use crate::functions::single;

/// `plan` with every such subquery checked to have at most one row when it runs, unless its shape says so.
///
/// Those that read columns from outside are left alone: DataFusion takes only aggregates there.
pub(super) fn single_rows(plan: LogicalPlan) -> Result<LogicalPlan> {
    rewritten(plan, |expr, _| match expr {
        Expr::ScalarSubquery(subquery) => match checked(&subquery) {
            Some(plan) => {
                Transformed::yes(Expr::ScalarSubquery(Subquery { subquery: Arc::new(plan), ..subquery }))
            }
            None => Transformed::no(Expr::ScalarSubquery(subquery)),
        },
        other => Transformed::no(other),
    })
}

fn checked(subquery: &Subquery) -> Option<LogicalPlan> {
    let plan = subquery.subquery.as_ref();
    if !subquery.outer_ref_columns.is_empty() || plan.max_rows().is_some_and(|rows| rows <= 1) {
        return None;
    }
    let mut columns = plan.schema().columns().into_iter();
    let (Some(only), None) = (columns.next(), columns.next()) else { return None };
    let name = only.name.clone();
    let value = single(Expr::Column(only)).alias(name);
    LogicalPlanBuilder::from(plan.clone()).aggregate(Vec::<Expr>::new(), vec![value]).ok()?.build().ok()
}

/// `plan` with every `IN (subquery)` inside a larger condition made to tell unknown from false.
///
/// DataFusion joins such a subquery as a mark, which is never NULL: `NOT (x IN (...))` would hold where a NULL among the
/// values makes it unknown. Conditions of their own it joins with care for NULLs, and they stay.
pub(super) fn unknown_in(plan: LogicalPlan) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Filter(filter) = node else { return Ok(Transformed::no(node)) };
        let schema = Arc::clone(filter.input.schema());
        let parts = split_conjunction_owned(filter.predicate);
        let parts = parts.into_iter().map(|part| if alone(&part) { Ok(part) } else { inside(part, &schema) });
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let predicate = conjunction(parts).unwrap_or_else(|| lit(true));
        Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?)))
    })?;
    Ok(done.data)
}

fn alone(part: &Expr) -> bool {
    match part {
        Expr::InSubquery(_) | Expr::Exists(_) => true,
        Expr::Not(inner) => matches!(inner.as_ref(), Expr::InSubquery(_) | Expr::Exists(_)),
        _ => false,
    }
}

fn inside(part: Expr, schema: &DFSchema) -> Result<Expr> {
    let done = part.transform_up(|expr| match expr {
        Expr::InSubquery(found) => Ok(Transformed::yes(told(found, schema)?)),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(done.data)
}

/// The value that SQL gives `x IN (values)`: NULL if none is equal and one, or `x`, is NULL.
fn told(found: InSubquery, schema: &DFSchema) -> Result<Expr> {
    const VALUE: &str = "__skep_value";
    let InSubquery { expr, subquery, negated } = found;
    // Under a name of its own: DataFusion joins an aggregate by the text of its expression, twice.
    let values = match subquery.subquery.schema().columns().as_slice() {
        [only] => LogicalPlanBuilder::from(subquery.subquery.as_ref().clone())
            .project([Expr::Column(only.clone()).alias(VALUE)])?
            .build()?,
        _ => return Ok(Expr::InSubquery(InSubquery { expr, subquery, negated })),
    };
    let of = |plan: LogicalPlan| Subquery { subquery: Arc::new(plan), ..subquery.clone() };
    let (some, none) = (values.schema().field(0).is_nullable(), expr.nullable(schema).unwrap_or(true));
    let is_in =
        Expr::InSubquery(InSubquery { expr: expr.clone(), subquery: of(values.clone()), negated: false });
    let exists = |plan| Expr::Exists(Exists { subquery: of(plan), negated: false });
    let mut unknown = lit(false);
    if some {
        let value = Expr::Column(Column::from_name(VALUE));
        unknown = exists(LogicalPlanBuilder::from(values.clone()).filter(value.is_null())?.build()?);
    }
    if none {
        unknown = unknown.or(expr.is_null().and(exists(values)));
    }
    if !some && !none {
        return Ok(if negated { Expr::Not(Box::new(is_in)) } else { is_in });
    }
    when(is_in, lit(!negated))
        .when(unknown, Expr::Literal(ScalarValue::Boolean(None), None))
        .otherwise(lit(negated))
}
