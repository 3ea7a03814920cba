//! Whether two answers to one statement are equal.
//!
//! Rows may come in any order; where the statement orders them, the columns it orders by must come in the same order. Floats are
//! equal up to what another order of addition changes; everything else is equal to the last digit.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::sql::sqlparser::ast::{Expr, OrderByKind, Statement, Value as Literal};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use skep_common::{Error, Result};
use skep_repl::Answer;

use super::actions::cut;

/// What floats may differ by, as a share of the larger one.
const TOLERANCE: f64 = 1e-9;
/// Longest rows and values that a difference shows, in characters.
const SHOWN: usize = 300;

const FORMAT: FormatOptions<'static> = FormatOptions::new().with_display_error(false).with_null("NULL");

/// The first difference between the right answer and another, in words; `None` if they are equal.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) for values that have no text.
pub(crate) fn difference(sql: &str, right: &Answer, got: &Answer) -> Result<Option<String>> {
    match (right, got) {
        (Answer::Done(tag, rows), Answer::Done(other, others)) => {
            let shown = |tag: &str, rows: Option<u64>| match rows {
                Some(rows) => format!("'{tag} {rows}'"),
                None => format!("'{tag}'"),
            };
            let same = tag == other && rows == others;
            Ok((!same).then(|| format!("{} instead of {}", shown(other, *others), shown(tag, *rows))))
        }
        (Answer::Rows(schema, right), Answer::Rows(other, got)) => {
            if let Some(difference) = columns(schema, other) {
                return Ok(Some(difference));
            }
            let (right, got) = (rows(schema, right)?, rows(schema, got)?);
            if let Some(difference) = multiset(&right, &got) {
                let hint = if limited(sql) {
                    "; the statement has a LIMIT: if rows tie in its order, both answers may be right, and ordering by \
                     more columns makes it certain"
                } else {
                    ""
                };
                return Ok(Some(difference + hint));
            }
            Ok(order(&keys(sql, schema), &right, &got))
        }
        (Answer::Rows(..), Answer::Done(tag, _)) => Ok(Some(format!("'{tag}' instead of rows"))),
        (Answer::Done(tag, _), Answer::Rows(..)) => Ok(Some(format!("rows instead of '{tag}'"))),
    }
}

/// How many rows an answer has or wrote, as text.
pub(crate) fn size(answer: &Answer) -> String {
    match answer {
        Answer::Rows(_, batches) => {
            let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
            super::run::count(rows as u64, "row")
        }
        Answer::Done(tag, Some(rows)) => format!("{tag} {rows}"),
        Answer::Done(tag, None) => tag.clone(),
    }
}

fn columns(right: &SchemaRef, got: &SchemaRef) -> Option<String> {
    let list = |schema: &SchemaRef| {
        let fields = schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type()));
        fields.collect::<Vec<_>>().join(", ")
    };
    let (right, got) = (list(right), list(got));
    (right != got).then(|| format!("the columns are ({got}) instead of ({right})"))
}

#[derive(Debug, Clone)]
enum Value {
    Text(String),
    Float(f64),
}

impl Value {
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => {
                a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
            }
            _ => false,
        }
    }

    fn text(&self) -> String {
        match self {
            Value::Text(text) => text.clone(),
            Value::Float(number) => number.to_string(),
        }
    }
}

type Row = Vec<Value>;

fn rows(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<Row>> {
    let unprintable = |e| Error::internal("a value cannot be compared").source(e);
    let mut rows: Vec<Row> = Vec::new();
    for batch in batches {
        let first = rows.len();
        rows.resize_with(first + batch.num_rows(), || Vec::with_capacity(schema.fields().len()));
        for column in batch.columns() {
            let float =
                matches!(column.data_type(), DataType::Float16 | DataType::Float32 | DataType::Float64);
            let floats =
                if float { Some(cast(column, &DataType::Float64).map_err(unprintable)?) } else { None };
            let floats = floats.as_ref().and_then(|floats| floats.as_primitive_opt::<Float64Type>());
            let texts = ArrayFormatter::try_new(column, &FORMAT).map_err(unprintable)?;
            for row in 0..batch.num_rows() {
                let value = match floats {
                    Some(floats) if !column.is_null(row) => Value::Float(floats.value(row)),
                    _ => Value::Text(texts.value(row).try_to_string().map_err(unprintable)?),
                };
                rows[first + row].push(value);
            }
        }
    }
    Ok(rows)
}

fn shown(row: &[Value]) -> String {
    let text = row.iter().map(Value::text).collect::<Vec<_>>().join(" | ");
    format!("'{}'", cut(&text, SHOWN))
}

/// Rows that are equal but for their floats.
#[derive(Default)]
struct Group<'a> {
    right: Vec<&'a Row>,
    got: Vec<&'a Row>,
}

