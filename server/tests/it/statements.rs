use arrow::datatypes::DataType;
use arrow_flight::FlightDescriptor;
use arrow_flight::sql::CommandStatementQuery;
use skep_common::{Kind, Position};

use crate::support::{Server, descriptor, numbers, schema};

#[tokio::test]
async fn f4_an_update_on_the_query_path_runs_exactly_once() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let created = client.info("CREATE TABLE t (id BIGINT)").await.unwrap();
    let outcome: serde_json::Value = serde_json::from_slice(&created.app_metadata).unwrap();
    assert_eq!((&outcome["tag"], &outcome["rows"]), (&"CREATE TABLE".into(), &serde_json::Value::Null));

    let inserted = client.info("INSERT INTO t VALUES (1), (2)").await.unwrap();
    let outcome: serde_json::Value = serde_json::from_slice(&inserted.app_metadata).unwrap();
    assert_eq!((&outcome["tag"], &outcome["rows"]), (&"INSERT".into(), &2.into()));
    // The ticket only tells the count, however often it is redeemed.
    for _ in 0..2 {
        let (found, batches) = client.redeem(&inserted).await.unwrap();
        assert_eq!(numbers(&batches), [2]);
        assert_eq!(*found, schema(&inserted.schema));
    }
    assert_eq!(client.numbers("SELECT id FROM t ORDER BY id").await.unwrap(), [1, 2]);
    let again = client.info("CREATE TABLE t (id BIGINT)").await.unwrap_err();
    assert_eq!(again.kind(), Kind::AlreadyExists);
}

#[tokio::test]
async fn updates_by_do_put_answer_with_their_count() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    assert_eq!(client.update("CREATE TABLE t (id BIGINT)").await.unwrap(), 0);
    assert_eq!(client.update("INSERT INTO t VALUES (1), (2), (3)").await.unwrap(), 3);
    assert_eq!(client.numbers("SELECT count(*) FROM t").await.unwrap(), [3]);
    let query = client.update("SELECT 1").await.unwrap_err();
    assert_eq!(query.kind(), Kind::Invalid);
}

#[tokio::test]
async fn f5_f19_the_schema_is_the_same_wherever_it_is_told() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.update("CREATE TABLE t (id BIGINT NOT NULL, s VARCHAR, d DECIMAL(10, 2))").await.unwrap();
    client.update("INSERT INTO t VALUES (1, 'a', 1.5)").await.unwrap();
    for sql in [
        "SELECT id, s, d, s || 'x' AS e, count(*) OVER () AS n FROM t",
        "SELECT s, sum(d) AS d FROM t GROUP BY s",
        "SELECT 1 AS one, 'x' AS x, NULL AS nothing",
        "SHOW TABLES",
        "EXPLAIN SELECT * FROM t",
    ] {
        let info = client.info(sql).await.unwrap();
        let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
        let told = client.flight.get_schema(descriptor(&command)).await.unwrap().into_inner();
        let (found, batches) = client.redeem(&info).await.unwrap();
        assert_eq!(schema(&info.schema), *found, "{sql}");
        assert_eq!(schema(&told.schema), *found, "{sql}");
        assert!(batches.iter().all(|batch| batch.schema() == found), "{sql}");
        let views = found.fields().iter().any(|field| field.data_type() == &DataType::Utf8View);
        assert!(!views, "{sql}");
    }
}

#[tokio::test]
async fn errors_keep_kind_place_and_hint() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.update("CREATE TABLE flights (id BIGINT)").await.unwrap();
    let unknown = client.info("SELECT *\nFROM flihgts").await.unwrap_err();
    assert_eq!(unknown.kind(), Kind::NotFound, "{unknown:?}");
    assert_eq!(unknown.position(), Some(Position { line: 2, column: 6 }), "{unknown:?}");
    assert!(unknown.hint_text().unwrap_or_default().contains("flights"), "{unknown:?}");
    let syntax = client.info("SELECT 1 FORM t").await.unwrap_err();
    assert_eq!(syntax.kind(), Kind::Invalid, "{syntax:?}");
    assert!(syntax.position().is_some(), "{syntax:?}");
    let late = client.query("SELECT CAST(s AS BIGINT) FROM (VALUES ('1'), ('x')) AS v(s)").await.unwrap_err();
    assert_eq!(late.kind(), Kind::Invalid, "{late:?}");
    assert_eq!(client.numbers("SELECT 1").await.unwrap(), [1]);
}

#[tokio::test]
async fn a_long_error_stays_one() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let sql = format!("SELECT {} FROM nowhere", "x".repeat(20_000));
    let error = client.info(&sql).await.unwrap_err();
    assert_ne!(error.kind(), Kind::Internal, "{error:?}");
}

#[tokio::test]
async fn bytes_that_are_no_command_are_refused() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    for bytes in [&b""[..], b"garbage", &[0xff; 100], b"\x0a\x03abc\x12\x01x"] {
        let request = client.request(FlightDescriptor::new_cmd(bytes.to_vec()));
        let refused = client.flight.get_flight_info(request).await.unwrap_err();
        assert!(
            matches!(refused.code(), tonic::Code::InvalidArgument | tonic::Code::Unimplemented),
            "{bytes:?}: {refused}"
        );
        let ticket = client.get(arrow_flight::Ticket::new(bytes.to_vec())).await.unwrap_err();
        assert!(matches!(ticket.kind(), Kind::Invalid | Kind::Unsupported), "{bytes:?}: {ticket:?}");
    }
    let path = client.request(FlightDescriptor::new_path(vec!["x".to_owned()]));
    assert!(client.flight.get_flight_info(path).await.is_err());
    let action = client.action("Unknown", Vec::new()).await.unwrap_err();
    assert_eq!(action.kind(), Kind::Unsupported);
}

#[tokio::test]
async fn a_table_that_changes_between_plan_and_fetch_is_a_conflict() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.update("CREATE TABLE t AS SELECT 1 AS a").await.unwrap();
    let info = client.info("SELECT * FROM t").await.unwrap();
    client.update("DROP TABLE t").await.unwrap();
    client.update("CREATE TABLE t AS SELECT 'x' AS b").await.unwrap();
    let stale = client.redeem(&info).await.unwrap_err();
    assert_eq!(stale.kind(), Kind::Conflict, "{stale:?}");
}
