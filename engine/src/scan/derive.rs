//! Functions of dates and times in filters: what they can be in a file.
//!
//! ```text
//! month(at) = 3 AND id > 5  --derive-->  f0 = 3 AND id > 5    f0: the months that a file may hold
//! ```
//!
//! A function that keeps the order (`date_trunc`, the year, a cast to DATE) is asked for the ends of the column. One that
//! starts anew in every greater unit, such as the month in its year, keeps the order where both ends are in one of those;
//! and of a file of a partition that is made by it, the value is known.
//!
//! # Invariants
//! - The function itself is evaluated, so that a filter and what is proved of it cannot disagree.
//! - What is not known is NULL, and proves nothing.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int32Array, UInt64Array};
use datafusion::arrow::compute::kernels::cmp::eq;
use datafusion::arrow::compute::{and, cast, is_not_null, nullif};
use datafusion::arrow::datatypes::{DataType, Date32Type, Field, Int32Type, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, HashMap, ScalarValue};
use datafusion::logical_expr::{Expr, ExprSchemable};
use skep_catalog::Transform;

use super::keep::FileFacts;
use crate::write::apply;

/// Filters over columns and over functions of columns, which have names of their own.
pub(super) struct Derived<'a> {
    /// The columns, and the functions behind them.
    pub(super) schema: SchemaRef,
    pub(super) filters: Vec<Expr>,
    functions: HashMap<String, Function>,
    session: &'a dyn Session,
    facts: &'a dyn FileFacts,
}

/// A function of one column.
struct Function {
    column: String,
    expr: Expr,
    order: Order,
    ty: DataType,
}

/// How values of the function follow those of the column.
#[derive(Debug, Clone, PartialEq)]
enum Order {
    /// Greater ones are not less.
    Kept,
    /// The same, between values for which all of these are equal.
    Within(&'static [Transform]),
}

/// A part of a date or time that starts anew: when, and the partition key that it is.
const PARTS: [(&str, &[Transform], Option<Transform>); 7] = [
    ("quarter", &[Transform::Year], None),
    ("month", &[Transform::Year], Some(Transform::Month)),
    ("doy", &[Transform::Year], None),
    ("day", &[Transform::Year, Transform::Month], Some(Transform::Day)),
    ("hour", &[Transform::Year, Transform::Month, Transform::Day], Some(Transform::Hour)),
    ("minute", &[Transform::Year, Transform::Month, Transform::Day, Transform::Hour], None),
    ("year", &[], Some(Transform::Year)),
];

/// Days around 1970 that timestamps of nanoseconds reach.
const NANOSECOND_DAYS: u32 = 106_751;

impl<'a> Derived<'a> {
    /// `filters` over `schema`, with functions that something is known of by themselves.
    pub(super) fn new(
        session: &'a dyn Session,
        schema: &SchemaRef,
        filters: &[Expr],
        facts: &'a dyn FileFacts,
    ) -> Self {
        let mut derived = Self {
            schema: Arc::clone(schema),
            filters: filters.to_vec(),
            functions: HashMap::new(),
            session,
            facts,
        };
        let Ok(columns) = DFSchema::try_from(Arc::clone(schema)) else { return derived };
        let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
        let mut functions: HashMap<String, Function> = HashMap::new();
        let mut rewrite = |filter: Expr| {
            filter.transform_down(|expr| {
                let Some((column, order)) = known(&expr, schema) else { return Ok(Transformed::no(expr)) };
                let ty = expr.get_type(&columns)?;
                let same = functions.iter().find(|(_, function)| function.expr == expr);
                let name = same.map(|(name, _)| name.clone()).unwrap_or_else(|| {
                    let name = format!("__skep_f{}", functions.len());
                    fields.push(Arc::new(Field::new(&name, ty.clone(), true)));
                    functions.insert(name.clone(), Function { column, expr, order, ty });
                    name
                });
                Ok(Transformed::yes(Expr::Column(datafusion::common::Column::from_name(name))))
            })
        };
        let rewritten: Result<Vec<Expr>, _> =
            filters.iter().map(|filter| rewrite(filter.clone()).map(|done| done.data)).collect();
        if let Ok(filters) = rewritten
            && !functions.is_empty()
        {
            derived.filters = filters;
            derived.schema = Arc::new(Schema::new(fields));
            derived.functions = functions;
        }
        derived
    }

    /// The values of `function` for ends of its column.
    fn at(&self, function: &Function, ends: &ArrayRef) -> Option<ArrayRef> {
        let schema = Schema::new(vec![Field::new(&function.column, ends.data_type().clone(), true)]);
        let schema = Arc::new(schema);
        let columns = DFSchema::try_from(Arc::clone(&schema)).ok()?;
        let expr = self.session.create_physical_expr(function.expr.clone(), &columns).ok()?;
        let batch = RecordBatch::try_new(schema, vec![Arc::clone(ends)]).ok()?;
        let values = expr.evaluate(&batch).ok()?.into_array(ends.len()).ok()?;
        cast(&values, &function.ty).ok()
    }

