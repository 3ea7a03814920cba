//! From UPDATE, DELETE and TRUNCATE to what they do.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column as Qualified, DFSchema, TableReference};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::sql::sqlparser::ast;
use skep_catalog::TableDef;
use skep_common::{Error, Result};

use super::syntax::{self, TARGET};
use super::{ACTION, Edit, Rows, constant, own, restricted, value_name};
use crate::error;
use crate::planner::insert::{cast_sql, number, placeholder, targets};
use crate::planner::write::{absent, fitted};
use crate::planner::{Planner, tables};
use crate::provider::provide;
use crate::scan::{FILE, POSITION, TargetTable};
use crate::sql::{Assignment, Delete, Name, Statement, Target, Update};

impl Planner {
    /// What `statement` does to the rows of its table. `None` for statements that change no rows which are there.
    ///
    /// # Errors
    /// As [`Planner::writable`] and [`Planner::logical`]; [`Kind::Invalid`](skep_common::Kind::Invalid) for columns and
    /// values that do not fit the table, and for conditions that give another answer each time.
    pub async fn edit(&self, statement: &Statement) -> Result<Option<Edit>> {
        Ok(Some(match statement {
            Statement::Update(update) => self.update(update).await?,
            Statement::Delete(delete) => self.delete(delete).await?,
            Statement::Truncate(name) => self.truncate(name).await?,
            Statement::Merge(merge) => self.merge(merge).await?,
            _ => return Ok(None),
        }))
    }

    async fn truncate(&self, name: &Name) -> Result<Edit> {
        let target = Target { table: name.clone(), alias: None };
        Ok(self.open_target(&target).await?.edit(Rows::All, None))
    }

    async fn delete(&self, delete: &Delete) -> Result<Edit> {
        let open = self.open_target(&delete.target).await?;
        if delete.selection.is_none() && delete.using.is_empty() {
            return Ok(open.edit(Rows::All, None));
        }
        let from = open.from(self, &delete.using)?;
        let query = syntax::select(open.place(), from, delete.selection.clone())?;
        let plan = open.plan(self, query).await?;
        if let Some((input, predicate, _)) = simple(&plan, delete.using.is_empty()) {
            let rows = Rows::Each { input, predicate, name: open.name(), set: None };
            return Ok(open.edit(rows, None));
        }
        let plan = listed(plan, 0, Vec::new())?;
        let once = delete.using.is_empty();
        Ok(open.edit(Rows::Listed { plan, set: Vec::new(), once, strict: false }, None))
    }

    async fn update(&self, update: &Update) -> Result<Edit> {
        let mut open = self.open_target(&update.target).await?;
        let set = self.assignments(&open.table, &update.set)?;
        open.learn(&set);
        let mut items = open.place();
        let given = set.iter().filter_map(|set| Some((set.at, set.value.clone()?)));
        items.extend(given.map(|(at, value)| syntax::named(value, &value_name(at))));
        let from = open.from(self, &update.from)?;
        let query = syntax::select(items, from, update.selection.clone())?;
        let plan = open.plan(self, query).await?;
        if let Some((input, predicate, values)) = simple(&plan, update.from.is_empty()) {
            let values = fitted_values(&open.table, &set, &plan, |name| {
                let at = plan.schema().index_of_column_by_name(None, name)?;
                values.get(at).cloned()
            })?;
            let rows = Rows::Each { input, predicate, name: open.name(), set: Some(values) };
            return Ok(open.edit(rows, None));
        }
        let values = fitted_values(&open.table, &set, &plan, |name| Some(own(name)))?;
        let columns = values.iter().map(|(at, _)| *at).collect();
        let plan = listed(plan, 1, values)?;
        let once = update.from.is_empty();
        Ok(open.edit(Rows::Listed { plan, set: columns, once, strict: true }, None))
    }

