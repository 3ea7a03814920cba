//! Statements that write rows: from their source to a plan with exactly the columns of the table.
//!
//! Every column is given by the source, or by its default, or NULL; every value passes through
//! [`assign`](crate::functions), which refuses what the column cannot take and names it.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::config::{CsvOptions, JsonOptions};
use datafusion::common::{Column as Qualified, ScalarValue};
use datafusion::datasource::file_format::csv::CsvFormatFactory;
use datafusion::datasource::file_format::json::JsonFormatFactory;
use datafusion::datasource::file_format::parquet::ParquetFormatFactory;
use datafusion::datasource::file_format::{FileFormatFactory, format_as_file_type};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::sql::sqlparser::ast;
use object_store::ObjectStoreExt;
use skep_catalog::{Check, Column, External, TableDef, columns_from_arrow};
use skep_common::{Error, Position, Result};

use super::{Noted, Planner, Replaced, constant, tables};
use crate::files::{Declared, FileOptions, FileTable, Kind, Place};
use crate::functions::assign;
use crate::provider::Scan;
use crate::sql::{ColumnSpec, CopyTo, CreateExternal, CreateTable, CreateTableAs, Name};
use crate::{error, functions, names, types};

/// Rows for a table that exists.
#[derive(Debug, Clone)]
pub struct WriteInput {
    /// The table.
    pub table: Arc<TableDef>,
    /// The rows: the columns of the table by name and order, in its plain types.
    pub plan: LogicalPlan,
    /// The rows in whose place they come.
    pub replaced: Replaced,
}

/// A table that does not exist yet, and its rows.
#[derive(Debug, Clone)]
pub struct NewTable {
    /// Its columns.
    pub columns: Vec<Column>,
    /// What it says beside them.
    pub noted: Noted,
    /// The rows: those columns by name and order, in their plain types.
    pub plan: LogicalPlan,
}

impl Planner {
    /// The table that `name` names, to write to.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) with the nearest name;
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for views and tables that are not ours to write.
    pub fn writable(&self, name: &Name) -> Result<Arc<TableDef>> {
        let schema = name.schema_or(self.settings.schema());
        if schema == names::INFORMATION_SCHEMA || schema == names::SYSTEM_SCHEMA {
            let error = Error::invalid(format!("'{name}' is a table of the system, which is only read"));
            return Err(placed(error.hint("SHOW TABLES lists the tables of the catalog"), name.at));
        }
        let Some(table) = self.snapshot.table(schema, &name.name) else {
            return Err(match self.snapshot.view(schema, &name.name) {
                Some(_) => {
                    let error =
                        Error::invalid(format!("'{name}' is a view, and only tables have rows to change"));
                    placed(error.hint("change the tables that it reads"), name.at)
                }
                None => tables::missing(self, name),
            });
        };
        if table.external.is_some() {
            let error = Error::invalid(format!("'{name}' is an external table, which is only read"))
                .hint("CREATE TABLE ... AS SELECT copies it into a table of the catalog");
            return Err(placed(error, name.at));
        }
        table.supported()?;
        Ok(Arc::clone(table))
    }

    /// `plan`, whose first columns are those of `table`, with an error for rows that violate a constraint of it.
    ///
    /// # Errors
    /// [`Kind::Corrupt`](skep_common::Kind::Corrupt) for a constraint that does not read.
    pub(super) fn checked(&self, plan: LogicalPlan, table: &TableDef) -> Result<LogicalPlan> {
        let conditions = self.conditions(&table.columns, &table.checks)?;
        with_checks(plan, &table.columns, &conditions)
    }

    /// The constraints with their conditions.
    pub(super) fn conditions(&self, columns: &[Column], checks: &[Check]) -> Result<Vec<(Check, Expr)>> {
        checks.iter().map(|check| Ok((check.clone(), self.condition_of(columns, check)?))).collect()
    }

    /// The columns of CREATE TABLE.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](skep_common::Kind::Unsupported) for types and defaults that Skep does not have.
    pub async fn create_table(&self, create: &CreateTable) -> Result<Vec<Column>> {
        let mut columns = columns_from_arrow(&declared_schema(&create.columns)?)?;
        for (column, spec) in columns.iter_mut().zip(&create.columns) {
            if let Some(default) = &spec.default {
                let value = constant::default(self, default, &column.name, &column.ty).await;
                column.default = value.map_err(|e| placed(e, spec.at))?;
            }
            column.comment.clone_from(&spec.comment);
        }
        Ok(columns)
    }

