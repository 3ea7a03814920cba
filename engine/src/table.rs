//! A table of the catalog, in one snapshot, as DataFusion scans it.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::DateTime;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::ProjectionExec;
use object_store::ObjectMeta;
use object_store::path::Path;
use skep_catalog::{DataFile, Distinct, TableDef};
use skep_common::Result;

use crate::environment::Environment;
use crate::placement::{OnCoordinator, Replicas};
use crate::provider::Scan;
use crate::scan::{Bounds, Layout, Reports, ScanReport, groups, keep, numbered, scan_by_name};
use crate::{error, files, types};

/// Files from which the order of joins reads bounds.
const BOUNDS_MAX: usize = 1000;
/// Bytes after a Parquet footer that are read with it.
const FOOTER_TAIL: u64 = 8;

/// A table with the files of one snapshot.
#[derive(Debug)]
pub struct SkepTable {
    def: Arc<TableDef>,
    files: Arc<Vec<Arc<DataFile>>>,
    /// How many different values columns have, as far as that is known for these files, by column.
    distinct: HashMap<i64, u64>,
    /// What queries see.
    pub(crate) schema: SchemaRef,
    /// How it is read from files.
    pub(crate) layout: Layout,
    pub(crate) store: ObjectStoreUrl,
    root: Path,
    environment: Arc<Environment>,
}

