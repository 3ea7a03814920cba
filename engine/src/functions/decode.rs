//! `skep_decode(row, is text, layout, null as read, null as written, columns)`: rows of a text file, each decoded and fitted
//! to the columns of a table, or the reason why it cannot be.
//!
//! A batch is decoded as a whole. One that has a row which does not fit is halved until that row is alone, so that the cost
//! of a wrong row is a few batches and that of a right one is nothing.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, StringArray, StructArray, new_null_array};
use datafusion::arrow::compute::concat;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::common::cast::{as_boolean_array, as_string_array};
use datafusion::common::{ScalarValue, internal_datafusion_err};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, lit,
};
use serde::{Deserialize, Serialize};
use skep_common::{Error, Result};

use super::assign::convert;
use crate::text::{Layout, Rows, row_error};

const NAME: &str = "skep_decode";

/// The field of the result that says why a row was not decoded. The others are named by their place.
pub(crate) const REASON: &str = "reason";

/// A column that is decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Decoded {
    /// Its place among the columns of the file.
    pub(crate) source: usize,
    /// Its name in the table.
    pub(crate) name: String,
    /// Whether it may be NULL.
    pub(crate) nullable: bool,
}

/// Volatile, so that nobody computes it twice.
static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    Arc::new(ScalarUDF::new_from_impl(Decode { signature: Signature::any(6, Volatility::Volatile) }))
});

pub(super) fn function() -> Arc<ScalarUDF> {
    Arc::clone(&FUNCTION)
}

