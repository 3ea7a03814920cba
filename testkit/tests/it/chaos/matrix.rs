//! Every kind of statement with every fault at every moment: before it, during each stage, of a worker with outputs of a stage
//! that has ended, and while rows leave.

use std::time::Duration;

use skep_testkit::process::Cluster;
use skep_testkit::slow;
use skep_testkit::workers::DEADLINE;
use tokio::sync::oneshot;

use super::{FAULTS, Fault, Going, Statement, Verdict, WORKERS, begun, jobs, load};

/// One of each kind of plan.
const READS: [(&str, &str); 4] = [
    (
        "aggregation",
        "SELECT l_suppkey, l_shipmode, count(*), sum(l_quantity), avg(l_extendedprice) FROM lineitem GROUP BY 1, 2",
    ),
    (
        "join",
        "SELECT o_orderkey, o_comment, l_comment, c_name FROM lineitem JOIN orders ON l_orderkey = o_orderkey \
         JOIN customer ON o_custkey = c_custkey WHERE l_linenumber = 1",
    ),
    (
        "sort and limit",
        "SELECT l_orderkey, l_linenumber, l_comment FROM lineitem ORDER BY l_comment, l_orderkey, l_linenumber LIMIT 20000",
    ),
    (
        "window",
        "SELECT o_orderkey, o_custkey, sum(o_totalprice) OVER (PARTITION BY o_custkey ORDER BY o_orderdate, o_orderkey) \
         FROM orders",
    ),
];

/// When a fault happens.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    Before,
    /// The first output of this stage is being written: to a worker that does so.
    During(usize),
    /// A later stage has begun: to a worker with outputs of this one.
    Ended(usize),
    /// This share of the time that the statement takes undisturbed has passed.
    Share(f64),
    /// The first row has come.
    FirstRow,
}

struct Cell {
    lane: &'static str,
    fault: Fault,
    moment: Moment,
    victim: usize,
}

impl Cell {
    /// Waits until the moment has come, and says who is to be hit. `None`: it never came.
    async fn comes(
        &self,
        cluster: &Cluster,
        expected: Duration,
        first: oneshot::Receiver<()>,
    ) -> Option<usize> {
        let before = jobs(cluster);
        let (wanted, later) = match self.moment {
            Moment::Before => return Some(self.victim),
            Moment::Share(share) => {
                tokio::time::sleep(expected.mul_f64(share)).await;
                return Some(self.victim);
            }
            Moment::FirstRow => return first.await.is_ok().then_some(self.victim),
            Moment::During(stage) => (stage, false),
            Moment::Ended(stage) => (stage, true),
        };
        loop {
            let begun = begun(cluster, &before);
            let has = |stage: usize| begun.iter().filter(move |(number, _)| *number == stage);
            let due = !later || begun.iter().any(|(number, _)| *number > wanted);
            let writers: Vec<usize> = has(wanted).map(|(_, worker)| *worker).collect();
            if due && !writers.is_empty() {
                return Some(writers[self.victim % writers.len()]);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Runs `statement` with the fault. `None`: it ended before the moment came.
    async fn run(&self, cluster: &mut Cluster, statement: &Statement, expected: Duration) -> Option<Verdict> {
        let Self { lane, fault, moment, .. } = self;
        let what = format!("{lane} {}, {fault:?} of worker {} {moment:?}", statement.name, self.victim);
        let (told, first) = oneshot::channel();
        let (ended, going) = {
            let running = statement.run(cluster, lane, told);
            let hit = async {
                let victim = self.comes(cluster, expected, first).await?;
                Some(Going::begin(cluster, *fault, victim))
            };
            let both = async {
                tokio::pin!(running, hit);
                if *moment == Moment::Before {
                    let going = hit.await;
                    return (running.await, going);
                }
                tokio::select! {
                    ended = &mut running => (ended, None),
                    going = &mut hit => (running.await, going),
                }
            };
            let both = tokio::time::timeout(DEADLINE, both).await;
            both.unwrap_or_else(|_| panic!("{what} does not end"))
        };
        let hit = going.is_some();
        if let Some(going) = going {
            going.mend(cluster).await;
        }
        let verdict = statement.judge(cluster, lane, ended, &what).await;
        hit.then_some(verdict)
    }
}

/// How many stages `statement` has in the durable lane.
async fn stages(client: &mut skep_testkit::client::Client, statement: &Statement) -> usize {
    client.update("SET skep.execution = durable").await.unwrap();
    let explained = client.rows(&format!("EXPLAIN {}", statement.sql)).await.unwrap();
    let text = explained.concat().join("\n");
    text.lines().filter(|line| line.trim_start().starts_with("stage ")).count()
}

fn cells(lane: &'static str, stages: usize) -> Vec<Cell> {
    let mut moments = vec![Moment::Before, Moment::FirstRow];
    if lane == "durable" {
        moments.extend((1..=stages).map(Moment::During));
        moments.extend((1..stages).map(Moment::Ended));
    } else {
        moments.extend([0.2, 0.4, 0.6, 0.8, 0.95].map(Moment::Share));
    }
    let cells = moments.into_iter().flat_map(|moment| FAULTS.map(|fault| (moment, fault)));
    let cells = cells.enumerate();
    cells.map(|(index, (moment, fault))| Cell { lane, fault, moment, victim: index % WORKERS }).collect()
}

/// All cells, or every so many of them.
async fn matrix(lane: &'static str, step: usize) {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start_linked(&folder.path().join("cluster"), WORKERS);
    let mut client = load(&cluster, &folder.path().join("data")).await;
    let mut statements = vec![Statement::write(&mut client).await];
    for (name, sql) in READS {
        statements.push(Statement::read(&mut client, name, sql).await);
    }
    let clock = skep_common::clock::system();
    let (mut right, mut failed, mut missed, mut number) = (0, 0, 0, 0);
    for statement in &statements {
        let stages = stages(&mut client, statement).await;
        assert!(stages > 1, "{} has {stages} stages", statement.name);
        let begun = clock.instant();
        let (told, _first) = oneshot::channel();
        let undisturbed = statement.run(&cluster, lane, told).await;
        let expected = clock.instant() - begun;
        assert_eq!(statement.judge(&cluster, lane, undisturbed, &statement.name).await, Verdict::Right);
        for cell in cells(lane, stages) {
            number += 1;
            if number % step != 0 {
                continue;
            }
            match cell.run(&mut cluster, statement, expected).await {
                Some(Verdict::Right) => right += 1,
                Some(Verdict::Failed) => failed += 1,
                None => missed += 1,
            }
        }
    }
    println!(
        "{lane}: {right} right, {failed} with a clear error, {missed} where the moment never came, of {number} cells"
    );
    assert!(right > 0 && right + failed > missed, "the faults came too late: {right}, {failed}, {missed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_statements_outlive_faults_in_every_stage() {
    matrix("durable", if slow() { 1 } else { 37 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_statements_meet_faults_at_every_moment() {
    matrix("pipelined", if slow() { 1 } else { 41 }).await;
}
