//! The engine over a catalog that has nothing but the columns of a project's models.
//!
//! # Not here
//! Reading the files (`read`), comparing rows (`compare`).

use std::num::NonZeroUsize;
use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::compute::{CastOptions, cast_with_options, concat_batches};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::sql::sqlparser::ast::Query;
use futures::TryStreamExt;
use skep_catalog::{Catalog, Change, CommitInfo, OpenOptions, Transaction};
use skep_common::{Error, Result};
use skep_engine::error::from_datafusion;
use skep_engine::memory::Memory;
use skep_engine::names::DEFAULT_SCHEMA;
use skep_engine::types::sql_name;
use skep_engine::{Environment, Nowhere, Planner, Settings, Statement, boundary, runtime};
use skep_store::Stores;

use super::compare::{self, Difference};
use super::read::{Given, Rows, Source, Unit};
use crate::project::{Kind, Model, Name, Problem, Project, near};
use crate::rewrite::Rewritten;
use crate::run::{placed, seed};
use crate::statements;

/// A place to run unit tests in.
pub(super) struct Bench {
    /// Has the catalog, as long as tests run.
    _folder: tempfile::TempDir,
    environment: Arc<Environment>,
    /// Never committed: its tables have the columns of models, and no rows.
    shapes: Transaction,
}

impl Bench {
    /// # Errors
    /// Those of a catalog of its own.
    pub(super) async fn open(project: &Project, units: &[&Unit]) -> Result<Self> {
        let folder = tempfile::tempdir()
            .map_err(|e| Error::invalid("there is no folder for a catalog that is thrown away").source(e))?;
        let data = format!("{}/", folder.path().join("data").display());
        let catalog = Catalog::open(&folder.path().join("catalog.sqlite"), OpenOptions::new(data)).await?;
        let shapes = catalog.begin(catalog.snapshot().await?, CommitInfo::anonymous());
        let (memory, stores) = (Memory::default(), Stores::new());
        let environment = Arc::new(Environment {
            catalog,
            runtime: runtime::build(&memory, &folder.path().join("spill"), &stores)?,
            stores,
            memory,
            shared_paths: Vec::new(),
            locate: Arc::new(Nowhere),
            facts: Arc::default(),
            partitions: NonZeroUsize::MIN,
        });
        let bench = Self { _folder: folder, environment, shapes };
        bench.schemas(project, units)?;
        for model in &project.models {
            // What cannot be told is not known: rows of it have the columns and types that a test gives them.
            let Ok(columns) = bench.columns(project, model).await else { continue };
            if let Err(error) = bench.create(model, &columns).await {
                tracing::debug!(model = %model.name, error = error.report(), "its columns are not known");
            }
        }
        Ok(bench)
    }

    /// Every schema that somebody names.
    fn schemas(&self, project: &Project, units: &[&Unit]) -> Result<()> {
        let given = units.iter().flat_map(|unit| &unit.given).filter_map(|given| match &given.of {
            Source::Table(name) => Some(name.schema.clone()),
            Source::Files(_) => None,
        });
        for schema in project.models.iter().map(|model| model.name.schema.clone()).chain(given) {
            let known = [skep_engine::names::SYSTEM_SCHEMA, skep_engine::names::INFORMATION_SCHEMA];
            if self.shapes.snapshot().schema(&schema).is_none() && !known.contains(&schema.as_str()) {
                self.shapes.apply([Change::CreateSchema { name: schema }])?;
            }
        }
        Ok(())
    }

    async fn planner(&self) -> Result<Planner> {
        Planner::new(Arc::clone(&self.environment), self.shapes.snapshot(), &Settings::default()).await
    }

    /// The columns of a model's table.
    async fn columns(&self, project: &Project, model: &Model) -> Result<SchemaRef> {
        if model.header.columns.is_some() {
            return Ok(Arc::new(Schema::empty()));
        }
        match model.kind {
            Kind::Seed => Ok(seed(model)?.0),
            Kind::Load => Err(Error::invalid("its columns are those of its files")),
            _ => {
                let query = skep_engine::sql::parse_query(&bound(project, model, None).text)?;
                let plan = self.planner().await?.logical(&query).await?;
                let columns = boundary::output_schema(&plan);
                if model.kind == Kind::Snapshot {
                    return Ok(Arc::new(statements::snapshot_columns(&columns)));
                }
                Ok(columns)
            }
        }
    }

