//! `information_schema`: the standard's tables about tables, from the snapshot.
//!
//! Tables have CHECK constraints and no keys; what lists keys is there, with the standard's columns and no rows, because
//! tools that look for relations between tables read it.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int32Array, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use skep_common::{Error, Result};

use super::tables::placed;
use super::{Planner, view};
use crate::sql::Name;
use crate::{error, names, types};

/// The columns of each table: texts, but for the numbers.
const COLUMNS: [(&str, &[&str]); 8] = [
    ("check_constraints", &["constraint_catalog", "constraint_schema", "constraint_name", "check_clause"]),
    (
        "columns",
        &[
            "table_catalog",
            "table_schema",
            "table_name",
            "column_name",
            POSITION,
            "column_default",
            "is_nullable",
            "data_type",
        ],
    ),
    (
        "key_column_usage",
        &[
            "constraint_catalog",
            "constraint_schema",
            "constraint_name",
            "table_catalog",
            "table_schema",
            "table_name",
            "column_name",
            POSITION,
            POSITION_IN_KEY,
        ],
    ),
    (
        "referential_constraints",
        &[
            "constraint_catalog",
            "constraint_schema",
            "constraint_name",
            "unique_constraint_catalog",
            "unique_constraint_schema",
            "unique_constraint_name",
            "match_option",
            "update_rule",
            "delete_rule",
        ],
    ),
    ("schemata", &["catalog_name", "schema_name", "schema_owner"]),
    (
        "table_constraints",
        &[
            "constraint_catalog",
            "constraint_schema",
            "constraint_name",
            "table_catalog",
            "table_schema",
            "table_name",
            "constraint_type",
            "is_deferrable",
            "initially_deferred",
        ],
    ),
    ("tables", &["table_catalog", "table_schema", "table_name", "table_type"]),
    ("views", &["table_catalog", "table_schema", "table_name", "definition"]),
];
const POSITION: &str = "ordinal_position";
const POSITION_IN_KEY: &str = "position_in_unique_constraint";

/// The tables of the schema with their columns.
pub fn schemas() -> impl Iterator<Item = (&'static str, SchemaRef)> {
    let field = |name: &&str| {
        let ty = if [POSITION, POSITION_IN_KEY].contains(name) { DataType::Int32 } else { DataType::Utf8 };
        Field::new(*name, ty, true)
    };
    COLUMNS.iter().map(move |(table, columns)| {
        (*table, Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>())))
    })
}

fn tables() -> impl Iterator<Item = &'static str> {
    COLUMNS.iter().map(|(table, _)| *table)
}

/// The table `name` of the schema.
pub(super) async fn table(planner: &Planner, name: &Name) -> Result<Arc<dyn TableProvider>> {
    let batch = match name.name.as_str() {
        "schemata" => schemata(planner)?,
        "tables" => tables_of(planner)?,
        "views" => views(planner)?,
        "columns" => columns(planner).await?,
        "check_constraints" => check_constraints(planner)?,
        "table_constraints" => table_constraints(planner)?,
        keys @ ("key_column_usage" | "referential_constraints") => RecordBatch::new_empty(schema_of(keys)?),
        other => {
            let error = Error::not_found(format!("table 'information_schema.{other}' does not exist"));
            let error = match names::nearest(other, tables()) {
                Some(near) => error.hint(format!("did you mean 'information_schema.{near}'?")),
                None => error.hint(format!("it has {}", tables().collect::<Vec<_>>().join(", "))),
            };
            return Err(placed(error, name.at));
        }
    };
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).map_err(error::from_datafusion)?;
    Ok(Arc::new(table))
}

fn schemata(planner: &Planner) -> Result<RecordBatch> {
    let mut names: Vec<&str> = planner.snapshot.schemas().map(|schema| schema.name.as_str()).collect();
    names.push(names::INFORMATION_SCHEMA);
    names.sort_unstable();
    batch(
        "schemata",
        vec![
            text(names.iter().map(|_| Some(names::CATALOG))),
            text(names.iter().map(|name| Some(*name))),
            text(names.iter().map(|_| None)),
        ],
    )
}

fn tables_of(planner: &Planner) -> Result<RecordBatch> {
    let snapshot = &planner.snapshot;
    let mut rows: Vec<(&str, &str, &str)> = Vec::new();
    for schema in snapshot.schemas() {
        rows.extend(
            snapshot.tables(&schema.name).map(|t| (schema.name.as_str(), t.name.as_str(), "BASE TABLE")),
        );
        rows.extend(snapshot.views(&schema.name).map(|v| (schema.name.as_str(), v.name.as_str(), "VIEW")));
    }
    rows.extend(tables().map(|name| (names::INFORMATION_SCHEMA, name, "VIEW")));
    rows.sort_unstable();
    batch(
        "tables",
        vec![
            text(rows.iter().map(|_| Some(names::CATALOG))),
            text(rows.iter().map(|row| Some(row.0))),
            text(rows.iter().map(|row| Some(row.1))),
            text(rows.iter().map(|row| Some(row.2))),
        ],
    )
}

