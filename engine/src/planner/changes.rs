//! `table_changes(t, from, to)`: the rows that snapshots changed.
//!
//! ```text
//! files that a snapshot ended --+
//!                               +-- joined by snapshot and row id --> rows that differ
//! files that it added ----------+
//! ```
//!
//! Rows that are equal before and after were only moved from file to file. Snapshots that only added files, or only ended
//! them, need no join.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::catalog::TableProvider;
use datafusion::common::cast::as_string_array;
use datafusion::common::{Column as Qualified, JoinType, TableReference};
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::logical_expr::expr::BinaryExpr;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Operator, lit, when};
use datafusion::sql::sqlparser::ast::{
    self, FunctionArg, FunctionArgExpr, Ident, ObjectName, ObjectNamePart, Query, TableAlias, TableFactor,
    TableFunctionArgs, Value, VisitMut, VisitorMut,
};
use skep_catalog::{DataFile, Step, TableDef};
use skep_common::{Error, Position, Result};

use super::{Planner, tables};
use crate::functions::differs;
use crate::provider::provide;
use crate::scan::{self, ChangedTable, ROW_ID, STAMP};
use crate::sql::Name;
use crate::{error, names};

/// The name of the function.
pub(super) const FUNCTION: &str = "table_changes";
/// Columns before those of the table.
const SNAPSHOT: &str = "snapshot_id";
const ROW: &str = "rowid";
const CHANGE: &str = "change_type";
const USAGE: &str = "write table_changes(lake.t, 3, 5): the changes of snapshots 3 to 5; without the last one up to the \
     latest; times and tags may stand for snapshots";
/// Rows as they were, and as they are.
const BEFORE: &str = "__skep_before";
const AFTER: &str = "__skep_after";
/// Of the rows that others are compared with.
const STAMP_OTHER: &str = "__skep_other_snapshot";
const ROW_ID_OTHER: &str = "__skep_other_row_id";

/// Takes the calls of the function out of `query` and puts tables for them into the planner's catalog.
pub(super) async fn resolve(planner: &Planner, query: &mut Query) -> Result<()> {
    let mut calls = Calls { schema: planner.settings.schema().to_owned(), found: Vec::new(), error: None };
    let _ = VisitMut::visit(query, &mut calls);
    if let Some(error) = calls.error {
        return Err(error);
    }
    for call in calls.found {
        if planner.catalogs.get(&calls.schema, &call.hidden).is_some() {
            continue;
        }
        let at = call.table.at;
        let table = Box::pin(changes(planner, &call)).await.map_err(|e| tables::placed(e, at))?;
        planner.catalogs.put(&calls.schema, &call.hidden, table);
    }
    Ok(())
}

/// Whether `name` is that of the function.
pub(super) fn named(name: &ObjectName) -> bool {
    matches!(name.0.as_slice(), [ObjectNamePart::Identifier(only)] if only.value.eq_ignore_ascii_case(FUNCTION))
}

struct Call {
    table: Name,
    from: ast::Expr,
    to: Option<ast::Expr>,
    hidden: String,
}

struct Calls {
    schema: String,
    found: Vec<Call>,
    error: Option<Error>,
}

impl VisitorMut for Calls {
    type Break = ();

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { name, args, alias, .. } = factor else { return ControlFlow::Continue(()) };
        if !named(name) || args.is_none() {
            return ControlFlow::Continue(());
        }
        let at = names::position(name);
        let Some(given) = args.take() else { return ControlFlow::Continue(()) };
        match call(&given, at) {
            Ok(call) => {
                let quoted = |value: &str| ObjectNamePart::Identifier(Ident::with_quote('"', value));
                *name = ObjectName(vec![quoted(&self.schema), quoted(&call.hidden)]);
                if alias.is_none() {
                    let name = Ident::new(FUNCTION);
                    *alias = Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None });
                }
                self.found.push(call);
            }
            Err(error) => {
                self.error.get_or_insert(error);
            }
        }
        ControlFlow::Continue(())
    }
}

