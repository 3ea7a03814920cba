//! Statements that change rows which are there: UPDATE, DELETE, MERGE, TRUNCATE.
//!
//! Files never change, so a changed row means another file in place of its own. That is done in two passes, and between
//! them only counts for each file are known:
//!
//! ```text
//! find      rows that the statement touches --count by file--> files that go, files that are rewritten
//! rewrite   rows of the latter: kept as they are, or changed, or left out --> new files
//! insert    rows of MERGE that are not in the table --> files of their own
//! ```
//!
//! Where a predicate decides about each row by itself, the second pass evaluates it once more ([`Rows::Each`]). Where a
//! join or a subquery takes part, the touched rows are listed by file and position as a query would select them, and
//! joined to all rows ([`Rows::Listed`]): what selects a row is then the same in both passes, NULLs included.
//!
//! # Invariants
//! - The plans of the second pass read the touched files alone, and give every one of their rows that stays once.
//! - A row keeps its id.
//! - A predicate that changes its mind is refused; what it misses, the counts of both passes show.

mod compact;
mod make;
mod merge;
mod syntax;

pub use compact::Compaction;
pub(super) use compact::{FULL, bins};

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{Column as Qualified, JoinType, TableReference};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::functions_aggregate::expr_fn::{count, max, sum};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, lit, when};
use skep_catalog::{Check, Column, DataFile, TableDef};
use skep_common::{Error, Result};

use super::parameters_of;
use super::write::with_checks;
use crate::error;
use crate::provider::{Provider, provide};
use crate::scan::{FILE, POSITION, ROW_ID, TargetTable};

/// Whether a listed row changes (1) or goes (0).
const ACTION: &str = "__skep_action";
/// What [`Edit::find`] calls its counts.
const UPDATED: &str = "updated";
const DELETED: &str = "deleted";
const MOST: &str = "most";
/// The rows of the table, and those of them that are listed, in the second pass.
const ALL_ROWS: &str = "__skep_rows";
const LISTED: &str = "__skep_listed";

/// What a statement does to the rows of a table, see [the module](self).
#[derive(Debug)]
pub struct Edit {
    table: Arc<TableDef>,
    files: Arc<Vec<Arc<DataFile>>>,
    target: Arc<TargetTable>,
    rows: Rows,
    insert: Option<LogicalPlan>,
    /// Types of parameters that the plans do not say.
    parameters: HashMap<String, DataType>,
    /// The constraints of the table.
    checks: Vec<(Check, Expr)>,
}

/// The rows that are touched.
#[derive(Debug)]
enum Rows {
    /// None that are there.
    None,
    /// All; they go.
    All,
    /// Those of `input` that pass `predicate`.
    Each {
        input: LogicalPlan,
        predicate: Expr,
        /// The name of the table in `input`.
        name: TableReference,
        /// The columns that get a value, and the value; absent: the rows go.
        set: Option<Vec<(usize, Expr)>>,
    },
    /// Those that a plan lists with file, position, what happens, and the values of the columns that are set.
    Listed {
        plan: LogicalPlan,
        set: Vec<usize>,
        /// Whether none is listed twice.
        once: bool,
        /// Whether twice is an error.
        strict: bool,
    },
}

impl Edit {
    /// The table.
    pub fn table(&self) -> &Arc<TableDef> {
        &self.table
    }

    /// Its files.
    pub fn files(&self) -> &Arc<Vec<Arc<DataFile>>> {
        &self.files
    }

    /// Its files with the rows of each that are there.
    ///
    /// # Errors
    /// [`Kind::Conflict`](skep_common::Kind::Conflict) if another engine deleted rows since: nobody knows how many it were
    /// before without reading them.
    pub fn live(&self) -> Result<Vec<(i64, u64)>> {
        self.files.iter().map(|file| Ok((file.id, live(&self.table, file)?))).collect()
    }

    /// Whether every row goes, so that nothing is to be found.
    pub fn all(&self) -> bool {
        matches!(self.rows, Rows::All)
    }