fn views(planner: &Planner) -> Result<RecordBatch> {
    let snapshot = &planner.snapshot;
    let all = || snapshot.schemas().flat_map(|schema| snapshot.views(&schema.name));
    batch(
        "views",
        vec![
            text(all().map(|_| Some(names::CATALOG))),
            text(all().map(|view| Some(view.schema_name.as_str()))),
            text(all().map(|view| Some(view.name.as_str()))),
            text(all().map(|view| Some(view.sql.as_str()))),
        ],
    )
}

/// The constraints of all tables: schema, table, name and condition.
fn checks(planner: &Planner) -> Vec<[&str; 4]> {
    let snapshot = &planner.snapshot;
    let mut all = Vec::new();
    for schema in snapshot.schemas() {
        for table in snapshot.tables(&schema.name) {
            for check in &table.checks {
                all.push([
                    schema.name.as_str(),
                    table.name.as_str(),
                    check.name.as_str(),
                    check.sql.as_str(),
                ]);
            }
        }
    }
    all.sort_unstable();
    all
}

fn check_constraints(planner: &Planner) -> Result<RecordBatch> {
    let all = checks(planner);
    batch(
        "check_constraints",
        vec![
            text(all.iter().map(|_| Some(names::CATALOG))),
            text(all.iter().map(|check| Some(check[0]))),
            text(all.iter().map(|check| Some(check[2]))),
            text(all.iter().map(|check| Some(check[3]))),
        ],
    )
}

fn table_constraints(planner: &Planner) -> Result<RecordBatch> {
    let all = checks(planner);
    let same = |value: &'static str| text(all.iter().map(move |_| Some(value)));
    batch(
        "table_constraints",
        vec![
            same(names::CATALOG),
            text(all.iter().map(|check| Some(check[0]))),
            text(all.iter().map(|check| Some(check[2]))),
            same(names::CATALOG),
            text(all.iter().map(|check| Some(check[0]))),
            text(all.iter().map(|check| Some(check[1]))),
            same("CHECK"),
            same("NO"),
            same("NO"),
        ],
    )
}

/// One column of one table or view.
struct Described {
    schema: String,
    table: String,
    name: String,
    position: i32,
    nullable: bool,
    ty: String,
    default: Option<String>,
}

async fn columns(planner: &Planner) -> Result<RecordBatch> {
    let mut rows = Vec::new();
    for schema in planner.snapshot.schemas() {
        for table in planner.snapshot.tables(&schema.name) {
            let defaults: Vec<Option<String>> = table.columns.iter().map(super::constant::shown).collect();
            describe(&mut rows, &schema.name, &table.name, &table.arrow_schema(), &defaults);
        }
        for view in planner.snapshot.views(&schema.name) {
            // A view whose tables are gone has no columns.
            if let Ok(expanded) = view::expand(planner, view, &mut Vec::new()).await {
                describe(&mut rows, &schema.name, &view.name, &expanded.schema(), &[]);
            }
        }
    }
    batch(
        "columns",
        vec![
            text(rows.iter().map(|_| Some(names::CATALOG))),
            text(rows.iter().map(|row| Some(row.schema.as_str()))),
            text(rows.iter().map(|row| Some(row.table.as_str()))),
            text(rows.iter().map(|row| Some(row.name.as_str()))),
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.position))),
            text(rows.iter().map(|row| row.default.as_deref())),
            text(rows.iter().map(|row| Some(if row.nullable { "YES" } else { "NO" }))),
            text(rows.iter().map(|row| Some(row.ty.as_str()))),
        ],
    )
}

fn describe(
    rows: &mut Vec<Described>,
    schema: &str,
    table: &str,
    columns: &SchemaRef,
    defaults: &[Option<String>],
) {
    for (at, field) in columns.fields().iter().enumerate() {
        rows.push(Described {
            schema: schema.to_owned(),
            table: table.to_owned(),
            name: field.name().clone(),
            position: i32::try_from(at + 1).unwrap_or(i32::MAX),
            nullable: field.is_nullable(),
            ty: types::sql_name(field.data_type()),
            default: defaults.get(at).cloned().flatten(),
        });
    }
}

fn text<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn schema_of(table: &str) -> Result<SchemaRef> {
    let schema = schemas().find(|(name, _)| *name == table).map(|(_, schema)| schema);
    schema.ok_or_else(|| Error::internal(format!("information_schema has no '{table}'")))
}

fn batch(table: &str, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    RecordBatch::try_new(schema_of(table)?, columns).map_err(|e| error::from_datafusion(e.into()))
}
