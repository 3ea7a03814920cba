//! SHOW and DESCRIBE: small tables about names, columns and settings.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use skep_catalog::TableDef;
use skep_common::{Error, Result};

use crate::boundary;
use crate::planner::{Planner, default_shown};
use crate::sql::{Described, Name, Statement};
use crate::{error, names, types};

/// The schema of the rows of a statement that shows something. `None` for other statements.
pub fn schema(statement: &Statement) -> Option<SchemaRef> {
    let one: [&str; 1];
    let names: &[&str] = match statement {
        Statement::ShowSchemas { .. } => &["schema_name"],
        Statement::ShowTables { .. } => &["table_schema", "table_name", "table_type"],
        Statement::ShowColumns { .. } | Statement::Describe(_) => {
            &["column_name", "data_type", "is_nullable", "column_default", "comment"]
        }
        Statement::ShowCreate { .. } => &["create_statement"],
        Statement::ShowPartitions { .. } => &["partition", "files", "rows", "bytes"],
        Statement::ShowProperties { .. } => &["property", "value"],
        Statement::Repair { .. } => &["partition", "files", "state"],
        Statement::ShowSnapshots => &["snapshot_id", "snapshot_time", "author", "message", "changes", "tags"],
        Statement::ShowTags => &["tag", "snapshot_id", "created_at"],
        Statement::ShowSettings { name: None } => &["name", "value", "default", "description"],
        Statement::ShowSettings { name: Some(name) } => {
            one = [name.as_str()];
            &one
        }
        _ => return None,
    };
    let fields = names.iter().map(|name| Field::new(*name, DataType::Utf8, true));
    Some(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

type Row = Vec<Option<String>>;

impl Planner {
    /// The rows of a statement that shows something, under [`schema`]. `None` for other statements.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for a name, with the nearest; those of planning a query to describe.
    pub async fn show(&self, statement: &Statement) -> Result<Option<RecordBatch>> {
        let Some(schema) = schema(statement) else { return Ok(None) };
        let rows = match statement {
            Statement::ShowSchemas { like } => self.schemas(like.as_deref()),
            Statement::ShowTables { schema, like } => self.tables(schema.as_deref(), like.as_deref())?,
            Statement::ShowColumns { table, like } => {
                let mut rows = self.columns(table).await?;
                rows.retain(|row| {
                    like.as_deref().is_none_or(|like| row[0].as_deref().is_some_and(|n| names::like(n, like)))
                });
                rows
            }
            Statement::Describe(Described::Table(table)) => self.columns(table).await?,
            Statement::Describe(Described::Query(query)) => {
                let plan = self.logical(query).await?;
                let output = boundary::output_schema(&plan);
                let nullable = plan.schema().fields().iter().map(|field| field.is_nullable());
                output
                    .fields()
                    .iter()
                    .zip(nullable)
                    .map(|(field, null)| column(field, null, None, None))
                    .collect()
            }
            Statement::ShowCreate { name } => vec![vec![Some(self.create_statement(name)?)]],
            Statement::ShowPartitions { table } => self.partitions_of(table).await?,
            Statement::ShowProperties { table, key } => self.properties_of(table, key.as_deref())?,
            Statement::Repair { table } => self.repair(table).await?,
            Statement::ShowSnapshots => self.snapshots().await?,
            Statement::ShowTags => self.tags().await?,
            Statement::ShowSettings { name: Some(name) } => vec![vec![Some(self.settings().get(name)?)]],
            Statement::ShowSettings { name: None } => self
                .settings()
                .list()
                .into_iter()
                .map(|info| vec![Some(info.name), Some(info.value), Some(info.default), Some(info.about)])
                .collect(),
            _ => return Ok(None),
        };
        batch(schema, &rows).map(Some)
    }

    fn schemas(&self, like: Option<&str>) -> Vec<Row> {
        let mut names: Vec<&str> = self.snapshot().schemas().map(|schema| schema.name.as_str()).collect();
        names.push(names::INFORMATION_SCHEMA);
        names.sort_unstable();
        names.retain(|name| like.is_none_or(|like| names::like(name, like)));
        names.into_iter().map(|name| vec![Some(name.to_owned())]).collect()
    }

    fn tables(&self, only: Option<&str>, like: Option<&str>) -> Result<Vec<Row>> {
        let snapshot = self.snapshot();
        if let Some(only) = only
            && snapshot.schema(only).is_none()
        {
            return Err(self.missing_schema(only));
        }
        let mut rows: Vec<(String, String, &str)> = Vec::new();
        for schema in snapshot.schemas().filter(|schema| only.is_none_or(|only| only == schema.name)) {
            rows.extend(
                snapshot.tables(&schema.name).map(|t| (schema.name.clone(), t.name.clone(), kind(t))),
            );
            rows.extend(snapshot.views(&schema.name).map(|v| (schema.name.clone(), v.name.clone(), "VIEW")));
        }
        rows.retain(|(_, name, _)| like.is_none_or(|like| names::like(name, like)));
        rows.sort_unstable();
        let row = |(schema, name, kind): (String, String, &str)| {
            vec![Some(schema), Some(name), Some(kind.to_owned())]
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// The error of a schema that does not exist, with the nearest that does.
    pub fn missing_schema(&self, name: &str) -> Error {
        let known: Vec<&str> = self.snapshot().schemas().map(|schema| schema.name.as_str()).collect();
        let error = Error::not_found(format!("schema '{name}' does not exist"));
        match names::nearest(name, known.iter().copied()) {
            Some(near) => error.hint(format!("did you mean '{near}'?")),
            None => error.hint(format!("schemas are {}", known.join(", "))),
        }
    }

    async fn columns(&self, name: &Name) -> Result<Vec<Row>> {
        let schema = name.schema_or(self.settings().schema());
        if let Some(table) = self.snapshot().table(schema, &name.name) {
            let columns = table.arrow_schema();
            let rows = columns.fields().iter().zip(&table.columns);
            return Ok(rows
                .map(|(field, own)| {
                    column(field, field.is_nullable(), default_shown(own), own.comment.clone())
                })
                .collect());
        }
        let provider: Arc<dyn TableProvider> = self.provider(name).await?;
        let columns = provider.schema();
        Ok(columns.fields().iter().map(|field| column(field, field.is_nullable(), None, None)).collect())
    }
}

fn kind(table: &TableDef) -> &'static str {
    if table.external.is_some() { "EXTERNAL TABLE" } else { "BASE TABLE" }
}

fn column(field: &Field, nullable: bool, default: Option<String>, comment: Option<String>) -> Row {
    let nullable = if nullable { "YES" } else { "NO" };
    vec![
        Some(field.name().clone()),
        Some(types::sql_name(field.data_type())),
        Some(nullable.to_owned()),
        default,
        comment,
    ]
}

fn batch(schema: SchemaRef, rows: &[Row]) -> Result<RecordBatch> {
    let columns = (0..schema.fields().len())
        .map(|at| Arc::new(rows.iter().map(|row| row[at].as_deref()).collect::<StringArray>()) as ArrayRef);
    RecordBatch::try_new(Arc::clone(&schema), columns.collect()).map_err(|e| error::from_datafusion(e.into()))
}
