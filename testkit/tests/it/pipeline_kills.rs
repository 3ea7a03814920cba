//! Runs of a pipeline on a cluster whose client, workers and coordinator are killed at each step in turn, while readers look.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use skep_common::{clock, task};
use skep_testkit::client::Client;
use skep_testkit::process::{Cluster, Output, output, skep};

/// Polls of a whole round of kills, and of the part that is run each time.
const POLLS: [u64; 2] = [10_000, 300];
/// A part takes every so many steps.
const STRIDE: usize = 5;
const WORKERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

/// Version V builds V hours; three tables say which version they are of.
const FILES: [(&str, &str); 6] = [
    (
        "models/lake/hours.sql",
        "SELECT CAST(to_timestamp_seconds(1704067200 + 3600 * value) AS TIMESTAMP) AS hour FROM range(744)",
    ),
    ("models/mart/one.sql", "SELECT $v AS v"),
    ("models/mart/two.sql", "SELECT v FROM mart.one"),
    (
        "models/mart/three.sql",
        "/*---\ntests = [{ expression = \"v <> $bad\" }, { row_count = { min = 1, max = 1 } }]\n---*/\nSELECT v FROM mart.two",
    ),
    (
        "models/mart/hours.sql",
        "/*---\nkind = \"interval\"\ntime = \"hour\"\ngrain = \"hour\"\ntests = [{ unique = [\"hour\"] }]\n---*/\n\
         SELECT h.hour, max(t.v) AS v FROM lake.hours AS h, mart.three AS t\n\
         WHERE h.hour >= $start AND h.hour < $end GROUP BY h.hour",
    ),
    (
        "tests/hours_are_of_one.sql",
        "SELECT d FROM (SELECT max(v) AS d FROM mart.hours) AS m WHERE d > (SELECT v FROM mart.one)",
    ),
];

/// What holds in every snapshot that was ever published: five times the same number.
const AGREE: &str = "SELECT (SELECT max(v) FROM mart.one), (SELECT max(v) FROM mart.two), (SELECT max(v) FROM mart.three), \
                     (SELECT count(*) FROM mart.hours), (SELECT count(DISTINCT hour) FROM mart.hours)";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Client,
    Worker,
    Coordinator,
}

