use arrow::datatypes::{DataType, TimeUnit};
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
async fn f24_errors_keep_kind_place_and_hint() {
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
async fn f15_a_long_error_stays_one() {
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

/// Types inside the engine that clients do not know come out as those they do; times keep their zone.
#[tokio::test]
async fn f6_f7_results_have_types_that_every_client_knows() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client
        .update("CREATE TABLE t (s VARCHAR, b BINARY, z TIMESTAMP WITH TIME ZONE, l VARCHAR[])")
        .await
        .unwrap();
    client
        .update("INSERT INTO t VALUES ('text', X'00ff', TIMESTAMP '2013-07-01 12:00:00', ['a', 'b'])")
        .await
        .unwrap();
    let info =
        client.info("SELECT s, b, z, l, upper(s) AS u, CAST(s AS VARCHAR) || 'x' AS x FROM t").await.unwrap();
    let (found, batches) = client.redeem(&info).await.unwrap();
    let types: Vec<&DataType> = found.fields().iter().map(|field| field.data_type()).collect();
    let item = match types[3] {
        DataType::List(item) => item.data_type(),
        other => panic!("{other}"),
    };
    assert_eq!((types[0], types[1], item), (&DataType::Utf8, &DataType::Binary, &DataType::Utf8));
    assert_eq!((types[4], types[5]), (&DataType::Utf8, &DataType::Utf8));
    assert_eq!(types[2], &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
    let shown = arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
    assert!(shown.contains("2013-07-01T12:00:00Z"), "{shown}");
}

/// Drivers that read the first endpoint only get everything, and nobody is sent to an address that they cannot reach.
#[tokio::test]
async fn f13_f14_a_result_has_one_endpoint_and_no_location() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let info = client.info("SELECT value FROM generate_series(1, 300000)").await.unwrap();
    assert_eq!(info.endpoint.len(), 1);
    assert!(info.endpoint[0].location.is_empty() && info.endpoint[0].expiration_time.is_some());
    assert!(info.ordered);
    let (_, batches) = client.redeem(&info).await.unwrap();
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 300_000);
}

/// Drivers copy what they do not know of their URL into headers.
#[tokio::test]
async fn f20_long_headers_are_taken() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.headers.insert("application", "x".repeat(30_000).parse().unwrap());
    assert_eq!(client.numbers("SELECT 1").await.unwrap(), [1]);
    client.headers.insert("application", "x".repeat(100_000).parse().unwrap());
    assert!(client.numbers("SELECT 1").await.is_err());
    let mut other = server.connect().await;
    assert_eq!(other.numbers("SELECT 1").await.unwrap(), [1]);
}

/// Decimals say their precision and scale where drivers read them, the same in every schema.
#[tokio::test]
async fn decimals_tell_their_precision() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let info = client.info("SELECT CAST(1.5 AS DECIMAL(10, 2)) AS d, 1 AS i").await.unwrap();
    let (found, _) = client.redeem(&info).await.unwrap();
    assert_eq!(schema(&info.schema), *found);
    let metadata = found.field(0).metadata();
    assert_eq!(
        (metadata["ARROW:FLIGHT:SQL:PRECISION"].as_str(), metadata["ARROW:FLIGHT:SQL:SCALE"].as_str()),
        ("10", "2")
    );
    assert!(found.field(1).metadata().is_empty());
}
