//! INSERT: what its source gives, what its PARTITION clause gives, and which rows give way.
//!
//! ```text
//! INSERT OVERWRITE t PARTITION (a = 1, b) SELECT x, y, b
//!                               |      \--dynamic: the last columns of the source
//!                               \--static: the same in every row
//! ```
//!
//! As in Hive, the rows that give way are those of the partition that is named where every key has a value, and those of
//! the partitions that rows are written to where one has not. As in Iceberg, a key that a transform makes takes no value.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::sql::sqlparser::ast;
use skep_catalog::{PartitionKey, TableDef, Transform};
use skep_common::{Error, Result};

use super::write::{WriteInput, by_position};
use super::{Planner, Replaced, clauses, constant, tables};
use crate::sql::{Insert, PartitionValue};
use crate::{error, names, types};

/// Parameters that a statement may have.
const PARAMETERS_MAX: usize = 65_535;

/// What PARTITION says, by places in the table.
#[derive(Debug, Default)]
struct Clause {
    /// Columns whose value it gives.
    fixed: Vec<(usize, ScalarValue)>,
    /// Columns that it leaves to the source, whose last ones they are.
    last: Vec<usize>,
    /// Whether rows decide themselves which partitions give way.
    dynamic: bool,
}

impl Planner {
    /// The rows of INSERT.
    ///
    /// # Errors
    /// As [`Planner::writable`] and [`Planner::logical`], and [`Kind::Invalid`](skep_common::Kind::Invalid) for columns
    /// that do not fit, and keys that are not the table's.
    pub async fn insert(&self, insert: &Insert) -> Result<WriteInput> {
        let table = self.writable(&insert.table)?;
        let clause = match &insert.partition {
            Some(values) => self.partition(&table, insert, values).await?,
            None => Clause::default(),
        };
        let plan = match &insert.source {
            Some(source) => {
                let targets = clause.targets(&table, insert)?;
                let (source, hints) = prepared(source, &table, &targets)?;
                let plan = self.typed(&source, &hints).await?;
                let given = plan.schema().fields().len();
                if given != targets.len() {
                    return Err(count_error(&table, insert, given, &targets));
                }
                by_position(plan, &table.columns, &targets, &clause.fixed)?
            }
            None => {
                let one = LogicalPlanBuilder::empty(true).build().map_err(error::from_datafusion)?;
                by_position(one, &table.columns, &[], &clause.fixed)?
            }
        };
        let plan = self.checked(plan, &table)?;
        let replaced = match (insert.overwrite, &insert.partition) {
            (false, _) => Replaced::Nothing,
            (true, None) => Replaced::Everything,
            (true, Some(_)) if clause.dynamic => Replaced::Written,
            (true, Some(_)) => Replaced::Named(clause.fixed),
        };
        Ok(WriteInput { table, plan, replaced })
    }

