//! The memory of statements: their share on every node, and what no operator accounts for.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::execution::SessionStateBuilder;
use futures::TryStreamExt;
use skep_common::{Kind, Result};
use skep_coordinator::lanes::Lane;
use skep_engine::memory::Share;
use skep_testkit::client::Client;
use skep_testkit::process::{Server, skep};
use skep_testkit::workers::Cluster;

/// The coordinator of this cluster gives the statement all it wants: only workers can refuse.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_keeps_to_its_share_on_workers() {
    let cluster = Cluster::start(3, Vec::new()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for file in 0..6 {
        let path = folder.path().join(format!("{file}.parquet"));
        let sql = format!(
            "COPY (SELECT v * 7919 % 1000003 AS v FROM generate_series(1, 1000002) AS g(v)) TO '{}'",
            path.display()
        );
        cluster.context.sql(&sql).await.unwrap().collect().await.unwrap();
    }
    cluster.table("t", folder.path()).await.unwrap();
    for lane in [Lane::Pipelined, Lane::Durable] {
        let run = async |percent: u8| -> Result<Vec<RecordBatch>> {
            let sql = "SELECT array_length(array_agg(v || repeat('x', 20))) AS n FROM t";
            let mut job = cluster.job(sql, Some(lane)).await?;
            let mut builder = SessionStateBuilder::new_from_existing(job.state);
            let share = Share { group: "lean".to_owned(), percent };
            builder.config().get_or_insert_default().set_extension(Arc::new(share));
            job.state = builder.build();
            let running = cluster.lanes.run(job).await?;
            assert_eq!((running.ran.lane(), running.ran.fallback()), (Some(lane), None));
            running.stream.try_collect().await.map_err(|e| skep_cluster::failure::from_datafusion(&e))
        };
        let error = run(1).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Exhausted, "{lane:?}: {error:?}");
        assert!(error.report().contains("of group 'lean' may take"), "{lane:?}: {error:?}");
        assert!(error.report().contains("operator '"), "{lane:?}: {error:?}");
        let rows = skep_testkit::rows::text(&run(100).await.unwrap()).unwrap();
        assert_eq!(rows, [["6000012"]], "{lane:?}");
    }
}

/// Each batch of this is more than a gigabyte, which no operator asks the pool for.
fn uncounted(rows: u64) -> String {
    format!(
        "SELECT max(length(repeat('x', CAST(200000 + v % 3 AS BIGINT)))) FROM generate_series(1, {rows}) AS s(v)"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_over_its_limit_ends_the_statement_and_lives() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut command =
        skep(&["up", "--store=file", "--flight=127.0.0.1:0", "--http=127.0.0.1:0", "--workers=2"]);
    command.args(["--memory=200MiB", "--memory-limit=600MiB", "--data", data.to_str().unwrap()]);
    let server = Server::start_command(command).unwrap();
    let mut client = Client::connect(server.flight()).await.unwrap();

    let error = client.rows(&uncounted(1_000_000)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted, "{error:?}");
    assert!(error.message().contains("more than the 600 MiB that it may"), "{error:?}");
    assert!(error.hint_text().unwrap().contains("--memory-limit"), "{error:?}");
    // What the hint says helps.
    client.update("SET skep.batch_size = 64").await.unwrap();
    assert_eq!(client.rows(&uncounted(8192)).await.unwrap(), [["200002"]]);
    let sql = "SELECT state, error_kind FROM system.queries WHERE statement LIKE 'SELECT max(length%' ORDER BY created_at";
    assert_eq!(client.rows(sql).await.unwrap(), [["failed", "exhausted"], ["finished", "NULL"]]);
}

#[test]
fn a_limit_below_the_budget_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = skep(&["up", "--flight=127.0.0.1:0", "--http=127.0.0.1:0"]);
    command.args(["--memory=2GiB", "--memory-limit=1GiB", "--data", folder.path().to_str().unwrap()]);
    let output = skep_testkit::process::output(command);
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains("1 GiB, is less than its memory for queries, 2 GiB"), "{output:?}");
}