    /// The rows that MERGE adds: the columns of the table by name and order, in its plain types.
    pub fn insert(&self) -> Option<&LogicalPlan> {
        self.insert.as_ref()
    }

    /// The first pass: for each file with touched rows its id, how many of them change and how many go, and how often one
    /// was listed at most, all `BIGINT`. `None` if no row that is there is touched, or all are.
    ///
    /// # Errors
    /// [`Kind::Internal`](skep_common::Kind::Internal) if it cannot be planned.
    pub fn find(&self) -> Result<Option<LogicalPlan>> {
        let zero = || lit(0_i64);
        let plan = match &self.rows {
            Rows::None | Rows::All => return Ok(None),
            Rows::Each { input, predicate, name, set } => {
                let file = Expr::Column(Qualified::new(Some(name.clone()), FILE)).alias(FILE);
                let n = || Expr::Column(Qualified::from_name("n"));
                let (updated, deleted) = if set.is_some() { (n(), zero()) } else { (zero(), n()) };
                LogicalPlanBuilder::from(input.clone())
                    .filter(predicate.clone())
                    .and_then(|plan| plan.project([file]))
                    .and_then(|plan| plan.aggregate([own(FILE)], [count(lit(1_i64)).alias("n")]))
                    .and_then(|plan| {
                        plan.project([
                            own(FILE),
                            updated.alias(UPDATED),
                            deleted.alias(DELETED),
                            lit(1_i64).alias(MOST),
                        ])
                    })
            }
            Rows::Listed { plan, once, .. } => {
                let plan = LogicalPlanBuilder::from(plan.clone());
                let rows = if *once {
                    plan.project([own(FILE), own(ACTION), lit(1_i64).alias("n")])
                } else {
                    plan.aggregate(
                        [own(FILE), own(POSITION)],
                        [count(lit(1_i64)).alias("n"), max(own(ACTION)).alias(ACTION)],
                    )
                };
                let counts = [
                    sum(own(ACTION)).alias(UPDATED),
                    count(lit(1_i64)).alias("all"),
                    max(own("n")).alias(MOST),
                ];
                rows.and_then(|plan| plan.aggregate([own(FILE)], counts)).and_then(|plan| {
                    plan.project([
                        own(FILE),
                        own(UPDATED),
                        (own("all") - own(UPDATED)).alias(DELETED),
                        own(MOST),
                    ])
                })
            }
        };
        plan.and_then(LogicalPlanBuilder::build).map(Some).map_err(error::from_datafusion)
    }

    /// Whether a row that is listed twice is an error.
    pub fn strict(&self) -> bool {
        matches!(self.rows, Rows::Listed { strict: true, .. })
    }

    /// One row that is listed more than once, with the columns of the table that can be shown.
    ///
    /// # Errors
    /// [`Kind::Internal`](skep_common::Kind::Internal) if rows are not listed.
    pub fn twice(&self) -> Result<LogicalPlan> {
        let Rows::Listed { plan, .. } = &self.rows else {
            return Err(Error::internal("rows that are not listed are not listed twice"));
        };
        let shown: Vec<Expr> = self
            .table
            .columns
            .iter()
            .filter(|column| !column.ty.is_nested())
            .take(SHOWN_MAX)
            .map(|column| of(ALL_ROWS, &column.name))
            .collect();
        let doubled = LogicalPlanBuilder::from(plan.clone())
            .aggregate([own(FILE), own(POSITION)], [count(lit(1_i64)).alias("n")])
            .and_then(|plan| plan.filter(own("n").gt(lit(1_i64))))
            .and_then(|plan| plan.alias(LISTED))
            .and_then(LogicalPlanBuilder::build);
        let plan = doubled.and_then(|doubled| {
            LogicalPlanBuilder::scan(ALL_ROWS, provider_as_source(provide(Arc::clone(&self.target))), None)?
                .join(doubled, JoinType::Inner, keys(), None)?
                .project(shown)?
                .limit(0, Some(1))?
                .build()
        });
        plan.map_err(error::from_datafusion)
    }

