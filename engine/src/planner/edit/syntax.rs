//! Queries made of the parts of a statement. The parts keep their places in the text, so that errors point there.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, Expr, Ident, ObjectName, ObjectNamePart, Query, SelectItem, SetExpr, TableFactor, TableWithJoins,
    VisitMut, VisitorMut,
};
use skep_common::{Error, Result};

use crate::names;
use crate::sql::{Target, parse_query};

/// The name under which the planner finds the table of the statement with its files and positions.
pub(super) const TARGET: &str = "__skep_target";

/// `SELECT items FROM tables WHERE selection`
pub(super) fn select(
    items: Vec<SelectItem>,
    from: Vec<TableWithJoins>,
    selection: Option<Expr>,
) -> Result<Query> {
    let mut query = *parse_query("SELECT 1")?;
    match query.body.as_mut() {
        SetExpr::Select(select) => {
            select.projection = items;
            select.from = from;
            select.selection = selection;
            Ok(query)
        }
        _ => Err(Error::internal("a SELECT is none")),
    }
}

/// The table of the statement, where `schema` holds it as [`TARGET`].
pub(super) fn table(target: &Target, schema: &str) -> Result<TableFactor> {
    let mut query = *parse_query("SELECT 1 FROM t AS t")?;
    let SetExpr::Select(select) = query.body.as_mut() else {
        return Err(Error::internal("a SELECT is none"));
    };
    let Some(TableWithJoins { relation: TableFactor::Table { name, alias, .. }, .. }) =
        select.from.first_mut()
    else {
        return Err(Error::internal("a table in FROM is none"));
    };
    let part = |name: &str| ObjectNamePart::Identifier(Ident::with_quote('"', name));
    *name = ObjectName(vec![part(schema), part(TARGET)]);
    if let Some(alias) = alias {
        alias.name = Ident::with_quote('"', target.name());
    }
    Ok(select.from.remove(0).relation)
}

/// `relation` by itself in FROM.
pub(super) fn alone(relation: TableFactor) -> TableWithJoins {
    TableWithJoins { relation, joins: Vec::new() }
}

/// `left JOIN right ON on`
pub(super) fn join(left: TableFactor, right: TableFactor, on: Expr) -> TableWithJoins {
    let join_operator = ast::JoinOperator::Inner(ast::JoinConstraint::On(on));
    TableWithJoins {
        relation: left,
        joins: vec![ast::Join { relation: right, global: false, join_operator }],
    }
}

/// `NOT EXISTS (SELECT 1 FROM table WHERE on)`
pub(super) fn none_in(table: TableFactor, on: Expr) -> Result<Expr> {
    let one = Expr::Value(ast::Value::Number("1".to_owned(), false).with_empty_span());
    let query = select(vec![SelectItem::UnnamedExpr(one)], vec![alone(table)], Some(on))?;
    Ok(Expr::Exists { subquery: Box::new(query), negated: true })
}

/// `table.column`
pub(super) fn column(table: &str, column: &str) -> Expr {
    Expr::CompoundIdentifier(vec![Ident::with_quote('"', table), Ident::with_quote('"', column)])
}

/// `expr AS name`
pub(super) fn named(expr: Expr, name: &str) -> SelectItem {
    SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', name) }
}

/// `(expr) IS NOT TRUE`
pub(super) fn not_true(expr: Expr) -> Expr {
    Expr::IsNotTrue(Box::new(Expr::Nested(Box::new(expr))))
}

/// All of `exprs`; none: no condition.
pub(super) fn all(exprs: impl IntoIterator<Item = Expr>) -> Option<Expr> {
    let nested = exprs.into_iter().map(|expr| Expr::Nested(Box::new(expr)));
    nested.reduce(|left, right| Expr::BinaryOp {
        left: Box::new(left),
        op: ast::BinaryOperator::And,
        right: Box::new(right),
    })
}

/// Takes the schema from before the columns of the table, which goes by its bare name in the queries made here.
pub(super) fn unqualify(query: &mut Query, target: &Target, schema: &str) {
    if target.alias.is_some() {
        return;
    }
    let table = vec![schema.to_owned(), target.table.name.clone()];
    let _ = VisitMut::visit(query, &mut Unqualify { table });
}

struct Unqualify {
    table: Vec<String>,
}

impl VisitorMut for Unqualify {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::CompoundIdentifier(parts) = expr {
            let named: Vec<String> = parts.iter().map(names::normalise).collect();
            let catalog = usize::from(named.len() > 3 && named[0] == names::CATALOG);
            if named.len() > 2 + catalog && named[catalog..catalog + 2] == self.table[..] {
                parts.drain(..catalog + 1);
            }
        }
        ControlFlow::Continue(())
    }
}
