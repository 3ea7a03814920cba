use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::sql::{
    ActionBeginTransactionRequest, ActionBeginTransactionResult, ActionCreatePreparedStatementRequest,
    ActionCreatePreparedStatementResult, ActionEndTransactionRequest, Any, CommandGetTables,
    CommandPreparedStatementQuery, CommandPreparedStatementUpdate, CommandStatementIngest,
    CommandStatementQuery, CommandStatementUpdate, EndTransaction, ProstMessageExt, TableDefinitionOptions,
    TableExistsOption, TableNotExistOption,
};
use arrow_flight::{FlightData, FlightInfo};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use skep_common::{Kind, Result};
use skep_server::flight::Config;

use crate::support::{Client, Server, descriptor, numbers, texts};

async fn begin(client: &mut Client) -> Result<Bytes> {
    let body = ActionBeginTransactionRequest {}.as_any().encode_to_vec();
    let answer = client.action("BeginTransaction", body).await?.unwrap();
    let result: ActionBeginTransactionResult = Any::decode(answer).unwrap().unpack().unwrap().unwrap();
    Ok(result.transaction_id)
}

async fn end(client: &mut Client, id: &Bytes, action: EndTransaction) -> Result<()> {
    let request = ActionEndTransactionRequest { transaction_id: id.clone(), action: action as i32 };
    let answer = client.action("EndTransaction", request.as_any().encode_to_vec()).await?;
    assert_eq!(answer, None);
    Ok(())
}

async fn info(client: &mut Client, sql: &str, id: &Bytes) -> Result<FlightInfo> {
    let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: Some(id.clone()) };
    client.info_of(&command).await
}

async fn query(client: &mut Client, sql: &str, id: &Bytes) -> Result<Vec<i64>> {
    let info = info(client, sql, id).await?;
    client.redeem(&info).await.map(|(_, batches)| numbers(&batches))
}

async fn update(client: &mut Client, sql: &str, id: &Bytes) -> Result<i64> {
    let command = CommandStatementUpdate { query: sql.to_owned(), transaction_id: Some(id.clone()) };
    client.put(vec![FlightData::new().with_descriptor(descriptor(&command))]).await
}

async fn prepare(client: &mut Client, sql: &str, id: &Bytes) -> Result<Bytes> {
    let request =
        ActionCreatePreparedStatementRequest { query: sql.to_owned(), transaction_id: Some(id.clone()) };
    let body = client.action("CreatePreparedStatement", request.as_any().encode_to_vec()).await?.unwrap();
    let result: ActionCreatePreparedStatementResult = Any::decode(body).unwrap().unpack().unwrap().unwrap();
    Ok(result.prepared_statement_handle)
}

/// Two rows for a table that is made if it is not there.
async fn ingested(table: &str, transaction_id: Option<Bytes>) -> Vec<FlightData> {
    let command = CommandStatementIngest {
        table_definition_options: Some(TableDefinitionOptions {
            if_not_exist: TableNotExistOption::Create.into(),
            if_exists: TableExistsOption::Append.into(),
        }),
        table: table.to_owned(),
        transaction_id,
        ..CommandStatementIngest::default()
    };
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
    let batch = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![1, 2]))]).unwrap();
    FlightDataEncoderBuilder::new()
        .with_flight_descriptor(Some(descriptor(&command)))
        .build(stream::iter([batch]).map(Ok))
        .try_collect()
        .await
        .unwrap()
}

const COUNT: &str = "SELECT count(*) FROM t";

#[tokio::test]
async fn statements_with_its_id_are_in_the_transaction_and_others_are_not() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.update("CREATE TABLE t (id BIGINT)").await.unwrap();
    let id = begin(&mut client).await.unwrap();
    assert_eq!(update(&mut client, "INSERT INTO t VALUES (1), (2)", &id).await.unwrap(), 2);
    info(&mut client, "INSERT INTO t VALUES (3)", &id).await.unwrap();
    assert_eq!(query(&mut client, COUNT, &id).await.unwrap(), [3]);
    assert_eq!(client.numbers(COUNT).await.unwrap(), [0]);
    // Without the id a statement commits by itself, and the transaction does not see it.
    client.update("CREATE TABLE other AS SELECT 1 AS id").await.unwrap();
    let unseen = query(&mut client, "SELECT count(*) FROM other", &id).await.unwrap_err();
    assert_eq!(unseen.kind(), Kind::NotFound);
    end(&mut client, &id, EndTransaction::Commit).await.unwrap();
    assert_eq!(client.numbers(COUNT).await.unwrap(), [3]);
}