    /// The second pass over `files`: every row of them that stays, with the columns of the table in its plain types, then
    /// its row id, then whether it changed.
    ///
    /// # Errors
    /// [`Kind::Internal`](skep_common::Kind::Internal) if it cannot be planned.
    pub fn rewrite(&self, files: HashSet<i64>) -> Result<LogicalPlan> {
        let files = Arc::new(files);
        let schema = self.table.arrow_schema();
        let columns: Vec<(&Column, DataType)> = self
            .table
            .columns
            .iter()
            .zip(schema.fields())
            .map(|(column, field)| (column, field.data_type().clone()))
            .collect();
        let plan = match &self.rows {
            Rows::None | Rows::All => return Err(Error::internal("there is nothing to rewrite")),
            Rows::Each { input, predicate, name, set } => {
                let input = restricted(input.clone(), &files)?;
                each(input, predicate, name, set.as_deref(), &columns)
            }
            Rows::Listed { plan, set, .. } => {
                let listed = restricted(plan.clone(), &files)?;
                let target = provide(Arc::new(self.target.only(&files)));
                LogicalPlanBuilder::scan(ALL_ROWS, provider_as_source(target), None)
                    .and_then(|rows| joined(rows, listed, set, &columns))
            }
        };
        with_checks(plan.map_err(error::from_datafusion)?, &self.table.columns, &self.checks)
    }

    /// Its parameters in order, with the types that their places ask for.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for parameters that are not `$1`, `$2`, ...
    pub fn parameters(&self) -> Result<SchemaRef> {
        let values = |set: &[(usize, Expr)], input: &LogicalPlan| {
            let values: Vec<Expr> = set.iter().map(|(_, value)| value.clone()).collect();
            LogicalPlanBuilder::from(input.clone()).project(values).and_then(LogicalPlanBuilder::build)
        };
        let mut plans = Vec::new();
        match &self.rows {
            Rows::None | Rows::All => {}
            Rows::Each { input, predicate, set, .. } => {
                let filtered =
                    LogicalPlanBuilder::from(input.clone()).filter(predicate.clone()).and_then(|p| p.build());
                plans.push(filtered.map_err(error::from_datafusion)?);
                if let Some(set) = set.as_deref().filter(|set| !set.is_empty()) {
                    plans.push(values(set, input).map_err(error::from_datafusion)?);
                }
            }
            Rows::Listed { plan, .. } => plans.push(plan.clone()),
        }
        plans.extend(self.insert.clone());
        parameters_of(&plans, &self.parameters)
    }
}

/// The rows of `file` that are there.
fn live(table: &TableDef, file: &DataFile) -> Result<u64> {
    file.live().ok_or_else(|| {
        Error::conflict(format!(
            "another program changed files of table '{}.{}' in the meantime",
            table.schema_name, table.name
        ))
        .hint("run the statement again: it will see that change")
    })
}

/// Columns of an example.
const SHOWN_MAX: usize = 6;

fn own(name: &str) -> Expr {
    Expr::Column(Qualified::from_name(name))
}

fn of(table: &str, name: &str) -> Expr {
    Expr::Column(Qualified::new(Some(TableReference::bare(table)), name))
}

fn keys() -> (Vec<Qualified>, Vec<Qualified>) {
    let of = |table: &str| {
        [FILE, POSITION].map(|name| Qualified::new(Some(TableReference::bare(table)), name)).to_vec()
    };
    (of(ALL_ROWS), of(LISTED))
}

/// The name of the value of the column at `at` among listed rows.
fn value_name(at: usize) -> String {
    format!("__skep_set_{at}")
}

