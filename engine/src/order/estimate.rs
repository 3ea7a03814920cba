//! How many rows a plan gives, and how many different values its columns have.
//!
//! The rules are those of System R (Selinger and others, 1979) with counts of different values from the catalog's sketches:
//! values are spread evenly, conditions do not depend on each other, and of two columns that are joined the one with fewer values has
//! none that the other lacks.
//!
//! # Not here
//! Sizes of several inputs together (`search`, which knows their conditions).

use std::collections::HashMap;

use datafusion::common::{Column, JoinType, ScalarValue, Statistics};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Distinct, Expr, FetchType, Join, LogicalPlan, Operator, SkipType,
};

/// The share of rows in which two things are equal of which nothing is known.
pub(super) const EQUAL: f64 = 0.1;
/// The share of rows that an order between two values leaves.
const ORDER: f64 = 1.0 / 3.0;
/// The share of rows that a pattern leaves.
const PATTERN: f64 = 0.1;
/// The share of rows that a condition leaves of which nothing is known.
const UNKNOWN: f64 = 0.25;
/// Rows for each value of something of which nothing is known.
const ROWS_PER_VALUE: f64 = 10.0;

/// What is thought of the rows of a plan.
#[derive(Debug, Clone)]
pub(super) struct Estimate {
    pub(super) rows: f64,
    columns: HashMap<Column, Known>,
}

/// What is thought of a column.
#[derive(Debug, Clone, Copy)]
struct Known {
    values: f64,
    /// The least and the greatest, of those that are numbers or times.
    bounds: Option<(f64, f64)>,
}

impl Estimate {
    /// How many different values `expr` has.
    pub(super) fn distinct(&self, expr: &Expr) -> f64 {
        let values = match expr {
            Expr::Literal(..) => 1.0,
            _ => {
                let mut columns = expr.column_refs().into_iter();
                match (columns.next(), columns.next()) {
                    (Some(only), None) => self.values(only),
                    _ => self.rows / ROWS_PER_VALUE,
                }
            }
        };
        values.clamp(1.0, self.rows.max(1.0))
    }

    fn values(&self, column: &Column) -> f64 {
        self.columns.get(column).map_or(self.rows / ROWS_PER_VALUE, |known| known.values)
    }

    /// With `share` of the rows, taken from anywhere.
    fn thinned(mut self, share: f64) -> Self {
        let rows = self.rows;
        self.rows = (rows * share).max(1.0);
        if share < 1.0 {
            for known in self.columns.values_mut() {
                // A value goes when all of its rows go.
                let each = (rows / known.values.max(1.0)).max(1.0);
                known.values = (known.values * (1.0 - (1.0 - share).powf(each))).clamp(1.0, self.rows);
            }
        }
        self
    }