/// What is no float in a row.
fn key(row: &Row) -> Vec<Option<&str>> {
    row.iter().map(|value| if let Value::Text(text) = value { Some(text.as_str()) } else { None }).collect()
}

/// The first row of one that the other lacks.
fn multiset(right: &[Row], got: &[Row]) -> Option<String> {
    if right.len() != got.len() {
        return Some(format!("{} rows instead of {}", got.len(), right.len()));
    }
    // By everything that is no float; floats are looked for among few.
    let mut groups: BTreeMap<Vec<Option<&str>>, Group<'_>> = BTreeMap::new();
    for row in right {
        groups.entry(key(row)).or_default().right.push(row);
    }
    for row in got {
        groups.entry(key(row)).or_default().got.push(row);
    }
    groups.into_values().find_map(|Group { mut right, mut got }| {
        right.sort_by(|a, b| by_floats(a, b));
        got.sort_by(|a, b| by_floats(a, b));
        for row in &right {
            let alike = |other: &&Row| row.iter().zip(other.iter()).all(|(a, b)| a.is_like(b));
            match got.iter().position(alike) {
                Some(at) => drop(got.remove(at)),
                None => {
                    return Some(match got.first() {
                        Some(other) => format!("the row {} instead of {}", shown(other), shown(row)),
                        None => format!("the row {} is missing", shown(row)),
                    });
                }
            }
        }
        got.first().map(|row| format!("the row {} is too much", shown(row)))
    })
}

