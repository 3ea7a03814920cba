use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, Any,
    CommandPreparedStatementQuery, CommandPreparedStatementUpdate, DoPutPreparedStatementResult,
    DoPutUpdateResult, ProstMessageExt,
};
use arrow_flight::{FlightData, FlightDescriptor};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use skep_common::{Kind, Result};

use crate::support::{Client, Server, descriptor, numbers, schema, texts};

/// The result of creating a prepared statement, with the field that arrow-flight lacks.
#[derive(Clone, PartialEq, Message)]
struct Created {
    #[prost(bytes = "bytes", tag = "1")]
    handle: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    dataset_schema: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    parameter_schema: Bytes,
    #[prost(bool, optional, tag = "4")]
    is_update: Option<bool>,
}

async fn prepare(client: &mut Client, sql: &str) -> Result<Created> {
    let request = ActionCreatePreparedStatementRequest { query: sql.to_owned(), transaction_id: None };
    let body = client.action("CreatePreparedStatement", request.as_any().encode_to_vec()).await?.unwrap();
    let any = Any::decode(body).unwrap();
    assert!(any.type_url.ends_with("ActionCreatePreparedStatementResult"));
    Ok(Created::decode(any.value).unwrap())
}

async fn close(client: &mut Client, handle: &Bytes) {
    let request = ActionClosePreparedStatementRequest { prepared_statement_handle: handle.clone() };
    client.action("ClosePreparedStatement", request.as_any().encode_to_vec()).await.unwrap();
}

fn rows(ids: Vec<Option<i64>>, names: Vec<Option<&str>>) -> RecordBatch {
    let fields = vec![Field::new("0", DataType::Int64, true), Field::new("1", DataType::Utf8, true)];
    let columns = vec![Arc::new(Int64Array::from(ids)) as _, Arc::new(StringArray::from(names)) as _];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

async fn messages(descriptor: FlightDescriptor, batches: Vec<RecordBatch>) -> Vec<FlightData> {
    FlightDataEncoderBuilder::new()
        .with_flight_descriptor(Some(descriptor))
        .with_schema(batches[0].schema())
        .build(stream::iter(batches).map(Ok))
        .try_collect()
        .await
        .unwrap()
}

fn execution(handle: &Bytes) -> CommandPreparedStatementQuery {
    CommandPreparedStatementQuery { prepared_statement_handle: handle.clone() }
}

fn updating(handle: &Bytes) -> FlightDescriptor {
    descriptor(&CommandPreparedStatementUpdate { prepared_statement_handle: handle.clone() })
}

/// Binds, and gives the handle that the server answers with.
async fn bind(client: &mut Client, handle: &Bytes, batch: RecordBatch) -> Result<Bytes> {
    let messages = messages(descriptor(&execution(handle)), vec![batch]).await;
    let request = client.request(stream::iter(messages));
    let mut answers = client.flight.do_put(request).await?.into_inner();
    let answer = answers.message().await?.unwrap();
    let result = DoPutPreparedStatementResult::decode(answer.app_metadata).unwrap();
    Ok(result.prepared_statement_handle.unwrap())
}

#[tokio::test]
async fn preparing_tells_queries_from_updates() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.update("CREATE TABLE t (id BIGINT, s VARCHAR)").await.unwrap();
    let query = prepare(&mut client, "SELECT id, s FROM t").await.unwrap();
    assert_eq!(query.is_update, Some(false));
    assert!(query.parameter_schema.is_empty());
    let info = client.info_of(&execution(&query.handle)).await.unwrap();
    assert_eq!(schema(&query.dataset_schema), schema(&info.schema));
    let (found, _) = client.redeem(&info).await.unwrap();
    assert_eq!(*found, schema(&info.schema));

    let update = prepare(&mut client, "INSERT INTO t VALUES ($1, $2)").await.unwrap();
    assert_eq!((update.is_update, update.dataset_schema.len()), (Some(true), 0));
    let parameters = schema(&update.parameter_schema);
    let types: Vec<&DataType> = parameters.fields().iter().map(|field| field.data_type()).collect();
    assert_eq!(types, [&DataType::Int64, &DataType::Utf8]);
    let nowhere = prepare(&mut client, "INSERT INTO nowhere VALUES ($1)").await.unwrap_err();
    assert_eq!(nowhere.kind(), Kind::NotFound, "{nowhere:?}");
    let typed = prepare(&mut client, "SELECT s FROM t WHERE id = $1").await.unwrap();
    assert_eq!(schema(&typed.parameter_schema).field(0).data_type(), &DataType::Int64);
    assert_eq!(client.numbers("SELECT count(*) FROM t").await.unwrap(), [0]);
    close(&mut client, &query.handle).await;
    close(&mut client, &query.handle).await;
    let gone = client.info_of(&execution(&query.handle)).await.unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound);
}

