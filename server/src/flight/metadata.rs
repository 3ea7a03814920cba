//! Catalogs, schemas, tables, keys and types, as the Flight SQL commands ask for them.
//!
//! A metadata command is its own ticket: it is answered from the catalog when redeemed. [`schema`] and [`rows`] agree
//! on the schema, command by command.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{GetCatalogsBuilder, GetDbSchemasBuilder, GetTablesBuilder};
use arrow_flight::sql::{Command, CommandGetTableTypes, CommandGetTables};
use skep_common::{Error, Result};
use skep_coordinator::{Session, TableFilter, TableInfo, TableKind};
use skep_engine::types::sql_name;

use super::types::key;
use super::{sql_info, types};

/// The name of the only catalog.
pub(crate) const CATALOG: &str = "skep";
/// The table types that are reported.
const TABLE_TYPES: [&str; 3] = ["SYSTEM TABLE", "TABLE", "VIEW"];

/// The schema of the rows that answer `command`; nothing if it is not about metadata.
pub(crate) fn schema(command: &Command) -> Option<SchemaRef> {
    Some(match command {
        Command::CommandGetCatalogs(_) => GetCatalogsBuilder::new().schema(),
        Command::CommandGetDbSchemas(_) => GetDbSchemasBuilder::new(None::<String>, None::<String>).schema(),
        Command::CommandGetTables(request) => request.clone().into_builder().schema(),
        Command::CommandGetTableTypes(_) => (CommandGetTableTypes {}).into_builder().schema(),
        Command::CommandGetSqlInfo(_) => sql_info::data().schema(),
        Command::CommandGetXdbcTypeInfo(_) => types::xdbc().schema(),
        Command::CommandGetPrimaryKeys(_) => primary_keys(),
        Command::CommandGetImportedKeys(_)
        | Command::CommandGetExportedKeys(_)
        | Command::CommandGetCrossReference(_) => foreign_keys(),
        _ => return None,
    })
}

/// The rows that answer `command`.
///
/// # Errors
/// Those of reading the catalog; [`Kind::Unsupported`](skep_common::Kind::Unsupported) for a command without
/// [`schema`].
pub(crate) async fn rows(session: &Session, command: Command) -> Result<RecordBatch> {
    match command {
        Command::CommandGetCatalogs(_) => {
            let mut builder = GetCatalogsBuilder::new();
            builder.append(CATALOG);
            builder.build().map_err(internal)
        }
        Command::CommandGetDbSchemas(request) => {
            let pattern = meaningful(request.db_schema_filter_pattern);
            let mut builder = GetDbSchemasBuilder::new(meaningful(request.catalog), pattern);
            for schema in session.schemas().await? {
                builder.append(CATALOG, schema);
            }
            builder.build().map_err(internal)
        }
        Command::CommandGetTables(request) => tables(session, request).await,
        Command::CommandGetTableTypes(request) => {
            let mut builder = request.into_builder();
            TABLE_TYPES.iter().for_each(|name| builder.append(name));
            builder.build().map_err(internal)
        }
        Command::CommandGetSqlInfo(request) => {
            request.into_builder(sql_info::data()).build().map_err(internal)
        }
        Command::CommandGetXdbcTypeInfo(request) => {
            request.into_builder(types::xdbc()).build().map_err(internal)
        }
        other => match schema(&other) {
            Some(schema) => Ok(RecordBatch::new_empty(schema)),
            None => Err(Error::unsupported(format!("command '{}' is not supported", other.type_url()))),
        },
    }
}

async fn tables(session: &Session, request: CommandGetTables) -> Result<RecordBatch> {
    let schema = meaningful(request.db_schema_filter_pattern);
    let table = meaningful(request.table_name_filter_pattern);
    let mut kinds: Vec<&str> = request.table_types.iter().filter_map(|name| table_type(name)).collect();
    if kinds.is_empty() && !request.table_types.is_empty() {
        // Only types that we do not have were asked for.
        kinds.push("");
    }
    let filter = TableFilter { schema: schema.clone(), table: table.clone() };
    let listed = session.tables(&filter).await?;
    let mut builder =
        GetTablesBuilder::new(meaningful(request.catalog), schema, table, kinds, request.include_schema);
    for info in &listed {
        let columns = if request.include_schema { columns(info) } else { Schema::empty() };
        builder
            .append(&info.catalog, &info.schema, &info.name, kind_name(info.kind), &columns)
            .map_err(internal)?;
    }
    builder.build().map_err(internal)
}

/// No filter where a client sent an empty one, meaning the same.
fn meaningful(filter: Option<String>) -> Option<String> {
    filter.filter(|text| !text.is_empty())
}

/// Our name of a table type, from the names that clients use.
fn table_type(name: &str) -> Option<&'static str> {
    match name.to_ascii_uppercase().as_str() {
        "TABLE" | "BASE TABLE" | "LOCAL TABLE" | "EXTERNAL TABLE" => Some("TABLE"),
        "VIEW" => Some("VIEW"),
        "SYSTEM TABLE" | "SYSTEM VIEW" => Some("SYSTEM TABLE"),
        _ => None,
    }
}