    /// The columns and rows of CREATE TABLE AS.
    ///
    /// # Errors
    /// As [`Planner::logical`], and for columns that a table cannot have.
    pub async fn create_table_as(&self, create: &CreateTableAs) -> Result<NewTable> {
        let plan = self.logical(&create.query).await?;
        let own = plan.schema().fields();
        if !create.columns.is_empty() && create.columns.len() != own.len() {
            return Err(Error::invalid(format!(
                "the table names {} columns and the query has {}",
                create.columns.len(),
                own.len()
            )));
        }
        let fields = own.iter().enumerate().map(|(at, field)| match create.columns.get(at) {
            Some(spec) if spec.ty != ast::DataType::Unspecified => declared_field(spec),
            // What a query happens not to give is no rule for later rows.
            Some(spec) => Ok(Field::new(&spec.name, types::plain(field.data_type()), spec.nullable)),
            None => Ok(Field::new(field.name(), types::plain(field.data_type()), true)),
        });
        let mut columns = columns_from_arrow(&Schema::new(fields.collect::<Result<Vec<_>>>()?))?;
        for (column, spec) in columns.iter_mut().zip(&create.columns) {
            column.comment.clone_from(&spec.comment);
        }
        let noted = self.noted(&columns, &create.clauses)?;
        let targets: Vec<usize> = (0..columns.len()).collect();
        let plan = by_position(plan, &columns, &targets, &[])?;
        let plan = with_checks(plan, &columns, &self.conditions(&columns, &noted.checks)?)?;
        Ok(NewTable { columns, noted, plan })
    }

    /// The plan of COPY TO, which writes the file and returns one row with the number of rows.
    ///
    /// # Errors
    /// As [`Planner::logical`], and [`Kind::Invalid`](skep_common::Kind::Invalid) for options that do not exist.
    pub async fn copy_to(&self, copy: &CopyTo) -> Result<LogicalPlan> {
        let plan = self.copy_source(&copy.source).await?;
        let place = Place::parse(&copy.path, self.settings.directory())?;
        if place.pattern.is_some() {
            return Err(Error::invalid(format!("'{}' is a pattern, and rows go to one file", copy.path)));
        }
        let options = copy.options.0.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let options = FileOptions::parse(options, &copy.path)?;
        let fields: Vec<(Qualified, DataType)> = plan
            .schema()
            .iter()
            .map(|(qualifier, field)| (Qualified::from((qualifier, field)), types::plain(field.data_type())))
            .collect();
        let plain: Vec<Expr> = fields
            .into_iter()
            .map(|(column, ty)| {
                let name = column.name.clone();
                cast(Expr::Column(column), ty).alias(name)
            })
            .collect();
        let rows = LogicalPlanBuilder::from(plan)
            .project(plain)
            .and_then(LogicalPlanBuilder::build)
            .map_err(error::from_datafusion)?;
        let url = format!("{}{}", place.store.as_str(), place.path);
        LogicalPlanBuilder::copy_to(
            rows,
            url,
            format_as_file_type(writer(&options)),
            HashMap::new(),
            Vec::new(),
        )
        .and_then(LogicalPlanBuilder::build)
        .map_err(error::from_datafusion)
    }

    /// Sees whether a file can be written at `path`, before rows are made for it: the writers of DataFusion do not say why one
    /// cannot.
    ///
    /// # Errors
    /// Those of the store, such as [`Kind::Denied`](skep_common::Kind::Denied).
    pub async fn can_write(&self, path: &str) -> Result<()> {
        let place = Place::parse(path, self.settings.directory())?;
        let failed = |e: object_store::Error| error::from_datafusion(e.into());
        let store = crate::files::store(&self.environment.runtime, &place)?;
        store.put_multipart(&place.path).await.map_err(failed)?.abort().await.map_err(failed)
    }

