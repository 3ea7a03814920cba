//! `skep_assign(value, typed null, column, nullable)`: the value as a column takes it, or an error that names the column.
//!
//! A cast that loses nothing a reader would miss: numbers must fit and be whole where the column is, texts must be values
//! of its type; decimals are rounded to the digits of the column. NULL is refused where the column does.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, Float64Array};
use datafusion::arrow::compute::kernels::cmp::neq;
use datafusion::arrow::compute::{CastOptions, cast, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::{ScalarValue, internal_datafusion_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, lit,
};
use skep_common::{Error, Result};

use crate::{error, types};

const NAME: &str = "skep_assign";

static FUNCTION: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(Assign::new())));

pub(super) fn function() -> Arc<ScalarUDF> {
    Arc::clone(&FUNCTION)
}

/// `value` as the column `name` takes it.
pub(crate) fn assign(value: Expr, name: &str, ty: &DataType, nullable: bool) -> Result<Expr> {
    let null = ScalarValue::try_from(ty).map_err(|_| {
        Error::unsupported(format!("column '{name}' has the type {ty}, which cannot be written"))
    })?;
    Ok(function().call(vec![value, Expr::Literal(null, None), lit(name), lit(nullable)]))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Assign {
    signature: Signature,
}

impl Assign {
    fn new() -> Self {
        Self { signature: Signature::any(4, Volatility::Immutable) }
    }
}

fn text(value: Option<&ScalarValue>) -> Option<String> {
    value.and_then(|value| value.try_as_str().flatten().map(ToOwned::to_owned))
}

fn boolean(value: Option<&ScalarValue>) -> Option<bool> {
    match value {
        Some(ScalarValue::Boolean(value)) => *value,
        _ => None,
    }
}

impl ScalarUDFImpl for Assign {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> DataFusionResult<DataType> {
        arguments.get(1).cloned().ok_or_else(|| internal_datafusion_err!("{NAME} takes a type"))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DataFusionResult<FieldRef> {
        let ty = args.arg_fields.get(1).map(|field| field.data_type().clone());
        let ty = ty.ok_or_else(|| internal_datafusion_err!("{NAME} takes a type"))?;
        let nullable = boolean(args.scalar_arguments.get(3).copied().flatten()).unwrap_or(true);
        Ok(Arc::new(Field::new(NAME, ty, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let constant = |at: usize| match args.args.get(at) {
            Some(ColumnarValue::Scalar(value)) => Some(value),
            _ => None,
        };
        let ty = args.return_field.data_type();
        let column = text(constant(2)).unwrap_or_default();
        let nullable = boolean(constant(3)).unwrap_or(true);
        let (array, scalar) = match &args.args[0] {
            ColumnarValue::Array(array) => (Arc::clone(array), false),
            ColumnarValue::Scalar(value) => (value.to_array()?, true),
        };
        let assigned = convert(&array, ty, &column, nullable).map_err(error::to_datafusion)?;
        if scalar {
            return ScalarValue::try_from_array(&assigned, 0).map(ColumnarValue::Scalar);
        }
        Ok(ColumnarValue::Array(assigned))
    }
}

/// `array` as the column `column` of type `ty` takes it.
pub(super) fn convert(array: &ArrayRef, ty: &DataType, column: &str, nullable: bool) -> Result<ArrayRef> {
    let out = if array.data_type() == ty { Arc::clone(array) } else { cast_all(array, ty, column)? };
    if !nullable && out.logical_null_count() > 0 {
        return Err(Error::invalid(format!("column '{column}' is NOT NULL, and a row has NULL for it"))
            .hint("give it a value, for example with COALESCE, or leave the row out"));
    }
    Ok(out)
}

fn cast_all(array: &ArrayRef, ty: &DataType, column: &str) -> Result<ArrayRef> {
    let impossible = || {
        Error::invalid(format!(
            "column '{column}' is {}, and {} cannot be turned into it",
            types::sql_name(ty),
            types::sql_name(array.data_type())
        ))
        .hint("write a CAST to a type that can")
    };
    if array.data_type().is_null() {
        return cast(array, ty).map_err(|_| impossible());
    }
    let lenient = CastOptions { safe: true, ..Default::default() };
    let out = cast_with_options(array, ty, &lenient).map_err(|_| impossible())?;
    if out.logical_null_count() > array.logical_null_count() {
        let (before, after) = (array.logical_nulls(), out.logical_nulls());
        let valid = |nulls: &Option<datafusion::arrow::buffer::NullBuffer>, at| {
            nulls.as_ref().is_none_or(|nulls| nulls.is_valid(at))
        };
        let lost = (0..array.len()).find(|&at| valid(&before, at) && !valid(&after, at));
        return Err(refused(array, lost.unwrap_or(0), ty, column));
    }
    if array.data_type().is_floating() && ty.is_integer() {
        let values = cast(array, &DataType::Float64).map_err(|_| impossible())?;
        let values = values.as_any().downcast_ref::<Float64Array>().ok_or_else(impossible)?;
        if let Some(at) = values.iter().position(|value| value.is_some_and(|value| value.fract() != 0.0)) {
            return Err(refused(array, at, ty, column).hint("ROUND(value) makes it whole"));
        }
    }
    // A decimal with digits after the point is cut to a whole number by the cast.
    if array.data_type().is_decimal() && ty.is_integer() {
        let back = cast(&out, array.data_type()).map_err(|_| impossible())?;
        let same = neq(&back, array).map_err(|_| impossible())?;
        if let Some(at) = same.iter().position(|differs| differs == Some(true)) {
            return Err(refused(array, at, ty, column).hint("ROUND(value) makes it whole"));
        }
    }
    Ok(out)
}

fn refused(array: &ArrayRef, at: usize, ty: &DataType, column: &str) -> Error {
    let options = FormatOptions::default();
    let value = ArrayFormatter::try_new(array.as_ref(), &options)
        .map(|formatter| formatter.value(at).to_string())
        .unwrap_or_default();
    Error::invalid(format!("'{value}' is not a value of column '{column}', which is {}", types::sql_name(ty)))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Decimal128Array, Int32Array, Int64Array, StringArray};

    use super::*;

    fn run(array: impl Array + 'static, ty: DataType, nullable: bool) -> String {
        let array: ArrayRef = Arc::new(array);
        match convert(&array, &ty, "c", nullable) {
            Ok(out) => format!("{} rows", out.len()),
            Err(e) => e.message().to_owned(),
        }
    }

    #[test]
    fn values_that_would_change_are_refused_by_name() {
        let cases = [
            run(Int64Array::from(vec![Some(1), None, Some(300)]), DataType::Int8, true),
            run(Int64Array::from(vec![Some(1), None]), DataType::Int8, true),
            run(Float64Array::from(vec![1.0, 2.5]), DataType::Int32, true),
            run(Float64Array::from(vec![1.0, 2.0]), DataType::Int32, true),
            run(StringArray::from(vec!["1", "x"]), DataType::Int32, true),
            run(StringArray::from(vec!["2023-13-01"]), DataType::Date32, true),
            run(Int32Array::from(vec![Some(1), None]), DataType::Int32, false),
            run(
                Decimal128Array::from(vec![12345]).with_precision_and_scale(10, 3).unwrap(),
                DataType::Decimal128(10, 2),
                true,
            ),
            run(
                Decimal128Array::from(vec![10, 15]).with_precision_and_scale(4, 1).unwrap(),
                DataType::Int8,
                true,
            ),
            run(
                Int32Array::from(vec![1]),
                DataType::Struct(vec![Field::new("a", DataType::Int32, true)].into()),
                true,
            ),
        ];
        insta::assert_snapshot!(cases.join("\n"), @r#"
        '300' is not a value of column 'c', which is TINYINT
        2 rows
        '2.5' is not a value of column 'c', which is INTEGER
        2 rows
        'x' is not a value of column 'c', which is INTEGER
        '2023-13-01' is not a value of column 'c', which is DATE
        column 'c' is NOT NULL, and a row has NULL for it
        1 rows
        '1.5' is not a value of column 'c', which is TINYINT
        column 'c' is STRUCT<a INTEGER>, and INTEGER cannot be turned into it
        "#);
    }
}