fn kind_name(kind: TableKind) -> &'static str {
    match kind {
        TableKind::Table => "TABLE",
        TableKind::View => "VIEW",
        TableKind::System => "SYSTEM TABLE",
    }
}

/// The columns of a table, with the metadata by which drivers fill in `getColumns`.
fn columns(info: &TableInfo) -> Schema {
    let describe = |field: &FieldRef| {
        let mut metadata = HashMap::from([
            (key("CATALOG_NAME"), info.catalog.clone()),
            (key("SCHEMA_NAME"), info.schema.clone()),
            (key("TABLE_NAME"), info.name.clone()),
            (key("TYPE_NAME"), sql_name(field.data_type())),
            (key("IS_AUTO_INCREMENT"), "0".to_owned()),
            (key("IS_CASE_SENSITIVE"), "1".to_owned()),
            (key("IS_READ_ONLY"), if info.kind == TableKind::Table { "0" } else { "1" }.to_owned()),
            (key("IS_SEARCHABLE"), "1".to_owned()),
        ]);
        if let Some((precision, scale)) = types::precision(field.data_type()) {
            metadata.insert(key("PRECISION"), precision.to_string());
            metadata.insert(key("SCALE"), scale.to_string());
        }
        if let Some(comment) = field.metadata().get("comment") {
            metadata.insert(key("REMARKS"), comment.clone());
        }
        field.as_ref().clone().with_metadata(metadata)
    };
    Schema::new(info.columns.fields().iter().map(describe).collect::<Vec<Field>>())
}

fn primary_keys() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("catalog_name", DataType::Utf8, true),
        Field::new("db_schema_name", DataType::Utf8, true),
        Field::new("table_name", DataType::Utf8, false),
        Field::new("column_name", DataType::Utf8, false),
        Field::new("key_name", DataType::Utf8, true),
        Field::new("key_sequence", DataType::Int32, false),
    ]))
}

fn foreign_keys() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("pk_catalog_name", DataType::Utf8, true),
        Field::new("pk_db_schema_name", DataType::Utf8, true),
        Field::new("pk_table_name", DataType::Utf8, false),
        Field::new("pk_column_name", DataType::Utf8, false),
        Field::new("fk_catalog_name", DataType::Utf8, true),
        Field::new("fk_db_schema_name", DataType::Utf8, true),
        Field::new("fk_table_name", DataType::Utf8, false),
        Field::new("fk_column_name", DataType::Utf8, false),
        Field::new("key_sequence", DataType::Int32, false),
        Field::new("fk_key_name", DataType::Utf8, true),
        Field::new("pk_key_name", DataType::Utf8, true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
}

fn internal(error: FlightError) -> Error {
    Error::internal("cannot build the metadata rows").source(error)
}

#[cfg(test)]
mod tests {
    use arrow_flight::sql::{CommandGetExportedKeys, CommandGetPrimaryKeys};

    use super::*;

    #[test]
    fn table_types_of_every_client_are_known() {
        for (name, ours) in [("table", "TABLE"), ("BASE TABLE", "TABLE"), ("View", "VIEW")] {
            assert_eq!(table_type(name), Some(ours));
        }
        assert_eq!(table_type("SYNONYM"), None);
    }

    #[test]
    fn include_schema_decides_the_columns() {
        let request = |include_schema| {
            Command::CommandGetTables(CommandGetTables { include_schema, ..CommandGetTables::default() })
        };
        assert_eq!(schema(&request(false)).unwrap().fields().len(), 4);
        assert_eq!(schema(&request(true)).unwrap().fields().len(), 5);
    }

    #[test]
    fn keys_are_typed_although_empty() {
        let keys = schema(&Command::CommandGetPrimaryKeys(CommandGetPrimaryKeys::default())).unwrap();
        assert_eq!(keys.field(5).data_type(), &DataType::Int32);
        let exported = schema(&Command::CommandGetExportedKeys(CommandGetExportedKeys::default())).unwrap();
        assert_eq!(exported.fields().len(), 13);
    }

    #[test]
    fn columns_carry_what_drivers_read() {
        let fields = vec![
            Field::new("price", DataType::Decimal128(10, 2), true)
                .with_metadata(HashMap::from([("comment".to_owned(), "in euro".to_owned())])),
            Field::new("name", DataType::Utf8, false),
        ];
        let info = TableInfo {
            catalog: CATALOG.into(),
            schema: "lake".into(),
            name: "t".into(),
            kind: TableKind::Table,
            columns: Arc::new(Schema::new(fields)),
            comment: None,
        };
        let columns = columns(&info);
        let price = columns.field(0).metadata();
        assert_eq!(price["ARROW:FLIGHT:SQL:TYPE_NAME"], "DECIMAL(10, 2)");
        assert_eq!(
            (price["ARROW:FLIGHT:SQL:PRECISION"].as_str(), price["ARROW:FLIGHT:SQL:SCALE"].as_str()),
            ("10", "2")
        );
        assert_eq!(price["ARROW:FLIGHT:SQL:REMARKS"], "in euro");
        assert_eq!(columns.field(1).data_type(), &DataType::Utf8);
        assert_eq!(columns.field(1).metadata()["ARROW:FLIGHT:SQL:TYPE_NAME"], "VARCHAR");
    }
}
