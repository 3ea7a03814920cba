//! Files of one kind as a table.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Array, ArrayRef, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::ScalarValue;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileScanConfigBuilder, FileSource, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use object_store::{ObjectMeta, ObjectStore};
use skep_common::{Error, Result};

use super::place::Place;
use super::{FileOptions, Kind, infer, list, partitions, shown};
use crate::environment::Environment;
use crate::placement::OnCoordinator;
use crate::provider::Scan;
use crate::scan::{FileFacts, Reports, ScanReport, groups, keep};
use crate::text::{Compression, Format, TextSource, record_schema};
use crate::{error, types};

/// Files, their columns, and the columns in the names of their folders.
#[derive(Debug)]
pub(crate) struct FileTable {
    place: Place,
    options: FileOptions,
    files: Vec<ObjectMeta>,
    /// The values of `partitions`, for each file.
    values: Vec<Vec<ScalarValue>>,
    /// Columns in the files.
    columns: SchemaRef,
    /// Columns in the names of folders.
    partitions: Vec<FieldRef>,
    /// All of them, in the order of SQL: the files' first.
    schema: SchemaRef,
    /// Whether rows of text are read as they stand there.
    records: bool,
    environment: Arc<Environment>,
}

/// The column with the name of its file that a table of files can have beside its own.
pub(crate) const SOURCE: &str = "$file";

/// What is said about the columns of some files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Declared {
    /// The columns in the files; absent: found in them.
    pub(crate) columns: Option<SchemaRef>,
    /// The columns in the names of their folders, outermost first; `Null` where the type is to be found.
    pub(crate) partitions: Vec<FieldRef>,
}

/// The files of one partition of an external table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// `region=EU/day=2024-01-31`
    pub values: String,
    /// How many there are.
    pub files: usize,
    /// Their size together.
    pub bytes: u64,
}

impl FileTable {
    /// The partitions, as the folders were listed.
    pub(crate) fn folders(&self) -> Vec<Folder> {
        let mut found: BTreeMap<String, (usize, u64)> = BTreeMap::new();
        for (file, values) in self.files.iter().zip(&self.values) {
            let levels =
                self.partitions.iter().zip(values).map(|(field, value)| format!("{}={value}", field.name()));
            let sums = found.entry(levels.collect::<Vec<_>>().join("/")).or_default();
            *sums = (sums.0 + 1, sums.1 + file.size);
        }
        found.into_iter().map(|(values, (files, bytes))| Folder { values, files, bytes }).collect()
    }

    /// Lists the files of `place` and finds what is not declared.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for no files, [`Kind::Invalid`](skep_common::Kind::Invalid) for
    /// files that do not go together.
    pub(crate) async fn open(
        environment: &Arc<Environment>,
        place: Place,
        options: FileOptions,
        declared: Declared,
        views: bool,
    ) -> Result<Self> {
        let files = Self::list(environment, &place).await?;
        Self::of(environment, place, files, options, declared, views).await
    }

    /// The files of `place`, by path.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for none.
    pub(crate) async fn list(environment: &Environment, place: &Place) -> Result<Vec<ObjectMeta>> {
        let store = list::store(&environment.runtime, place)?;
        list::files(&store, place).await
    }

    /// As [`FileTable::open`], over some of the files of `place`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for files that do not go together.
    pub(crate) async fn of(
        environment: &Arc<Environment>,
        place: Place,
        files: Vec<ObjectMeta>,
        options: FileOptions,
        declared: Declared,
        views: bool,
    ) -> Result<Self> {
        let store = list::store(&environment.runtime, &place)?;
        let columns = match declared.columns {
            Some(columns) => columns,
            None => infer::schema(&place.store, &store, &files, &options).await?,
        };
        let columns = if views { types::viewed(&columns) } else { columns };
        let paths = files.iter().map(|meta| &meta.location);
        let (partitions, values) = partitions::values(&place.path, paths, &declared.partitions, views)?;
        // In files that other engines wrote, the folder says it again.
        let inside =
            columns.fields().iter().filter(|f| partitions.iter().all(|p| p.name() != f.name())).cloned();
        let columns: SchemaRef = Arc::new(Schema::new(inside.collect::<Vec<_>>()));
        let schema = columns.fields().iter().chain(&partitions).cloned().collect::<Vec<_>>();
        let schema = Arc::new(Schema::new(schema));
        let environment = Arc::clone(environment);
        Ok(Self { place, options, files, values, columns, partitions, schema, records: false, environment })
    }

    /// With the column [`SOURCE`] behind the others.
    #[must_use]
    pub(crate) fn with_sources(mut self) -> Self {
        self.partitions.push(Arc::new(Field::new(SOURCE, DataType::Utf8, false)));
        for (file, values) in self.files.iter().zip(&mut self.values) {
            values.push(ScalarValue::Utf8(Some(shown(&self.place.store, &file.location))));
        }
        self.with_columns()
    }

    /// With the columns of [`record_schema`] in place of those in the files, which are text.
    #[must_use]
    pub(crate) fn with_records(mut self) -> Self {
        self.records = true;
        self.columns = record_schema();
        self.with_columns()
    }

    fn with_columns(mut self) -> Self {
        let all = self.columns.fields().iter().chain(&self.partitions).cloned().collect::<Vec<_>>();
        self.schema = Arc::new(Schema::new(all));
        self
    }

    /// The columns in the files.
    pub(crate) fn columns(&self) -> &SchemaRef {
        &self.columns
    }

