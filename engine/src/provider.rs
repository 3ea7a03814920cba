//! Tables that plan their own scans, as DataFusion sees them.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Statistics;
use datafusion::datasource::TableType;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use skep_common::Result;

use crate::error;

/// A table of files.
#[async_trait]
pub(crate) trait Scan: Debug + Send + Sync + 'static {
    /// Its columns.
    fn schema(&self) -> &SchemaRef;

    /// What is known of all of its rows.
    fn statistics(&self) -> Option<Statistics> {
        None
    }

    /// Reads its columns at `projection`, or all. Files of which no row passes `filters` are left out; without filters
    /// `limit` rows are enough. Rows that do not pass may come.
    async fn plan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>>;
}

/// A table for plans of DataFusion.
#[derive(Debug)]
pub(crate) struct Provider<T>(pub(crate) Arc<T>);

/// `table` for plans of DataFusion.
pub(crate) fn provide<T: Scan>(table: Arc<T>) -> Arc<dyn TableProvider> {
    Arc::new(Provider(table))
}

#[async_trait]
impl<T: Scan> TableProvider for Provider<T> {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.0.schema())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Statistics prove the absence of rows, not their presence: the filter stays in the plan.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    /// For the order of joins.
    fn statistics(&self) -> Option<Statistics> {
        self.0.statistics()
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        self.0.plan(session, projection, filters, limit).await.map_err(error::to_datafusion)
    }
}