fn by_floats(a: &Row, b: &Row) -> std::cmp::Ordering {
    let floats = |row: &Row| -> Vec<f64> {
        let float = |value: &Value| if let Value::Float(number) = value { Some(*number) } else { None };
        row.iter().filter_map(float).collect()
    };
    let pairs = floats(a).into_iter().zip(floats(b));
    pairs.map(|(a, b)| a.total_cmp(&b)).find(|order| order.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
}

/// The first place where the columns `keys` come in another order.
fn order(keys: &[usize], right: &[Row], got: &[Row]) -> Option<String> {
    let pairs = right.iter().zip(got).enumerate();
    pairs
        .filter(|(_, (right, got))| keys.iter().any(|&key| !right[key].is_like(&got[key])))
        .map(|(at, (right, got))| {
            format!("row {} is {} instead of {}: the order is wrong", at + 1, shown(got), shown(right))
        })
        .next()
}

fn parse(sql: &str) -> Option<Box<datafusion::sql::sqlparser::ast::Query>> {
    let parsed = Parser::parse_sql(&GenericDialect {}, sql).ok()?;
    match <[Statement; 1]>::try_from(parsed) {
        Ok([Statement::Query(query)]) => Some(query),
        _ => None,
    }
}

fn limited(sql: &str) -> bool {
    sql.split(|c: char| !c.is_alphanumeric()).any(|word| word.eq_ignore_ascii_case("limit"))
}

/// The columns that the statement orders by, up to the first that is not one of its result. Rows that tie in them may come in any
/// order.
fn keys(sql: &str, schema: &SchemaRef) -> Vec<usize> {
    let order = parse(sql).and_then(|query| query.order_by);
    let Some(OrderByKind::Expressions(expressions)) = order.map(|order| order.kind) else {
        return Vec::new();
    };
    let column = |expr: &Expr| match expr {
        Expr::Identifier(name) => {
            let alike = |field: &str| field == name.value || field.eq_ignore_ascii_case(&name.value);
            let mut found =
                schema.fields().iter().enumerate().filter(|(_, field)| alike(field.name())).map(|(at, _)| at);
            // Of two columns with one name nobody knows which is meant.
            found.next().filter(|_| found.next().is_none())
        }
        Expr::Value(value) => match &value.value {
            Literal::Number(number, _) => number.parse::<usize>().ok()?.checked_sub(1),
            _ => None,
        },
        _ => None,
    };
    let columns = expressions.iter().map_while(|by| column(&by.expr));
    columns.filter(|&column| column < schema.fields().len()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};

    use super::*;

    fn answer(names: &[&str], numbers: &[Option<i64>], floats: &[f64]) -> Answer {
        let columns: [(&str, ArrayRef); 3] = [
            ("name", Arc::new(StringArray::from(names.to_vec()))),
            ("n", Arc::new(Int64Array::from(numbers.to_vec()))),
            ("x", Arc::new(Float64Array::from(floats.to_vec()))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        // In two batches, as answers come.
        let (first, rest) = (batch.slice(0, 1), batch.slice(1, batch.num_rows() - 1));
        Answer::Rows(batch.schema(), vec![first, rest])
    }

    fn differ(sql: &str, right: &Answer, got: &Answer) -> Option<String> {
        difference(sql, right, got).unwrap()
    }

    const SQL: &str = "SELECT name, n, x FROM t";

    #[test]
    fn rows_may_come_in_any_order_and_floats_differ_in_the_last_digits() {
        let right = answer(&["a", "a", "b"], &[Some(1), Some(1), None], &[0.3, 2.0, 1e300]);
        let got =
            answer(&["b", "a", "a"], &[None, Some(1), Some(1)], &[1e300, 2.000_000_000_000_1, 0.1 + 0.2]);
        assert_eq!(differ(SQL, &right, &got), None);
    }

    #[test]
    fn a_wrong_value_a_row_too_much_and_a_row_too_few_are_found() {
        let right = answer(&["a", "b"], &[Some(1), Some(2)], &[0.5, 0.5]);
        let wrong = answer(&["a", "b"], &[Some(1), Some(3)], &[0.5, 0.5]);
        assert_eq!(differ(SQL, &right, &wrong).unwrap(), "the row 'b | 2 | 0.5' is missing");
        let null = answer(&["a", "b"], &[Some(1), None], &[0.5, 0.5]);
        assert!(differ(SQL, &right, &null).is_some());
        let float = answer(&["a", "b"], &[Some(1), Some(2)], &[0.5, 0.500_001]);
        let text = differ(SQL, &right, &float).unwrap();
        assert_eq!(text, "the row 'b | 2 | 0.500001' instead of 'b | 2 | 0.5'");
        let more = answer(&["a", "b", "b"], &[Some(1), Some(2), Some(2)], &[0.5, 0.5, 0.5]);
        assert_eq!(differ(SQL, &right, &more).unwrap(), "3 rows instead of 2");
        // As many rows, one of them twice.
        let twice = answer(&["a", "b", "b"], &[Some(1), Some(2), Some(2)], &[0.5, 0.5, 0.5]);
        let other = answer(&["a", "a", "b"], &[Some(1), Some(1), Some(2)], &[0.5, 0.5, 0.5]);
        assert!(differ(SQL, &twice, &other).is_some());
    }

    #[test]
    fn floats_that_tie_in_all_else_are_matched_whatever_their_order() {
        let right = answer(&["a", "a", "a"], &[None; 3], &[1.0, 1.0 + 1e-12, 5.0]);
        let got = answer(&["a", "a", "a"], &[None; 3], &[5.0, 1.0 + 2e-12, 1.0]);
        assert_eq!(differ(SQL, &right, &got), None);
    }

    #[test]
    fn the_order_counts_where_the_statement_says_it() {
        let right = answer(&["a", "b", "c"], &[Some(1), Some(1), Some(2)], &[0.0; 3]);
        let ties = answer(&["b", "a", "c"], &[Some(1), Some(1), Some(2)], &[0.0; 3]);
        let swapped = answer(&["a", "c", "b"], &[Some(1), Some(2), Some(1)], &[0.0; 3]);
        for by in ["n", "2", "N, x + 1"] {
            let sql = format!("{SQL} ORDER BY {by}");
            assert_eq!(differ(&sql, &right, &ties), None, "{by}");
            assert!(differ(&sql, &right, &swapped).unwrap().contains("the order is wrong"), "{by}");
        }
        assert!(differ(&format!("{SQL} ORDER BY n, name"), &right, &ties).is_some());
        assert_eq!(differ(SQL, &right, &swapped), None);
    }

    #[test]
    fn columns_counts_and_kinds_of_answers_are_compared() {
        let right = answer(&["a"], &[None], &[0.0]);
        let other =
            RecordBatch::try_from_iter([("m", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
        let other = Answer::Rows(other.schema(), vec![other]);
        assert!(differ(SQL, &right, &other).unwrap().starts_with("the columns are (m Int64)"));
        let done = |rows| Answer::Done("INSERT".to_owned(), rows);
        assert_eq!(differ("INSERT", &done(Some(3)), &done(Some(3))), None);
        let text = differ("INSERT", &done(Some(3)), &done(Some(4))).unwrap();
        assert_eq!(text, "'INSERT 4' instead of 'INSERT 3'");
        assert!(differ(SQL, &right, &done(None)).is_some());
    }

    #[test]
    fn a_limit_is_pointed_out() {
        let right = answer(&["a"], &[Some(1)], &[0.0]);
        let got = answer(&["b"], &[Some(1)], &[0.0]);
        let text = differ("SELECT * FROM t ORDER BY n LIMIT 1", &right, &got).unwrap();
        assert!(text.contains("has a LIMIT"), "{text}");
    }
}