    /// The columns and place of CREATE EXTERNAL TABLE. The files are looked at: they must be there, and fit.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for no files, [`Kind::Invalid`](skep_common::Kind::Invalid) for
    /// columns or options that do not fit.
    pub async fn create_external(&self, create: &CreateExternal) -> Result<(Vec<Column>, External)> {
        let place = Place::parse(&create.location, self.settings.directory())?;
        let mut pairs = create.options.0.clone();
        if let Some(format) = &create.format {
            pairs.retain(|(name, _)| name != "format");
            pairs.push(("format".to_owned(), format.clone()));
        }
        let borrowed = || pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let options = FileOptions::parse(borrowed(), &create.location)?;
        // As other engines have it, a partition column may be declared among the columns or with a type of its own.
        let mut partitions = Vec::new();
        for spec in &create.partitions {
            let among = create.columns.iter().find(|column| column.name == spec.name);
            let field = match (among, &spec.ty) {
                (Some(column), _) => declared_field(column)?,
                (None, ast::DataType::Unspecified) => Field::new(&spec.name, DataType::Null, true),
                (None, _) => declared_field(spec)?,
            };
            partitions.push(Arc::new(field));
        }
        let inside: Vec<ColumnSpec> = create
            .columns
            .iter()
            .filter(|column| create.partitions.iter().all(|partition| partition.name != column.name))
            .cloned()
            .collect();
        let columns = if inside.is_empty() { None } else { Some(Arc::new(declared_schema(&inside)?)) };
        let location = format!("{}{}", place.store.as_str(), folder(&place, &create.location));
        let kind = options.kind;
        let declared = Declared { columns, partitions };
        let table = FileTable::open(&self.environment, place, options, declared, false).await?;
        let mut columns = columns_from_arrow(table.schema())?;
        for spec in create.columns.iter().chain(&create.partitions) {
            if let Some(column) = columns.iter_mut().find(|column| column.name == spec.name) {
                column.comment = column.comment.take().or_else(|| spec.comment.clone());
            }
        }
        let external = External {
            location,
            format: kind.to_string(),
            options: pairs.iter().filter(|(name, _)| name != "format").cloned().collect(),
            partition_columns: create.partitions.iter().map(|spec| spec.name.clone()).collect(),
        };
        Ok((columns, external))
    }
}

/// The path of an external table as the catalog keeps it: with its pattern, or `/` behind a folder.
fn folder(place: &Place, written: &str) -> String {
    match &place.pattern {
        Some(pattern) => pattern.to_string(),
        None if written.ends_with('/') => format!("{}/", place.path),
        None => place.path.to_string(),
    }
}

fn writer(options: &FileOptions) -> Arc<dyn FileFormatFactory> {
    let packing = options.compression.unwrap_or_default().decoder();
    let compression = *packing.get_variant();
    match options.kind {
        Kind::Parquet => Arc::new(ParquetFormatFactory::new()),
        Kind::Json => {
            Arc::new(JsonFormatFactory::new_with_options(JsonOptions { compression, ..Default::default() }))
        }
        Kind::Csv => {
            let csv = &options.csv;
            Arc::new(CsvFormatFactory::new_with_options(CsvOptions {
                has_header: Some(csv.header),
                delimiter: csv.delimiter,
                quote: csv.quote,
                escape: csv.escape,
                null_value: csv.null.clone(),
                compression,
                ..Default::default()
            }))
        }
    }
}

/// `plan`, whose column `i` goes to the column `targets[i]` of `columns`, with those in `fixed` the same in every row, and
/// the rest filled in.
pub(super) fn by_position(
    plan: LogicalPlan,
    columns: &[Column],
    targets: &[usize],
    fixed: &[(usize, ScalarValue)],
) -> Result<LogicalPlan> {
    let given: Vec<(Qualified, Field)> = plan
        .schema()
        .iter()
        .map(|(qualifier, field)| (Qualified::from((qualifier, field)), field.as_ref().clone()))
        .collect();
    let source = |at: usize| targets.iter().position(|&target| target == at).and_then(|i| given.get(i));
    project(plan, columns, source, fixed, Vec::new())
}

