//! Files of a table as several snapshots saw them: what `table_changes` compares.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::ProjectionExec;
use skep_catalog::{DataFile, TableDef};
use skep_common::Result;

use super::rows::{ROW_ID, STAMP};
use super::target::stamped;
use crate::environment::Environment;
use crate::error;
use crate::provider::Scan;
use crate::table::SkepTable;

/// The rows of files with the columns of the table in one snapshot, then the snapshot that a file is looked at for, and
/// the id of the row. One file may be there for several snapshots, with other rows for each.
#[derive(Debug)]
pub(crate) struct ChangedTable {
    table: Arc<SkepTable>,
    /// The snapshot of each file.
    stamps: Vec<i64>,
    schema: SchemaRef,
}

impl ChangedTable {
    /// `files`, each with the snapshot that it is looked at for.
    ///
    /// # Errors
    /// As [`SkepTable::new`].
    pub(crate) fn new(
        def: &Arc<TableDef>,
        files: Vec<(i64, Arc<DataFile>)>,
        environment: &Arc<Environment>,
        views: bool,
    ) -> Result<Self> {
        let stamps = files.iter().map(|(stamp, _)| *stamp).collect();
        // A scan tells files apart by their ids: here by their places in the list.
        let files =
            (0_i64..).zip(files).map(|(id, (_, file))| Arc::new(DataFile { id, ..DataFile::clone(&file) }));
        let files = Arc::new(files.collect());
        let table = SkepTable::new(Arc::clone(def), files, Arc::clone(environment), views)?;
        let extra = [(STAMP, false), (ROW_ID, true)];
        let extra = extra.map(|(name, nullable)| Arc::new(Field::new(name, DataType::Int64, nullable)));
        let fields = table.schema.fields().iter().cloned().chain(extra);
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Ok(Self { table: Arc::new(table), stamps, schema })
    }
}

#[async_trait]
impl Scan for ChangedTable {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    async fn plan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = self.table.schema.fields().len();
        let wanted: Vec<usize> =
            projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let own: Vec<usize> = wanted.iter().copied().filter(|&at| at < columns).collect();
        let kept = self.table.kept(session, filters, None);
        self.table.report(session, &kept);
        if kept.is_empty() {
            let schema = self.schema.project(&wanted).map_err(|e| error::from_datafusion(e.into()))?;
            return Ok(Arc::new(EmptyExec::new(Arc::new(schema))));
        }
        let rows = stamped(&self.table, session, &kept, &own, &self.stamps).await?;
        let given = rows.schema();
        let mut exprs: Vec<(Arc<dyn PhysicalExpr>, String)> = Vec::with_capacity(wanted.len());
        for at in wanted {
            let field = &self.schema.fields()[at];
            let expr = if at < columns {
                self.table.layout.expr(at, &given, field)?
            } else {
                let from = given.index_of(field.name()).map_err(|e| error::from_datafusion(e.into()))?;
                Arc::new(PhysicalColumn::new(field.name(), from))
            };
            exprs.push((expr, field.name().clone()));
        }
        let projection = ProjectionExec::try_new(exprs, rows).map_err(error::from_datafusion)?;
        Ok(Arc::new(projection))
    }
}
