//! Faults at drawn moments. A failure names its seed, which `SKEP_SEED` draws again; `SKEP_SLOW` draws many more.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use skep_testkit::process::Cluster;
use skep_testkit::workers::DEADLINE;
use skep_testkit::{slow, tpch};
use tokio::sync::oneshot;

use super::{FAULTS, Fault, Going, SCALE, Statement, Verdict, WORKERS, load};

/// TPC-H queries that between them have every kind of stage.
const QUERIES: [usize; 8] = [1, 3, 5, 9, 13, 16, 18, 21];

struct Round {
    seed: u64,
    statement: usize,
    victim: usize,
    fault: Fault,
    /// From the beginning of the statement.
    moment: Duration,
    /// How long the fault goes on; absent: until the statement has ended.
    lasts: Option<Duration>,
}

impl Round {
    fn draw(seed: u64, statements: usize, longest: Duration) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        Self {
            seed,
            statement: random.random_range(0..statements),
            victim: random.random_range(0..WORKERS),
            // Successive seeds take turns, so that few of them see many faults.
            fault: FAULTS[(seed as usize + random.random_range(0..2)) % FAULTS.len()],
            moment: longest.mul_f64(random.random_range(0.0..1.0)),
            lasts: random.random_bool(0.4).then(|| Duration::from_millis(random.random_range(50..6000))),
        }
    }

    fn name(&self, lane: &str, statement: &Statement) -> String {
        let Self { seed, victim, fault, moment, lasts, .. } = self;
        let lasts = lasts.map_or(String::new(), |lasts| format!(" for {lasts:?}"));
        format!(
            "seed {seed}: {lane} {}, {fault:?} of worker {victim} after {moment:?}{lasts}",
            statement.name
        )
    }

    /// Runs the statement in `lane` while the fault happens. The cluster is whole again when it returns.
    async fn run(&self, cluster: &mut Cluster, lane: &str, statement: &Statement) -> Verdict {
        let what = self.name(lane, statement);
        let (first, _) = oneshot::channel();
        let ended = {
            let running = statement.run(cluster, lane, first);
            tokio::pin!(running);
            let mut ended = None;
            tokio::select! {
                done = &mut running => ended = Some(done),
                () = tokio::time::sleep(self.moment) => {}
            }
            let mut going = Going::begin(cluster, self.fault, self.victim);
            if ended.is_none() {
                let over = async {
                    match self.lasts {
                        Some(lasts) => tokio::time::sleep(lasts).await,
                        None => std::future::pending().await,
                    }
                };
                let rest = async {
                    tokio::select! {
                        done = &mut running => return done,
                        () = over => going.end(cluster),
                    }
                    running.await
                };
                let rest = tokio::time::timeout(DEADLINE, rest).await;
                ended = Some(rest.unwrap_or_else(|_| panic!("{what} does not end")));
            }
            (ended, going)
        };
        let (ended, going) = ended;
        going.mend(cluster).await;
        let ended = ended.expect("it has ended either way");
        statement.judge(cluster, lane, ended, &what).await
    }
}

async fn rounds(lane: &str, seeds: std::ops::Range<u64>) {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start_linked(&folder.path().join("cluster"), WORKERS);
    let mut client = load(&cluster, &folder.path().join("data")).await;
    let mut statements = vec![Statement::write(&mut client).await];
    for query in QUERIES {
        let sql = tpch::query(query, SCALE).unwrap();
        statements.push(Statement::read(&mut client, &format!("q{query}"), &sql).await);
    }
    // The longest of them undisturbed: faults fall before, into and after the stages of each.
    client.update(&format!("SET skep.execution = {lane}")).await.unwrap();
    let clock = skep_common::clock::system();
    let begun = clock.instant();
    client.rows(&tpch::query(21, SCALE).unwrap()).await.unwrap();
    let longest = clock.instant() - begun;
    let (mut right, mut failed, mut slowest) = (0, 0, Duration::ZERO);
    for seed in seeds {
        let round = Round::draw(seed, statements.len(), longest);
        let begun = clock.instant();
        match round.run(&mut cluster, lane, &statements[round.statement]).await {
            Verdict::Right => right += 1,
            Verdict::Failed => failed += 1,
        }
        slowest = slowest.max(clock.instant() - begun);
    }
    println!("{lane}: {right} right, {failed} with a clear error; the slowest round took {slowest:?}");
    assert!(right > 0);
}

fn seeds() -> std::ops::Range<u64> {
    let first = std::env::var("SKEP_SEED").ok().and_then(|seed| seed.parse().ok());
    match first {
        Some(seed) => seed..seed + 1,
        None => 0..if slow() { 200 } else { 10 },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_statements_outlive_every_fault() {
    rounds("durable", seeds()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_statements_are_right_or_say_what_was_lost() {
    rounds("pipelined", seeds()).await;
}
