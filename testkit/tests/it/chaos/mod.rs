//! Processes that die, stop or hang, links that are cut and disks that are full, at any moment of a statement: the durable lane
//! gives the right rows, the pipelined one the right rows or, after its first row left, one clear error; and neither a wrong
//! row nor an endless wait.
//!
//! ```text
//! rounds.rs       statement, fault and moment drawn from a seed
//! matrix.rs       every statement with every fault at every moment of every stage
//! coordinator.rs  the coordinator itself dies
//! ```

mod coordinator;
mod matrix;
mod rounds;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use arrow::array::RecordBatch;
use futures::StreamExt;
use skep_common::{Error, Kind};
use skep_testkit::client::Client;
use skep_testkit::links::{Cut, Node};
use skep_testkit::process::Cluster;
use skep_testkit::workers::DEADLINE;
use skep_testkit::{rows, tpch};

const SCALE: f64 = 0.01;
const WORKERS: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// kill -9.
    Kill,
    /// SIGSTOP, and SIGCONT when the fault is over.
    Pause,
    /// The worker and the next one cannot reach each other.
    CutWorker(Cut),
    /// The worker and the coordinator cannot reach each other.
    CutCoordinator(Cut),
    /// The worker's disk is full.
    FullDisk,
}

const FAULTS: [Fault; 7] = [
    Fault::Kill,
    Fault::Pause,
    Fault::CutWorker(Cut::Silent),
    Fault::CutWorker(Cut::Broken),
    Fault::CutCoordinator(Cut::Silent),
    Fault::CutCoordinator(Cut::Broken),
    Fault::FullDisk,
];

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

/// A fault of a worker that goes on until it is mended.
struct Going {
    fault: Fault,
    victim: usize,
    paused: Option<Paused>,
}

impl Going {
    fn begin(cluster: &Cluster, fault: Fault, victim: usize) -> Self {
        let (pid, worker) = (cluster.workers[victim].pid(), Node::Worker(victim));
        let mut paused = None;
        match fault {
            Fault::Kill => signal(pid, "KILL"),
            Fault::Pause => {
                signal(pid, "STOP");
                paused = Some(Paused(pid));
            }
            Fault::CutWorker(how) => cluster.links().cut(worker, Node::Worker((victim + 1) % WORKERS), how),
            Fault::CutCoordinator(how) => cluster.links().cut(worker, Node::Coordinator, how),
            Fault::FullDisk => cluster.fill_disk(victim, true),
        }
        Self { fault, victim, paused }
    }

    /// What can be over while the statement runs.
    fn end(&mut self, cluster: &Cluster) {
        self.paused = None;
        cluster.links().heal();
        if self.fault == Fault::FullDisk {
            cluster.fill_disk(self.victim, false);
        }
    }

    /// Makes the cluster whole again.
    async fn mend(mut self, cluster: &mut Cluster) {
        self.end(cluster);
        if self.fault == Fault::Kill {
            cluster.restart_worker(self.victim);
        }
        let mut client = Client::connect(cluster.flight()).await.unwrap();
        let whole = async { while !cluster.whole(&mut client).await {} };
        tokio::time::timeout(DEADLINE, whole).await.expect("the workers do not come back");
    }
}

async fn load(cluster: &Cluster, data: &Path) -> Client {
    tpch::generate(data, SCALE).unwrap();
    let mut client = Client::connect(cluster.flight()).await.unwrap();
    for (table, _) in tpch::TABLES {
        let files = data.join(table).join("*.parquet");
        let sql = format!("CREATE TABLE {table} AS SELECT * FROM '{}'", files.display());
        client.update(&sql).await.unwrap();
    }
    client
}

/// A statement, and what it has to give.
struct Statement {
    name: String,
    sql: String,
    /// What asks for what it wrote, if it writes.
    check: Option<&'static str>,
    right: Vec<Vec<String>>,
}

/// A statement that writes the table `w`.
const WRITE: &str = "CREATE TABLE w AS SELECT l_orderkey, l_linenumber, l_comment, n_name FROM lineitem \
                     JOIN supplier ON l_suppkey = s_suppkey JOIN nation ON s_nationkey = n_nationkey";
