//! MERGE: one query for each clause, whose rows are those that the clause decides on.
//!
//! ```text
//! WHEN MATCHED                 table JOIN source ON on          \
//! WHEN NOT MATCHED BY SOURCE   table WHERE NOT EXISTS (source)  -- UNION ALL: rows that change or go
//! WHEN NOT MATCHED             source WHERE NOT EXISTS (table)  -- UNION ALL: rows that are added
//! ```
//!
//! A clause decides on the rows that pass its condition and none of those before it of its kind.

use std::collections::BTreeSet;

use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::{self, Ident, TableFactor};
use skep_catalog::TableDef;
use skep_common::{Error, Result};

use super::make::{Open, Set, fitted_values, listed, placed_value};
use super::{Edit, Rows, own, syntax, value_name};
use crate::planner::Planner;
use crate::planner::insert::targets;
use crate::planner::write::by_position;
use crate::sql::{Action, Matched, Merge, When};
use crate::{error, names};

/// What the source is called if it has no name.
const SOURCE: &str = "__skep_source";

/// A clause that touches rows which are there.
struct Touch<'a> {
    clause: &'a When,
    /// The columns that it sets; absent: the rows go.
    set: Option<Vec<Set>>,
}

impl Planner {
    pub(super) async fn merge(&self, merge: &Merge) -> Result<Edit> {
        let mut open = self.open_target(&merge.target).await?;
        let source = named(merge.source.clone());
        let mut touches = Vec::new();
        for clause in &merge.clauses {
            let set = match &clause.action {
                Action::Update(Some(set)) => Some(self.assignments(&open.table, set)?),
                Action::Update(None) => Some(self.all_columns(&open, &source, clause).await?),
                Action::Delete | Action::Nothing => None,
                Action::Insert { .. } => continue,
            };
            open.learn(set.as_deref().unwrap_or_default());
            touches.push(Touch { clause, set });
        }
        let columns: BTreeSet<usize> =
            touches.iter().flat_map(|touch| touch.set.iter().flatten().map(|set| set.at)).collect();
        let columns: Vec<usize> = columns.into_iter().collect();
        let mut branches = Vec::new();
        for touch in touches.iter().filter(|touch| !matches!(touch.clause.action, Action::Nothing)) {
            branches.push(self.touched(&open, merge, &source, touch, &columns).await?);
        }
        let mut inserts = Vec::new();
        for clause in &merge.clauses {
            if matches!(clause.action, Action::Insert { .. }) {
                inserts.push(self.inserted(&mut open, merge, &source, clause).await?);
            }
        }
        let rows = match union(branches)? {
            // Rows of the table alone are never found twice, but those of a source may be.
            Some(plan) => Rows::Listed { plan, set: columns, once: false, strict: true },
            None => Rows::None,
        };
        let insert = union(inserts)?;
        Ok(open.edit(rows, insert))
    }

    /// The rows that one clause changes or takes away, with a value for each of `columns`.
    async fn touched(
        &self,
        open: &Open,
        merge: &Merge,
        source: &TableFactor,
        touch: &Touch<'_>,
        columns: &[usize],
    ) -> Result<LogicalPlan> {
        let name = open.target.name();
        let mut items = open.place();
        let set = touch.set.as_deref().unwrap_or_default();
        for &at in columns {
            match set.iter().find(|set| set.at == at) {
                Some(Set { value: Some(value), .. }) => {
                    items.push(syntax::named(value.clone(), &value_name(at)));
                }
                Some(Set { value: None, .. }) => {}
                None => {
                    let kept = syntax::column(&name, &open.table.columns[at].name);
                    items.push(syntax::named(kept, &value_name(at)));
                }
            }
        }
        let target = syntax::table(&open.target, &open.schema)?;
        let mut conditions = decided(merge, touch.clause);
        let from = if touch.clause.matched == Matched::Both {
            syntax::join(target, source.clone(), merge.on.clone())
        } else {
            conditions.insert(0, syntax::none_in(source.clone(), merge.on.clone())?);
            syntax::alone(target)
        };
        let query = syntax::select(items, vec![from], syntax::all(conditions))?;
        let plan = open.plan(self, query).await?;
        let all: Vec<Set> = columns
            .iter()
            .map(|&at| {
                let value = match set.iter().find(|set| set.at == at) {
                    Some(set) => set.value.clone(),
                    None => Some(syntax::column(&name, &open.table.columns[at].name)),
                };
                Set { at, value }
            })
            .collect();
        let values = fitted_values(&open.table, &all, &plan, |name| Some(own(name)))?;
        listed(plan, i64::from(touch.set.is_some()), values)
    }

