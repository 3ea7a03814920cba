//! Subqueries that are used as values.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Subquery};

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
