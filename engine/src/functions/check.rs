//! `skep_check(value, condition, constraint, condition as text, column names, columns...)`: the value, or an error that
//! names the constraint and shows a row that violates it.
//!
//! A condition that is NULL holds, as the standard has it.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::{ScalarValue, internal_datafusion_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, lit,
};
use skep_common::Error;

use crate::error;

const NAME: &str = "skep_check";
/// Arguments before the columns.
const FIRST: usize = 5;
/// Characters of a value that are shown.
const SHOWN_MAX: usize = 80;

static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    Arc::new(ScalarUDF::new_from_impl(Checked { signature: Signature::variadic_any(Volatility::Immutable) }))
});

pub(super) fn function() -> Arc<ScalarUDF> {
    Arc::clone(&FUNCTION)
}

/// `value`, unless `condition` is false: then the error shows `columns`.
pub(crate) fn check(
    value: Expr,
    condition: Expr,
    name: &str,
    sql: &str,
    columns: Vec<(String, Expr)>,
) -> Expr {
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let names = serde_json::Value::from(names).to_string();
    let mut arguments = vec![value, condition, lit(name), lit(sql), lit(names)];
    arguments.extend(columns.into_iter().map(|(_, expr)| expr));
    function().call(arguments)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    signature: Signature,
}

fn text(value: Option<&ColumnarValue>) -> String {
    match value {
        Some(ColumnarValue::Scalar(value)) => value.try_as_str().flatten().unwrap_or_default().to_owned(),
        _ => String::new(),
    }
}

/// The values of one row, as `a = 1, b = NULL`.
pub(crate) fn shown(names: &[String], columns: &[ArrayRef], row: usize) -> String {
    let options = FormatOptions::default().with_null("NULL");
    let values = names.iter().zip(columns).map(|(name, column)| {
        let value = ArrayFormatter::try_new(column.as_ref(), &options).map(|f| f.value(row).to_string());
        let mut value = value.unwrap_or_else(|_| "?".to_owned());
        if let Some((end, _)) = value.char_indices().nth(SHOWN_MAX) {
            value.truncate(end);
            value.push_str("...");
        }
        format!("{name} = {value}")
    });
    values.collect::<Vec<_>>().join(", ")
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        arguments.first().cloned().ok_or_else(|| internal_datafusion_err!("{NAME} takes a value"))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let value =
            args.arg_fields.first().ok_or_else(|| internal_datafusion_err!("{NAME} takes a value"))?;
        Ok(Arc::new(Field::new(NAME, value.data_type().clone(), value.is_nullable())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let condition = match args.args.get(1) {
            Some(value) => value.to_array(args.number_rows)?,
            None => return Err(internal_datafusion_err!("{NAME} takes a condition")),
        };
        let failed = match condition.data_type() {
            DataType::Boolean => {
                let holds = condition.as_boolean();
                (0..holds.len()).find(|&at| holds.is_valid(at) && !holds.value(at))
            }
            DataType::Null => None,
            other => return Err(internal_datafusion_err!("{NAME} takes a condition and not {other}")),
        };
        if let Some(row) = failed {
            let names: Vec<String> = serde_json::from_str(&text(args.args.get(4)))
                .map_err(|e| internal_datafusion_err!("{NAME} takes names of columns: {e}"))?;
            let columns = args.args.iter().skip(FIRST).map(|value| value.to_array(args.number_rows));
            let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
            let (name, sql) = (text(args.args.get(2)), text(args.args.get(3)));
            return Err(error::to_datafusion(
                Error::invalid(format!(
                    "a row violates constraint '{name}', CHECK ({sql}): {}",
                    shown(&names, &columns, row)
                ))
                .hint("correct the row, or leave it out with WHERE"),
            ));
        }
        match &args.args[0] {
            ColumnarValue::Scalar(value) => {
                let value: ScalarValue = value.clone();
                Ok(ColumnarValue::Scalar(value))
            }
            array => Ok(array.clone()),
        }
    }
}
