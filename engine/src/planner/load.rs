//! COPY INTO: which files are loaded, and how their rows become rows of the table.
//!
//! ```text
//! files - ledger --scan--> columns of the files --assign, check--> rows            one that is wrong fails the load
//!                \-scan--> rows as text --decode, assign, check--> rows | rejects  for a load that goes on, and to find the line
//! ```
//!
//! # Invariants
//! - Behind its columns every row has the name of its file, by which the write counts.
//! - Both ways take the same rows: those that the first refuses, the second rejects.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::Column as Qualified;
use datafusion::datasource::provider_as_source;
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit, when};
use object_store::ObjectMeta;
use skep_catalog::{Column, FileVersion, LedgerEntry, TableDef, columns_from_arrow};
use skep_common::{Error, Result};

use super::Planner;
use super::insert::targets;
use super::write::{absent, placed, project};
use crate::error;
use crate::files::{Declared, FileOptions, FileTable, Kind, Place, SOURCE, shown};
use crate::functions::{self, DECODE_REASON, Decoded};
use crate::provider::provide;
use crate::sql::CopyInto;
use crate::text::{LINE, RAW, UTF8};

/// Names inside the plans; no column of a table is likely to have one.
const ROW: &str = "$row";
const REASON: &str = "$reason";

/// What COPY INTO is going to do.
#[derive(Debug, Clone)]
pub struct Loading {
    /// The table.
    pub table: Arc<TableDef>,
    /// All files that were named, by path.
    pub files: Vec<LoadFile>,
    /// The rows that go to the table, its columns by name and order, and behind them the name of their file. `None`: every
    /// file was loaded before.
    pub rows: Option<LogicalPlan>,
    /// For text: the rows that do not, as [`rejects_columns`] has them, and behind them the name of their file.
    pub rejects: Option<LogicalPlan>,
}

/// A file that COPY INTO names.
#[derive(Debug, Clone)]
pub struct LoadFile {
    /// As people write it.
    pub path: String,
    /// Its state.
    pub version: FileVersion,
    /// The state that was loaded before, if one was.
    pub known: Option<LedgerEntry>,
    /// Whether its rows are loaded.
    pub loads: bool,
}

/// The columns of a table of rejected rows: file, line, the row as it stands there, and why it was rejected.
///
/// # Errors
/// None: the types are those of any table.
pub fn rejects_columns() -> Result<Vec<Column>> {
    let text = |name| Field::new(name, DataType::Utf8, true);
    columns_from_arrow(&Schema::new(vec![
        text("file"),
        Field::new("line", DataType::Int64, true),
        text("raw"),
        text("reason"),
    ]))
}

/// What is read, however it is read.
struct Source {
    place: Place,
    options: FileOptions,
    files: Vec<ObjectMeta>,
    declared: Declared,
    /// The columns of the table that the files give, in their order; absent: by name.
    listed: Option<Vec<usize>>,
}

impl Planner {
    /// What COPY INTO reads and writes; `ledger` is what was loaded before, by path.
    ///
    /// # Errors
    /// As [`Planner::writable`], and for files that are missing or do not fit the table.
    pub async fn copy_into(&self, copy: &CopyInto, ledger: &HashMap<String, LedgerEntry>) -> Result<Loading> {
        let table = self.writable(&copy.table)?;
        self.loading(copy, ledger, table).await.map_err(|e| match e.position() {
            None => placed(e, copy.at),
            Some(_) => e,
        })
    }

    async fn loading(
        &self,
        copy: &CopyInto,
        ledger: &HashMap<String, LedgerEntry>,
        table: Arc<TableDef>,
    ) -> Result<Loading> {
        let place = Place::parse(&copy.pattern, self.settings.directory())?;
        let options = copy.options.0.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let options = FileOptions::parse(options, &copy.pattern)?;
        if options.kind == Kind::Parquet && copy.rejects.is_some() {
            return Err(Error::unsupported("rows of Parquet files are not rejected one by one")
                .hint("ON_ERROR = CONTINUE is for CSV and JSON"));
        }
        let listed = copy.columns.as_deref().map(|columns| targets(&table, Some(columns))).transpose()?;
        let found = FileTable::list(&self.environment, &place).await?;
        let file = |meta: &ObjectMeta| {
            let path = shown(&place.store, &meta.location);
            let version =
                FileVersion { bytes: meta.size, modified: meta.last_modified, etag: meta.e_tag.clone() };
            let known = ledger.get(&path).cloned();
            let same = known.as_ref().is_some_and(|entry| entry.load.version.same(&version));
            LoadFile { path, version, known, loads: copy.force || !same }
        };
        let files: Vec<LoadFile> = found.iter().map(file).collect();
        let wanted: Vec<ObjectMeta> =
            found.into_iter().zip(&files).filter(|(_, file)| file.loads).map(|(meta, _)| meta).collect();
        if wanted.is_empty() {
            return Ok(Loading { table, files, rows: None, rejects: None });
        }
        let declared = self.file_columns(&table, listed.as_deref(), &place, &wanted, &options).await?;
        let source = Source { place, options, files: wanted, declared, listed };
        let (rows, rejects) = match source.options.kind {
            Kind::Parquet => (self.strict(&source, &table).await?, None),
            Kind::Csv | Kind::Json => {
                let (taken, rejects) = self.lenient(&source, &table).await?;
                let goes_on = copy.rejects.is_some();
                (if goes_on { taken } else { self.strict(&source, &table).await? }, Some(rejects))
            }
        };
        Ok(Loading { table, files, rows: Some(rows), rejects })
    }

