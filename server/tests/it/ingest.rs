use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::FlightData;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::sql::{
    CommandStatementIngest, TableDefinitionOptions, TableExistsOption, TableNotExistOption,
};
use futures::{StreamExt, TryStreamExt, stream};
use skep_common::Kind;

use crate::support::{Server, descriptor, texts};

fn rows(ids: Vec<i64>) -> RecordBatch {
    let names: Vec<String> = ids.iter().map(|id| format!("n{id}")).collect();
    let fields = vec![Field::new("name", DataType::LargeUtf8, true), Field::new("id", DataType::Int64, true)];
    let names = arrow::compute::cast(&StringArray::from(names), &DataType::LargeUtf8).unwrap();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![names, Arc::new(Int64Array::from(ids))]).unwrap()
}

async fn messages(
    table: &str,
    missing: TableNotExistOption,
    exists: TableExistsOption,
    batches: Vec<RecordBatch>,
) -> Vec<FlightData> {
    let options = TableDefinitionOptions { if_not_exist: missing.into(), if_exists: exists.into() };
    let command = CommandStatementIngest {
        table_definition_options: Some(options),
        table: table.to_owned(),
        schema: Some("lake".to_owned()),
        ..CommandStatementIngest::default()
    };
    FlightDataEncoderBuilder::new()
        .with_flight_descriptor(Some(descriptor(&command)))
        .with_schema(batches[0].schema())
        .build(stream::iter(batches).map(Ok))
        .try_collect()
        .await
        .unwrap()
}

use TableExistsOption::{Append, Fail as Refuse, Replace};
use TableNotExistOption::{Create, Fail as Demand};

#[tokio::test]
async fn rows_are_appended_created_and_replaced() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let none = client.put(messages("t", Demand, Append, vec![rows(vec![1])]).await).await.unwrap_err();
    assert_eq!(none.kind(), Kind::NotFound, "{none:?}");
    client.update("CREATE TABLE lake.t (id BIGINT, name VARCHAR, more DOUBLE)").await.unwrap();
    let batches = vec![rows(vec![1, 2]), rows(vec![3])];
    assert_eq!(client.put(messages("t", Demand, Append, batches).await).await.unwrap(), 3);
    let found = client.query("SELECT name FROM lake.t WHERE more IS NULL ORDER BY id").await.unwrap();
    assert_eq!(texts(&found, "name"), ["n1", "n2", "n3"]);
    let there = client.put(messages("t", Create, Refuse, vec![rows(vec![1])]).await).await.unwrap_err();
    assert_eq!(there.kind(), Kind::AlreadyExists, "{there:?}");
    assert_eq!(client.put(messages("u", Create, Refuse, vec![rows(vec![4])]).await).await.unwrap(), 1);
    assert_eq!(client.put(messages("u", Create, Replace, vec![rows(vec![5, 6])]).await).await.unwrap(), 2);
    assert_eq!(client.numbers("SELECT id FROM lake.u ORDER BY id").await.unwrap(), [5, 6]);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.update("CREATE TABLE lake.t (id BIGINT, name VARCHAR)").await.unwrap();
    let sent = messages("t", Demand, Append, vec![rows(vec![1, 2])]).await;
    let request = client.request(stream::iter(sent).chain(stream::pending()));
    let mut flight = client.flight.clone();
    let call = async move { flight.do_put(request).await.unwrap().into_inner().message().await.map(drop) };
    let unfinished = tokio::time::timeout(std::time::Duration::from_millis(300), call).await;
    assert!(unfinished.is_err(), "it is answered only when the client has sent everything");
    assert_eq!(client.numbers("SELECT count(*) FROM lake.t").await.unwrap(), [0]);
}

#[tokio::test]
async fn columns_that_the_table_lacks_are_named() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.update("CREATE TABLE lake.t (id BIGINT)").await.unwrap();
    let error = client.put(messages("t", Demand, Append, vec![rows(vec![1])]).await).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Invalid | Kind::NotFound), "{error:?}");
    assert!(error.message().contains("name"), "{error:?}");
    assert_eq!(client.numbers("SELECT count(*) FROM lake.t").await.unwrap(), [0]);
}