    /// The names in the headers of the CSV files `files` of `place`.
    ///
    /// # Errors
    /// As [`FileTable::open`].
    pub(crate) async fn headers(
        environment: &Environment,
        place: &Place,
        files: &[ObjectMeta],
        options: &FileOptions,
    ) -> Result<Vec<String>> {
        let store: Arc<dyn ObjectStore> = list::store(&environment.runtime, place)?;
        infer::headers(&place.store, &store, files, options).await
    }

    fn report(&self, session: &dyn Session, kept: &[usize]) {
        if let Some(reports) = session.config().get_extension::<Reports>() {
            reports.add(ScanReport {
                table: format!("'{}'", self.place.text),
                files_total: self.files.len(),
                files_kept: kept.len(),
                bytes_total: self.files.iter().map(|file| file.size).sum(),
                bytes_kept: kept.iter().map(|&at| self.files[at].size).sum(),
            });
        }
    }

    /// One format for all files: a scan has one.
    fn text_format(&self) -> Result<Option<Format>> {
        let mut found: Option<(Compression, &ObjectMeta)> = None;
        for file in &self.files {
            let Some(format) = self.options.text(file.location.as_ref()) else { return Ok(None) };
            match found {
                Some((compression, other)) if compression != format.compression => {
                    return Err(Error::unsupported(format!(
                        "'{}' and '{}' are packed differently",
                        shown(&self.place.store, &other.location),
                        shown(&self.place.store, &file.location)
                    ))
                    .hint("read the files of each compression by a pattern of their own, with UNION ALL"));
                }
                Some(_) => {}
                None => found = Some((format.compression, file)),
            }
        }
        let format = found.and_then(|(_, file)| self.options.text(file.location.as_ref()));
        Ok(format.map(|format| Format { records: self.records, ..format }))
    }
}

#[async_trait]
impl Scan for FileTable {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    async fn plan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        debug_assert!(self.options.kind == Kind::Parquet || !self.files.is_empty());
        let facts = Folders { table: self };
        let mask = keep(session, &self.schema, filters, &facts);
        let kept: Vec<usize> = (0..self.files.len()).filter(|&at| mask[at]).collect();
        self.report(session, &kept);
        let schema = match projection {
            Some(used) => Arc::new(self.schema.project(used).map_err(|e| error::from_datafusion(e.into()))?),
            None => Arc::clone(&self.schema),
        };
        if kept.is_empty() {
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let files: Vec<PartitionedFile> = kept
            .iter()
            .map(|&at| {
                let file = PartitionedFile::new_from_meta(self.files[at].clone())
                    .with_partition_values(self.values[at].clone());
                if self.environment.only_here(&self.place.store, file.path()) {
                    file.with_extension(OnCoordinator)
                } else {
                    file
                }
            })
            .collect();
        let format = self.text_format()?;
        let columns = TableSchema::builder(Arc::clone(&self.columns))
            .with_table_partition_cols(self.partitions.clone())
            .build();
        let source: Arc<dyn FileSource> = match &format {
            Some(format) => Arc::new(TextSource::new(columns, format.clone())),
            None => Arc::new(ParquetSource::new(columns)),
        };
        let config = FileScanConfigBuilder::new(self.place.store.clone(), source)
            .with_file_groups(groups(files, session.config().target_partitions()))
            .with_projection_indices(projection.cloned())
            .map_err(error::from_datafusion)?
            .with_limit(limit)
            .build();
        match format {
            Some(_) => Ok(DataSourceExec::from_data_source(config)),
            None => ParquetFormat::default()
                .with_options(session.default_table_options().parquet)
                .create_physical_plan(session, config)
                .await
                .map_err(error::from_datafusion),
        }
    }
}

/// What the names of folders say about files.
struct Folders<'a> {
    table: &'a FileTable,
}

impl Folders<'_> {
    fn column(&self, name: &str) -> Option<ArrayRef> {
        let at = self.table.partitions.iter().position(|field| field.name() == name)?;
        ScalarValue::iter_to_array(self.table.values.iter().map(|values| values[at].clone())).ok()
    }
}

impl FileFacts for Folders<'_> {
    fn files(&self) -> usize {
        self.table.files.len()
    }

    fn min(&self, column: &str) -> Option<ArrayRef> {
        self.column(column)
    }

    fn max(&self, column: &str) -> Option<ArrayRef> {
        self.column(column)
    }

    /// A folder without a value makes all rows NULL, and they are not counted: then nothing is known.
    fn nulls(&self, column: &str) -> Option<UInt64Array> {
        let values = self.column(column)?;
        Some((0..values.len()).map(|at| values.is_valid(at).then_some(0)).collect())
    }

    fn rows(&self) -> Option<UInt64Array> {
        None
    }
}

/// The declared columns of an external table: those in files, and those in folders.
pub(crate) fn declared(schema: &Schema, partition_columns: &[String]) -> Declared {
    let in_folders: BTreeMap<&str, &FieldRef> =
        schema.fields().iter().map(|field| (field.name().as_str(), field)).collect();
    let partitions = partition_columns
        .iter()
        .map(|name| match in_folders.get(name.as_str()) {
            Some(field) => Arc::clone(field),
            None => Arc::new(Field::new(name, DataType::Null, true)),
        })
        .collect();
    let inside = schema.fields().iter().filter(|field| !partition_columns.contains(field.name())).cloned();
    Declared { columns: Some(Arc::new(Schema::new(inside.collect::<Vec<_>>()))), partitions }
}