    /// Makes a table of them, as a run does.
    async fn create(&self, model: &Model, columns: &Schema) -> Result<()> {
        let parsed = skep_engine::parse_one(&statements::create(&model.name, model, columns))?;
        let Statement::CreateTable(create) = parsed.statement else {
            return Err(Error::internal("a table is not made by CREATE TABLE"));
        };
        let columns = self.planner().await?.create_table(&create).await?;
        self.shapes.apply([Change::CreateTable {
            id: self.shapes.snapshot().fresh_id(),
            schema: model.name.schema.clone(),
            name: model.name.name.clone(),
            columns,
            comment: None,
        }])?;
        Ok(())
    }

    /// What `unit` finds.
    ///
    /// # Errors
    /// What is wrong in its file, or in that of its model.
    pub(super) async fn run(&self, project: &Project, unit: &Unit) -> Result<Difference, Problem> {
        let in_test = |error: Error| Problem::new(&unit.file, error);
        let model = project.models.iter().find(|model| model.name == unit.model);
        let model = model.ok_or_else(|| in_test(Error::internal("a test of no model")))?;
        let mut planner = self.planner().await.map_err(in_test)?;
        for given in &unit.given {
            let rows = self.given(given).await.map_err(|e| in_test(at_least(e, given.at)))?;
            let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).map_err(from_datafusion);
            let table: Arc<dyn TableProvider> = Arc::new(table.map_err(in_test)?);
            let (schema, name) = match &given.of {
                Source::Table(name) => (name.schema.as_str(), name.name.clone()),
                Source::Files(pattern) => (DEFAULT_SCHEMA, pattern.clone()),
            };
            planner = planner.with_tables(schema, vec![(name, table)]);
        }
        let found = self
            .model(planner, project, model, unit)
            .await
            .map_err(|e| Problem::new(&model.file, e.context(format!("unit test '{}'", unit.file))))?;
        let expected =
            self.expected(unit, model, &found).await.map_err(|e| in_test(at_least(e, unit.expected_at)))?;
        compare::compare(&expected, &found).map_err(in_test)
    }

    /// The rows of the model's query.
    async fn model(
        &self,
        planner: Planner,
        project: &Project,
        model: &Model,
        unit: &Unit,
    ) -> Result<RecordBatch> {
        let query = bound(project, model, Some(unit));
        let plain = skep_engine::sql::parse_query(&query.text).map_err(|e| query.placed(e))?;
        // With the places of its own text.
        planner.logical(&plain).await.map_err(|e| query.placed(e))?;
        let sql = match (model.intervals(), unit.times) {
            // A run takes nothing else, whatever the query gives.
            (Some((time, _)), Some(span)) => statements::inside(&query.text, time, span),
            _ => return self.rows(&planner, &plain).await.map_err(|e| query.placed(e)),
        };
        let parsed = skep_engine::sql::parse_query(&sql).map_err(|e| placed(e, &query, 1))?;
        self.rows(&planner, &parsed).await.map_err(|e| placed(e, &query, 1))
    }

    async fn rows(&self, planner: &Planner, query: &Query) -> Result<RecordBatch> {
        let plan = planner.logical(query).await?;
        let state = planner.state();
        let physical = state.create_physical_plan(&plan).await.map_err(from_datafusion)?;
        let stream =
            datafusion::physical_plan::execute_stream(physical, state.task_ctx()).map_err(from_datafusion)?;
        let schema = boundary::output_schema(&plan);
        let batches: Vec<RecordBatch> = boundary::wrap_stream(stream, Arc::clone(&schema))
            .try_collect()
            .await
            .map_err(from_datafusion)?;
        concat_batches(&schema, &batches).map_err(|e| Error::internal("rows do not fit each other").source(e))
    }

    /// The rows that a test gives, with all columns that the table has, as far as they are known.
    async fn given(&self, given: &Given) -> Result<RecordBatch> {
        let known = match &given.of {
            Source::Table(name) => self.known(name),
            Source::Files(_) => None,
        };
        let rows = match &given.rows {
            Rows::Query(query) => self.rows(&self.planner().await?, query).await?,
            Rows::Csv(text) => csv(text, known.as_deref())?,
        };
        let Some(known) = known else { return Ok(rows) };
        let Source::Table(name) = &given.of else { return Ok(rows) };
        let own = rows.schema();
        for field in own.fields() {
            if known.field_with_name(field.name()).is_err() {
                let error = Error::not_found(format!("table '{name}' has no column '{}'", field.name()));
                let names = known.fields().iter().map(|field| field.name().as_str());
                return Err(near(error, field.name(), names));
            }
        }
        let columns = known.fields().iter().map(|field| match own.index_of(field.name()) {
            Ok(at) => converted(rows.column(at), field),
            Err(_) => Ok(new_null_array(field.data_type(), rows.num_rows())),
        });
        batch(&known, columns.collect::<Result<_>>()?, rows.num_rows())
    }

    fn known(&self, name: &Name) -> Option<SchemaRef> {
        let snapshot = self.shapes.snapshot();
        let table = snapshot.table(&name.schema, &name.name)?;
        Some(boundary::plain_schema(&table.arrow_schema()))
    }

    /// The rows that a test expects, with the types that the model gives.
    async fn expected(&self, unit: &Unit, model: &Model, found: &RecordBatch) -> Result<RecordBatch> {
        let schema = found.schema();
        let rows = match &unit.expected {
            Rows::Query(query) => self.rows(&self.planner().await?, query).await?,
            Rows::Csv(text) => csv(text, Some(&schema))?,
        };
        let own = rows.schema();
        let mut fields = Vec::new();
        for field in own.fields() {
            let Ok(theirs) = schema.field_with_name(field.name()) else {
                let error = Error::not_found(format!(
                    "the query of '{}' has no column '{}'",
                    model.name,
                    field.name()
                ));
                if field.name().starts_with("column") {
                    return Err(error.hint("VALUES have names behind them: AS expected(id, name)"));
                }
                let names = schema.fields().iter().map(|field| field.name().as_str());
                return Err(near(error, field.name(), names));
            };
            fields.push(theirs.clone());
        }
        let columns = rows.columns().iter().zip(&fields).map(|(column, field)| converted(column, field));
        let columns = columns.collect::<Result<_>>()?;
        batch(&Arc::new(Schema::new(fields)), columns, rows.num_rows())
    }
}