impl SkepTable {
    /// `def` over `files`, which lie below the data path of the catalog. With `views`, strings are views.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](skep_common::Kind::Unsupported) for types that Skep does not read.
    pub fn new(
        def: Arc<TableDef>,
        files: Arc<Vec<Arc<DataFile>>>,
        environment: Arc<Environment>,
        views: bool,
    ) -> Result<Self> {
        def.supported()?;
        let (store, root) = root_of(&environment, &def)?;
        let (schema, physical) = (def.arrow_schema(), def.read_schema());
        let shape = |schema: SchemaRef| if views { types::viewed(&schema) } else { schema };
        let layout = Layout::new(&def, &files, &shape(physical))?;
        let schema = shape(schema);
        let fields = schema.fields().iter().enumerate().map(|(at, field)| {
            let nullable = field.is_nullable() || layout.varies(at);
            field.as_ref().clone().with_nullable(nullable)
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let distinct = HashMap::new();
        Ok(Self { schema, layout, def, files, distinct, store, root, environment })
    }

    /// With what is known about different values. What does not know all of the files is left out.
    #[must_use]
    pub(crate) fn with_distinct(mut self, known: HashMap<i64, Distinct>) -> Self {
        let newest = self.files.iter().filter(|file| file.id >= 0).map(|file| file.begin).max();
        let good = |(column, distinct): (i64, Distinct)| {
            newest.is_none_or(|newest| newest <= distinct.snapshot).then_some((column, distinct.count))
        };
        self.distinct = known.into_iter().filter_map(good).collect();
        self
    }

    /// The table.
    pub fn def(&self) -> &Arc<TableDef> {
        &self.def
    }

    /// Its files.
    pub(crate) fn files(&self) -> &Arc<Vec<Arc<DataFile>>> {
        &self.files
    }

    /// The path of a file of the catalog in the store of the table.
    ///
    /// # Errors
    /// As [`files::below`].
    pub(crate) fn place(&self, absolute: bool, path: &str) -> Result<Path> {
        files::below(&self.store, &self.root, absolute, path)
    }

    /// The files that may hold rows for `filters`; without filters, as many as `limit` rows take.
    pub(crate) fn kept(
        &self,
        session: &dyn Session,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Vec<Arc<DataFile>> {
        let facts = self.environment.facts.of(&self.def, &self.files);
        let mask = keep(session, &self.schema, filters, &facts);
        let kept = self.files.iter().zip(mask).filter(|(_, keep)| *keep).map(|(file, _)| Arc::clone(file));
        let Some(limit) = limit.filter(|_| filters.is_empty()) else { return kept.collect() };
        let mut rows = 0;
        kept.take_while(|file| {
            let needed = rows < limit as u64;
            rows += file.live().unwrap_or(0);
            needed
        })
        .collect()
    }

    /// `files` to be scanned, with the statistics of the columns at `used`.
    pub(crate) async fn partitioned(
        &self,
        files: &[Arc<DataFile>],
        used: &[usize],
    ) -> Result<Vec<PartitionedFile>> {
        let paths =
            files.iter().map(|file| self.place(file.absolute, &file.path)).collect::<Result<Vec<_>>>()?;
        let replicas = self.environment.locate.locate(&self.store, &paths).await.unwrap_or_else(|e| {
            tracing::warn!(error = %e.report(), "replicas are not known; tasks go anywhere");
            Vec::new()
        });
        let mut replicas = replicas.into_iter();
        let plain: Vec<usize> = used.iter().copied().filter(|&at| self.layout.plain(at)).collect();
        let scans = files.iter().zip(paths).map(|(file, location)| {
            let meta = ObjectMeta {
                location,
                // Files never change: the same for ever.
                last_modified: DateTime::UNIX_EPOCH,
                size: file.bytes,
                e_tag: None,
                version: None,
            };
            let one = std::slice::from_ref(file);
            let statistics = Bounds::new(&self.def, one).statistics(&self.layout.file_schema, &plain);
            let mut scan = PartitionedFile::new_from_meta(meta)
                .with_partition_values(self.layout.values(&self.def, file, used))
                .with_statistics(Arc::new(statistics));
            if let Some(footer) = file.footer {
                scan =
                    scan.with_metadata_size_hint(usize::try_from(footer + FOOTER_TAIL).unwrap_or(usize::MAX));
            }
            if self.environment.only_here(&self.store, scan.path()) {
                return scan.with_extension(OnCoordinator);
            }
            match replicas.next() {
                Some(nodes) if !nodes.is_empty() => scan.with_extension(Replicas(nodes)),
                _ => scan,
            }
        });
        Ok(scans.collect())
    }

    /// Tells EXPLAIN which files are read.
    pub(crate) fn report(&self, session: &dyn Session, kept: &[Arc<DataFile>]) {
        if let Some(reports) = session.config().get_extension::<Reports>() {
            let bytes = |files: &[Arc<DataFile>]| files.iter().map(|file| file.bytes).sum();
            reports.add(ScanReport {
                table: format!("{}.{}", self.def.schema_name, self.def.name),
                files_total: self.files.len(),
                files_kept: kept.len(),
                bytes_total: bytes(&self.files),
                bytes_kept: bytes(kept),
            });
        }
    }

    /// The scan under the names of SQL.
    fn named(
        &self,
        scan: Arc<dyn ExecutionPlan>,
        schema: &Schema,
        used: &[usize],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let scanned = scan.schema();
        if scanned.fields().len() == used.len()
            && scanned
                .fields()
                .iter()
                .zip(schema.fields())
                .all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type())
        {
            return Ok(scan);
        }
        let mut names = Vec::with_capacity(used.len());
        for (&at, field) in used.iter().zip(schema.fields()) {
            names.push((self.layout.expr(at, &scanned, field)?, field.name().clone()));
        }
        let projection = ProjectionExec::try_new(names, scan).map_err(error::from_datafusion)?;
        Ok(Arc::new(projection))
    }
}

/// The store of a table, and the folder there that its paths start at.
pub(crate) fn root_of(environment: &Environment, def: &TableDef) -> Result<(ObjectStoreUrl, Path)> {
    // One with a location of its own has its files in the store of that.
    files::data_path(if def.located { &def.path } else { environment.catalog.data_path() })
}

#[async_trait]
impl Scan for SkepTable {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Bounds are left out where there are many files to read them from.
    fn statistics(&self) -> Option<Statistics> {
        let bounds = Bounds::new(&self.def, &self.files).with_distinct(&self.distinct);
        let mut columns: Vec<usize> =
            (0..self.schema.fields().len()).filter(|&at| self.layout.plain(at)).collect();
        if self.files.len() > BOUNDS_MAX {
            columns.clear();
        }
        let mut statistics = bounds.statistics(&self.schema, &columns);
        for (at, column) in self.def.columns.iter().enumerate() {
            if let (Some(&count), Some(known)) =
                (self.distinct.get(&column.id), statistics.column_statistics.get_mut(at))
                && known.distinct_count == Precision::Absent
            {
                known.distinct_count = Precision::Inexact(usize::try_from(count).unwrap_or(usize::MAX));
            }
        }
        Some(statistics)
    }

    async fn plan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let used: Vec<usize> =
            projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let kept = self.kept(session, filters, limit);
        self.report(session, &kept);
        let schema = Arc::new(self.schema.project(&used).map_err(|e| error::from_datafusion(e.into()))?);
        if kept.is_empty() {
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        if kept.iter().any(|file| file.hides()) {
            let rows = numbered(self, session, &kept, &used).await?;
            return self.named(rows, &schema, &used);
        }
        let table = TableSchema::builder(Arc::clone(&self.layout.file_schema))
            .with_table_partition_cols(self.layout.numbers(&used))
            .build();
        let plain: Vec<usize> = used.iter().copied().filter(|&at| self.layout.plain(at)).collect();
        let statistics = Bounds::new(&self.def, &kept)
            .with_distinct(&self.distinct)
            .statistics(table.table_schema(), &plain);
        let files = self.partitioned(&kept, &used).await?;
        let mut places = self.layout.places(&used);
        let inside = self.layout.file_schema.fields().len();
        places.extend(inside..inside + self.layout.numbers(&used).len());
        let source = Arc::new(ParquetSource::new(table));
        let config = FileScanConfigBuilder::new(self.store.clone(), source)
            .with_file_groups(groups(files, session.config().target_partitions()))
            .with_statistics(statistics)
            .with_projection_indices(Some(places))
            .map_err(error::from_datafusion)?
            .with_limit(limit)
            .build();
        let scan = ParquetFormat::default()
            .with_options(session.default_table_options().parquet)
            .create_physical_plan(session, config)
            .await
            .map_err(error::from_datafusion)?;
        let scan = if self.layout.by_name(&used) { scan_by_name(&scan)? } else { scan };
        self.named(scan, &schema, &used)
    }
}