    /// Takes the rows of `files` of `table` out for which the condition holds that `predicate` makes of the name and the
    /// columns of the table.
    pub(in crate::planner) async fn deletion(
        &self,
        table: &TableDef,
        files: &HashSet<i64>,
        predicate: impl FnOnce(&TableReference, &DFSchema) -> Result<Expr>,
    ) -> Result<Edit> {
        let name = Name { schema: Some(table.schema_name.clone()), name: table.name.clone(), at: None };
        let open = self.open_target(&Target { table: name, alias: None }).await?;
        let query = syntax::select(open.place(), open.from(self, &[])?, None)?;
        let plan = open.plan(self, query).await?;
        let Some((input, ..)) = simple(&plan, true) else {
            return Err(Error::internal("the rows of a table are not a scan of it"));
        };
        let name = open.name();
        let predicate = predicate(&name, input.schema())?;
        let input = restricted(input, &Arc::new(files.clone()))?;
        let mut edit = open.edit(Rows::Each { input, predicate, name, set: None }, None);
        edit.files = Arc::new(edit.files.iter().filter(|file| files.contains(&file.id)).cloned().collect());
        Ok(edit)
    }

    /// The table of a statement, where its queries find it.
    pub(super) async fn open_target(&self, target: &Target) -> Result<Open> {
        let table = self.writable(&target.table)?;
        let schema = self.settings.schema().to_owned();
        let read = Arc::new(tables::own(self, &table).await?);
        let rows = TargetTable::new(Arc::clone(&read)).map_err(|e| tables::placed(e, target.table.at))?;
        let rows = Arc::new(rows);
        self.catalogs.put(&schema, TARGET, provide(Arc::clone(&rows)));
        let checks = self.conditions(&table.columns, &table.checks)?;
        let (files, parameters) = (Arc::clone(read.files()), HashMap::new());
        Ok(Open { target: target.clone(), table, files, rows, checks, schema, parameters })
    }

    /// The columns that are set, with their values made for them.
    pub(super) fn assignments(&self, table: &TableDef, set: &[Assignment]) -> Result<Vec<Set>> {
        let schema = table.arrow_schema();
        let set = set.iter().map(|one| {
            let found = targets(table, Some(std::slice::from_ref(&one.column)))?;
            let at = found.first().copied().ok_or_else(|| Error::internal("a column is not found"))?;
            let ty = schema.field(at).data_type();
            Ok(Set { at, value: one.value.as_ref().map(|value| placed_value(value, ty)) })
        });
        set.collect()
    }
}

/// `value` where a column of type `ty` takes it: numbers are floats for floats.
pub(super) fn placed_value(value: &ast::Expr, ty: &DataType) -> ast::Expr {
    if ty.is_floating() && number(value) {
        return cast_sql(value, ast::DataType::Double(ast::ExactNumberInfo::None));
    }
    value.clone()
}

/// A column that is set. Without a value: to its default.
pub(super) struct Set {
    pub(super) at: usize,
    pub(super) value: Option<ast::Expr>,
}

/// The table of a statement.
pub(super) struct Open {
    pub(super) target: Target,
    pub(super) table: Arc<TableDef>,
    files: Arc<Vec<Arc<skep_catalog::DataFile>>>,
    rows: Arc<TargetTable>,
    checks: Vec<(skep_catalog::Check, Expr)>,
    /// Where [`TARGET`] is found.
    pub(super) schema: String,
    /// Types of parameters that nothing else says.
    parameters: HashMap<String, DataType>,
}

impl Open {
    pub(super) fn edit(self, rows: Rows, insert: Option<LogicalPlan>) -> Edit {
        let Self { table, files, rows: target, parameters, checks, .. } = self;
        Edit { table, files, target, rows, insert, parameters, checks }
    }

    pub(super) fn name(&self) -> TableReference {
        TableReference::bare(self.target.name())
    }

    /// The file and the position of a row.
    pub(super) fn place(&self) -> Vec<ast::SelectItem> {
        let name = self.target.name();
        [FILE, POSITION].map(|column| syntax::named(syntax::column(&name, column), column)).to_vec()
    }

