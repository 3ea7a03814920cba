//! `skep_sketch(value)`: a sketch of the different values of a column, as bytes. ANALYZE asks for it.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::cast::as_binary_array;
use datafusion::common::{ScalarValue, internal_datafusion_err};
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, Volatility};
use skep_catalog::Sketch;

use crate::error;

static FUNCTION: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| {
    let signature = Signature::any(1, Volatility::Immutable);
    Arc::new(AggregateUDF::new_from_impl(Sketched { signature }))
});

pub(super) fn function() -> Arc<AggregateUDF> {
    Arc::clone(&FUNCTION)
}

/// The sketch of `value`.
pub(crate) fn sketch(value: Expr) -> Expr {
    function().call(vec![value])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Sketched {
    signature: Signature,
}

impl AggregateUDFImpl for Sketched {
    fn name(&self) -> &str {
        "skep_sketch"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [ty] if Sketch::takes(ty) => Ok(DataType::Binary),
            _ => Err(internal_datafusion_err!("skep_sketch takes a value that is not nested")),
        }
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Values(Sketch::new().map_err(error::to_datafusion)?)))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format!("{}[sketch]", args.name), DataType::Binary, true))])
    }
}

/// The values so far.
#[derive(Debug)]
struct Values(Sketch);

impl Accumulator for Values {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for values in values {
            self.0.update(values);
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [states] = states else {
            return Err(internal_datafusion_err!("skep_sketch has one column of state"));
        };
        let mut sketches = vec![self.0.clone()];
        for bytes in as_binary_array(states)?.iter().flatten() {
            sketches.push(Sketch::from_bytes(bytes).map_err(error::to_datafusion)?);
        }
        self.0 = Sketch::merge(&sketches).map_err(error::to_datafusion)?;
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Binary(Some(self.0.to_bytes()))])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Binary(Some(self.0.to_bytes())))
    }

    fn size(&self) -> usize {
        // Registers are bytes, and what it remembers words.
        size_of::<Self>() + (1 << 11) + (1 << 13)
    }
}