    async fn open(&self, source: &Source) -> Result<FileTable> {
        let (place, files) = (source.place.clone(), source.files.clone());
        let views = self.settings.view_types();
        let (options, declared) = (source.options.clone(), source.declared.clone());
        FileTable::of(&self.environment, place, files, options, declared, views).await
    }

    /// The rows, with an error for one that is wrong.
    async fn strict(&self, source: &Source, table: &TableDef) -> Result<LogicalPlan> {
        let files = self.open(source).await?;
        let places = places(table, files.columns(), source.listed.as_deref())?;
        let plan = scan(files.with_sources())?;
        let given: Vec<(Qualified, Field)> = plan
            .schema()
            .iter()
            .map(|(qualifier, field)| (Qualified::from((qualifier, field)), field.as_ref().clone()))
            .collect();
        let source = |at: usize| given.get(places[at]?);
        let plan = project(plan, &table.columns, source, &[], vec![column(SOURCE)])?;
        self.checked(plan, table)
    }

    /// The rows, and those that are wrong.
    async fn lenient(&self, source: &Source, table: &TableDef) -> Result<(LogicalPlan, LogicalPlan)> {
        let files = self.open(source).await?;
        let read = Arc::clone(files.columns());
        let places = places(table, &read, source.listed.as_deref())?;
        let layout = source.options.text(source.files[0].location.as_ref()).map(|format| format.layout);
        let layout = layout.ok_or_else(|| Error::internal("files of text have no layout"))?;
        let schema = table.arrow_schema();
        let (mut decoded, mut types) = (Vec::new(), Vec::new());
        for (at, place) in places.iter().enumerate() {
            if let Some(source) = *place {
                let of = &table.columns[at];
                decoded.push(Decoded { source, name: of.name.clone(), nullable: of.nullable });
                types.push(schema.field(at).data_type().clone());
            }
        }
        let row = functions::decode(column(RAW), column(UTF8), &layout, &read, &decoded, &types)?;
        let behind = || [column(LINE), column(RAW), column(SOURCE)];
        let rows = scan(files.with_sources().with_records())?;
        let rows = projected(rows, [row.alias(ROW)].into_iter().chain(behind()))?;
        let mut next = 0..;
        let mut exprs = Vec::with_capacity(table.columns.len() + 4);
        for ((of, field), place) in table.columns.iter().zip(schema.fields()).zip(&places) {
            let value = match place {
                Some(_) => get_field(column(ROW), next.next().unwrap_or(0).to_string()),
                None => absent(of, field.data_type())?,
            };
            exprs.push(value.alias(&of.name));
        }
        exprs.push(get_field(column(ROW), DECODE_REASON).alias(REASON));
        let rows = projected(rows, exprs.into_iter().chain(behind()))?;
        let columns = || table.columns.iter().map(|of| column(&of.name));
        let mut reason = when(column(REASON).is_not_null(), column(REASON));
        for (check, condition) in self.conditions(&table.columns, &table.checks)? {
            let said = format!("the row violates constraint '{}', CHECK ({})", check.name, check.sql);
            reason = reason.when(condition.is_false(), lit(said));
        }
        let reason = reason.end().map_err(error::from_datafusion)?.alias(REASON);
        let rows = projected(rows, columns().chain([reason]).chain(behind()))?;
        let filtered = |condition: Expr| {
            LogicalPlanBuilder::from(rows.clone())
                .filter(condition)
                .and_then(LogicalPlanBuilder::build)
                .map_err(error::from_datafusion)
        };
        let taken = filtered(column(REASON).is_null())?;
        let taken = projected(taken, columns().chain([column(SOURCE)]))?;
        let rejects = filtered(column(REASON).is_not_null())?;
        let rejects = projected(
            rejects,
            [
                column(SOURCE).alias("file"),
                column(LINE).alias("line"),
                column(RAW).alias("raw"),
                column(REASON).alias("reason"),
                column(SOURCE),
            ],
        )?;
        Ok((taken, rejects))
    }

