use std::collections::HashMap;

use arrow::array::{Array, BinaryArray, RecordBatch};
use arrow_flight::sql::{
    CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
    CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables,
    CommandGetXdbcTypeInfo, ProstMessageExt,
};
use prost::Message;

use crate::support::{Client, Server, descriptor, schema, texts};

/// The rows of a metadata command, whose schema is announced, described and streamed alike.
async fn ask(client: &mut Client, command: &impl ProstMessageExt) -> Vec<RecordBatch> {
    let info = client.info_of(command).await.unwrap();
    let told = client.flight.get_schema(descriptor(command)).await.unwrap().into_inner();
    let (found, batches) = client.redeem(&info).await.unwrap();
    assert_eq!(schema(&info.schema), *found);
    assert_eq!(schema(&told.schema), *found);
    batches
}

async fn server() -> (Server, Client) {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.update("CREATE TABLE lake.flights (id BIGINT NOT NULL, carrier VARCHAR)").await.unwrap();
    client.update("CREATE TABLE mart.delays AS SELECT 1 AS n").await.unwrap();
    client.update("CREATE VIEW mart.late AS SELECT n FROM mart.delays").await.unwrap();
    (server, client)
}

#[tokio::test]
async fn f9_f11_tables_are_listed_with_and_without_filters() {
    let (_server, mut client) = server().await;
    let mut names = async |request: CommandGetTables| {
        let batches = ask(&mut client, &request).await;
        let expected = if request.include_schema { 5 } else { 4 };
        assert!(batches.iter().all(|batch| batch.num_columns() == expected));
        texts(&batches, "table_name")
    };
    let all = CommandGetTables::default();
    let everything = names(all.clone()).await;
    assert!(
        ["flights", "delays", "late", "workers"].iter().all(|name| everything.contains(&(*name).to_owned()))
    );
    let of = |text: &str| Some(text.to_owned());
    let types = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let request = CommandGetTables { db_schema_filter_pattern: of("mar_"), ..all.clone() };
    assert_eq!(names(request).await, ["delays", "late"]);
    let request = CommandGetTables { table_name_filter_pattern: of("fl%"), catalog: of(""), ..all.clone() };
    assert_eq!(names(request).await, ["flights"]);
    let request = CommandGetTables {
        table_types: types(&["BASE TABLE", "table"]),
        include_schema: true,
        ..all.clone()
    };
    assert_eq!(names(request).await, ["flights", "delays"]);
    let request = CommandGetTables { table_types: types(&["VIEW"]), catalog: of("skep"), ..all.clone() };
    assert_eq!(names(request).await, ["late"]);
    let request = CommandGetTables { table_types: types(&["SYNONYM"]), ..all.clone() };
    assert_eq!(names(request).await, Vec::<String>::new());
    let request = CommandGetTables { catalog: of("other"), ..all };
    assert_eq!(names(request).await, Vec::<String>::new());
}

#[tokio::test]
async fn f12_the_schema_of_a_table_is_that_of_its_rows() {
    let (_server, mut client) = server().await;
    let request = CommandGetTables {
        table_name_filter_pattern: Some("flights".to_owned()),
        include_schema: true,
        ..CommandGetTables::default()
    };
    let batches = ask(&mut client, &request).await;
    let column = batches[0].column_by_name("table_schema").unwrap();
    let bytes = column.as_any().downcast_ref::<BinaryArray>().unwrap();
    assert_eq!(bytes.len(), 1);
    let listed = schema(&bytes::Bytes::copy_from_slice(bytes.value(0)));
    let info = client.info("SELECT * FROM lake.flights").await.unwrap();
    let queried = schema(&info.schema);
    let types = |schema: &arrow::datatypes::Schema| {
        schema.fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect::<Vec<_>>()
    };
    assert_eq!(types(&listed), types(&queried));
    let metadata: &HashMap<String, String> = listed.field(1).metadata();
    assert_eq!(metadata["ARROW:FLIGHT:SQL:TYPE_NAME"], "VARCHAR");
    assert_eq!(metadata["ARROW:FLIGHT:SQL:SCHEMA_NAME"], "lake");
}