#[tokio::test]
async fn an_update_runs_once_for_each_row_of_parameters() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.update("CREATE TABLE t (id BIGINT, s VARCHAR)").await.unwrap();
    let update = prepare(&mut client, "INSERT INTO t VALUES ($1, $2)").await.unwrap();
    let batches =
        vec![rows(vec![Some(1), Some(2)], vec![Some("a"), None]), rows(vec![Some(3)], vec![Some("it's")])];
    let sent = messages(updating(&update.handle), batches).await;
    assert_eq!(client.put(sent).await.unwrap(), 3);
    let found = client.query("SELECT id, coalesce(s, '-') AS s FROM t ORDER BY id").await.unwrap();
    assert_eq!(
        (numbers(&found), texts(&found, "s")),
        (vec![1, 2, 3], vec!["a".into(), "-".into(), "it's".into()])
    );

    // Bound first, then run by GetFlightInfo, as Python's cursor does.
    bind(&mut client, &update.handle, rows(vec![Some(4)], vec![Some("d")])).await.unwrap();
    let info = client.info_of(&execution(&update.handle)).await.unwrap();
    let (_, batches) = client.redeem(&info).await.unwrap();
    assert_eq!(numbers(&batches), [1]);
    assert_eq!(client.numbers("SELECT count(*) FROM t").await.unwrap(), [4]);
}

#[tokio::test]
async fn queries_use_the_rows_bound_last() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let query =
        prepare(&mut client, "SELECT CAST($1 AS BIGINT) * 10 AS n, CAST($2 AS VARCHAR) AS s").await.unwrap();
    let unbound = client.info_of(&execution(&query.handle)).await.unwrap_err();
    assert_eq!(unbound.kind(), Kind::Invalid);
    // Some drivers ignore the handle of the answer, so it is the one they have.
    let answered = bind(&mut client, &query.handle, rows(vec![Some(1)], vec![Some("a")])).await.unwrap();
    assert_eq!(answered, query.handle);
    let first = client.info_of(&execution(&query.handle)).await.unwrap();
    bind(&mut client, &query.handle, rows(vec![Some(2), Some(3)], vec![Some("b"), None])).await.unwrap();
    let second = client.info_of(&execution(&query.handle)).await.unwrap();
    // A ticket keeps the parameters it was made with.
    assert_eq!(numbers(&client.redeem(&first).await.unwrap().1), [10]);
    assert_eq!(numbers(&client.redeem(&second).await.unwrap().1), [20, 30]);
    let few = RecordBatch::try_new(
        Arc::new(Schema::new(vec![Field::new("0", DataType::Int64, true)])),
        vec![Arc::new(Int64Array::from(vec![1]))],
    );
    let wrong = bind(&mut client, &query.handle, few.unwrap()).await.unwrap_err();
    assert_eq!(wrong.kind(), Kind::Invalid);
}

#[tokio::test]
async fn f23_an_update_is_answered_before_the_client_closes_its_side() {
    let config =
        skep_server::flight::Config { answer_after: Duration::from_millis(20), ..Default::default() };
    let server = Server::with(config).await;
    let mut client = server.connect().await;
    client.update("CREATE TABLE t (id BIGINT, s VARCHAR)").await.unwrap();
    let update = prepare(&mut client, "INSERT INTO t VALUES ($1, $2)").await.unwrap();
    let sent = messages(updating(&update.handle), vec![rows(vec![Some(1)], vec![Some("a")])]).await;
    let request = client.request(stream::iter(sent).chain(stream::pending()));
    let mut answers = client.flight.do_put(request).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(DoPutUpdateResult::decode(answer.app_metadata).unwrap().record_count, 1);
    assert_eq!(client.numbers("SELECT count(*) FROM t").await.unwrap(), [1]);
}

#[tokio::test]
async fn parameters_without_values_are_refused_where_they_stand() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let error = client.info("SELECT $1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
}

/// UPDATE, DELETE and MERGE are updates, describe their parameters, and run once for each row of them.
#[tokio::test]
async fn statements_that_change_rows_take_parameters() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.update("CREATE TABLE t (id BIGINT, s VARCHAR)").await.unwrap();
    client.update("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')").await.unwrap();
    for (sql, batch, count, left) in [
        (
            "UPDATE t SET s = $2 WHERE id = $1",
            rows(vec![Some(1), Some(2), Some(9), None], vec![Some("x"), None, Some("no"), Some("no")]),
            2,
            vec!["1 x", "2 NULL", "3 c"],
        ),
        (
            "MERGE INTO t USING (SELECT $1 AS id) AS n ON t.id = n.id WHEN MATCHED THEN UPDATE SET s = $2 \
             WHEN NOT MATCHED THEN INSERT VALUES (n.id, $2)",
            rows(vec![Some(3), Some(4)], vec![Some("three"), Some("four")]),
            2,
            vec!["1 x", "2 NULL", "3 three", "4 four"],
        ),
        (
            "DELETE FROM t WHERE id = $1 OR s = $2",
            rows(vec![Some(1), None], vec![None, Some("four")]),
            2,
            vec!["2 NULL", "3 three"],
        ),
    ] {
        let prepared = prepare(&mut client, sql).await.unwrap();
        assert_eq!((prepared.is_update, prepared.dataset_schema.len()), (Some(true), 0), "{sql}");
        let types: Vec<DataType> =
            schema(&prepared.parameter_schema).fields().iter().map(|f| f.data_type().clone()).collect();
        assert_eq!(types.last(), Some(&DataType::Utf8), "{sql}");
        let sent = messages(updating(&prepared.handle), vec![batch]).await;
        assert_eq!(client.put(sent).await.unwrap(), count, "{sql}");
        let found =
            client.query("SELECT id || ' ' || coalesce(s, 'NULL') AS row FROM t ORDER BY id").await.unwrap();
        assert_eq!(texts(&found, "row"), left, "{sql}");
    }
}