fn call(given: &TableFunctionArgs, at: Option<Position>) -> Result<Call> {
    let refused = || {
        tables::placed(Error::invalid("table_changes takes a table and one or two snapshots").hint(USAGE), at)
    };
    let mut args = given.args.iter().map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Ok(expr.clone()),
        _ => Err(refused()),
    });
    let table = name_of(&args.next().ok_or_else(refused)??, at)?.ok_or_else(refused)?;
    let from = args.next().ok_or_else(refused)??;
    let to = args.next().transpose()?;
    if args.next().is_some() {
        return Err(refused());
    }
    let shown = to.as_ref().map(|to| format!(", {to}")).unwrap_or_default();
    let hidden = format!("{FUNCTION}({table}, {from}{shown})");
    Ok(Call { table, from, to, hidden })
}

/// A table named by itself, or by a text.
fn name_of(expr: &ast::Expr, at: Option<Position>) -> Result<Option<Name>> {
    let parts = match expr {
        ast::Expr::Identifier(ident) => vec![ident.clone()],
        ast::Expr::CompoundIdentifier(parts) => parts.clone(),
        ast::Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => {
                let parsed = crate::sql::parse_query(&format!("SELECT {text}"));
                let parsed = parsed.ok().and_then(|query| match *query.body {
                    ast::SetExpr::Select(select) => match select.projection.as_slice() {
                        [ast::SelectItem::UnnamedExpr(expr)] => Some(expr.clone()),
                        _ => None,
                    },
                    _ => None,
                });
                return match parsed {
                    Some(expr @ (ast::Expr::Identifier(_) | ast::Expr::CompoundIdentifier(_))) => {
                        let name = name_of(&expr, None)?;
                        Ok(name.map(|name| Name { at, ..name }))
                    }
                    _ => Err(tables::placed(
                        Error::invalid(format!("'{text}' is not the name of a table")),
                        at,
                    )),
                };
            }
            _ => return Ok(None),
        },
        _ => return Ok(None),
    };
    Name::from_ast(&ObjectName(parts.into_iter().map(ObjectNamePart::Identifier).collect())).map(Some)
}

/// Puts `schema` before the table of a call that has none.
pub(super) fn qualify(args: &mut TableFunctionArgs, schema: &str) {
    if let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))) = args.args.first_mut()
        && let Ok(Some(name)) = name_of(expr, None)
        && name.schema.is_none()
    {
        let parts = [schema, name.name.as_str()].map(|part| Ident::with_quote('"', part));
        *expr = ast::Expr::CompoundIdentifier(parts.to_vec());
    }
}

async fn changes(planner: &Planner, call: &Call) -> Result<Arc<dyn TableProvider>> {
    let catalog = &planner.environment.catalog;
    let latest = planner.snapshot.id;
    let first = snapshot_of(planner, &call.from, true).await?;
    let last = match &call.to {
        Some(to) => snapshot_of(planner, to, false).await?,
        None => latest,
    };
    // What the transaction did itself comes after all snapshots, unless the call says where to end.
    let own = call.to.is_none() && planner.snapshot.has_changes();
    if own && first == latest + 1 {
        return own_changes(planner, call, Vec::new()).await;
    }
    if last > latest {
        return Err(Error::not_found(format!("snapshot {last} does not exist yet: the latest is {latest}")));
    }
    if first > last {
        return Err(Error::invalid(format!("snapshot {first} comes after snapshot {last}"))
            .hint("the earlier snapshot comes first, and both are among those that are looked at"));
    }
    let snapshot = catalog.snapshot_at(last).await?;
    let schema = call.table.schema_or(planner.settings.schema());
    let Some(def) = snapshot.table(schema, &call.table.name) else {
        if own && planner.snapshot.table(schema, &call.table.name).is_some() {
            return own_changes(planner, call, Vec::new()).await;
        }
        if snapshot.view(schema, &call.table.name).is_some() {
            return Err(Error::invalid(format!(
                "'{}' is a view, which has no changes of its own",
                call.table
            ))
            .hint("name the tables that it reads"));
        }
        let past = Planner::new(Arc::clone(&planner.environment), snapshot, &planner.settings).await?;
        return Err(tables::missing(&past, &call.table).context(format!("as of snapshot {last}")));
    };
    if def.external.is_some() {
        return Err(Error::invalid(format!(
            "'{}' is an external table, whose changes nobody records",
            call.table
        )));
    }
    if let Some(taken) = def.columns.iter().find(|c| [SNAPSHOT, ROW, CHANGE].contains(&c.name.as_str())) {
        return Err(Error::unsupported(format!(
            "column '{}' has the name of one of table_changes' own",
            taken.name
        ))
        .hint("ALTER TABLE ... RENAME COLUMN gives it another name"));
    }
    let steps = catalog.steps(def.id, first, last).await?;
    if own {
        return own_changes(planner, call, steps).await;
    }
    Ok(Arc::new(ViewTable::new(Box::pin(plan(planner, def, steps)).await?, None)))
}