/// `plan` with `columns`, each from the column of it that `source` names for its place, the same in every row as `fixed` says, or
/// filled in; and with `behind` them.
pub(super) fn project<'a>(
    plan: LogicalPlan,
    columns: &[Column],
    source: impl Fn(usize) -> Option<&'a (Qualified, Field)>,
    fixed: &[(usize, ScalarValue)],
    behind: Vec<Expr>,
) -> Result<LogicalPlan> {
    let schema = skep_catalog::logical_schema(columns);
    let mut exprs = Vec::with_capacity(columns.len() + behind.len());
    for (at, (column, field)) in columns.iter().zip(schema.fields()).enumerate() {
        let ty = field.data_type();
        let value = fixed.iter().find(|(place, _)| *place == at).map(|(_, value)| value);
        let expr = match (value, source(at)) {
            (Some(value), _) => {
                assign(Expr::Literal(value.clone(), None), &column.name, ty, column.nullable)?
            }
            (None, Some((name, given))) => fitted(Expr::Column(name.clone()), given, column, ty)?,
            (None, None) => absent(column, ty)?,
        };
        exprs.push(expr.alias(&column.name));
    }
    exprs.extend(behind);
    LogicalPlanBuilder::from(plan)
        .project(exprs)
        .and_then(LogicalPlanBuilder::build)
        .map_err(error::from_datafusion)
}

/// `value`, which is as `given` says, as `column` takes it, whose type is `ty`.
pub(super) fn fitted(value: Expr, given: &Field, column: &Column, ty: &DataType) -> Result<Expr> {
    let checked = !column.nullable && given.is_nullable();
    if given.data_type() == ty && !checked {
        Ok(value)
    } else if lossless(given.data_type(), ty) && !checked {
        Ok(cast(value, ty.clone()))
    } else {
        assign(value, &column.name, ty, column.nullable)
    }
}

/// What `column` has in a row that does not give it a value.
pub(super) fn absent(column: &Column, ty: &DataType) -> Result<Expr> {
    let value = constant::decode(column)?;
    if value.is_null() && !column.nullable {
        return Err(Error::invalid(format!("column '{}' is NOT NULL and has no value", column.name))
            .hint("give it a value, or a default when the table is created"));
    }
    assign(Expr::Literal(value, None), &column.name, ty, column.nullable)
}

/// `plan`, whose first columns are `columns`, with an error for rows that violate one of `checks`.
pub(super) fn with_checks(
    plan: LogicalPlan,
    columns: &[Column],
    checks: &[(Check, Expr)],
) -> Result<LogicalPlan> {
    if checks.is_empty() {
        return Ok(plan);
    }
    let all: Vec<Qualified> = plan.schema().columns();
    let names: Vec<String> = all.iter().map(|column| column.name.clone()).collect();
    let mut exprs: Vec<Expr> = all.into_iter().map(Expr::Column).collect();
    let shown: Vec<(String, Expr)> =
        columns.iter().map(|column| column.name.clone()).zip(exprs.iter().cloned()).collect();
    for (check, condition) in checks {
        let value = exprs.remove(0);
        exprs.insert(0, functions::check(value, condition.clone(), &check.name, &check.sql, shown.clone()));
    }
    let exprs = exprs.into_iter().zip(names).map(|(expr, name)| expr.alias(name));
    LogicalPlanBuilder::from(plan)
        .project(exprs.collect::<Vec<_>>())
        .and_then(LogicalPlanBuilder::build)
        .map_err(error::from_datafusion)
}

/// Whether every value of `from` is one of `to`, so that a plain cast cannot fail.
fn lossless(from: &DataType, to: &DataType) -> bool {
    use DataType::{
        Binary, BinaryView, Float32, Float64, Int8, Int16, Int32, Int64, LargeUtf8, UInt8, UInt16, UInt32,
        Utf8, Utf8View,
    };
    matches!(
        (from, to),
        (Utf8View | LargeUtf8, Utf8)
            | (BinaryView, Binary)
            | (Int8, Int16 | Int32 | Int64 | Float64)
            | (Int16, Int32 | Int64 | Float64)
            | (Int32, Int64 | Float64)
            | (UInt8, Int16 | Int32 | Int64 | UInt16 | UInt32)
            | (UInt16, Int32 | Int64 | UInt32)
            | (UInt32, Int64)
            | (Float32, Float64)
    )
}

fn declared_schema(columns: &[ColumnSpec]) -> Result<Schema> {
    Ok(Schema::new(columns.iter().map(declared_field).collect::<Result<Vec<_>>>()?))
}

fn declared_field(column: &ColumnSpec) -> Result<Field> {
    let ty = types::arrow_type(&column.ty).map_err(|e| placed(e, column.at))?;
    Ok(Field::new(&column.name, ty, column.nullable))
}

pub(super) fn placed(error: Error, at: Option<Position>) -> Error {
    tables::placed(error, at)
}