    /// The least or greatest values of `function`.
    fn ends(&self, function: &Function, upper: bool) -> Option<ArrayRef> {
        let bound = || {
            let (min, max) = (self.facts.min(&function.column)?, self.facts.max(&function.column)?);
            let (min, max) = &near(min, max)?;
            let values = self.at(function, if upper { max } else { min })?;
            match &function.order {
                Order::Kept => Some(values),
                Order::Within(units) => {
                    let mut same: BooleanArray =
                        and(&is_not_null(min).ok()?, &is_not_null(max).ok()?).ok()?;
                    for unit in *units {
                        let (low, high) = (apply(*unit, min).ok()?, apply(*unit, max).ok()?);
                        let equal = eq(low.as_primitive::<Int32Type>(), high.as_primitive::<Int32Type>());
                        same = and(&same, &equal.ok()?).ok()?;
                    }
                    // Where a unit is not known, it is not the same.
                    let other: BooleanArray = same.iter().map(|same| Some(same != Some(true))).collect();
                    nullif(&values, &other).ok()
                }
            }
        };
        let bound = bound();
        let Some(known) = self.partitions(function) else { return bound };
        let Some(bound) = bound else { return cast(&known, &function.ty).ok() };
        let bound = cast(&bound, &DataType::Int32).ok()?;
        let bound = bound.as_primitive::<Int32Type>();
        let either = known.iter().zip(bound.iter()).map(|(known, bound)| known.or(bound));
        cast(&(Arc::new(either.collect::<Int32Array>()) as ArrayRef), &function.ty).ok()
    }

    /// The value of `function` in files of a partition that it makes.
    fn partitions(&self, function: &Function) -> Option<Int32Array> {
        let part = part(&function.expr)?;
        let (.., transform) = PARTS.iter().find(|(name, ..)| *name == part)?;
        self.facts.made(&function.column, (*transform)?)
    }
}

impl FileFacts for Derived<'_> {
    fn files(&self) -> usize {
        self.facts.files()
    }

    fn min(&self, column: &str) -> Option<ArrayRef> {
        match self.functions.get(column) {
            Some(function) => self.ends(function, false),
            None => self.facts.min(column),
        }
    }

    fn max(&self, column: &str) -> Option<ArrayRef> {
        match self.functions.get(column) {
            Some(function) => self.ends(function, true),
            None => self.facts.max(column),
        }
    }

    fn nulls(&self, column: &str) -> Option<UInt64Array> {
        self.facts.nulls(self.functions.get(column).map_or(column, |function| &function.column))
    }

    fn rows(&self) -> Option<UInt64Array> {
        self.facts.rows()
    }

    fn contained(
        &self,
        column: &str,
        values: &std::collections::HashSet<ScalarValue>,
    ) -> Option<BooleanArray> {
        if self.functions.contains_key(column) { None } else { self.facts.contained(column, values) }
    }
}

/// Ends of which both can be made a timestamp of nanoseconds, as DataFusion does with dates: beyond, that wraps around.
fn near(min: ArrayRef, max: ArrayRef) -> Option<(ArrayRef, ArrayRef)> {
    let (Some(low), Some(high)) =
        (min.as_primitive_opt::<Date32Type>(), max.as_primitive_opt::<Date32Type>())
    else {
        return Some((min, max));
    };
    let far = |days: Option<i32>| days.is_none_or(|days| days.unsigned_abs() > NANOSECOND_DAYS);
    let far: BooleanArray =
        low.iter().zip(high.iter()).map(|(low, high)| Some(far(low) || far(high))).collect();
    Some((nullif(&min, &far).ok()?, nullif(&max, &far).ok()?))
}

/// The column of a function whose values follow those of the column, and how.
fn known(expr: &Expr, schema: &SchemaRef) -> Option<(String, Order)> {
    match expr {
        Expr::ScalarFunction(call) => {
            let [what, value] = call.args.as_slice() else { return None };
            let column = timed(value, schema)?;
            match call.func.name() {
                "date_trunc" if text(what).is_some() => Some((column, Order::Kept)),
                "date_part" => match part(expr)?.as_str() {
                    "year" | "isoyear" => Some((column, Order::Kept)),
                    part => {
                        let (_, units, _) = PARTS.iter().find(|(name, ..)| *name == part)?;
                        Some((column, Order::Within(units)))
                    }
                },
                _ => None,
            }
        }
        Expr::Cast(to) if *to.field.data_type() == DataType::Date32 => {
            Some((timed(&to.expr, schema)?, Order::Kept))
        }
        _ => None,
    }
}

/// The part that `date_part` asks for, as this module calls it.
fn part(expr: &Expr) -> Option<String> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let part = text(call.args.first()?).filter(|_| call.func.name() == "date_part")?.to_lowercase();
    let singular = part.strip_suffix('s').unwrap_or(&part);
    Some(match singular {
        "y" | "yr" => "year".to_owned(),
        "qtr" => "quarter".to_owned(),
        "mon" => "month".to_owned(),
        "d" => "day".to_owned(),
        "h" | "hr" => "hour".to_owned(),
        "min" => "minute".to_owned(),
        other => other.to_owned(),
    })
}

fn text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(value, _) => value.try_as_str().flatten(),
        _ => None,
    }
}

/// The name of a column of dates, or of times without a zone or in UTC: their calendar is that of the bounds.
fn timed(expr: &Expr, schema: &SchemaRef) -> Option<String> {
    let (column, date) = match expr {
        Expr::Column(column) => (column, false),
        // What DataFusion makes of a date where it takes timestamps.
        Expr::Cast(to) if matches!(to.field.data_type(), DataType::Timestamp(_, None)) => match &*to.expr {
            Expr::Column(column) => (column, true),
            _ => return None,
        },
        _ => return None,
    };
    let field = schema.field_with_name(&column.name).ok()?;
    if date && *field.data_type() != DataType::Date32 {
        return None;
    }
    let plain = match field.data_type() {
        DataType::Date32 | DataType::Timestamp(_, None) => true,
        DataType::Timestamp(_, Some(zone)) => zone.as_ref() == skep_catalog::UTC,
        _ => false,
    };
    plain.then(|| column.name.clone())
}
