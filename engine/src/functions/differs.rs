//! `skep_differs(a, b)`: whether two nested values are not the same, NULL being the same as NULL.
//!
//! `IS DISTINCT FROM` does not compare maps.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::BooleanArray;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

const NAME: &str = "skep_differs";

static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    Arc::new(ScalarUDF::new_from_impl(Differs { signature: Signature::any(2, Volatility::Immutable) }))
});

pub(super) fn function() -> Arc<ScalarUDF> {
    Arc::clone(&FUNCTION)
}

/// Whether `a` and `b`, of one type, are not the same.
pub(crate) fn differs(a: Expr, b: Expr) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(function(), vec![a, b]))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Differs {
    signature: Signature,
}

impl ScalarUDFImpl for Differs {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(NAME, DataType::Boolean, false)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [a, b] = [0, 1].map(|at: usize| args.args[at].to_array(args.number_rows));
        let (a, b) = (a?, b?);
        let differ = (0..args.number_rows).map(|row| a.slice(row, 1).as_ref() != b.slice(row, 1).as_ref());
        Ok(ColumnarValue::Array(Arc::new(BooleanArray::from_iter(differ.map(Some)))))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Array, ArrayRef, AsArray, MapBuilder};
    use datafusion::arrow::array::{Int32Builder, StringBuilder};
    use datafusion::config::ConfigOptions;

    use super::*;

    /// `None` is NULL.
    type Map = Option<&'static [(&'static str, Option<i32>)]>;

    fn maps(rows: &[Map]) -> ArrayRef {
        let mut builder = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
        for row in rows {
            for (key, value) in row.unwrap_or_default() {
                builder.keys().append_value(key);
                builder.values().append_option(*value);
            }
            builder.append(row.is_some()).unwrap();
        }
        Arc::new(builder.finish())
    }

    #[test]
    fn nested_values_are_compared_whole() {
        let one: &'static [(&'static str, Option<i32>)] = &[("a", Some(1))];
        let null: &'static [(&'static str, Option<i32>)] = &[("a", None)];
        let a = maps(&[Some(one), Some(one), None, None, Some(null), Some(&[])]);
        let b = maps(&[Some(one), Some(null), None, Some(one), Some(null), None]);
        let field = |array: &ArrayRef| Arc::new(Field::new("m", array.data_type().clone(), true));
        let args = ScalarFunctionArgs {
            arg_fields: vec![field(&a), field(&b)],
            number_rows: a.len(),
            args: vec![ColumnarValue::Array(a), ColumnarValue::Array(b)],
            return_field: Arc::new(Field::new(NAME, DataType::Boolean, false)),
            config_options: Arc::new(ConfigOptions::default()),
        };
        let found = function().invoke_with_args(args).unwrap().to_array(6).unwrap();
        let found: Vec<bool> = found.as_boolean().iter().flatten().collect();
        assert_eq!(found, [false, true, false, true, false, true]);
    }
}