    /// What `PARTITION (values)` says.
    async fn partition(
        &self,
        table: &TableDef,
        insert: &Insert,
        values: &[PartitionValue],
    ) -> Result<Clause> {
        let partitioning = &table.partitioning;
        let name = &table.name;
        if partitioning.unknown {
            return Err(tables::placed(
                Error::unsupported(format!(
                    "table '{name}' is partitioned by another engine in a way that skep does not know"
                ))
                .hint("leave PARTITION out, or ALTER TABLE ... SET PARTITIONED BY first"),
                insert.table.at,
            ));
        }
        if partitioning.keys.is_empty() {
            return Err(tables::placed(
                Error::invalid(format!("table '{name}' is not partitioned, so PARTITION names nothing"))
                    .hint("leave PARTITION out; DELETE with WHERE makes room for new rows"),
                insert.table.at,
            ));
        }
        let schema = table.arrow_schema();
        let mut clause = Clause::default();
        let mut seen: Vec<PartitionKey> = Vec::new();
        for value in values {
            let (transform, at) = (value.key.transform, value.key.column.at);
            let refused = |e: Error| tables::placed(e, at);
            let column = clauses::top(&table.columns, &value.key.column, "PARTITION")?;
            let key = PartitionKey { column: column.id, transform };
            if !partitioning.keys.contains(&key) {
                return Err(refused(not_a_key(table, &key, &column.name)));
            }
            if seen.contains(&key) {
                return Err(refused(Error::invalid(format!(
                    "partition key '{}' is named twice",
                    key_name(table, &key)
                ))));
            }
            let place = table.columns.iter().position(|other| other.id == column.id).unwrap_or_default();
            match (&value.value, transform) {
                (Some(expr), Transform::Identity) => {
                    let ty = schema.field(place).data_type();
                    let found = constant::value(self, expr, &column.name, ty).await.map_err(refused)?;
                    let found = found.ok_or_else(|| {
                        refused(
                            Error::invalid(format!(
                                "the value of partition key '{}' is not a constant",
                                column.name
                            ))
                            .hint("name the key without a value, and give it as a last column of the query"),
                        )
                    })?;
                    clause.fixed.push((place, found));
                }
                (None, Transform::Identity) => {
                    clause.last.push(place);
                    clause.dynamic = true;
                }
                (None, _) => clause.dynamic = true,
                (Some(_), _) => {
                    return Err(refused(
                        Error::unsupported(format!(
                            "partition key '{}' is made of the rows, and PARTITION cannot give it a value",
                            key_name(table, &key)
                        ))
                        .hint("name it without a value: the partitions that rows are written to give way"),
                    ));
                }
            }
            seen.push(key);
        }
        let missing =
            partitioning.keys.iter().find(|key| key.transform == Transform::Identity && !seen.contains(key));
        if let Some(missing) = missing {
            let missing = key_name(table, missing);
            return Err(tables::placed(
                Error::invalid(format!("PARTITION does not name partition key '{missing}' of table '{name}'"))
                    .hint(format!(
                        "give it a value, as in {missing} = ..., or name it alone and give it as a last column of the query"
                    )),
                insert.table.at,
            ));
        }
        Ok(clause)
    }
}

impl Clause {
    /// The places in the table of the columns of the source.
    fn targets(&self, table: &TableDef, insert: &Insert) -> Result<Vec<usize>> {
        let fixed = |at: usize| self.fixed.iter().any(|(place, _)| *place == at);
        let mut targets = match &insert.columns {
            Some(columns) => {
                let named = targets(table, Some(columns))?;
                if let Some(at) = named.iter().position(|&at| fixed(at)) {
                    let error = Error::invalid(format!(
                        "column '{}' has its value in PARTITION",
                        table.columns[named[at]].name
                    ));
                    let error = error.hint("leave it out of the columns that the query gives");
                    return Err(tables::placed(error, names::from_span(columns[at].span)));
                }
                named
            }
            None => (0..table.columns.len()).filter(|&at| !fixed(at) && !self.last.contains(&at)).collect(),
        };
        let rest: Vec<usize> = self.last.iter().copied().filter(|at| !targets.contains(at)).collect();
        targets.extend(rest);
        Ok(targets)
    }
}

/// A key as PARTITIONED BY writes it.
fn key_name(table: &TableDef, key: &PartitionKey) -> String {
    let column = table.column(key.column).map_or_else(String::new, |column| names::quote(&column.name));
    match key.transform {
        Transform::Identity => column,
        Transform::Bucket(buckets) => format!("bucket({buckets}, {column})"),
        other => format!("{other}({column})"),
    }
}

fn not_a_key(table: &TableDef, key: &PartitionKey, column: &str) -> Error {
    let keys = &table.partitioning.keys;
    let made = keys.iter().find(|other| other.column == key.column).map(|other| key_name(table, other));
    let written = key_name(table, key);
    let error = Error::invalid(format!("'{written}' is no partition key of table '{}'", table.name));
    error.hint(match made {
        Some(made) => format!(
            "the table is partitioned by {made}: leave it out, or name {made} to replace the partitions that rows are written to"
        ),
        None => {
            let known: Vec<String> = keys.iter().map(|key| key_name(table, key)).collect();
            format!("keys are {}; give '{column}' as a column of the query", known.join(", "))
        }
    })
}

/// The indices in the table of `columns`, or of all.
pub(super) fn targets(table: &TableDef, columns: Option<&[ast::Ident]>) -> Result<Vec<usize>> {
    let Some(columns) = columns else { return Ok((0..table.columns.len()).collect()) };
    let mut found: Vec<usize> = Vec::with_capacity(columns.len());
    for ident in columns {
        let name = names::normalise(ident);
        let at = names::from_span(ident.span);
        let Some(target) = table.columns.iter().position(|column| column.name == name) else {
            let error = Error::invalid(format!("table '{}' has no column '{name}'", table.name));
            let known = table.columns.iter().map(|column| column.name.as_str());
            let error = match names::nearest(&name, known.clone()) {
                Some(near) => error.hint(format!("did you mean '{near}'?")),
                None => error.hint(format!("columns are {}", known.collect::<Vec<_>>().join(", "))),
            };
            return Err(tables::placed(error, at));
        };
        if found.contains(&target) {
            return Err(tables::placed(Error::invalid(format!("column '{name}' is named twice")), at));
        }
        found.push(target);
    }
    Ok(found)
}