    fn from(&self, _: &Planner, more: &[ast::TableWithJoins]) -> Result<Vec<ast::TableWithJoins>> {
        let own = syntax::alone(syntax::table(&self.target, &self.schema)?);
        Ok(std::iter::once(own).chain(more.iter().cloned()).collect())
    }

    /// The plan of a query over the table.
    pub(super) async fn plan(&self, planner: &Planner, mut query: ast::Query) -> Result<LogicalPlan> {
        syntax::unqualify(&mut query, &self.target, &self.table.schema_name);
        let plan = planner.typed(&query, &[]).await?;
        constant(&plan)?;
        Ok(plan)
    }

    /// Remembers the parameters that stand alone as values of `set`: they have the types of their columns.
    pub(super) fn learn(&mut self, set: &[Set]) {
        let schema = self.table.arrow_schema();
        for set in set {
            if let Some(number) = set.value.as_ref().and_then(placeholder) {
                self.parameters.insert(format!("${number}"), schema.field(set.at).data_type().clone());
            }
        }
    }
}

/// The input, the predicate and the values of a projection over a filter, if nothing in it is a subquery.
fn simple(plan: &LogicalPlan, alone: bool) -> Option<(LogicalPlan, Expr, Vec<Expr>)> {
    let LogicalPlan::Projection(projection) = plan else { return None };
    let (input, predicate) = match projection.input.as_ref() {
        LogicalPlan::Filter(filter) => (filter.input.as_ref(), filter.predicate.clone()),
        other => (other, lit(true)),
    };
    let scan = matches!(input, LogicalPlan::SubqueryAlias(alias)
        if matches!(alias.input.as_ref(), LogicalPlan::TableScan(_)));
    let values: Vec<Expr> = projection.expr.iter().map(|expr| expr.clone().unalias()).collect();
    let plain = scan && !values.iter().chain([&predicate]).any(has_subquery);
    (alone && plain).then(|| (input.clone(), predicate, values))
}

fn has_subquery(expr: &Expr) -> bool {
    let mut found = false;
    let _ = expr.apply(|node| {
        found |= matches!(
            node,
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_)
        );
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// The values of `set` as their columns take them. `value` is what `plan` calls a value.
pub(super) fn fitted_values(
    table: &TableDef,
    set: &[Set],
    plan: &LogicalPlan,
    value: impl Fn(&str) -> Option<Expr>,
) -> Result<Vec<(usize, Expr)>> {
    let schema = table.arrow_schema();
    let fitted_value = |set: &Set| {
        let (column, ty) = (&table.columns[set.at], schema.field(set.at).data_type());
        if set.value.is_none() {
            return Ok((set.at, absent(column, ty)?));
        }
        let name = value_name(set.at);
        let given = plan.schema().field_with_unqualified_name(&name).map_err(error::from_datafusion)?;
        let value = value(&name).ok_or_else(|| Error::internal(format!("'{name}' is not planned")))?;
        // A value of a row that is not touched is not asked for, so what it gives there says nothing.
        let given = Field::new(&name, given.data_type().clone(), given.is_nullable());
        Ok((set.at, fitted(value, &given, column, ty)?))
    };
    set.iter().map(fitted_value).collect()
}

/// Listed rows: file, position, what happens, values.
pub(super) fn listed(plan: LogicalPlan, action: i64, values: Vec<(usize, Expr)>) -> Result<LogicalPlan> {
    let place = [FILE, POSITION].map(|name| Expr::Column(Qualified::from_name(name)));
    let values = values.into_iter().map(|(at, value)| value.alias(value_name(at)));
    let exprs: Vec<Expr> = place.into_iter().chain([lit(action).alias(ACTION)]).chain(values).collect();
    LogicalPlanBuilder::from(plan)
        .project(exprs)
        .and_then(LogicalPlanBuilder::build)
        .map_err(error::from_datafusion)
}
