//! Parquet files that are read whole, in order.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::physical_plan::{FileOpener, FileScanConfig, FileSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::proto::ExecutionPlanEncodeCtx;
use datafusion::physical_plan::{DisplayFormatType, PhysicalExpr};
use datafusion_proto::protobuf::PhysicalPlanNode;
use object_store::ObjectStore;

/// DataFusion's Parquet source without what makes it leave rows out or deal them to several readers: byte ranges,
/// filters, orders. Rows can then be counted from the start of their file.
///
/// It travels as the Parquet scan that it is: what arrives is only run, not optimised.
#[derive(Clone)]
pub(crate) struct WholeFiles {
    plain: Arc<dyn FileSource>,
    by_name: bool,
}

impl WholeFiles {
    /// The files of `plain`, which is a source of Parquet files, or one of these.
    pub(crate) fn new(plain: Arc<dyn FileSource>) -> Self {
        plain.downcast_ref::<Self>().cloned().unwrap_or(Self { plain, by_name: false })
    }

    /// The same of a scan that reads [by name](super::by_name), and travels as such.
    pub(super) fn by_name(self) -> Self {
        Self { by_name: true, ..self }
    }

    /// The source below, of a scan that reads by name.
    pub(super) fn plain(&self) -> Option<Arc<dyn FileSource>> {
        self.by_name.then(|| Arc::clone(&self.plain))
    }
}

impl FileSource for WholeFiles {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        self.plain.create_file_opener(store, config, partition)
    }

    fn table_schema(&self) -> &TableSchema {
        self.plain.table_schema()
    }

    /// What a scan calls to open its files, when nothing is decided any more: the plain reader.
    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        self.plain.with_batch_size(batch_size)
    }

    fn supports_repartitioning(&self) -> bool {
        false
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        let pushed = self.plain.try_pushdown_projection(projection)?;
        let by_name = self.by_name;
        Ok(pushed.map(|plain| Arc::new(Self { plain, by_name }) as Arc<dyn FileSource>))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.plain.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.plain.metrics()
    }

    fn file_type(&self) -> &str {
        self.plain.file_type()
    }

    fn fmt_extra(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plain.fmt_extra(kind, f)
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.plain.apply_expressions(f)
    }

    fn try_to_proto(
        &self,
        config: &FileScanConfig,
        context: &ExecutionPlanEncodeCtx<'_>,
    ) -> Result<Option<PhysicalPlanNode>> {
        if self.by_name { Ok(None) } else { self.plain.try_to_proto(config, context) }
    }
}