/// The changes of `steps`, and after them those of the open transaction, as of the snapshot that its commit would be.
async fn own_changes(planner: &Planner, call: &Call, mut steps: Vec<Step>) -> Result<Arc<dyn TableProvider>> {
    let schema = call.table.schema_or(planner.settings.schema());
    let Some(def) = planner.snapshot.table(schema, &call.table.name) else {
        return Err(tables::missing(planner, &call.table));
    };
    if def.external.is_some() {
        return Err(Error::invalid(format!(
            "'{}' is an external table, whose changes nobody records",
            call.table
        )));
    }
    steps.extend(planner.environment.catalog.own_step(&planner.snapshot, def.id).await?);
    Ok(Arc::new(ViewTable::new(Box::pin(plan(planner, def, steps)).await?, None)))
}

/// The snapshot that a number, a tag or a time stands for: the first since then, or the last until then.
async fn snapshot_of(planner: &Planner, expr: &ast::Expr, first: bool) -> Result<i64> {
    let value = planner.constant(expr, None).await?;
    match value.data_type() {
        DataType::Int64 => {
            let id = value.as_primitive::<Int64Type>().iter().next().flatten();
            return id.ok_or_else(|| Error::invalid("a snapshot cannot be NULL"));
        }
        DataType::Utf8 => {
            let names = as_string_array(&value).map_err(error::from_datafusion)?;
            let name = names.iter().next().flatten().unwrap_or_default();
            let tags = planner.environment.catalog.tags().await?;
            if let Some(tag) = tags.iter().find(|tag| tag.name == name) {
                return Ok(tag.snapshot);
            }
        }
        DataType::Timestamp(..) | DataType::Date32 => {}
        other => {
            return Err(Error::invalid(format!("a snapshot cannot be of type {other}")).hint(USAGE));
        }
    }
    let time = planner.time(expr).await.map_err(|e| e.hint(USAGE))?;
    let catalog = &planner.environment.catalog;
    if first { catalog.snapshot_since(time).await } else { Ok(catalog.snapshot_as_of(time).await?.id) }
}

async fn plan(planner: &Planner, def: &Arc<TableDef>, steps: Vec<Step>) -> Result<LogicalPlan> {
    let (mut added, mut ended, mut before, mut after) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for step in steps {
        let stamp = |files: Vec<Arc<DataFile>>| files.into_iter().map(move |file| (step.snapshot, file));
        if step.before.is_empty() {
            added.extend(stamp(step.after));
        } else if step.after.is_empty() {
            ended.extend(stamp(step.before));
        } else {
            before.extend(stamp(step.before));
            after.extend(stamp(step.after));
        }
    }
    let mut parts = Vec::new();
    // Without any change: no rows, of these columns.
    if !added.is_empty() || ended.is_empty() && before.is_empty() {
        let rows = rows(planner, def, added, AFTER).await?;
        parts.push(shown(rows, def, AFTER, lit("insert")).map_err(error::from_datafusion)?);
    }
    if !ended.is_empty() {
        let rows = rows(planner, def, ended, BEFORE).await?;
        parts.push(shown(rows, def, BEFORE, lit("delete")).map_err(error::from_datafusion)?);
    }
    if !before.is_empty() {
        let before = rows(planner, def, before, BEFORE).await?;
        let after = rows(planner, def, after, AFTER).await?;
        let sides = [
            (before.clone(), after.clone(), BEFORE, AFTER, "delete", "update_preimage"),
            (after, before, AFTER, BEFORE, "insert", "update_postimage"),
        ];
        for (rows, others, side, other, alone, both) in sides {
            let joined = compared(rows, others, def, side, other)
                .and_then(|rows| {
                    let change = when(own(ROW_ID_OTHER).is_null(), lit(alone)).otherwise(lit(both))?;
                    shown(rows, def, side, change)
                })
                .map_err(error::from_datafusion)?;
            parts.push(joined);
        }
    }
    let mut parts = parts.into_iter();
    let first = parts.next().ok_or_else(|| Error::internal("there is nothing to compare"))?;
    let union = parts.try_fold(first, |all, part| all.union(part.build()?));
    union.and_then(LogicalPlanBuilder::build).map_err(error::from_datafusion)
}

