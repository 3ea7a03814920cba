//! The table of a statement that changes rows: its columns, and of each row the file, the position and the id.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::ScalarValue;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::physical_plan::{
    FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource,
};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::ProjectionExec;
use skep_catalog::{DataFile, ROW_ID_COLUMN, SNAPSHOT_COLUMN};
use skep_common::{Error, Result};

use super::by_name::scan_by_name;
use super::hidden::Hidden;
use super::rows::{FILE, FIRST, ROWS, RowsExec, STAMP, fields};
use super::whole::WholeFiles;
use super::{Bounds, groups};
use crate::error;
use crate::provider::Scan;
use crate::table::SkepTable;

/// A [`SkepTable`] whose rows can be told apart.
///
/// A scan that asks only for the file of a row is an ordinary one. One that asks for its position or id reads the files
/// that it keeps whole, in order.
#[derive(Debug)]
pub(crate) struct TargetTable {
    table: Arc<SkepTable>,
    schema: SchemaRef,
    /// Only these files; absent: all.
    only: Option<Arc<HashSet<i64>>>,
}

impl TargetTable {
    /// # Errors
    /// [`Kind::Unsupported`](skep_common::Kind::Unsupported) for a table with a column of one of our names.
    pub(crate) fn new(table: Arc<SkepTable>) -> Result<Self> {
        let own = table.schema.fields().iter();
        let taken = table.def().columns.iter().find(|column| {
            column.name.starts_with("__skep_")
                || column.name == ROW_ID_COLUMN
                || column.physical == ROW_ID_COLUMN
        });
        if let Some(column) = taken {
            return Err(Error::unsupported(format!(
                "column '{}' has a name that skep needs for itself to change rows",
                column.name
            ))
            .hint("CREATE TABLE ... AS SELECT with another name for it"));
        }
        let schema = Schema::new(own.cloned().chain(fields().map(Arc::new)).collect::<Vec<_>>());
        Ok(Self { schema: Arc::new(schema), table, only: None })
    }

    /// The same with these files alone.
    pub(crate) fn only(&self, files: &Arc<HashSet<i64>>) -> Self {
        let (table, schema) = (Arc::clone(&self.table), Arc::clone(&self.schema));
        Self { table, schema, only: Some(Arc::clone(files)) }
    }

    /// The columns of the table itself.
    fn columns(&self) -> usize {
        self.table.schema.fields().len()
    }

    /// The columns at `wanted` of the schema, from the rows of a scan.
    fn chosen(&self, scan: Arc<dyn ExecutionPlan>, wanted: &[usize]) -> Result<Arc<dyn ExecutionPlan>> {
        let given = scan.schema();
        let mut exprs: Vec<(Arc<dyn PhysicalExpr>, String)> = Vec::with_capacity(wanted.len());
        for &at in wanted {
            let field = &self.schema.fields()[at];
            let expr = if at < self.columns() {
                self.table.layout.expr(at, &given, field)?
            } else {
                let from = given.index_of(field.name()).map_err(|e| error::from_datafusion(e.into()))?;
                Arc::new(PhysicalColumn::new(field.name(), from))
            };
            exprs.push((expr, field.name().clone()));
        }
        let projection = ProjectionExec::try_new(exprs, scan).map_err(error::from_datafusion)?;
        Ok(Arc::new(projection))
    }
}

#[async_trait]
impl Scan for TargetTable {
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
        let wanted: Vec<usize> =
            projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let own: Vec<usize> = wanted.iter().copied().filter(|&at| at < self.columns()).collect();
        let mut kept = self.table.kept(session, filters, None);
        if let Some(only) = &self.only {
            kept.retain(|file| only.contains(&file.id));
        }
        self.table.report(session, &kept);
        let schema = self.schema.project(&wanted).map_err(|e| error::from_datafusion(e.into()))?;
        if kept.is_empty() {
            return Ok(Arc::new(EmptyExec::new(Arc::new(schema))));
        }
        let in_place = wanted.iter().any(|&at| at > self.columns());
        let scan = if in_place || kept.iter().any(|file| file.hides()) {
            numbered(&self.table, session, &kept, &own).await?
        } else {
            scan_files(&self.table, session, &kept, &own, None, None).await?
        };
        self.chosen(scan, &wanted)
    }
}

/// Reads the columns at `own` of `files` of `table`, then the file, the position and the id of each row that is there.
pub(crate) async fn numbered(
    table: &SkepTable,
    session: &dyn Session,
    files: &[Arc<DataFile>],
    own: &[usize],
) -> Result<Arc<dyn ExecutionPlan>> {
    let hidden = Hidden::of(table, files)?;
    let late = hidden.as_ref().is_some_and(|hidden| hidden.late);
    let scan = scan_files(table, session, files, own, Some(late), None).await?;
    Ok(Arc::new(RowsExec::new(scan, hidden).map_err(error::from_datafusion)?))
}