#[tokio::test]
async fn catalogs_schemas_and_types_are_listed() {
    let (_server, mut client) = server().await;
    let catalogs = ask(&mut client, &CommandGetCatalogs {}).await;
    assert_eq!(texts(&catalogs, "catalog_name"), ["skep"]);
    let schemas = ask(&mut client, &CommandGetDbSchemas::default()).await;
    let names = texts(&schemas, "db_schema_name");
    for name in ["information_schema", "lake", "main", "mart", "warehouse"] {
        assert!(names.contains(&name.to_owned()), "{names:?}");
    }
    let some = CommandGetDbSchemas { catalog: None, db_schema_filter_pattern: Some("l%".to_owned()) };
    assert_eq!(texts(&ask(&mut client, &some).await, "db_schema_name"), ["lake"]);
    let standard = CommandGetTables {
        db_schema_filter_pattern: Some("information_schema".to_owned()),
        include_schema: true,
        ..Default::default()
    };
    let standard = ask(&mut client, &standard).await;
    let names = texts(&standard, "table_name");
    for name in ["columns", "key_column_usage", "schemata", "table_constraints", "tables", "views"] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }
    let types = ask(&mut client, &CommandGetTableTypes {}).await;
    assert_eq!(texts(&types, "table_type"), ["SYSTEM TABLE", "TABLE", "VIEW"]);
}

#[tokio::test]
async fn f2_f10_keys_types_and_info_answer() {
    let (_server, mut client) = server().await;
    let rows = |batches: Vec<RecordBatch>| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
    assert_eq!(rows(ask(&mut client, &CommandGetPrimaryKeys::default()).await), 0);
    assert_eq!(rows(ask(&mut client, &CommandGetImportedKeys::default()).await), 0);
    assert_eq!(rows(ask(&mut client, &CommandGetExportedKeys::default()).await), 0);
    assert_eq!(rows(ask(&mut client, &CommandGetCrossReference::default()).await), 0);
    assert!(rows(ask(&mut client, &CommandGetXdbcTypeInfo::default()).await) > 10);
    assert_eq!(rows(ask(&mut client, &CommandGetSqlInfo { info: vec![0, 8, 504] }).await), 3);
    assert!(rows(ask(&mut client, &CommandGetSqlInfo::default()).await) > 80);
}

#[derive(Clone, PartialEq, Message)]
struct Options {
    #[prost(map = "string, message", tag = "1")]
    options: HashMap<String, Text>,
}

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
struct Errors {
    #[prost(map = "string, message", tag = "1")]
    errors: HashMap<String, Code>,
}

#[derive(Clone, PartialEq, Message)]
struct Code {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[tokio::test]
async fn session_options_set_schema_and_settings() {
    let (_server, mut client) = server().await;
    let text = |text: &str| Text { text: text.to_owned() };
    let options = HashMap::from([
        ("catalog".to_owned(), text("skep")),
        ("schema".to_owned(), text("mart")),
        ("skep.execution".to_owned(), text("local")),
        ("no.such".to_owned(), text("1")),
    ]);
    let body =
        client.action("SetSessionOptions", Options { options }.encode_to_vec()).await.unwrap().unwrap();
    let errors = Errors::decode(body).unwrap().errors;
    assert_eq!(errors.keys().collect::<Vec<_>>(), ["no.such"]);
    assert_eq!(errors["no.such"].code, 1);
    let wrong = HashMap::from([("schema".to_owned(), text("nowhere")), ("catalog".to_owned(), text("x"))]);
    let body = client
        .action("SetSessionOptions", Options { options: wrong }.encode_to_vec())
        .await
        .unwrap()
        .unwrap();
    let errors = Errors::decode(body).unwrap().errors;
    assert_eq!((errors["schema"].code, errors["catalog"].code), (2, 2));
    let body = client.action("GetSessionOptions", Vec::new()).await.unwrap().unwrap();
    let options = Options::decode(body).unwrap().options;
    assert_eq!((options["catalog"].text.as_str(), options["schema"].text.as_str()), ("skep", "mart"));
    assert_eq!(client.numbers("SELECT n FROM delays").await.unwrap(), [1]);
}