/// `source` with what stands alone in VALUES made for the columns it goes to: numbers become floats for columns of
/// floats, which other rows may give values that decimals do not have; and `$1`, `$2`, ... get the types of their columns.
fn prepared(
    source: &ast::Query,
    table: &TableDef,
    targets: &[usize],
) -> Result<(ast::Query, Vec<Option<ast::DataType>>)> {
    let mut source = source.clone();
    let mut hints: Vec<Option<ast::DataType>> = Vec::new();
    let schema = table.arrow_schema();
    let ast::SetExpr::Values(values) = source.body.as_mut() else { return Ok((source, hints)) };
    // Texts beside values of another type are values of the column, which only dates and the like do not see by themselves.
    let mixed: Vec<bool> = (0..targets.len())
        .map(|at| {
            values.rows.iter().filter_map(|row| row.content.get(at)).any(|value| !text(value) && !null(value))
        })
        .collect();
    for row in &mut values.rows {
        for ((value, &target), mixed) in row.content.iter_mut().zip(targets).zip(&mixed) {
            let ty = schema.field(target).data_type();
            if let Some(at) = placeholder(value) {
                if hints.len() < at {
                    hints.resize(at, None);
                }
                hints[at - 1] = types::sql_type(ty).ok();
            } else if ty.is_floating() && number(value) {
                *value = cast_sql(value, ast::DataType::Double(ast::ExactNumberInfo::None));
            } else if *mixed && text(value) && !matches!(ty, DataType::Utf8 | DataType::Binary) {
                *value = cast_sql(value, types::sql_type(ty)?);
            }
        }
    }
    Ok((source, hints))
}

/// The number of a parameter, from 1.
pub(super) fn placeholder(expr: &ast::Expr) -> Option<usize> {
    match expr {
        ast::Expr::Value(value) => match &value.value {
            ast::Value::Placeholder(name) => {
                name.strip_prefix('$')?.parse().ok().filter(|at| (1..=PARAMETERS_MAX).contains(at))
            }
            _ => None,
        },
        _ => None,
    }
}

pub(super) fn cast_sql(expr: &ast::Expr, data_type: ast::DataType) -> ast::Expr {
    let (kind, expr) = (ast::CastKind::Cast, Box::new(expr.clone()));
    ast::Expr::Cast { kind, expr, data_type, array: false, format: None }
}

fn text(expr: &ast::Expr) -> bool {
    matches!(expr, ast::Expr::Value(value) if matches!(value.value, ast::Value::SingleQuotedString(_)))
}

fn null(expr: &ast::Expr) -> bool {
    matches!(expr, ast::Expr::Value(value) if matches!(value.value, ast::Value::Null))
}

pub(super) fn number(expr: &ast::Expr) -> bool {
    match expr {
        ast::Expr::Value(value) => matches!(value.value, ast::Value::Number(..)),
        ast::Expr::UnaryOp { op: ast::UnaryOperator::Minus | ast::UnaryOperator::Plus, expr } => number(expr),
        _ => false,
    }
}

fn count_error(table: &TableDef, insert: &Insert, given: usize, targets: &[usize]) -> Error {
    let wanted = targets.len();
    let names: Vec<&str> = targets.iter().map(|&at| table.columns[at].name.as_str()).collect();
    let error = match (&insert.columns, &insert.partition) {
        (Some(_), None) => Error::invalid(format!("{wanted} columns are named and {given} values are given")),
        (_, Some(_)) => Error::invalid(format!(
            "beside PARTITION, the rows of table '{}' have {wanted} columns and {given} values are given",
            table.name
        ))
        .hint(format!("the query gives {}, in this order", names.join(", "))),
        (None, None) => Error::invalid(format!(
            "table '{}' has {wanted} columns and {given} values are given",
            table.name
        ))
        .hint(format!("name the columns that are given; the table has {}", names.join(", "))),
    };
    tables::placed(error, insert.table.at)
}
