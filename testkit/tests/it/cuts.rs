//! Links between nodes that are cut while statements run: the durable lane goes around them, the pipelined one too until its
//! first row has left, and no statement waits for a peer that says nothing longer than it was told to.

use skep_common::Error;
use skep_testkit::client::Client;
use skep_testkit::links::{Cut, Node};
use skep_testkit::process::Cluster;
use skep_testkit::rows;
use skep_testkit::workers::DEADLINE;

const W: [Node; 4] = [Node::Worker(0), Node::Worker(1), Node::Worker(2), Node::Worker(3)];

/// A table that every worker holds a part of, and a question with several exchanges.
const MAKE: &str =
    "CREATE TABLE t AS SELECT value AS n, value % 97 AS k FROM generate_series(1, 100000) AS s(value)";
const ASK: &str =
    "SELECT a.k, count(*) AS c, sum(b.n) AS s FROM t a JOIN t b ON a.n = b.n + 1 GROUP BY a.k ORDER BY a.k";

struct Prepared {
    cluster: Cluster,
    client: Client,
    right: Vec<Vec<String>>,
    _folder: tempfile::TempDir,
}

async fn prepared(workers: usize) -> Prepared {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_linked(&folder.path().join("cluster"), workers);
    let mut client = Client::connect(cluster.flight()).await.unwrap();
    client.update(MAKE).await.unwrap();
    for first in [200_001, 400_001, 600_001] {
        let more = format!(
            "INSERT INTO t SELECT value, value % 97 FROM generate_series({first}, {first} + 9999) AS s(value)"
        );
        client.update(&more).await.unwrap();
    }
    client.update("SET skep.execution = local").await.unwrap();
    let right = client.rows(ASK).await.unwrap();
    Prepared { cluster, client, right, _folder: folder }
}

/// The rows of `sql` in `lane`, or the error; never later than tests wait.
async fn ask(client: &mut Client, lane: &str, sql: &str) -> Result<Vec<Vec<String>>, Error> {
    client.update(&format!("SET skep.execution = {lane}")).await.unwrap();
    let ended = tokio::time::timeout(DEADLINE, client.rows(sql)).await;
    ended.unwrap_or_else(|_| panic!("{lane} does not end"))
}

impl Prepared {
    /// The question in `lane` has the right answer.
    async fn is_right(&mut self, lane: &str, what: &str) {
        let got = ask(&mut self.client, lane, ASK).await;
        let got = got.unwrap_or_else(|e| panic!("{lane}, {what}: {}", e.report()));
        assert_eq!(rows::difference(&self.right, &got, 0.0), None, "{lane}, {what}");
    }

    /// Heals every link, and waits until all workers are heard of and run tasks.
    async fn is_whole(&mut self, lane: &str) {
        self.cluster.links().heal();
        let workers = self.cluster.workers.len();
        let whole = async {
            loop {
                self.is_right(lane, "healed").await;
                if self.cluster.whole(&mut self.client).await && self.ran_on().await == workers {
                    return;
                }
            }
        };
        let ended = tokio::time::timeout(DEADLINE, Box::pin(whole)).await;
        assert!(ended.is_ok(), "a worker is not used again in the {lane} lane");
    }

    /// How many workers the last question ran on.
    async fn ran_on(&mut self) -> usize {
        let sql = "SELECT count(DISTINCT worker) FROM system.tasks WHERE worker <> 'coordinator' AND query_id = (\
                   SELECT query_id FROM system.queries WHERE statement LIKE 'SELECT a.k%' ORDER BY created_at DESC LIMIT 1)";
        ask(&mut self.client, "local", sql).await.unwrap()[0][0].parse().unwrap()
    }
}

/// Two workers that cannot reach each other, for as long as the statement runs. Nobody but they can tell.
#[tokio::test(flavor = "multi_thread")]
async fn workers_that_cannot_reach_each_other_are_gone_around() {
    let mut prepared = prepared(4).await;
    for lane in ["durable", "pipelined"] {
        for how in [Cut::Broken, Cut::Silent] {
            prepared.cluster.links().cut(W[0], W[1], how);
            prepared.is_right(lane, &format!("{how:?}")).await;
            prepared.cluster.links().heal();
        }
    }
    prepared.is_whole("durable").await;
}

/// At last one of them does everything: of three, each holds every block.
#[tokio::test(flavor = "multi_thread")]
async fn workers_of_which_none_can_reach_another_are_not_all_avoided() {
    let mut prepared = prepared(3).await;
    for how in [Cut::Broken, Cut::Silent] {
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            prepared.cluster.links().cut(W[a], W[b], how);
        }
        prepared.is_right("durable", &format!("{how:?}, every worker is alone")).await;
        prepared.is_whole("durable").await;
    }
}

/// A worker that the coordinator cannot reach, in both directions or in one, is done without; when it can, it is used again.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_cut_from_the_coordinator_is_done_without_until_it_is_back() {
    let mut prepared = prepared(3).await;
    for (lane, how) in [
        ("durable", Cut::Silent),
        ("durable", Cut::Broken),
        ("pipelined", Cut::Silent),
        ("pipelined", Cut::Broken),
    ] {
        prepared.cluster.links().cut(Node::Coordinator, W[0], how);
        prepared.is_right(lane, &format!("{how:?}, both ways")).await;
        prepared.is_whole(lane).await;
        // Its signs of life arrive, and nothing that it is asked.
        prepared.cluster.links().cut_calls(Node::Coordinator, W[1], how);
        prepared.is_right(lane, &format!("{how:?}, to the worker")).await;
        prepared.is_whole(lane).await;
        prepared.cluster.links().cut_calls(W[2], Node::Coordinator, how);
        prepared.is_right(lane, &format!("{how:?}, to the coordinator")).await;
        prepared.is_whole(lane).await;
    }
}
