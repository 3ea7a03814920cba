//! Views: from CREATE VIEW to the catalog, and from the catalog into plans.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::datasource::ViewTable;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast;
use skep_catalog::ViewDef;
use skep_common::{Error, Result};

use super::{Planner, literals, parameters, references, tables, versions};
use crate::sql::{CreateView, parse_query};
use crate::{error, names};

/// A view as the catalog keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewSpec {
    /// The query, every table with its schema.
    pub sql: String,
    /// New names of its columns; empty: the query's own.
    pub columns: Vec<String>,
}

impl Planner {
    /// Checks the query of a view and makes it independent of the session.
    ///
    /// # Errors
    /// As [`Planner::logical`], and [`Kind::Invalid`](skep_common::Kind::Invalid) for names that do not fit the columns.
    pub async fn create_view(&self, create: &CreateView) -> Result<ViewSpec> {
        // Those of others come and go: this names the first.
        references::of(&create.query)?;
        let plan = self.logical(&create.query).await?;
        if !parameters(&plan)?.fields().is_empty() {
            return Err(Error::invalid("a view has no parameters").hint("write the values into its query"));
        }
        renamed(plan, &create.columns)?;
        let mut query = create.query.as_ref().clone();
        references::qualify(&mut query, self.settings().schema());
        Ok(ViewSpec { sql: query.to_string(), columns: create.columns.clone() })
    }
}

/// The plan of `view`, as a table.
pub(super) async fn expand(
    planner: &Planner,
    view: &ViewDef,
    within: &mut Vec<String>,
) -> Result<Arc<dyn TableProvider>> {
    // Places in the text of the view are not places in the statement.
    let inside = |e: Error| {
        let cause = Error::new(
            e.kind(),
            format!("view '{}.{}' cannot be read: {}", view.schema_name, view.name, e.message()),
        );
        match e.hint_text() {
            Some(hint) => cause.hint(hint),
            None => cause.hint(format!("CREATE OR REPLACE VIEW {}", names::quote(&view.name))),
        }
    };
    let plan = plan(planner, view, within).await.map_err(inside)?;
    Ok(Arc::new(ViewTable::new(plan, Some(view.sql.clone()))))
}

async fn plan(planner: &Planner, view: &ViewDef, within: &mut Vec<String>) -> Result<LogicalPlan> {
    let mut query = parse_query(&view.sql)?;
    references::qualify(&mut query, &view.schema_name);
    literals::exponents(&mut query);
    versions::resolve(planner, &mut query, within).await?;
    tables::load(planner, &query, within).await?;
    let statement = DfStatement::Statement(Box::new(ast::Statement::Query(query)));
    let plan = planner.state.statement_to_plan(statement).await.map_err(error::from_datafusion)?;
    renamed(planner.settled(plan)?, &view.column_aliases)
}

/// `plan` with its first columns under new names.
fn renamed(plan: LogicalPlan, columns: &[String]) -> Result<LogicalPlan> {
    let count = plan.schema().fields().len();
    if columns.is_empty() {
        return Ok(plan);
    }
    if columns.len() > count {
        return Err(Error::invalid(format!(
            "the view names {} columns and its query has {count}",
            columns.len()
        )));
    }
    let own = plan.schema().columns();
    let exprs = own.into_iter().enumerate().map(|(at, column)| match columns.get(at) {
        Some(name) => Expr::Column(column).alias(name),
        None => Expr::Column(column),
    });
    let exprs: Vec<Expr> = exprs.collect();
    LogicalPlanBuilder::from(plan)
        .project(exprs)
        .and_then(LogicalPlanBuilder::build)
        .map_err(error::from_datafusion)
}
