//! `year(x)`, `month(x)`, ...: `date_part` under the names that Hive has for it.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::functions::datetime::date_part;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, cast, lit,
};

const PARTS: [&str; 7] = ["year", "quarter", "month", "day", "hour", "minute", "second"];

static FUNCTIONS: LazyLock<Vec<Arc<ScalarUDF>>> = LazyLock::new(|| {
    let signature = || Signature::any(1, Volatility::Immutable);
    PARTS.map(|part| Arc::new(ScalarUDF::new_from_impl(Part { part, signature: signature() }))).to_vec()
});

pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    FUNCTIONS.clone()
}

/// What a text, or NULL, is read as.
const TIME: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

fn is_text(ty: &DataType) -> bool {
    matches!(ty, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 | DataType::Null)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Part {
    part: &'static str,
    signature: Signature,
}

impl ScalarUDFImpl for Part {
    fn name(&self) -> &str {
        self.part
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int32)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let [field] = args.arg_fields else { return plan_err!("{} takes one date or timestamp", self.part) };
        if !matches!(field.data_type(), DataType::Date32 | DataType::Date64 | DataType::Timestamp(..))
            && !is_text(field.data_type())
        {
            return plan_err!("{} takes a date or timestamp, and not {}", self.part, field.data_type());
        }
        let nullable = field.is_nullable() || field.data_type().is_null();
        Ok(Arc::new(Field::new(self.part, DataType::Int32, nullable)))
    }

    fn simplify(&self, mut args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        for arg in &mut args {
            if is_text(&info.get_data_type(arg)?) {
                *arg = cast(arg.clone(), TIME);
            }
        }
        let args = std::iter::once(lit(self.part)).chain(args).collect();
        Ok(ExprSimplifyResult::Simplified(date_part().call(args)))
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        for (arg, field) in args.args.iter_mut().zip(&mut args.arg_fields) {
            if is_text(&arg.data_type()) {
                *arg = arg.cast_to(&TIME, None)?;
                *field = Arc::new(Field::new(field.name(), TIME, true));
            }
        }
        let part = ScalarValue::from(self.part);
        args.arg_fields.insert(0, Arc::new(Field::new("part", DataType::Utf8, false)));
        args.args.insert(0, ColumnarValue::Scalar(part));
        date_part().invoke_with_args(args)
    }
}