    fn filtered<'a>(mut self, conditions: impl IntoIterator<Item = &'a Expr>) -> Self {
        let mut fixed = Vec::new();
        let mut share = 1.0;
        for condition in conditions {
            share *= self.share(condition);
            fixed.extend(chosen(condition));
        }
        self = self.thinned(share.clamp(0.0, 1.0));
        for (column, values) in fixed {
            if let Some(known) = self.columns.get_mut(&column) {
                known.values = known.values.min(values);
            }
        }
        self
    }

    /// The share of rows that `condition` leaves.
    fn share(&self, condition: &Expr) -> f64 {
        let share = match condition {
            Expr::Alias(alias) => self.share(&alias.expr),
            Expr::Literal(ScalarValue::Boolean(Some(true)), _) => 1.0,
            Expr::Literal(ScalarValue::Boolean(_) | ScalarValue::Null, _) => 0.0,
            Expr::Not(inner) => 1.0 - self.share(inner),
            Expr::IsNull(_) => 0.05,
            Expr::IsNotNull(_) => 1.0,
            Expr::Like(like) => complement(like.negated, PATTERN),
            Expr::InList(list) => {
                let one = 1.0 / self.distinct(&list.expr);
                complement(list.negated, (one * list.list.len() as f64).min(1.0))
            }
            Expr::Between(between) => {
                let (low, high) = (between.low.as_ref(), between.high.as_ref());
                let inside = self.range(&between.expr, literal(low), literal(high));
                complement(between.negated, inside.unwrap_or(ORDER * ORDER))
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
                Operator::And => self.share(left) * self.share(right),
                Operator::Or => {
                    let (a, b) = (self.share(left), self.share(right));
                    a + b - a * b
                }
                Operator::Eq | Operator::IsNotDistinctFrom => {
                    1.0 / self.distinct(left).max(self.distinct(right))
                }
                Operator::NotEq | Operator::IsDistinctFrom => {
                    1.0 - 1.0 / self.distinct(left).max(self.distinct(right))
                }
                Operator::Lt | Operator::LtEq => self.below(left, right),
                Operator::Gt | Operator::GtEq => self.below(right, left),
                Operator::LikeMatch | Operator::ILikeMatch | Operator::RegexMatch | Operator::RegexIMatch => {
                    PATTERN
                }
                _ => UNKNOWN,
            },
            _ => UNKNOWN,
        };
        share.clamp(0.0, 1.0)
    }

    /// The share of rows in which `less` is less than `more`.
    fn below(&self, less: &Expr, more: &Expr) -> f64 {
        let known = match (literal(less), literal(more)) {
            (None, Some(most)) => self.range(less, None, Some(most)),
            (Some(least), None) => self.range(more, Some(least), None),
            _ => None,
        };
        known.unwrap_or(ORDER)
    }

    /// The share of rows in which the column `expr` lies between.
    fn range(&self, expr: &Expr, low: Option<f64>, high: Option<f64>) -> Option<f64> {
        let Expr::Column(column) = expr else { return None };
        let (least, most) = self.columns.get(column)?.bounds?;
        let (low, high) = (low.unwrap_or(least).max(least), high.unwrap_or(most).min(most));
        if most <= least {
            return Some(if low <= high { 1.0 } else { 0.0 });
        }
        let one = 1.0 / self.values(column).max(1.0);
        Some(((high - low) / (most - least)).clamp(0.0, 1.0).max(if low <= high { one } else { 0.0 }))
    }
}

/// The share of pairs of rows that a condition between several inputs leaves, if it is no equality of two of them.
pub(super) fn share_of_pairs(condition: &Expr) -> f64 {
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::And => share_of_pairs(left) * share_of_pairs(right),
            Operator::Or => (share_of_pairs(left) + share_of_pairs(right)).min(1.0),
            Operator::Eq => EQUAL,
            Operator::NotEq => 1.0 - EQUAL,
            Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => ORDER,
            _ => UNKNOWN,
        },
        Expr::Between(between) => complement(between.negated, ORDER * ORDER),
        Expr::Like(like) => complement(like.negated, PATTERN),
        _ => UNKNOWN,
    }
}

fn complement(negated: bool, share: f64) -> f64 {
    if negated { 1.0 - share } else { share }
}

/// Columns that a condition leaves few values of, and how many.
fn chosen(condition: &Expr) -> Option<(Column, f64)> {
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            match (left.as_ref(), right.as_ref()) {
                (Expr::Column(column), Expr::Literal(..)) | (Expr::Literal(..), Expr::Column(column)) => {
                    Some((column.clone(), 1.0))
                }
                _ => None,
            }
        }
        Expr::InList(list) if !list.negated => match list.expr.as_ref() {
            Expr::Column(column) => Some((column.clone(), list.list.len() as f64)),
            _ => None,
        },
        _ => None,
    }
}