/// Readers that look all the time.
#[derive(Clone)]
struct Readers {
    url: Arc<Mutex<String>>,
    polls: Arc<AtomicU64>,
    /// The coordinator is down, or was while the poll ran.
    down: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Readers {
    async fn read(self) {
        let mut last = 0_u64;
        let mut client: Option<Client> = None;
        while !self.over.load(Ordering::SeqCst) {
            let (downs, url) = (self.down.load(Ordering::SeqCst), self.url.lock().unwrap().clone());
            let seen = match client.as_mut() {
                Some(client) => client.rows(AGREE).await,
                None => match Client::connect(&url).await {
                    Ok(new) => client.insert(new).rows(AGREE).await,
                    Err(error) => Err(error),
                },
            };
            match seen {
                Ok(rows) => {
                    let version: u64 = rows[0][0].parse().unwrap();
                    assert!(rows[0].iter().all(|value| *value == rows[0][0]), "a mix: {rows:?}");
                    assert!(version >= last, "back from {last} to {version}");
                    last = version;
                    self.polls.fetch_add(1, Ordering::SeqCst);
                }
                Err(error) => {
                    // Only a coordinator that is gone may be noticed.
                    let gone = downs % 2 == 1 || self.down.load(Ordering::SeqCst) != downs;
                    assert!(gone, "a reader saw: {}", error.report());
                    client = None;
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

struct Drama {
    _folder: tempfile::TempDir,
    project: PathBuf,
    cluster: Cluster,
    readers: Readers,
    published: u64,
}

impl Drama {
    fn new(start: fn(&Path, usize) -> Cluster) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().join("project");
        for (name, text) in FILES {
            let path = project.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let cluster = start(&folder.path().join("cluster"), WORKERS);
        let readers = Readers {
            url: Arc::new(Mutex::new(cluster.flight().to_owned())),
            polls: Arc::default(),
            down: Arc::default(),
            over: Arc::default(),
        };
        Self { _folder: folder, project, cluster, readers, published: 0 }
    }

    /// The command that makes `version`, which fails if it is to.
    fn arguments(&self, command: &str, version: u64, fails: bool) -> Vec<String> {
        let last = format!("2024-01-{:02} {:02}:00:00", 1 + version / 24, version % 24);
        let bad = if fails { version } else { 0 };
        let settings = format!(
            "[pipeline]\nname = \"drama\"\nstart = \"2024-01-01\"\nend = \"{last}\"\n\n[vars]\nv = 0\nbad = {bad}\n"
        );
        std::fs::write(self.project.join("pipeline.toml"), settings).unwrap();
        let words = [
            "pipeline",
            command,
            self.project.to_str().unwrap(),
            "--url",
            self.cluster.flight(),
            "--json",
            "--var",
        ];
        words.into_iter().map(str::to_owned).chain([format!("v={version}")]).collect()
    }

    fn run(&self, command: &str, version: u64, fails: bool) -> Output {
        let arguments = self.arguments(command, version, fails);
        output(skep(&arguments.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    /// Starts a run, and returns it after `step` of its events.
    fn begin(
        &self,
        version: u64,
        step: usize,
    ) -> (Child, std::io::Lines<BufReader<std::process::ChildStdout>>) {
        let arguments = self.arguments("run", version, false);
        let mut command = skep(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..step {
            lines.next().unwrap().unwrap();
        }
        (child, lines)
    }

    /// Kills someone after `step` events of a run that makes the next version.
    async fn kill(&mut self, victim: Victim, step: usize, worker: usize) {
        let version = self.published + 1;
        let (mut child, lines) = self.begin(version, step);
        match victim {
            Victim::Client => {
                child.kill().unwrap();
                child.wait().unwrap();
                drop(lines);
            }
            Victim::Worker => {
                self.cluster.restart_worker(worker);
                let said: Vec<String> = lines.map(Result::unwrap).collect();
                let code = child.wait().unwrap().code();
                assert_eq!(code, Some(0), "a killed worker fails no run: step {step}: {said:?}");
            }
            Victim::Coordinator => {
                self.readers.down.fetch_add(1, Ordering::SeqCst);
                self.cluster.restart_coordinator();
                *self.readers.url.lock().unwrap() = self.cluster.flight().to_owned();
                child.wait().unwrap();
                drop(lines);
                self.readers.down.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.settled().await;
        let seen = self.agreed(&format!("{victim:?} at step {step}")).await;
        assert!(seen == version || seen == self.published, "{victim:?} at step {step}: {seen}");
        assert!(victim != Victim::Worker || seen == version, "published by a run that lost a worker");
        if seen < version {
            let command = if step.is_multiple_of(2) { "retry" } else { "run" };
            let again = self.run(command, version, false);
            assert_eq!(again.code, Some(0), "{victim:?} at step {step}, {command}: {again:?}");
            assert_eq!(self.agreed("what was left").await, version);
        }
        self.published = version;
    }

    /// Waits until no run goes on: one without its client ends when that is noticed.
    async fn settled(&self) {
        let clock = clock::system();
        let start = clock.instant();
        let going = "SELECT count(*) FROM system.pipeline_runs WHERE state = 'running'";
        let mut client = Client::connect(self.cluster.flight()).await.unwrap();
        while client.rows(going).await.unwrap()[0][0] != "0" {
            assert!(clock.instant() - start < PATIENCE, "a run goes on without its client");
            tokio::task::yield_now().await;
        }
    }

    /// The version that is published, by data and ledger alike.
    async fn agreed(&self, when: &str) -> u64 {
        let mut client = Client::connect(self.cluster.flight()).await.unwrap();
        let rows = client.rows(AGREE).await.unwrap();
        assert!(rows[0].iter().all(|value| *value == rows[0][0]), "{when}: {rows:?}");
        let version: u64 = rows[0][0].parse().unwrap();
        let ledger = "SELECT count(*), count(DISTINCT start_at), min(start_at) FROM system.pipeline_intervals \
                      WHERE model = 'mart.hours'";
        let ledger = client.rows(ledger).await.unwrap();
        let expected = [version.to_string(), version.to_string(), "2024-01-01 00:00:00".to_owned()];
        assert_eq!(ledger[0], expected, "{when}: data and ledger differ");
        let snapshots = "SELECT (SELECT max(snapshot_id) FROM system.pipeline_runs WHERE state = 'done') \
                         - (SELECT max(snapshot_id) FROM system.pipeline_intervals) AS d";
        assert_eq!(client.rows(snapshots).await.unwrap(), [["0"]], "{when}");
        version
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_at_whatever_step_readers_see_whole_runs_only() {
    let whole = std::env::var_os("SKEP_SLOW").is_some();
    let (polls, stride) = if whole { (POLLS[0], 1) } else { (POLLS[1], STRIDE) };
    let mut drama = Drama::new(Cluster::start_hasty);
    let first = drama.run("run", 1, false);
    assert_eq!(first.code, Some(0), "{first:?}");
    drama.published = 1;
    let second = drama.run("run", 2, false);
    drama.published = 2;
    let steps = second.stdout.lines().count();
    assert!(steps > 8, "{second:?}");
    let watching: Vec<_> = (0..2).map(|_| task::spawn("reader", drama.readers.clone().read())).collect();
    let mut turn = 0;
    for victim in [Victim::Worker, Victim::Client, Victim::Coordinator] {
        // The last event says that it is over.
        for step in (1 + turn..steps).step_by(stride) {
            drama.kill(victim, step, step % 3).await;
            assert!(watching.iter().all(|reader| !reader.is_finished()), "a reader ended");
        }
        turn += usize::from(!whole);
        let failed = drama.run("run", drama.published + 1, true);
        assert_eq!(failed.code, Some(1), "{failed:?}");
        assert_eq!(drama.agreed("a failed test").await, drama.published);
    }
    let clock = clock::system();
    let start = clock.instant();
    while drama.readers.polls.load(Ordering::SeqCst) < polls {
        drama.published += 1;
        let ran = drama.run("run", drama.published, false);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(clock.instant() - start < 10 * PATIENCE, "readers do not get on");
    }
    drama.readers.over.store(true, Ordering::SeqCst);
    for reader in watching {
        reader.join().await.unwrap();
    }
    println!(
        "{} steps, version {}, {} polls",
        steps,
        drama.published,
        drama.readers.polls.load(Ordering::SeqCst)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_disks_are_full_publishes_nothing_and_is_gone_on_with() {
    let mut drama = Drama::new(Cluster::start_linked);
    let first = drama.run("run", 1, false);
    assert_eq!(first.code, Some(0), "{first:?}");
    drama.published = 1;
    // Some models are staged, not all.
    let (mut child, lines) = drama.begin(2, 4);
    (0..WORKERS).for_each(|worker| drama.cluster.fill_disk(worker, true));
    let said: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said:?}");
    let last = said.last().unwrap();
    assert!(last.contains("no space") || last.contains("full"), "{last}");
    assert_eq!(drama.agreed("disks are full").await, 1);
    (0..WORKERS).for_each(|worker| drama.cluster.fill_disk(worker, false));
    let retried = drama.run("retry", 2, false);
    assert_eq!(retried.code, Some(0), "{retried:?}");
    assert_eq!(drama.agreed("disks have room").await, 2);
}
