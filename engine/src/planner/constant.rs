//! Expressions that are values: the defaults of columns, the keys of partitions.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{ColumnarValue, Expr, LogicalPlan, Volatility};
use datafusion::sql::sqlparser::ast;
use skep_catalog::text::{self, Bound};
use skep_catalog::{Column, LakeType};
use skep_common::{Error, Result};

use super::Planner;
use crate::functions::assign;
use crate::sql::parse_query;
use crate::{error, types};

/// The value of `expr` as column `name` of type `ty` takes it, as the catalog writes it. `None` for NULL.
pub(super) async fn default(
    planner: &Planner,
    expr: &ast::Expr,
    name: &str,
    ty: &LakeType,
) -> Result<Option<String>> {
    let refused = |reason: &str| {
        Error::unsupported(format!("the default of column '{name}' {reason}"))
            .hint("a default is a constant such as 0, 'none' or DATE '2024-01-01'")
    };
    let Some(arrow) = ty.leaf_arrow() else { return Err(refused("is of a nested type")) };
    match value(planner, expr, name, &arrow).await? {
        None => Err(refused("is not a constant")),
        Some(value) if value.is_null() => Ok(None),
        Some(value) => encode(ty, &value).map(Some).ok_or_else(|| refused("cannot be kept")),
    }
}

/// The value of `expr` as column `name` of type `ty` takes it. `None` if it is not the same for ever.
pub(super) async fn value(
    planner: &Planner,
    expr: &ast::Expr,
    name: &str,
    ty: &DataType,
) -> Result<Option<ScalarValue>> {
    let named = ast::visit_expressions(expr, |node| match node {
        ast::Expr::Identifier(_) | ast::Expr::CompoundIdentifier(_) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    if named.is_break() {
        return Ok(None);
    }
    let query = parse_query(&format!("SELECT {expr}"))?;
    let plan = planner.logical(&query).await?;
    let LogicalPlan::Projection(projection) = &plan else { return Ok(None) };
    let [value] = projection.expr.as_slice() else { return Ok(None) };
    if !matches!(projection.input.as_ref(), LogicalPlan::EmptyRelation(_)) || varies(value) {
        return Ok(None);
    }
    planner.evaluate(assign(value.clone().unalias(), name, ty, true)?).map(Some)
}

fn varies(expr: &Expr) -> bool {
    let mut found = false;
    let _ = expr.apply(|node| {
        found |= match node {
            Expr::ScalarFunction(call) => call.func.signature().volatility != Volatility::Immutable,
            Expr::ScalarSubquery(_) | Expr::Column(_) | Expr::Placeholder(_) => true,
            _ => false,
        };
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// The value that rows without one have in `column`, which `ty` is the type of.
pub(super) fn decode(column: &Column) -> Result<ScalarValue> {
    let ty = column.ty.leaf_arrow();
    let broken = || Error::corrupt(format!("the default of column '{}' cannot be read", column.name));
    match (&column.default, ty) {
        (Some(value), Some(ty)) => {
            let bound = text::decode(&column.ty, value).ok_or_else(broken)?;
            let array = text::array(&column.ty, [Some(bound)]).ok_or_else(broken)?;
            let array = cast(&array, &ty).map_err(|_| broken())?;
            ScalarValue::try_from_array(&array, 0).map_err(error::from_datafusion)
        }
        (Some(_), None) => Err(broken()),
        (None, Some(ty)) => ScalarValue::try_from(&ty).map_err(error::from_datafusion),
        (None, None) => Ok(ScalarValue::Null),
    }
}

/// The catalog's text of `value`, which is of the Arrow type of `ty`.
pub(crate) fn encode(ty: &LakeType, value: &ScalarValue) -> Option<String> {
    let bound = match value {
        ScalarValue::Boolean(Some(v)) => Bound::Boolean(*v),
        ScalarValue::Int8(Some(v)) => Bound::Int(i64::from(*v)),
        ScalarValue::Int16(Some(v)) => Bound::Int(i64::from(*v)),
        ScalarValue::Int32(Some(v)) => Bound::Int(i64::from(*v)),
        ScalarValue::Int64(Some(v)) => Bound::Int(*v),
        ScalarValue::UInt8(Some(v)) => Bound::UInt(u64::from(*v)),
        ScalarValue::UInt16(Some(v)) => Bound::UInt(u64::from(*v)),
        ScalarValue::UInt32(Some(v)) => Bound::UInt(u64::from(*v)),
        ScalarValue::UInt64(Some(v)) => Bound::UInt(*v),
        ScalarValue::Float32(Some(v)) => Bound::Float(f64::from(*v)),
        ScalarValue::Float64(Some(v)) => Bound::Float(*v),
        ScalarValue::Decimal128(Some(v), _, _) => Bound::Decimal(*v),
        ScalarValue::Date32(Some(v)) => Bound::Date(*v),
        ScalarValue::Time64Microsecond(Some(v)) => Bound::Time(*v),
        ScalarValue::TimestampMillisecond(Some(v), _)
        | ScalarValue::TimestampMicrosecond(Some(v), _)
        | ScalarValue::TimestampNanosecond(Some(v), _) => Bound::Timestamp(*v),
        ScalarValue::Utf8(Some(v)) => Bound::Text(v.clone()),
        ScalarValue::Binary(Some(v)) => Bound::Blob(v.clone()),
        ScalarValue::FixedSizeBinary(16, Some(v)) => Bound::Uuid(uuid::Uuid::from_slice(v).ok()?),
        _ => return None,
    };
    text::encode(ty, &bound)
}

impl Planner {
    /// The value of an expression without columns.
    fn evaluate(&self, expr: Expr) -> Result<ScalarValue> {
        let schema = DFSchema::empty();
        let physical = self.state.create_physical_expr(expr, &schema).map_err(error::from_datafusion)?;
        let one = RecordBatchOptions::new().with_row_count(Some(1));
        let one = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &one)
            .map_err(|e| error::from_datafusion(e.into()))?;
        match physical.evaluate(&one).map_err(error::from_datafusion)? {
            ColumnarValue::Scalar(value) => Ok(value),
            ColumnarValue::Array(array) => {
                ScalarValue::try_from_array(&array, 0).map_err(error::from_datafusion)
            }
        }
    }
}

/// What a table shows of a default, as SQL.
pub(crate) fn shown(column: &Column) -> Option<String> {
    let value = column.default.as_deref()?;
    let ty = column.ty.leaf_arrow()?;
    Some(if ty == DataType::Boolean {
        (if value == "1" { "TRUE" } else { "FALSE" }).to_owned()
    } else if ty.is_numeric() {
        value.to_owned()
    } else {
        let quoted = format!("'{}'", value.replace('\'', "''"));
        match types::sql_name(&ty).as_str() {
            "VARCHAR" => quoted,
            name => format!("CAST({quoted} AS {name})"),
        }
    })
}