/// A literal as a number: times in microseconds.
fn literal(expr: &Expr) -> Option<f64> {
    match expr {
        Expr::Literal(value, _) => number(value),
        Expr::Cast(cast) => literal(&cast.expr),
        _ => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn number(value: &ScalarValue) -> Option<f64> {
    const DAY: f64 = 86_400e6;
    Some(match value {
        ScalarValue::Int8(Some(v)) => f64::from(*v),
        ScalarValue::Int16(Some(v)) => f64::from(*v),
        ScalarValue::Int32(Some(v)) => f64::from(*v),
        ScalarValue::Int64(Some(v)) => *v as f64,
        ScalarValue::UInt8(Some(v)) => f64::from(*v),
        ScalarValue::UInt16(Some(v)) => f64::from(*v),
        ScalarValue::UInt32(Some(v)) => f64::from(*v),
        ScalarValue::UInt64(Some(v)) => *v as f64,
        ScalarValue::Float32(Some(v)) => f64::from(*v),
        ScalarValue::Float64(Some(v)) => *v,
        ScalarValue::Decimal32(Some(v), _, scale) => f64::from(*v) / 10f64.powi(i32::from(*scale)),
        ScalarValue::Decimal64(Some(v), _, scale) => *v as f64 / 10f64.powi(i32::from(*scale)),
        ScalarValue::Decimal128(Some(v), _, scale) => *v as f64 / 10f64.powi(i32::from(*scale)),
        ScalarValue::Date32(Some(days)) => f64::from(*days) * DAY,
        ScalarValue::TimestampSecond(Some(v), _) => *v as f64 * 1e6,
        ScalarValue::TimestampMillisecond(Some(v), _) => *v as f64 * 1e3,
        ScalarValue::TimestampMicrosecond(Some(v), _) => *v as f64,
        ScalarValue::TimestampNanosecond(Some(v), _) => *v as f64 / 1e3,
        _ => return None,
    })
}

/// What is thought of `plan`. `None` where nothing is known of a table or of a node.
pub(super) fn estimate(plan: &LogicalPlan) -> Option<Estimate> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let statistics = source_as_provider(&scan.source).ok()?.statistics()?;
            let schema = scan.source.schema();
            let all = table(&statistics, plan.schema().columns(), |name| schema.index_of(name).ok())?;
            Some(all.filtered(&scan.filters))
        }
        LogicalPlan::Filter(filter) => {
            let done: &[Expr] = match filter.input.as_ref() {
                LogicalPlan::TableScan(scan) => &scan.filters,
                _ => &[],
            };
            let input = estimate(&filter.input)?;
            Some(
                input
                    .filtered(split_conjunction(&filter.predicate).into_iter().filter(|e| !done.contains(e))),
            )
        }
        LogicalPlan::Projection(projection) => {
            let input = estimate(&projection.input)?;
            let columns = projection.schema.columns().into_iter().zip(&projection.expr);
            let columns = columns.map(|(column, expr)| (column, input.of(expr))).collect();
            Some(Estimate { rows: input.rows, columns })
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let input = estimate(&alias.input)?;
            let names = alias.schema.columns().into_iter().zip(alias.input.schema().columns());
            let columns = names.filter_map(|(new, old)| Some((new, *input.columns.get(&old)?)));
            Some(Estimate { rows: input.rows, columns: columns.collect() })
        }
        LogicalPlan::Aggregate(node) => aggregate(node),
        LogicalPlan::Distinct(Distinct::All(input)) => {
            let input = estimate(input)?;
            let values = input.columns.values().map(|known| known.values).product::<f64>();
            Some(Estimate { rows: input.rows.min(values.max(1.0)), ..input })
        }
        LogicalPlan::Join(node) => join(node),
        LogicalPlan::Union(union) => {
            let rows = union.inputs.iter().map(|input| Some(estimate(input)?.rows)).sum::<Option<f64>>()?;
            Some(Estimate { rows, columns: HashMap::new() })
        }
        LogicalPlan::Limit(limit) => {
            let input = estimate(&limit.input)?;
            let most = match (limit.get_fetch_type(), limit.get_skip_type()) {
                (Ok(FetchType::Literal(Some(rows))), Ok(SkipType::Literal(_))) => rows as f64,
                _ => input.rows,
            };
            let share = (most / input.rows.max(1.0)).min(1.0);
            Some(input.thinned(share))
        }
        LogicalPlan::Sort(sort) => estimate(&sort.input),
        LogicalPlan::Window(window) => estimate(&window.input),
        LogicalPlan::Repartition(node) => estimate(&node.input),
        LogicalPlan::Values(values) => {
            Some(Estimate { rows: values.values.len() as f64, columns: HashMap::new() })
        }
        LogicalPlan::EmptyRelation(empty) => {
            Some(Estimate { rows: if empty.produce_one_row { 1.0 } else { 0.0 }, columns: HashMap::new() })
        }
        _ => None,
    }
}