#[tokio::test]
async fn a_rollback_leaves_nothing() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.update("CREATE TABLE t (id BIGINT)").await.unwrap();
    let (one, two) = (begin(&mut client).await.unwrap(), begin(&mut client).await.unwrap());
    update(&mut client, "INSERT INTO t VALUES (1)", &one).await.unwrap();
    update(&mut client, "INSERT INTO t VALUES (2), (3)", &two).await.unwrap();
    update(&mut client, "CREATE TABLE u (id BIGINT)", &one).await.unwrap();
    assert_eq!(query(&mut client, COUNT, &one).await.unwrap(), [1]);
    assert_eq!(query(&mut client, COUNT, &two).await.unwrap(), [2]);
    end(&mut client, &one, EndTransaction::Rollback).await.unwrap();
    end(&mut client, &two, EndTransaction::Commit).await.unwrap();
    assert_eq!(client.numbers(COUNT).await.unwrap(), [2]);
    assert_eq!(client.query("SELECT * FROM u").await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn what_has_ended_takes_no_statement() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.update("CREATE TABLE t (id BIGINT)").await.unwrap();
    let id = begin(&mut client).await.unwrap();
    update(&mut client, "INSERT INTO t VALUES (1)", &id).await.unwrap();
    let ticket = info(&mut client, COUNT, &id).await.unwrap();
    for statement in ["COMMIT", "ROLLBACK", "BEGIN"] {
        let refused = update(&mut client, statement, &id).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Invalid, "{statement}: {refused:?}");
        assert!(refused.hint_text().unwrap().contains("driver"), "{refused:?}");
    }
    let neither = end(&mut client, &id, EndTransaction::Unspecified).await.unwrap_err();
    assert_eq!(neither.kind(), Kind::Invalid);
    end(&mut client, &id, EndTransaction::Commit).await.unwrap();
    // Nothing may commit by itself that a client believes to be in a transaction.
    assert_eq!(
        update(&mut client, "INSERT INTO t VALUES (2)", &id).await.unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(client.redeem(&ticket).await.unwrap_err().kind(), Kind::NotFound);
    let again = end(&mut client, &id, EndTransaction::Commit).await.unwrap_err();
    assert_eq!(again.kind(), Kind::NotFound);
    assert_eq!(client.numbers(COUNT).await.unwrap(), [1]);
    for name in ["BeginSavepoint", "EndSavepoint"] {
        let refused = client.action(name, Vec::new()).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unsupported);
        assert!(refused.message().contains("savepoints"), "{refused:?}");
    }
    let foreign = update(&mut client, "INSERT INTO t VALUES (3)", &Bytes::from_static(b"x")).await;
    assert_eq!(foreign.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test]
async fn a_conflict_ends_the_transaction() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.update("CREATE TABLE t AS SELECT 1 AS id").await.unwrap();
    let id = begin(&mut client).await.unwrap();
    update(&mut client, "UPDATE t SET id = 2", &id).await.unwrap();
    client.update("UPDATE t SET id = 3").await.unwrap();
    let conflict = end(&mut client, &id, EndTransaction::Commit).await.unwrap_err();
    assert_eq!(conflict.kind(), Kind::Conflict, "{conflict:?}");
    assert_eq!(end(&mut client, &id, EndTransaction::Rollback).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(client.numbers("SELECT id FROM t").await.unwrap(), [3]);
}

#[tokio::test]
async fn a_failed_statement_leaves_the_transaction_open() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.update("CREATE TABLE t (id BIGINT)").await.unwrap();
    let id = begin(&mut client).await.unwrap();
    update(&mut client, "INSERT INTO t VALUES (1)", &id).await.unwrap();
    let failed = update(&mut client, "INSERT INTO t SELECT CAST('x' AS BIGINT)", &id).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Invalid, "{failed:?}");
    update(&mut client, "INSERT INTO t VALUES (2)", &id).await.unwrap();
    end(&mut client, &id, EndTransaction::Commit).await.unwrap();
    assert_eq!(client.numbers(COUNT).await.unwrap(), [2]);
}

#[tokio::test]
async fn a_session_that_ends_rolls_back_its_transactions() {
    let server = Server::start().await;
    let (mut client, mut other) = (server.connect().await, server.connect().await);
    client.update("CREATE TABLE t (id BIGINT)").await.unwrap();
    let id = begin(&mut client).await.unwrap();
    update(&mut client, "INSERT INTO t VALUES (1)", &id).await.unwrap();
    client.action("CloseSession", Vec::new()).await.unwrap();
    let ended = end(&mut client, &id, EndTransaction::Commit).await.unwrap_err();
    assert_eq!(ended.kind(), Kind::NotFound, "{ended:?}");
    assert_eq!(other.numbers(COUNT).await.unwrap(), [0]);
    let many = Server::with(Config { transactions_max: 2, ..Config::default() }).await;
    let mut client = many.connect().await;
    begin(&mut client).await.unwrap();
    begin(&mut client).await.unwrap();
    assert_eq!(begin(&mut client).await.unwrap_err().kind(), Kind::Exhausted);
}

