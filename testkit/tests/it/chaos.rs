//! Processes that die, stop or hang at any moment of a statement: the durable lane gives the right rows, the pipelined one
//! the right rows or one clear error, and neither a wrong row nor an endless wait.
//!
//! Each round draws a statement, a worker, a moment and a fault from its seed, which a failure names. `SKEP_SLOW` runs many more.

use std::process::Command;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use skep_common::{Error, Kind};
use skep_testkit::client::Client;
use skep_testkit::process::Cluster;
use skep_testkit::workers::{DEADLINE, until};
use skep_testkit::{rows, slow, tpch};

const SCALE: f64 = 0.01;
const WORKERS: usize = 4;
/// TPC-H queries that between them have every kind of stage.
const QUERIES: [usize; 8] = [1, 3, 5, 9, 13, 16, 18, 21];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// kill -9.
    Kill,
    /// SIGSTOP, and SIGCONT when the statement has ended.
    Pause,
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Goes on with a process when the test ends in whatever way.
struct Paused(u32);

impl Drop for Paused {
    fn drop(&mut self) {
        signal(self.0, "CONT");
    }
}

async fn load(cluster: &Cluster, data: &std::path::Path) -> Client {
    tpch::generate(data, SCALE).unwrap();
    let mut client = Client::connect(cluster.flight()).await.unwrap();
    for (table, _) in tpch::TABLES {
        let files = data.join(table).join("*.parquet");
        let sql = format!("CREATE TABLE {table} AS SELECT * FROM '{}'", files.display());
        client.update(&sql).await.unwrap();
    }
    client
}

struct Round {
    seed: u64,
    query: usize,
    victim: usize,
    fault: Fault,
    moment: Duration,
}

impl Round {
    fn draw(seed: u64, longest: Duration) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        Self {
            seed,
            query: QUERIES[random.random_range(0..QUERIES.len())],
            victim: random.random_range(0..WORKERS),
            fault: if random.random_bool(0.7) { Fault::Kill } else { Fault::Pause },
            moment: longest.mul_f64(random.random_range(0.0..1.0)),
        }
    }

    fn name(&self, lane: &str) -> String {
        let Self { seed, query, victim, fault, moment } = self;
        format!("seed {seed}: {lane} q{query}, {fault:?} worker {victim} after {moment:?}")
    }

    /// Runs the query in `lane` while the fault happens. The cluster is whole again when it returns.
    async fn run(&self, cluster: &mut Cluster, lane: &str) -> Result<Vec<Vec<String>>, Error> {
        let sql = tpch::query(self.query, SCALE).unwrap();
        let mut client = Client::connect(cluster.flight()).await.unwrap();
        client.update(&format!("SET skep.execution = {lane}")).await.unwrap();
        let running = skep_common::task::spawn("query", async move { client.rows(&sql).await });
        tokio::time::sleep(self.moment).await;
        let pid = cluster.workers[self.victim].pid();
        let paused = match self.fault {
            Fault::Kill => {
                signal(pid, "KILL");
                None
            }
            Fault::Pause => {
                signal(pid, "STOP");
                Some(Paused(pid))
            }
        };
        let ended = tokio::time::timeout(DEADLINE, running).await;
        drop(paused);
        if self.fault == Fault::Kill {
            cluster.restart_worker(self.victim);
        }
        ended.unwrap_or_else(|_| panic!("{} does not end", self.name(lane))).unwrap()
    }
}

/// Rounds of one lane; how often a worker was hit while the statement ran is for the caller to judge.
async fn rounds(lane: &str, seeds: std::ops::Range<u64>, judge: impl Fn(&Round, Result<(), Error>)) {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start_hasty(&folder.path().join("cluster"), WORKERS);
    let mut client = load(&cluster, &folder.path().join("data")).await;
    let mut expected = Vec::new();
    client.update("SET skep.execution = local").await.unwrap();
    for query in QUERIES {
        expected.push((query, client.rows(&tpch::query(query, SCALE).unwrap()).await.unwrap()));
    }
    // The longest of them undisturbed: faults fall before, into and after the stages of each.
    client.update(&format!("SET skep.execution = {lane}")).await.unwrap();
    let clock = skep_common::clock::system();
    let begun = clock.instant();
    client.rows(&tpch::query(21, SCALE).unwrap()).await.unwrap();
    let longest = clock.instant() - begun;
    for seed in seeds {
        let round = Round::draw(seed, longest);
        let ended = round.run(&mut cluster, lane).await;
        let (_, right) = expected.iter().find(|(query, _)| *query == round.query).unwrap();
        let same = ended.map(|got| {
            let difference = rows::difference(right, &got, 0.0);
            assert_eq!(difference, None, "{}: wrong rows", round.name(lane));
        });
        judge(&round, same);
    }
}

fn seeds() -> std::ops::Range<u64> {
    let first = std::env::var("SKEP_SEED").ok().and_then(|seed| seed.parse().ok());
    match first {
        Some(seed) => seed..seed + 1,
        None => 0..if slow() { 200 } else { 10 },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_queries_outlive_workers() {
    rounds("durable", seeds(), |round, ended| {
        ended.unwrap_or_else(|e| panic!("{}: {}", round.name("durable"), e.report()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_queries_are_right_or_say_what_was_lost() {
    rounds("pipelined", seeds(), |round, ended| {
        if let Err(error) = ended {
            assert_eq!(error.kind(), Kind::Unavailable, "{}: {error:?}", round.name("pipelined"));
        }
    })
    .await;
}

/// kill -9 of the coordinator in the middle of a durable write.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_dies_in_a_durable_write_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start_hasty(&folder.path().join("cluster"), 3);
    let mut client = load(&cluster, &folder.path().join("data")).await;
    client.update("SET skep.execution = durable").await.unwrap();
    let busy = |cluster: &Cluster| (0..3).any(|worker| jobs(&cluster.worker_folder(worker)) > 0);
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

fn jobs(worker: &std::path::Path) -> usize {
    std::fs::read_dir(worker.join("durable")).map_or(0, Iterator::count)
}