impl Estimate {
    fn of(&self, expr: &Expr) -> Known {
        match expr {
            Expr::Alias(alias) => self.of(&alias.expr),
            Expr::Column(column) if self.columns.contains_key(column) => self.columns[column],
            _ => Known { values: self.distinct(expr), bounds: None },
        }
    }
}

fn table(
    statistics: &Statistics,
    columns: Vec<Column>,
    position: impl Fn(&str) -> Option<usize>,
) -> Option<Estimate> {
    let rows = (*statistics.num_rows.get_value()?) as f64;
    let columns = columns.into_iter().filter_map(|column| {
        let known = statistics.column_statistics.get(position(&column.name)?)?;
        let bound = |value: Option<&ScalarValue>| value.and_then(number);
        let bounds = bound(known.min_value.get_value()).zip(bound(known.max_value.get_value()));
        let counted = known.distinct_count.get_value().map(|count| *count as f64);
        // Whole numbers have no more values than lie between their bounds.
        let whole = known.min_value.get_value().is_some_and(|value| value.data_type().is_integer());
        let between = bounds.filter(|_| whole).map(|(least, most)| most - least + 1.0);
        let values = counted.or(between)?.clamp(1.0, rows.max(1.0));
        Some((column, Known { values, bounds }))
    });
    Some(Estimate { rows, columns: columns.collect() })
}

fn aggregate(node: &Aggregate) -> Option<Estimate> {
    let input = estimate(&node.input)?;
    let values: f64 = node.group_expr.iter().map(|expr| input.distinct(expr)).product();
    let rows = values.clamp(1.0, input.rows.max(1.0));
    let names = node.schema.columns().into_iter().zip(&node.group_expr);
    let columns = names.map(|(column, expr)| {
        let known = input.of(expr);
        (column, Known { values: known.values.min(rows), ..known })
    });
    Some(Estimate { rows, columns: columns.collect() })
}

fn join(node: &Join) -> Option<Estimate> {
    let (left, right) = (estimate(&node.left)?, estimate(&node.right)?);
    let mut values = [1.0, 1.0];
    for (a, b) in &node.on {
        values = [values[0] * left.distinct(a), values[1] * right.distinct(b)];
    }
    let values = [values[0].min(left.rows.max(1.0)), values[1].min(right.rows.max(1.0))];
    let filter = node.filter.as_ref().map_or(1.0, share_of_pairs);
    let matched = left.rows * right.rows / values[0].max(values[1]) * filter;
    // Which share of a side's values the other side has.
    let found = |own: f64, other: f64| (other / own).min(1.0) * filter;
    let (in_left, in_right) = (found(values[0], values[1]), found(values[1], values[0]));
    let (rows_left, rows_right) = (left.rows, right.rows);
    Some(match node.join_type {
        JoinType::LeftSemi => left.thinned(in_left),
        JoinType::LeftAnti => left.thinned(1.0 - in_left),
        JoinType::RightSemi => right.thinned(in_right),
        JoinType::RightAnti => right.thinned(1.0 - in_right),
        JoinType::LeftMark => left,
        JoinType::RightMark => right,
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => {
            let least = match node.join_type {
                JoinType::Left => rows_left,
                JoinType::Right => rows_right,
                JoinType::Full => rows_left.max(rows_right),
                _ => 1.0,
            };
            let rows = matched.max(least).max(1.0);
            let mut columns = left.columns;
            columns.extend(right.columns);
            for known in columns.values_mut() {
                known.values = known.values.min(rows);
            }
            Estimate { rows, columns }
        }
    })
}