/// Drivers keep a prepared statement over a commit, and begin the next transaction themselves.
#[tokio::test]
async fn a_prepared_statement_goes_on_in_the_next_transaction() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.update("CREATE TABLE t (id BIGINT)").await.unwrap();
    let first = begin(&mut client).await.unwrap();
    let insert = prepare(&mut client, "INSERT INTO t VALUES (1)", &first).await.unwrap();
    let count = prepare(&mut client, COUNT, &first).await.unwrap();
    let run = CommandPreparedStatementUpdate { prepared_statement_handle: insert };
    let run = || vec![FlightData::new().with_descriptor(descriptor(&run))];
    let count = CommandPreparedStatementQuery { prepared_statement_handle: count };
    assert_eq!(client.put(run()).await.unwrap(), 1);
    let ticket = client.info_of(&count).await.unwrap();
    assert_eq!(numbers(&client.redeem(&ticket).await.unwrap().1), [1]);
    assert_eq!(client.numbers(COUNT).await.unwrap(), [0]);
    end(&mut client, &first, EndTransaction::Commit).await.unwrap();
    // With no transaction open it does not commit by itself behind its client's back.
    assert_eq!(client.put(run()).await.unwrap_err().kind(), Kind::NotFound);
    let second = begin(&mut client).await.unwrap();
    assert_eq!(client.put(run()).await.unwrap(), 1);
    assert_eq!(client.numbers(COUNT).await.unwrap(), [1]);
    end(&mut client, &second, EndTransaction::Rollback).await.unwrap();
    assert_eq!(client.numbers(COUNT).await.unwrap(), [1]);
}

#[tokio::test]
async fn rows_are_ingested_inside_a_transaction() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let id = begin(&mut client).await.unwrap();
    for _ in 0..2 {
        assert_eq!(client.put(ingested("t", Some(id.clone())).await).await.unwrap(), 2);
    }
    assert_eq!(query(&mut client, COUNT, &id).await.unwrap(), [4]);
    assert_eq!(client.numbers(COUNT).await.unwrap_err().kind(), Kind::NotFound);
    end(&mut client, &id, EndTransaction::Commit).await.unwrap();
    assert_eq!(client.numbers(COUNT).await.unwrap(), [4]);
}

/// Drivers send listings and ingested rows without an id: in a session with one transaction they are meant for it.
#[tokio::test]
async fn what_has_no_id_goes_to_the_only_transaction() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let names = async |client: &mut Client| {
        let command =
            CommandGetTables { db_schema_filter_pattern: Some("main".to_owned()), ..Default::default() };
        let info = client.info_of(&command).await.unwrap();
        texts(&client.redeem(&info).await.unwrap().1, "table_name")
    };
    let one = begin(&mut client).await.unwrap();
    let (before, after) = (ingested("before", None).await, ingested("after", None).await);
    assert_eq!(client.put(before).await.unwrap(), 2);
    assert_eq!(names(&mut client).await, ["before"]);
    // With two it cannot be known for which.
    let two = begin(&mut client).await.unwrap();
    assert_eq!(client.put(after).await.unwrap(), 2);
    assert_eq!(names(&mut client).await, ["after"]);
    end(&mut client, &one, EndTransaction::Rollback).await.unwrap();
    end(&mut client, &two, EndTransaction::Rollback).await.unwrap();
    assert_eq!(names(&mut client).await, ["after"]);
}

#[tokio::test]
async fn settings_are_the_session_s_and_sql_s_own_transaction_stays_apart() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.update("CREATE TABLE t (id BIGINT)").await.unwrap();
    client.update("BEGIN").await.unwrap();
    client.update("INSERT INTO t VALUES (1)").await.unwrap();
    let id = begin(&mut client).await.unwrap();
    assert_eq!(query(&mut client, COUNT, &id).await.unwrap(), [0]);
    update(&mut client, "SET skep.schema = 'lake'", &id).await.unwrap();
    let gone = client.query(COUNT).await.unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound, "{gone:?}");
    assert_eq!(client.numbers("SELECT count(*) FROM main.t").await.unwrap(), [1]);
    end(&mut client, &id, EndTransaction::Commit).await.unwrap();
    client.update("COMMIT").await.unwrap();
    assert_eq!(client.numbers("SELECT count(*) FROM main.t").await.unwrap(), [1]);
}
