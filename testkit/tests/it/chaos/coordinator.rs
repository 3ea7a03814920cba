//! The coordinator dies.

use skep_testkit::client::Client;
use skep_testkit::process::Cluster;
use skep_testkit::workers::{DEADLINE, until};

use super::{load, names, signal};

/// kill -9 of the coordinator in the middle of a durable write.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_dies_in_a_durable_write_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start_hasty(&folder.path().join("cluster"), 3);
    let mut client = load(&cluster, &folder.path().join("data")).await;
    client.update("SET skep.execution = durable").await.unwrap();
    let busy = |cluster: &Cluster| {
        (0..3).any(|worker| !names(&cluster.worker_folder(worker).join("durable")).is_empty())
    };
    let write = skep_common::task::spawn("write", async move {
        client
            .update(
                "CREATE TABLE w AS SELECT a.l_orderkey, a.l_comment, b.n_name, count(*) OVER (PARTITION BY a.l_partkey) AS c \
                 FROM lineitem a CROSS JOIN nation b",
            )
            .await
    });
    until("a task has written", || busy(&cluster)).await;
    signal(cluster.coordinator.pid(), "KILL");
    // The connection is cut: whoever waits hears of that, and can send the statement again.
    let error = write.join().await.unwrap().unwrap_err();
    assert!(error.kind().retryable() || error.report().contains("transport error"), "{error:?}");
    cluster.restart_coordinator();
    let mut client = Client::connect(cluster.flight()).await.unwrap();
    let tables =
        client.rows("SELECT table_name FROM information_schema.tables WHERE table_name = 'w'").await.unwrap();
    assert!(tables.is_empty(), "{tables:?}");
    until("outputs of the dead job are deleted", || !busy(&cluster)).await;
    client.update("SET skep.execution = durable").await.unwrap();
    let wait = async {
        // The workers find the coordinator again by themselves.
        while client.update("CREATE TABLE w AS SELECT count(*) AS n FROM lineitem").await.is_err() {}
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("the workers do not come back");
    let counted = client.rows("SELECT n FROM w").await.unwrap();
    let direct = client.rows("SELECT count(*) FROM lineitem").await.unwrap();
    assert_eq!(counted, direct);
}