/// `plan` with the target read from `files` alone.
fn restricted(plan: LogicalPlan, files: &Arc<HashSet<i64>>) -> Result<LogicalPlan> {
    let done = plan.transform_down_with_subqueries(|node| {
        let LogicalPlan::TableScan(mut scan) = node else { return Ok(Transformed::no(node)) };
        let provider = source_as_provider(&scan.source)?;
        let any: &dyn std::any::Any = provider.as_ref();
        let Some(target) = any.downcast_ref::<Provider<TargetTable>>() else {
            return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
        };
        scan.source = provider_as_source(provide(Arc::new(target.0.only(files))));
        Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
    });
    Ok(done.map_err(error::from_datafusion)?.data)
}

/// Rows decided on one by one.
fn each(
    input: LogicalPlan,
    predicate: &Expr,
    name: &TableReference,
    set: Option<&[(usize, Expr)]>,
    columns: &[(&Column, DataType)],
) -> datafusion::error::Result<LogicalPlan> {
    let column = |column: &str| Expr::Column(Qualified::new(Some(name.clone()), column));
    let hit = || Expr::IsTrue(Box::new(predicate.clone()));
    let mut plan = LogicalPlanBuilder::from(input);
    if set.is_none() {
        plan = plan.filter(Expr::IsNotTrue(Box::new(predicate.clone())))?;
    }
    let mut exprs = Vec::with_capacity(columns.len() + 2);
    for (at, (of_table, ty)) in columns.iter().enumerate() {
        let kept = cast(column(&of_table.name), ty.clone());
        let given = set.and_then(|set| set.iter().find(|(set, _)| *set == at));
        let value = match given {
            Some((_, value)) => when(hit(), value.clone()).otherwise(kept)?,
            None => kept,
        };
        exprs.push(value.alias(&of_table.name));
    }
    exprs.push(column(ROW_ID).alias(ROW_ID));
    exprs.push(if set.is_some() { hit().alias(ACTION) } else { lit(false).alias(ACTION) });
    plan.project(exprs)?.build()
}

/// All rows, those of them that are listed changed or left out.
fn joined(
    rows: LogicalPlanBuilder,
    listed: LogicalPlan,
    set: &[usize],
    columns: &[(&Column, DataType)],
) -> datafusion::error::Result<LogicalPlan> {
    let listed = LogicalPlanBuilder::from(listed).alias(LISTED)?.build()?;
    let action = || of(LISTED, ACTION);
    let updates = !set.is_empty();
    let plan = if updates {
        let plan = rows.join(listed, JoinType::Left, keys(), None)?;
        plan.filter(action().is_null().or(action().eq(lit(1_i64))))?
    } else {
        rows.join(listed, JoinType::LeftAnti, keys(), None)?
    };
    let mut exprs = Vec::with_capacity(columns.len() + 2);
    for (at, (column, ty)) in columns.iter().enumerate() {
        let kept = cast(of(ALL_ROWS, &column.name), ty.clone());
        let value = if set.contains(&at) {
            when(action().is_not_null(), of(LISTED, &value_name(at))).otherwise(kept)?
        } else {
            kept
        };
        exprs.push(value.alias(&column.name));
    }
    exprs.push(of(ALL_ROWS, ROW_ID).alias(ROW_ID));
    exprs.push(if updates { action().is_not_null() } else { lit(false) }.alias(ACTION));
    plan.project(exprs)?.build()
}

/// Refuses predicates that give another answer each time they are asked, which is twice.
fn constant(plan: &LogicalPlan) -> Result<()> {
    let mut found = None;
    let _ = plan.apply_with_subqueries(|node| {
        let volatile = match node {
            LogicalPlan::Filter(filter) => filter.predicate.is_volatile().then(|| filter.predicate.clone()),
            LogicalPlan::Join(join) => join.filter.iter().find(|filter| filter.is_volatile()).cloned(),
            _ => None,
        };
        found = found.take().or(volatile);
        Ok(TreeNodeRecursion::Continue)
    });
    match found {
        None => Ok(()),
        Some(_) => Err(Error::invalid("the condition gives another answer each time it is asked")
            .hint("write what random() or uuid() chose into a table first, and use that")),
    }
}