    /// What the columns of the files are, as far as the table says it.
    async fn file_columns(
        &self,
        table: &TableDef,
        listed: Option<&[usize]>,
        place: &Place,
        files: &[ObjectMeta],
        options: &FileOptions,
    ) -> Result<Declared> {
        let schema = table.arrow_schema();
        let read = |at: usize| {
            let field = schema.field(at);
            Field::new(field.name(), text_type(field.data_type(), options.kind), true)
        };
        let fields: Vec<Field> = match (options.kind, listed) {
            // Parquet files say themselves what they hold.
            (Kind::Parquet, _) => return Ok(Declared::default()),
            (_, Some(listed)) => listed.iter().map(|&at| read(at)).collect(),
            (Kind::Csv, None) if options.csv.header => {
                let header = FileTable::headers(&self.environment, place, files, options).await?;
                let known: HashMap<&str, usize> = schema
                    .fields()
                    .iter()
                    .enumerate()
                    .map(|(at, field)| (field.name().as_str(), at))
                    .collect();
                let lower: HashMap<String, usize> =
                    known.iter().map(|(name, at)| (name.to_lowercase(), *at)).collect();
                let fields = header.iter().map(|name| {
                    let at = known.get(name.as_str()).or_else(|| lower.get(&name.to_lowercase()));
                    // A column that the table lacks is read past.
                    at.map_or_else(|| Field::new(name, DataType::Utf8, true), |&at| read(at))
                });
                fields.collect()
            }
            (_, None) => (0..schema.fields().len()).map(read).collect(),
        };
        Ok(Declared { columns: Some(Arc::new(Schema::new(fields))), partitions: Vec::new() })
    }
}

/// For each column of `table` its place among the columns of the files, if they have it.
fn places(table: &TableDef, files: &SchemaRef, listed: Option<&[usize]>) -> Result<Vec<Option<usize>>> {
    let columns = || table.columns.iter();
    if let Some(listed) = listed {
        if files.fields().len() != listed.len() {
            return Err(Error::invalid(format!(
                "the files have {} columns and {} are named",
                files.fields().len(),
                listed.len()
            )));
        }
        return Ok((0..columns().len()).map(|at| listed.iter().position(|&of| of == at)).collect());
    }
    let find = |name: &str| {
        let mut names = files.fields().iter().map(|field| field.name().as_str());
        let exact = names.clone().position(|other| other == name);
        exact.or_else(|| names.position(|other| other.eq_ignore_ascii_case(name)))
    };
    let places: Vec<Option<usize>> = columns().map(|column| find(&column.name)).collect();
    if places.iter().all(Option::is_none) {
        let theirs: Vec<&str> = files.fields().iter().map(|field| field.name().as_str()).collect();
        let ours: Vec<&str> = columns().map(|column| column.name.as_str()).collect();
        return Err(Error::invalid(format!("the files have none of the columns of table '{}'", table.name))
            .hint(format!("the files have {}; the table has {}", theirs.join(", "), ours.join(", "))));
    }
    Ok(places)
}

fn scan(files: FileTable) -> Result<LogicalPlan> {
    LogicalPlanBuilder::scan("files", provider_as_source(provide(Arc::new(files))), None)
        .and_then(LogicalPlanBuilder::build)
        .map_err(error::from_datafusion)
}

fn projected(plan: LogicalPlan, exprs: impl IntoIterator<Item = Expr>) -> Result<LogicalPlan> {
    LogicalPlanBuilder::from(plan)
        .project(exprs)
        .and_then(LogicalPlanBuilder::build)
        .map_err(error::from_datafusion)
}

fn column(name: &str) -> Expr {
    Expr::Column(Qualified::new_unqualified(name))
}

/// The type that a column is read with, from text; the cast to its own follows.
fn text_type(ty: &DataType, kind: Kind) -> DataType {
    match (ty, kind) {
        (DataType::Binary | DataType::FixedSizeBinary(_), _) => DataType::Utf8,
        (DataType::List(_) | DataType::Struct(_) | DataType::Map(..) | DataType::Interval(_), Kind::Csv) => {
            DataType::Utf8
        }
        (ty, _) => ty.clone(),
    }
}