const WRITTEN: &str =
    "SELECT count(*), sum(l_orderkey), count(DISTINCT l_comment), min(n_name), max(n_name) FROM w";

impl Statement {
    async fn read(client: &mut Client, name: &str, sql: &str) -> Self {
        client.update("SET skep.execution = local").await.unwrap();
        let right = client.rows(sql).await.unwrap();
        Self { name: name.to_owned(), sql: sql.to_owned(), check: None, right }
    }

    async fn write(client: &mut Client) -> Self {
        client.update("SET skep.execution = local").await.unwrap();
        client.update(WRITE).await.unwrap();
        let right = client.rows(WRITTEN).await.unwrap();
        client.update("DROP TABLE w").await.unwrap();
        Self { name: "write".to_owned(), sql: WRITE.to_owned(), check: Some(WRITTEN), right }
    }

    /// Runs it in `lane`, and tells how it ended. `first` is told when the first row has come, at the latest at the end.
    async fn run(&self, cluster: &Cluster, lane: &str, first: tokio::sync::oneshot::Sender<()>) -> Ended {
        let mut client = Client::connect(cluster.flight()).await.unwrap();
        client.update(&format!("SET skep.execution = {lane}")).await.unwrap();
        let (sql, writes) = (self.sql.clone(), self.check.is_some());
        let mut first = Some(first);
        if writes {
            return Ended { batches: Vec::new(), error: client.update(&sql).await.err() };
        }
        let mut ended = Ended { batches: Vec::new(), error: None };
        match client.stream(&sql).await {
            Ok(mut rows) => {
                while let Some(batch) = rows.next().await {
                    match batch {
                        Ok(batch) => {
                            if let Some(first) = first.take_if(|_| batch.num_rows() > 0) {
                                // Nobody may wait for it.
                                let _ = first.send(());
                            }
                            ended.batches.push(batch);
                        }
                        Err(error) => {
                            ended.error = Some(error);
                            break;
                        }
                    }
                }
            }
            Err(error) => ended.error = Some(error),
        }
        ended
    }

    /// The rules. `lane` decides whether there may be an error.
    async fn judge(&self, cluster: &Cluster, lane: &str, ended: Ended, what: &str) -> Verdict {
        let mut client = Client::connect(cluster.flight()).await.unwrap();
        client.update("SET skep.execution = local").await.unwrap();
        let Ended { batches, error } = ended;
        let got: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if let Some(error) = error {
            assert_eq!(lane, "pipelined", "{what}: {}", error.report());
            assert_eq!(error.kind(), Kind::Unavailable, "{what}: {error:?}");
            assert!(self.check.is_some() || got > 0, "{what}: no row had left: {error:?}");
            if self.check.is_some() {
                let left = "SELECT table_name FROM information_schema.tables WHERE table_name = 'w'";
                let left = client.rows(left).await.unwrap();
                assert!(left.is_empty(), "{what}: half a write is there");
            }
            return Verdict::Failed;
        }
        let got = match self.check {
            Some(check) => {
                let got = client.rows(check).await.unwrap_or_else(|e| panic!("{what}: {}", e.report()));
                client.update("DROP TABLE w").await.unwrap();
                got
            }
            None => rows::text(&batches).unwrap(),
        };
        assert_eq!(rows::difference(&self.right, &got, 0.0), None, "{what}: wrong rows");
        Verdict::Right
    }
}

/// What came of a statement.
struct Ended {
    batches: Vec<RecordBatch>,
    error: Option<Error>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    Right,
    /// With one clear error.
    Failed,
}

/// The stages of the durable job under way that have begun, each with the workers that have outputs of it.
fn begun(cluster: &Cluster, before: &BTreeSet<String>) -> Vec<(usize, usize)> {
    let mut begun = Vec::new();
    for worker in 0..WORKERS {
        for job in names(&cluster.worker_folder(worker).join("durable")).difference(before) {
            let stages = names(&cluster.worker_folder(worker).join("durable").join(job));
            begun.extend(stages.iter().filter_map(|stage| Some((stage.parse().ok()?, worker))));
        }
    }
    begun
}

fn jobs(cluster: &Cluster) -> BTreeSet<String> {
    (0..WORKERS).flat_map(|worker| names(&cluster.worker_folder(worker).join("durable"))).collect()
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
