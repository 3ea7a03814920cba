//! Numbers as people write them.
//!
//! With an exponent they are floats. With a point they are decimals, which compare digit by digit with decimal columns;
//! DataFusion would make decimals of the floats beside them too, and lose what decimals cannot hold: large values,
//! infinity, NaN. Here the literal gives way.

use std::ops::ControlFlow;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, cast};
use datafusion::sql::sqlparser::ast::{self, VisitMut, VisitorMut};

/// Functions whose arguments take one type together.
const ALIKE: [&str; 4] = ["coalesce", "greatest", "least", "nullif"];

/// Makes numbers with an exponent floats.
pub(super) fn exponents(query: &mut ast::Query) {
    let _ = VisitMut::visit(query, &mut Exponents);
}

struct Exponents;

impl VisitorMut for Exponents {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut ast::Expr) -> ControlFlow<()> {
        if let ast::Expr::Value(value) = expr
            && let ast::Value::Number(digits, _) = &value.value
            && digits.contains(['e', 'E'])
        {
            let mut text = value.clone();
            text.value = ast::Value::SingleQuotedString(digits.clone());
            *expr = ast::Expr::Cast {
                kind: ast::CastKind::Cast,
                expr: Box::new(ast::Expr::Value(text)),
                data_type: ast::DataType::Double(ast::ExactNumberInfo::None),
                array: false,
                format: None,
            };
        }
        ControlFlow::Continue(())
    }
}

/// `plan` with every cast of a literal as the literal it gives: some functions have a type that follows from a literal,
/// such as `round(x, 2)`.
pub(super) fn folded(plan: LogicalPlan) -> Result<LogicalPlan> {
    rewritten(plan, |expr, _| match &expr {
        Expr::Cast(cast) => match cast.expr.as_ref() {
            Expr::Literal(value, _) => match value.cast_to(cast.field.data_type()) {
                Ok(value) => Transformed::yes(Expr::Literal(value, None)),
                // It fails, if it does, when the plan runs.
                Err(_) => Transformed::no(expr),
            },
            _ => Transformed::no(expr),
        },
        _ => Transformed::no(expr),
    })
}

/// `plan` with decimals that stand beside floats as floats.
pub(super) fn beside_floats(plan: LogicalPlan) -> Result<LogicalPlan> {
    rewritten(plan, rewrite)
}

/// `plan` with every expression rewritten under the columns it sees, by the names it had.
pub(super) fn rewritten(
    plan: LogicalPlan,
    rewrite: fn(Expr, &DFSchema) -> Transformed<Expr>,
) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|plan| {
        let schema = match &plan {
            LogicalPlan::TableScan(scan) => scan.projected_schema.as_ref().clone(),
            other => merge_schema(&other.inputs()),
        };
        let names = NamePreserver::new(&plan);
        let done = plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let done = expr.transform_up(|expr| Ok(rewrite(expr, &schema)))?;
            Ok(done.update_data(|expr| name.restore(expr)))
        })?;
        // Types below may have changed too.
        done.map_data(LogicalPlan::recompute_schema)
    })?;
    Ok(done.data)
}

fn rewrite(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    match expr {
        Expr::BinaryExpr(mut binary) if !binary.op.is_logic_operator() => {
            let changed = settle([binary.left.as_mut(), binary.right.as_mut()], schema);
            with(Expr::BinaryExpr(binary), changed)
        }
        Expr::Between(mut between) => {
            let all = [between.expr.as_mut(), between.low.as_mut(), between.high.as_mut()];
            let changed = settle(all, schema);
            with(Expr::Between(between), changed)
        }
        Expr::InList(mut list) => {
            let changed = settle(std::iter::once(list.expr.as_mut()).chain(&mut list.list), schema);
            with(Expr::InList(list), changed)
        }
        Expr::Case(mut case) => {
            let whens = case.when_then_expr.iter_mut();
            let (whens, thens): (Vec<&mut Expr>, Vec<&mut Expr>) =
                whens.map(|(when, then)| (when.as_mut(), then.as_mut())).unzip();
            let results = settle(thens.into_iter().chain(case.else_expr.as_deref_mut()), schema);
            let compared = match case.expr.as_deref_mut() {
                Some(base) => settle(std::iter::once(base).chain(whens), schema),
                None => false,
            };
            with(Expr::Case(case), results || compared)
        }
        Expr::ScalarFunction(mut call) if ALIKE.contains(&call.func.name()) => {
            let changed = settle(&mut call.args, schema);
            with(Expr::ScalarFunction(call), changed)
        }
        other => Transformed::no(other),
    }
}

fn with(expr: Expr, changed: bool) -> Transformed<Expr> {
    if changed { Transformed::yes(expr) } else { Transformed::no(expr) }
}

/// Turns the decimal literals among `exprs` into floats if another of them is one; and all decimals if another is a float
/// that is no literal, whose values are not known. Whether it did.
fn settle<'a>(exprs: impl IntoIterator<Item = &'a mut Expr>, schema: &DFSchema) -> bool {
    let mut exprs: Vec<&mut Expr> = exprs.into_iter().collect();
    let types: Vec<Option<DataType>> = exprs.iter().map(|expr| expr.get_type(schema).ok()).collect();
    let is_float = |ty: &Option<DataType>| ty.as_ref().is_some_and(DataType::is_floating);
    let beside = types.iter().any(is_float);
    let unknown =
        exprs.iter().zip(&types).any(|(expr, ty)| is_float(ty) && !matches!(&**expr, Expr::Literal(..)));
    let mut changed = false;
    for (expr, ty) in exprs.iter_mut().zip(&types) {
        if !beside || !ty.as_ref().is_some_and(DataType::is_decimal) {
            continue;
        }
        if let Expr::Literal(value, _) = &**expr {
            if let Ok(value) = value.cast_to(&DataType::Float64) {
                **expr = Expr::Literal(value, None);
                changed = true;
            }
        } else if unknown {
            let decimal = std::mem::take(&mut **expr);
            **expr = cast(decimal, DataType::Float64);
            changed = true;
        }
    }
    changed
}
