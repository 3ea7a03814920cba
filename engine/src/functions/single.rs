//! `skep_single(value)`: the value of the only row, NULL for no rows, an error for several.
//!
//! It stands above subqueries that are used as a value. DataFusion itself checks them only where they run beside the plan,
//! which a plan in stages cannot do; joined into it, several rows would go unnoticed.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::cast::as_int64_array;
use datafusion::common::{ScalarValue, internal_datafusion_err};
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, Volatility};
use skep_common::Error;

use crate::error;

static FUNCTION: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| {
    let signature = Signature::any(1, Volatility::Immutable);
    Arc::new(AggregateUDF::new_from_impl(Single { signature }))
});

pub(super) fn function() -> Arc<AggregateUDF> {
    Arc::clone(&FUNCTION)
}

/// The value of the only row.
pub(crate) fn single(value: Expr) -> Expr {
    function().call(vec![value])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Single {
    signature: Signature,
}

impl AggregateUDFImpl for Single {
    fn name(&self) -> &str {
        "skep_single"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        arguments.first().cloned().ok_or_else(|| internal_datafusion_err!("skep_single takes a value"))
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let value = ScalarValue::try_from(args.return_field.data_type())?;
        Ok(Box::new(Rows { count: 0, value }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let count = Field::new(format!("{}[count]", args.name), DataType::Int64, true);
        let value = Field::new(format!("{}[value]", args.name), args.return_type().clone(), true);
        Ok(vec![Arc::new(count), Arc::new(value)])
    }
}

/// The rows so far, and the value of the last.
#[derive(Debug)]
struct Rows {
    count: i64,
    value: ScalarValue,
}

impl Rows {
    fn add(&mut self, count: i64, values: &ArrayRef, at: usize) -> Result<()> {
        self.count += count;
        if self.count > 1 {
            return Err(error::to_datafusion(
                Error::invalid("a subquery that is used as a value has more than one row")
                    .hint("use an aggregate such as max, add LIMIT 1, or compare with IN"),
            ));
        }
        if count > 0 {
            self.value = ScalarValue::try_from_array(values, at)?;
        }
        Ok(())
    }
}

impl Accumulator for Rows {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        match values {
            [values] if !values.is_empty() => {
                self.add(i64::try_from(values.len()).unwrap_or(i64::MAX), values, values.len() - 1)
            }
            _ => Ok(()),
        }
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [counts, values] = states else {
            return Err(internal_datafusion_err!("skep_single has two columns of state"));
        };
        let counts = as_int64_array(counts)?;
        (0..counts.len()).try_for_each(|at| self.add(counts.value(at), values, at))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::from(self.count), self.value.clone()])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.value.clone())
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.value.size()
    }
}