/// A model's query with values for its `$name`s: those of a test, or any of their types.
fn bound(project: &Project, model: &Model, unit: Option<&Unit>) -> Rewritten {
    let any = || statements::time(chrono::NaiveDateTime::default());
    let value = |name: &str| match unit {
        Some(unit) => unit.values.get(name).cloned(),
        None => Some(project.vars.get(name).cloned().unwrap_or_else(any)),
    };
    let edits = model.reads.parameters.iter();
    let edits = edits.map(|(name, place)| (*place, value(name).unwrap_or_else(|| "NULL".to_owned())));
    Rewritten::new(model.sql.trim_end().trim_end_matches(';'), edits.collect())
}

/// `error` there, unless it has a place already.
fn at_least(error: Error, place: skep_common::Span) -> Error {
    if error.span().is_some() { error } else { error.at(place) }
}

fn converted(column: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(column, field.data_type(), &strict).map_err(|e| {
        let ty = sql_name(field.data_type());
        Error::invalid(format!("column '{}' is {ty}, and a value of the test is none: {e}", field.name()))
    })
}

fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    // What a test leaves out is NULL, whatever the table says.
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema, columns, &options)
        .map_err(|e| Error::internal("rows of a test do not fit together").source(e))
}

/// The rows of a CSV text whose first line names columns: texts where `known` has the types, or what its values read as.
/// Nothing between commas is NULL.
fn csv(text: &str, known: Option<&Schema>) -> Result<RecordBatch> {
    use arrow::csv::ReaderBuilder;
    use arrow::csv::reader::Format;
    let wrong = |e: arrow::error::ArrowError| Error::invalid(format!("the rows do not read as CSV: {e}"));
    let text = text.trim();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let text = lines.join("\n");
    let format = Format::default().with_header(true);
    let (mut schema, _) = format.infer_schema(text.as_bytes(), None).map_err(wrong)?;
    if known.is_some() {
        let fields =
            schema.fields().iter().map(|field| Field::new(field.name().trim(), DataType::Utf8, true));
        schema = Schema::new(fields.collect::<Vec<_>>());
    }
    let schema = Arc::new(schema);
    let reader =
        ReaderBuilder::new(Arc::clone(&schema)).with_format(format).build(text.as_bytes()).map_err(wrong)?;
    let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>().map_err(wrong)?;
    concat_batches(&schema, &batches).map_err(wrong)
}