async fn rows(
    planner: &Planner,
    def: &Arc<TableDef>,
    files: Vec<(i64, Arc<DataFile>)>,
    name: &str,
) -> Result<LogicalPlanBuilder> {
    let asked: Vec<Arc<DataFile>> = files.iter().map(|(_, file)| Arc::clone(file)).collect();
    scan::ask(&planner.environment, def, &asked).await?;
    let table = ChangedTable::new(def, files, &planner.environment, planner.settings.view_types())?;
    LogicalPlanBuilder::scan(name, provider_as_source(provide(Arc::new(table))), None)
        .map_err(error::from_datafusion)
}

fn of(table: &str, name: &str) -> Expr {
    Expr::Column(Qualified::new(Some(TableReference::bare(table)), name))
}

fn own(name: &str) -> Expr {
    Expr::Column(Qualified::from_name(name))
}

/// The rows of `side` that `other` lacks or has otherwise. No name is on both sides of the join: some rules of the optimiser
/// forget whose a column is.
fn compared(
    rows: LogicalPlanBuilder,
    others: LogicalPlanBuilder,
    def: &TableDef,
    side: &str,
    other: &str,
) -> datafusion::error::Result<LogicalPlanBuilder> {
    let name = |at: usize| format!("__skep_other_{at}");
    let keys =
        [(STAMP, STAMP_OTHER), (ROW_ID, ROW_ID_OTHER)].map(|(name, alias)| of(other, name).alias(alias));
    let columns = def.columns.iter().enumerate().map(|(at, column)| of(other, &column.name).alias(name(at)));
    let others = others.project(keys.into_iter().chain(columns).collect::<Vec<_>>())?.build()?;
    let left = [STAMP, ROW_ID].map(|name| Qualified::new(Some(TableReference::bare(side)), name)).to_vec();
    let right = [STAMP_OTHER, ROW_ID_OTHER].map(Qualified::from_name).to_vec();
    let mut differ = own(ROW_ID_OTHER).is_null();
    for (at, column) in def.columns.iter().enumerate() {
        let (a, b) = (of(side, &column.name), own(&name(at)));
        differ = differ.or(if column.ty.is_nested() {
            differs(a, b)
        } else {
            Expr::BinaryExpr(BinaryExpr::new(Box::new(a), Operator::IsDistinctFrom, Box::new(b)))
        });
    }
    rows.join(others, JoinType::Left, (left, right), None)?.filter(differ)
}

/// The columns of the function from the rows of `side`.
fn shown(
    rows: LogicalPlanBuilder,
    def: &TableDef,
    side: &str,
    change: Expr,
) -> datafusion::error::Result<LogicalPlanBuilder> {
    let own = [of(side, STAMP).alias(SNAPSHOT), of(side, ROW_ID).alias(ROW), change.alias(CHANGE)];
    let columns = def.columns.iter().map(|column| of(side, &column.name).alias(&column.name));
    rows.project(own.into_iter().chain(columns).collect::<Vec<_>>())
}
