//! ANALYZE: the plan that looks at all values of a table, and what it gave.

use std::sync::Arc;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::Column as Qualified;
use datafusion::datasource::provider_as_source;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::sql::sqlparser::ast;
use skep_catalog::{RecordSketches, Sketch, TableDef};
use skep_common::{Error, Result};

use super::insert::targets;
use super::{Planner, tables};
use crate::provider::provide;
use crate::sql::Name;
use crate::{error, functions};

/// What ANALYZE does.
#[derive(Debug, Clone)]
pub struct Analysis {
    /// The table.
    pub table: Arc<TableDef>,
    /// One row: a sketch for each column, and the number of rows.
    pub plan: LogicalPlan,
    /// The ids of those columns.
    columns: Vec<i64>,
    snapshot: i64,
}

impl Planner {
    /// The plan of ANALYZE over `columns` of a table, or all that are not nested.
    ///
    /// # Errors
    /// As [`Planner::writable`]; [`Kind::Invalid`](skep_common::Kind::Invalid) for columns that the table does not have, or
    /// whose values are not counted.
    pub async fn analyze(&self, name: &Name, columns: Option<&[ast::Ident]>) -> Result<Analysis> {
        let table = self.writable(name)?;
        let schema = table.arrow_schema();
        let takes = |at: &usize| Sketch::takes(schema.field(*at).data_type());
        let mut chosen = targets(&table, columns)?;
        if let Some(nested) = chosen.iter().find(|at| !takes(at)).filter(|_| columns.is_some()) {
            return Err(Error::invalid(format!(
                "different values of column '{}' are not counted: it is nested",
                table.columns[*nested].name
            )));
        }
        chosen.retain(takes);
        let source = provider_as_source(provide(Arc::new(tables::own(self, &table).await?)));
        let mut exprs: Vec<Expr> = Vec::with_capacity(chosen.len() + 1);
        for (at, column) in chosen.iter().enumerate() {
            let column = Expr::Column(Qualified::new_unqualified(&table.columns[*column].name));
            exprs.push(functions::sketch(column).alias(format!("sketch_{at}")));
        }
        exprs.push(count(lit(1_i64)).alias("rows"));
        let plan = LogicalPlanBuilder::scan("analyzed", source, None)
            .and_then(|scan| scan.aggregate(Vec::<Expr>::new(), exprs))
            .and_then(LogicalPlanBuilder::build)
            .map_err(error::from_datafusion)?;
        let columns = chosen.iter().map(|&at| table.columns[at].id).collect();
        Ok(Analysis { table, plan, columns, snapshot: self.snapshot.id })
    }
}

impl Analysis {
    /// What goes into the catalog of the rows that the plan gave.
    ///
    /// # Errors
    /// [`Kind::Internal`](skep_common::Kind::Internal) for rows that are not of this plan.
    pub fn record(&self, batches: &[RecordBatch]) -> Result<RecordSketches> {
        let wrong = || Error::internal("the sketches of a table do not read");
        let row = batches.iter().find(|batch| batch.num_rows() == 1).ok_or_else(wrong)?;
        if row.num_columns() != self.columns.len() + 1 {
            return Err(wrong());
        }
        let mut sketches = Vec::with_capacity(self.columns.len());
        for (at, column) in self.columns.iter().enumerate() {
            let bytes = row.column(at).as_binary_opt::<i32>().ok_or_else(wrong)?;
            sketches.push((*column, Sketch::from_bytes(bytes.value(0))?));
        }
        let rows = row.column(self.columns.len()).as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
        let rows = u64::try_from(rows.value(0)).map_err(|e| wrong().source(e))?;
        Ok(RecordSketches { table: self.table.uuid, snapshot: self.snapshot, rows, sketches })
    }
}