/// The rows `raw`, of which `utf8` says whether they are text, in files with the columns `read`: a struct of `columns`, whose
/// types are `written`, named by their place, and the reason.
///
/// # Errors
/// [`Kind::Unsupported`](skep_common::Kind::Unsupported) for types that have no NULL.
pub(crate) fn decode(
    raw: Expr,
    utf8: Expr,
    layout: &Layout,
    read: &Schema,
    columns: &[Decoded],
    written: &[DataType],
) -> Result<Expr> {
    let failed = |e: serde_json::Error| Error::internal("a format does not encode").source(e);
    let layout = serde_json::to_string(layout).map_err(failed)?;
    let columns = serde_json::to_string(columns).map_err(failed)?;
    let result = written.iter().enumerate().map(|(at, ty)| Field::new(at.to_string(), ty.clone(), true));
    let result = result.chain([Field::new(REASON, DataType::Utf8, true)]).collect::<Fields>();
    let null = |fields: Fields| -> Result<Expr> {
        let null = ScalarValue::try_from(&DataType::Struct(fields));
        let null = null.map_err(|e| Error::unsupported("a type of the table has no NULL").source(e))?;
        Ok(Expr::Literal(null, None))
    };
    let arguments = vec![raw, utf8, lit(layout), null(read.fields().clone())?, null(result)?, lit(columns)];
    Ok(function().call(arguments))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Decode {
    signature: Signature,
}

impl ScalarUDFImpl for Decode {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> DataFusionResult<DataType> {
        arguments.get(4).cloned().ok_or_else(|| internal_datafusion_err!("{NAME} takes a type"))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DataFusionResult<FieldRef> {
        let ty = args.arg_fields.get(4).map(|field| field.data_type().clone());
        let ty = ty.ok_or_else(|| internal_datafusion_err!("{NAME} takes a type"))?;
        Ok(Arc::new(Field::new(NAME, ty, false)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let text = |at: usize| match args.args.get(at) {
            Some(ColumnarValue::Scalar(value)) => value.try_as_str().flatten(),
            _ => None,
        };
        let fields = |at: usize| match args.arg_fields.get(at).map(|field| field.data_type()) {
            Some(DataType::Struct(fields)) => Ok(fields.clone()),
            _ => Err(internal_datafusion_err!("{NAME} takes the type of a struct")),
        };
        let wrong = |e| internal_datafusion_err!("{NAME} cannot read its arguments: {e}");
        let layout = serde_json::from_str(text(2).unwrap_or_default()).map_err(wrong)?;
        let columns: Vec<Decoded> = serde_json::from_str(text(5).unwrap_or_default()).map_err(wrong)?;
        let (read, result) = (Arc::new(Schema::new(fields(3)?)), fields(4)?);
        let raw = args.args[0].to_array(args.number_rows)?;
        let utf8 = args.args[1].to_array(args.number_rows)?;
        let decoder = Decoder {
            raw: as_string_array(&raw)?,
            utf8: as_boolean_array(&utf8)?,
            layout,
            projection: columns.iter().map(|column| column.source).collect(),
            read,
            columns,
            result,
        };
        Ok(ColumnarValue::Array(Arc::new(decoder.all()?)))
    }
}

struct Decoder<'a> {
    raw: &'a StringArray,
    utf8: &'a BooleanArray,
    layout: Layout,
    read: SchemaRef,
    projection: Vec<usize>,
    columns: Vec<Decoded>,
    result: Fields,
}

impl Decoder<'_> {
    fn all(&self) -> DataFusionResult<StructArray> {
        let mut pieces = Vec::new();
        self.range(0, self.raw.len(), &mut pieces);
        let mut arrays = Vec::with_capacity(self.result.len());
        for (at, field) in self.result.iter().enumerate() {
            let parts: Vec<&dyn Array> = pieces.iter().map(|piece| piece[at].as_ref()).collect();
            arrays.push(if parts.is_empty() {
                new_null_array(field.data_type(), 0)
            } else {
                concat(&parts)?
            });
        }
        Ok(StructArray::try_new(self.result.clone(), arrays, None)?)
    }

    /// The columns of the rows `[from, to)`, in order, in as many pieces as wrong rows make of them.
    fn range(&self, from: usize, to: usize, pieces: &mut Vec<Vec<ArrayRef>>) {
        if from >= to {
            return;
        }
        match self.together(from, to) {
            Ok(mut arrays) => {
                arrays.push(new_null_array(&DataType::Utf8, to - from));
                pieces.push(arrays);
            }
            Err(error) if to - from == 1 => {
                let types = self.result.iter().take(self.columns.len());
                let mut arrays: Vec<ArrayRef> =
                    types.map(|field| new_null_array(field.data_type(), 1)).collect();
                arrays.push(Arc::new(StringArray::from(vec![error.message()])));
                pieces.push(arrays);
            }
            Err(_) => {
                let middle = from + (to - from) / 2;
                self.range(from, middle, pieces);
                self.range(middle, to, pieces);
            }
        }
    }

    /// The columns of the rows `[from, to)`, if all of them fit.
    fn together(&self, from: usize, to: usize) -> Result<Vec<ArrayRef>> {
        if (from..to).any(|at| !self.utf8.value(at)) {
            return Err(Error::invalid("the row is not UTF-8 text"));
        }
        let count = to - from;
        let parse = || -> std::result::Result<_, ArrowError> {
            // Room for one more row than there should be.
            let mut rows = Rows::new(&self.layout, &self.read, &self.projection, count + 1, false)?;
            for at in from..to {
                for mut bytes in [self.raw.value(at).as_bytes(), b"\n".as_slice()] {
                    while !bytes.is_empty() {
                        match rows.decode(bytes)? {
                            0 => break,
                            taken => bytes = &bytes[taken..],
                        }
                    }
                }
                if rows.pending(count + 1) != at - from + 1 {
                    return Err(ArrowError::ParseError("a line is not one whole row".to_owned()));
                }
            }
            rows.flush()
        };
        let explain =
            |e| row_error(&self.layout, &self.read, &self.projection, self.raw.value(from).as_bytes(), e);
        let batch =
            parse().map_err(|e| if count == 1 { explain(e) } else { Error::invalid("a row is wrong") })?;
        let batch = batch.ok_or_else(|| Error::invalid("the line is no row"))?;
        // JSON is decoded into the projected columns, CSV too, in the order that was asked for.
        let columns = self.columns.iter().zip(batch.columns()).zip(&self.result);
        columns
            .map(|((column, array), field)| convert(array, field.data_type(), &column.name, column.nullable))
            .collect()
    }
}
