//! A catalog in a temporary folder, and the least that runs statements on it.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::scalar::ScalarValue;
use futures::TryStreamExt;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use skep_catalog::{
    Catalog, Change, CommitInfo, Nans, NewFile, OpenOptions, Snapshot, TableDef, footer_size, nan_columns,
    stats_from_parquet, without_bounds,
};
use skep_common::{Error, Result};
use skep_engine::sql::{Statement, parse};
use skep_engine::{Environment, Nowhere, Planner, ScanReport, Settings, boundary, error, runtime};
use skep_store::Stores;

pub(crate) struct Fixture {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) environment: Arc<Environment>,
    pub(crate) settings: Settings,
}

/// What a query gave.
pub(crate) struct Answer {
    pub(crate) rows: Vec<Vec<String>>,
    pub(crate) plan: Arc<dyn ExecutionPlan>,
    pub(crate) reports: Vec<ScanReport>,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = format!("{}/", folder.path().join("data").display());
        let catalog =
            Catalog::open(&folder.path().join("catalog.sqlite"), OpenOptions::new(data)).await.unwrap();
        let memory = skep_engine::memory::Memory::default();
        let environment = Environment {
            catalog,
            runtime: runtime::build(&memory, &folder.path().join("spill"), &Stores::new()).unwrap(),
            stores: Stores::new(),
            memory,
            shared_paths: vec![folder.path().join("data")],
            locate: Arc::new(Nowhere),
            facts: Arc::default(),
            partitions: NonZeroUsize::new(3).unwrap(),
        };
        Self { folder, environment: Arc::new(environment), settings: Settings::default() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file of text below the folder.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    pub(crate) async fn snapshot(&self) -> Arc<Snapshot> {
        self.environment.catalog.snapshot().await.unwrap()
    }

    pub(crate) async fn planner(&self) -> Planner {
        let snapshot = self.snapshot().await;
        Planner::new(Arc::clone(&self.environment), snapshot, &self.settings).await.unwrap()
    }

    /// Runs a script; the rows of its last statement.
    pub(crate) async fn run(&self, sql: &str) -> Result<Answer> {
        self.run_with(sql, Vec::new()).await
    }

    pub(crate) async fn run_with(&self, sql: &str, values: Vec<ScalarValue>) -> Result<Answer> {
        let mut last = None;
        for parsed in parse(sql)? {
            last = Some(self.statement(&parsed.statement, values.clone()).await?);
        }
        Ok(last.unwrap())
    }

    /// The rows of the last statement, a line each, fields between `|`.
    pub(crate) async fn rows(&self, sql: &str) -> String {
        match self.run(sql).await {
            Ok(answer) => answer.rows.iter().map(|row| row.join("|")).collect::<Vec<_>>().join("\n"),
            Err(e) => panic!("{e:?}\n{sql}"),
        }
    }

    /// The error of the script, with the temporary folder as `DIR`.
    pub(crate) async fn error(&self, sql: &str) -> String {
        match self.run(sql).await {
            Ok(answer) => format!("no error, {} rows", answer.rows.len()),
            Err(e) => self.hidden(&format!("{e:?}")),
        }
    }

    pub(crate) fn hidden(&self, text: &str) -> String {
        let folder = self.folder.path().display().to_string();
        text.replace(&folder, "/DIR").replace(folder.trim_start_matches('/'), "DIR")
    }

    async fn statement(&self, statement: &Statement, values: Vec<ScalarValue>) -> Result<Answer> {
        let planner = self.planner().await.with_parameters(values);
        if let Some(batch) = planner.show(statement).await? {
            let plan = Arc::new(datafusion::physical_plan::empty::EmptyExec::new(batch.schema()));
            return Ok(Answer { rows: shown(&[batch]), plan, reports: Vec::new() });
        }
        match statement {
            Statement::Query(query) => {
                let plan = planner.logical(query).await?;
                self.collect(&planner, &plan).await
            }
            Statement::CopyTo(copy) => {
                let plan = planner.copy_to(copy).await?;
                self.collect(&planner, &plan).await
            }
            Statement::Insert(insert) => {
                let input = planner.insert(insert).await?;
                self.write(&planner, &input.plan, &input.table).await
            }
            Statement::CopyInto(copy) => {
                let input = planner.copy_into(copy, &HashMap::new()).await?;
                // Without the name of the file, by which the coordinator counts.
                let columns = (0..input.table.columns.len()).collect::<Vec<_>>();
                let rows = LogicalPlanBuilder::from(input.rows.unwrap()).select(columns);
                let rows = rows.and_then(LogicalPlanBuilder::build).map_err(error::from_datafusion)?;
                self.write(&planner, &rows, &input.table).await
            }
            Statement::CreateTable(create) => {
                let columns = planner.create_table(create).await?;
                let change = Change::CreateTable {
                    id: -1,
                    schema: create.name.schema_or("main").to_owned(),
                    name: create.name.name.clone(),
                    columns,
                    comment: create.comment.clone(),
                };
                self.commit(vec![change]).await
            }
            Statement::CreateTableAs(create) => {
                let table = planner.create_table_as(create).await?;
                let schema = create.name.schema_or("main").to_owned();
                let change = Change::CreateTable {
                    id: -1,
                    schema: schema.clone(),
                    name: create.name.name.clone(),
                    columns: table.columns,
                    comment: None,
                };
                self.commit(vec![change]).await?;
                let def = Arc::clone(self.snapshot().await.table(&schema, &create.name.name).unwrap());
                self.write(&planner, &table.plan, &def).await
            }
            Statement::CreateView(create) => {
                let view = planner.create_view(create).await?;
                let change = Change::PutView {
                    schema: create.name.schema_or("main").to_owned(),
                    name: create.name.name.clone(),
                    sql: view.sql,
                    column_aliases: view.columns,
                    or_replace: create.or_replace,
                };
                self.commit(vec![change]).await
            }
            Statement::CreateExternal(create) => {
                let (columns, external) = planner.create_external(create).await?;
                let change = Change::PutExternal {
                    schema: create.name.schema_or("main").to_owned(),
                    name: create.name.name.clone(),
                    columns,
                    external,
                    comment: create.comment.clone(),
                    or_replace: create.or_replace,
                };
                self.commit(vec![change]).await
            }
            other => Err(Error::unsupported(format!("{other:?}"))),
        }
    }

    async fn commit(&self, changes: Vec<Change>) -> Result<Answer> {
        let transaction = self.environment.catalog.begin(self.snapshot().await, CommitInfo::anonymous());
        transaction.apply(changes)?;
        transaction.commit().await?;
        let plan = Arc::new(datafusion::physical_plan::empty::EmptyExec::new(Arc::new(
            arrow::datatypes::Schema::empty(),
        )));
        Ok(Answer { rows: Vec::new(), plan, reports: Vec::new() })
    }

    pub(crate) async fn collect(
        &self,
        planner: &Planner,
        plan: &datafusion::logical_expr::LogicalPlan,
    ) -> Result<Answer> {
        let state = planner.state();
        let physical = state.create_physical_plan(plan).await.map_err(error::from_datafusion)?;
        let reports = planner.reports();
        let stream = datafusion::physical_plan::execute_stream(Arc::clone(&physical), state.task_ctx())
            .map_err(error::from_datafusion)?;
        let schema = boundary::output_schema(plan);
        let batches: Vec<RecordBatch> = boundary::wrap_stream(stream, Arc::clone(&schema))
            .try_collect()
            .await
            .map_err(error::from_datafusion)?;
        assert!(batches.iter().all(|batch| batch.schema() == schema));
        Ok(Answer { rows: shown(&batches), plan: physical, reports })
    }

    /// Writes the rows into one file and commits it.
    async fn write(
        &self,
        planner: &Planner,
        plan: &datafusion::logical_expr::LogicalPlan,
        table: &TableDef,
    ) -> Result<Answer> {
        let state = planner.state();
        let physical = state.create_physical_plan(plan).await.map_err(error::from_datafusion)?;
        let reports = planner.reports();
        let batches =
            collect(Arc::clone(&physical), state.task_ctx()).await.map_err(error::from_datafusion)?;
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if rows > 0 {
            let file = parquet_file(&self.path("data").join(&table.path), table, &batches);
            self.commit(vec![Change::Append { table: table.id, files: vec![file] }]).await?;
        }
        Ok(Answer { rows: vec![vec![rows.to_string()]], plan: physical, reports })
    }
}

fn parquet_file(folder: &Path, table: &TableDef, batches: &[RecordBatch]) -> NewFile {
    std::fs::create_dir_all(folder).unwrap();
    let schema = table.physical_schema();
    let name = format!("skep-{}.parquet", uuid::Uuid::now_v7());
    // Readers lose the values that are not numbers by the bounds of the others.
    let odd: BTreeSet<i64> = batches.iter().flat_map(|batch| nan_columns(&table.columns, batch)).collect();
    let properties = without_bounds(WriterProperties::builder(), &table.columns, &odd);
    let mut nans = Nans::new(&table.columns);
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, Arc::clone(&schema), Some(properties.build())).unwrap();
    let mut rows = 0;
    for batch in batches {
        rows += batch.num_rows() as u64;
        nans.observe(batch);
        // The rows of a plan have the types of the table, but for the field ids inside.
        let columns = batch.columns().iter().zip(schema.fields());
        let columns = columns.map(|(column, field)| arrow::compute::cast(column, field.data_type()).unwrap());
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap()).unwrap();
    }
    let meta = writer.close().unwrap();
    let mut stats = stats_from_parquet(&meta, &table.columns).unwrap();
    nans.finish(&mut stats);
    std::fs::write(folder.join(&name), &bytes).unwrap();
    NewFile {
        path: name,
        rows,
        bytes: bytes.len() as u64,
        footer: footer_size(&bytes[bytes.len() - 8..]).unwrap(),
        partition: Vec::new(),
        stats,
        moved: false,
        sketches: Vec::new(),
    }
}

fn shown(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<ArrayFormatter<'_>> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
            .collect();
        for at in 0..batch.num_rows() {
            rows.push(columns.iter().map(|column| column.value(at).to_string()).collect());
        }
    }
    rows
}