/// As [`numbered`], with [`STAMP`] before the file: of each file the one of `stamps` at the place that is its id.
pub(crate) async fn stamped(
    table: &SkepTable,
    session: &dyn Session,
    files: &[Arc<DataFile>],
    own: &[usize],
    stamps: &[i64],
) -> Result<Arc<dyn ExecutionPlan>> {
    let hidden = Hidden::of(table, files)?;
    let late = hidden.as_ref().is_some_and(|hidden| hidden.late);
    let scan = scan_files(table, session, files, own, Some(late), Some(stamps)).await?;
    Ok(Arc::new(RowsExec::new(scan, hidden).map_err(error::from_datafusion)?))
}

/// Reads the columns at `own` of `files`, then what is known of each file: the file alone, or, for rows that are to be
/// numbered, their snapshot if they may be late, the embedded id, the file, its first id and its rows.
async fn scan_files(
    table: &SkepTable,
    session: &dyn Session,
    files: &[Arc<DataFile>],
    own: &[usize],
    numbered: Option<bool>,
    stamps: Option<&[i64]>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let layout = &table.layout;
    let mut in_file: Vec<FieldRef> = layout.file_schema.fields().iter().cloned().collect();
    let mut of_file = vec![field(FILE, false)];
    if let Some(late) = numbered {
        let embedded = late.then_some(SNAPSHOT_COLUMN).into_iter().chain([ROW_ID_COLUMN]);
        for name in embedded {
            if in_file.iter().any(|field| field.name() == name) {
                return Err(Error::unsupported(format!(
                    "a column of table '{}' has the name '{name}', which files need for themselves",
                    table.def().name
                ))
                .hint("CREATE TABLE ... AS SELECT with another name for it"));
            }
            in_file.push(field(name, true));
        }
        of_file.extend([field(FIRST, true), field(ROWS, false)]);
    }
    let (inside, known) = (in_file.len(), of_file.len());
    of_file.extend(layout.numbers(own));
    of_file.extend(stamps.map(|_| field(STAMP, false)));
    // What is known of the file comes last.
    let mut used = layout.places(own);
    used.extend(inside + known..inside + of_file.len());
    used.extend(layout.file_schema.fields().len()..inside + known);
    let schema =
        TableSchema::builder(Arc::new(Schema::new(in_file))).with_table_partition_cols(of_file).build();
    let def = table.def();
    let plain: Vec<usize> = own.iter().copied().filter(|&at| layout.plain(at)).collect();
    let statistics = Bounds::new(def, files).statistics(schema.table_schema(), &plain);
    let scans = table.partitioned(files, own).await?;
    let scans = scans.into_iter().zip(files).map(|(mut scan, file)| {
        scan.partition_values = values(file, numbered.is_some());
        scan.partition_values.extend(layout.values(def, file, own));
        let stamp = stamps.and_then(|stamps| stamps.get(usize::try_from(file.id).ok()?));
        scan.partition_values.extend(stamp.map(|stamp| ScalarValue::Int64(Some(*stamp))));
        // Only of the file's own columns: those of the partition are computed from their values.
        scan.statistics = None;
        scan
    });
    let source: Arc<dyn FileSource> = Arc::new(ParquetSource::new(schema));
    let config = FileScanConfigBuilder::new(table.store.clone(), source)
        .with_file_groups(groups(scans.collect(), session.config().target_partitions()))
        .with_statistics(statistics)
        .with_projection_indices(Some(used))
        .map_err(error::from_datafusion)?
        .build();
    let scan = ParquetFormat::default()
        .with_options(session.default_table_options().parquet)
        .create_physical_plan(session, config)
        .await
        .map_err(error::from_datafusion)?;
    let scan = if layout.by_name(own) { scan_by_name(&scan)? } else { scan };
    if numbered.is_some() { whole(&scan) } else { Ok(scan) }
}

fn field(name: &str, nullable: bool) -> FieldRef {
    Arc::new(Field::new(name, DataType::Int64, nullable))
}

fn values(file: &DataFile, numbered: bool) -> Vec<ScalarValue> {
    let mut values = vec![ScalarValue::Int64(Some(file.id))];
    if numbered {
        values.push(ScalarValue::Int64(file.row_id_start));
        values.push(ScalarValue::Int64(i64::try_from(file.rows).ok()));
    }
    values
}

/// `scan` with its files whole and in order.
fn whole(scan: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let config = scan
        .downcast_ref::<DataSourceExec>()
        .and_then(|source| source.data_source().downcast_ref::<FileScanConfig>())
        .ok_or_else(|| Error::internal("a scan of files is none"))?;
    let source: Arc<dyn FileSource> = Arc::new(WholeFiles::new(Arc::clone(config.file_source())));
    Ok(DataSourceExec::from_data_source(
        FileScanConfigBuilder::from(config.clone()).with_source(source).build(),
    ))
}