    /// The rows that one clause adds.
    async fn inserted(
        &self,
        open: &mut Open,
        merge: &Merge,
        source: &TableFactor,
        clause: &When,
    ) -> Result<LogicalPlan> {
        let Action::Insert { columns, values } = &clause.action else {
            return Err(Error::internal("a clause that inserts does not"));
        };
        let schema = open.table.arrow_schema();
        let mut set = Vec::new();
        match values {
            Some(values) => {
                let all = targets(&open.table, columns.as_deref())?;
                if all.len() != values.len() {
                    return Err(
                        count_error(&open.table, columns.is_some(), all.len(), values.len()).at(clause.at)
                    );
                }
                for (at, value) in all.into_iter().zip(values) {
                    let ty = schema.field(at).data_type();
                    set.extend(value.as_ref().map(|value| Set { at, value: Some(placed_value(value, ty)) }));
                }
            }
            None => set = self.all_columns(open, source, clause).await?,
        }
        open.learn(&set);
        let mut items: Vec<ast::SelectItem> = set
            .iter()
            .filter_map(|set| Some(syntax::named(set.value.clone()?, &value_name(set.at))))
            .collect();
        if items.is_empty() {
            // Only defaults: a row of the source is still a row.
            let one = ast::Expr::Value(ast::Value::Boolean(true).with_empty_span());
            items.push(syntax::named(one, "__skep_row"));
        }
        let target = syntax::table(&open.target, &open.schema)?;
        let mut conditions = decided(merge, clause);
        conditions.insert(0, syntax::none_in(target, merge.on.clone())?);
        let query = syntax::select(items, vec![syntax::alone(source.clone())], syntax::all(conditions))?;
        let plan = open.plan(self, query).await?;
        let targets: Vec<usize> = set.iter().map(|set| set.at).collect();
        self.checked(by_position(plan, &open.table.columns, &targets, &[])?, &open.table)
    }

    /// Every column of the table from the one of its name in the source.
    async fn all_columns(&self, open: &Open, source: &TableFactor, clause: &When) -> Result<Vec<Set>> {
        let items = vec![ast::SelectItem::Wildcard(ast::WildcardAdditionalOptions::default())];
        let query = syntax::select(items, vec![syntax::alone(source.clone())], None)?;
        let plan = self.typed(&query, &[]).await?;
        let given: Vec<&str> = plan.schema().fields().iter().map(|field| field.name().as_str()).collect();
        let name = source_name(source);
        let columns = open.table.columns.iter().enumerate().map(|(at, column)| {
            if !given.contains(&column.name.as_str()) {
                let error =
                    Error::invalid(format!("the source has no column '{}'", column.name)).at(clause.at);
                return Err(match names::nearest(&column.name, given.iter().copied()) {
                    Some(near) => error.hint(format!("it has '{near}': name the columns and their values")),
                    None => error.hint(format!(
                        "'*' takes every column of the table from the source, which has {}",
                        given.join(", ")
                    )),
                });
            }
            Ok(Set { at, value: Some(syntax::column(&name, &column.name)) })
        });
        columns.collect()
    }
}

/// The condition of `clause`, and that none of those of its kind before it holds.
fn decided(merge: &Merge, clause: &When) -> Vec<ast::Expr> {
    let always = || ast::Expr::Value(ast::Value::Boolean(true).with_empty_span());
    let before = merge.clauses.iter().take_while(|other| !std::ptr::eq(*other, clause));
    let earlier = before
        .filter(|other| other.matched == clause.matched)
        .map(|other| syntax::not_true(other.condition.clone().unwrap_or_else(always)));
    clause.condition.iter().cloned().chain(earlier).collect()
}

/// `source` with a name, for columns that are taken from it by name.
fn named(mut source: TableFactor) -> TableFactor {
    let file = matches!(&source, TableFactor::Table { name, .. }
        if name.0.last().and_then(|part| part.as_ident()).is_some_and(|ident| ident.quote_style == Some('\'')));
    match &mut source {
        TableFactor::Table { alias: alias @ None, .. } if file => *alias = Some(source_alias()),
        TableFactor::Derived { alias: alias @ None, .. } => *alias = Some(source_alias()),
        _ => {}
    }
    source
}

fn source_alias() -> ast::TableAlias {
    let name = Ident::with_quote('"', SOURCE);
    ast::TableAlias { explicit: true, name, columns: Vec::new(), at: None }
}

fn source_name(source: &TableFactor) -> String {
    let alias = match source {
        TableFactor::Table { alias, .. }
        | TableFactor::Derived { alias, .. }
        | TableFactor::Function { alias, .. }
        | TableFactor::NestedJoin { alias, .. } => alias.as_ref(),
        _ => None,
    };
    match (alias, source) {
        (Some(alias), _) => names::normalise(&alias.name),
        (None, TableFactor::Table { name, .. }) => {
            name.0.last().and_then(|part| part.as_ident()).map(names::normalise).unwrap_or_default()
        }
        (None, _) => SOURCE.to_owned(),
    }
}

fn union(plans: Vec<LogicalPlan>) -> Result<Option<LogicalPlan>> {
    let mut plans = plans.into_iter();
    let Some(first) = plans.next() else { return Ok(None) };
    let all = plans.try_fold(LogicalPlanBuilder::from(first), LogicalPlanBuilder::union);
    all.and_then(LogicalPlanBuilder::build).map(Some).map_err(error::from_datafusion)
}

fn count_error(table: &TableDef, named: bool, wanted: usize, given: usize) -> Error {
    if named {
        return Error::invalid(format!("{wanted} columns are named and {given} values are given"));
    }
    let columns: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    Error::invalid(format!("table '{}' has {wanted} columns and {given} values are given", table.name))
        .hint(format!("name the columns that are given; the table has {}", columns.join(", ")))
}
