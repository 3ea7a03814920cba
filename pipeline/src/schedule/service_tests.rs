use arrow::util::display::array_value_to_string;
use futures::{StreamExt, TryStreamExt};
use skep_common::clock;
use skep_coordinator::Outcome;
use skep_coordinator::extension::Extension;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::deploy::Deploy;
use crate::event::Event;
use crate::service::{DEPLOY, PAUSE, Pause, Pipelines};
use crate::testing::{Moved, coordinator};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);
const START: &str = "2026-01-05T09:30:00Z";

/// A coordinator with a scheduler that turns when a test says so.
struct World {
    folder: tempfile::TempDir,
    coordinator: Coordinator,
    clock: Arc<Moved>,
    pipelines: Arc<Pipelines>,
    scheduler: Arc<Scheduler>,
}

fn config() -> Config {
    Config { commands: true, ..Config::default() }
}

async fn pipelines(
    coordinator: &Coordinator,
    who: &str,
    config: Config,
    clock: &Arc<Moved>,
) -> Arc<Pipelines> {
    let clock: Arc<dyn Clock> = Arc::<Moved>::clone(clock);
    Pipelines::add_to(coordinator, who, config, clock).await.unwrap()
}

impl World {
    async fn new() -> Self {
        Self::with(config()).await
    }

    async fn with(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let coordinator = coordinator(folder.path()).await;
        let clock = Moved::at(START);
        let pipelines = pipelines(&coordinator, "one", config, &clock).await;
        let scheduler = pipelines.scheduler().unwrap();
        Self { folder, coordinator, clock, pipelines, scheduler }
    }

    /// The coordinator ends as kill -9 ends it, and starts again.
    async fn restart(&mut self) {
        self.scheduler.going.lock().clear();
        self.pipelines = pipelines(&self.coordinator, "one", config(), &self.clock).await;
        self.scheduler = self.pipelines.scheduler().unwrap();
    }

    async fn call<T: serde::Serialize>(&self, action: &str, body: &T) -> Event {
        let session = self.coordinator.open_session("ada");
        let body = serde_json::to_vec(body).unwrap();
        let answers = self.pipelines.call(&session, action, body.into()).await.unwrap();
        let answers: Vec<_> = answers.map(|answer| answer.unwrap()).collect().await;
        serde_json::from_slice(answers.last().unwrap()).unwrap()
    }

    /// Deploys a project with these settings and models.
    async fn deploy(&self, settings: &str, models: &[(&str, &str)]) {
        self.deploy_from(self.folder.path(), settings, models).await;
    }

    async fn deploy_from(&self, folder: &Path, settings: &str, models: &[(&str, &str)]) {
        self.deploy_to(None, folder, settings, models).await;
    }

    async fn deploy_to(
        &self,
        environment: Option<&str>,
        folder: &Path,
        settings: &str,
        models: &[(&str, &str)],
    ) {
        let settings = format!("[pipeline]\nname = \"shop\"\nexecution = \"local\"\n{settings}");
        let mut deploy = Deploy::default();
        let files = &mut deploy.request.bundle.files;
        files.insert("pipeline.toml".to_owned(), settings);
        files.extend(models.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())));
        deploy.request.environment = environment.map(str::to_owned);
        deploy.request.directory = Some(folder.display().to_string());
        let over = self.call(DEPLOY, &deploy).await;
        assert!(matches!(over, Event::Over { state: State::Done, .. }), "{over:?}");
    }

    async fn pause(&self, paused: bool) {
        self.call(PAUSE, &Pause { name: "shop".to_owned(), environment: None, paused }).await;
    }

    /// Goes on to a time, and until nothing goes on any more.
    async fn at(&self, time: &str) {
        self.clock.set(time);
        self.settled().await;
    }

    async fn settled(&self) {
        settled(&self.scheduler).await;
    }

    async fn rows(&self, sql: &str) -> String {
        rows(&self.coordinator, sql).await
    }

    async fn run(&self, sql: &str) {
        match self.coordinator.open_session("ada").execute(sql, Vec::new()).await.unwrap() {
            Outcome::Rows(rows) => rows.stream.try_for_each(|_| async { Ok(()) }).await.unwrap(),
            Outcome::Done(_) => {}
        }
    }

    async fn ticks(&self) -> String {
        let sql = "SELECT to_char(nominal_time, '%H:%M'), state, attempt FROM system.pipeline_ticks ORDER BY nominal_time";
        self.rows(sql).await
    }

    async fn told(&self) -> String {
        self.rows("SELECT event, state, attempts FROM system.pipeline_notifications ORDER BY notification_id")
            .await
    }
}

/// Turns until nothing goes on any more.
async fn settled(scheduler: &Arc<Scheduler>) {
    let clock = clock::system();
    let start = clock.instant();
    let mut quiet = 0;
    // Once more after the end: what ended may have something follow.
    while quiet < 2 {
        assert!(clock.instant() - start < PATIENCE, "something goes on for ever");
        scheduler.turn().await.unwrap();
        quiet = if scheduler.idle() { quiet + 1 } else { 0 };
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn rows(coordinator: &Coordinator, sql: &str) -> String {
    let Outcome::Rows(rows) = coordinator.open_session("ada").execute(sql, Vec::new()).await.unwrap() else {
        panic!("{sql} gives no rows")
    };
    let batches: Vec<_> = rows.stream.try_collect().await.unwrap();
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
            lines.push(values.collect::<Vec<_>>().join(","));
        }
    }
    lines.join(";")
}

/// Plans recurse deeper than the stacks of tests go.
mod on_deep_stacks {
    macro_rules! tests {
        ($($name:ident,)*) => {
            $(#[test]
            fn $name() {
                crate::testing::run(super::$name());
            })*
        };
    }

    tests! {
        environments_run_beside_each_other_as_far_as_the_limit_goes,
        a_folder_that_is_gone_is_said,
        lines_are_kept_of_the_latest_runs,
        a_time_runs_once_and_takes_what_was_over_by_then,
        all_missed_times_run_one_after_the_other,
        a_run_that_fails_is_tried_again_later_and_goes_on_where_it_was,
        a_run_that_takes_too_long_is_stopped,
        a_run_that_was_lost_with_its_coordinator_is_begun_again,
        a_run_of_a_client_is_waited_for,
        one_of_two_coordinators_schedules,
        a_webhook_hears_of_failure_and_once_of_recovery,
        a_webhook_that_is_not_reached_harms_nothing,
        programs_run_only_where_the_config_file_allows_it,
        another_version_runs_from_the_next_time_on,
    }
}

const HOURLY: &str = "[[schedule]]\nname = \"hourly\"\ncron = \"0 * * * *\"\n";
const HOURS: &str = "/*---\nkind = \"interval\"\ntime = \"at\"\ngrain = \"hour\"\nstart = \"2026-01-05 08:00\"\n---*/\n\
                     SELECT CAST($start AS TIMESTAMP) AS at, 1 AS n";
/// Fails while lake.source has a row of 3 and more.
const TESTED: &str =
    "/*---\nalways = true\ntests = [{ expression = \"n < 3\" }]\n---*/\nSELECT n FROM lake.source";

async fn with_source(world: &World) {
    world.run("CREATE SCHEMA IF NOT EXISTS lake").await;
    world.run("CREATE TABLE lake.source AS SELECT 5 AS n").await;
}

async fn a_time_runs_once_and_takes_what_was_over_by_then() {
    let mut world = World::new().await;
    world.deploy(HOURLY, &[("models/mart/hours.sql", HOURS)]).await;
    world.settled().await;
    assert_eq!(world.ticks().await, "", "its time has not come");
    // The coordinator looks at it only later: the run takes what was over at its time.
    world.at("2026-01-05T10:40:00Z").await;
    assert_eq!(world.ticks().await, "10:00,done,1");
    let intervals = "SELECT count(*), max(end_at) FROM system.pipeline_intervals";
    assert_eq!(world.rows(intervals).await, "2,2026-01-05 10:00:00");
    world.at("2026-01-05T11:00:00Z").await;
    assert_eq!(world.rows(intervals).await, "3,2026-01-05 11:00:00");
    let runs = "SELECT run_id, author, state FROM system.pipeline_runs ORDER BY 1";
    assert_eq!(world.rows(runs).await, "1,ada,done;2,ada,done");
    // Half a day without a coordinator.
    world.restart().await;
    world.at("2026-01-05T23:10:00Z").await;
    let ticks = "SELECT state, missed, note FROM system.pipeline_ticks ORDER BY nominal_time DESC LIMIT 1";
    assert!(world.rows(ticks).await.starts_with("done,11,published 1 table"), "{}", world.rows(ticks).await);
    assert_eq!(world.rows(intervals).await, "15,2026-01-05 23:00:00");
    assert_eq!(world.rows("SELECT count(*) FROM system.pipeline_runs").await, "3");
    let state = "SELECT state, version, last_state, CAST(next_at AS VARCHAR) FROM system.pipeline_schedules";
    assert!(world.rows(state).await.starts_with("on,1,done,2026-01-06T00:00"), "{}", world.rows(state).await);
    // Paused.
    world.pause(true).await;
    world.at("2026-01-06T05:10:00Z").await;
    assert_eq!(world.rows(state).await, "paused,1,done,");
    assert_eq!(world.rows("SELECT count(*) FROM system.pipeline_runs").await, "3");
    world.pause(false).await;
    world.settled().await;
    assert_eq!(world.rows(intervals).await, "21,2026-01-06 05:00:00");
    assert_eq!(world.rows("SELECT count(*) FROM system.pipeline_runs").await, "4");
}

async fn all_missed_times_run_one_after_the_other() {
    let world = World::new().await;
    world.deploy(&format!("{HOURLY}catch_up = \"all\"\n"), &[("models/mart/hours.sql", HOURS)]).await;
    world.at("2026-01-05T14:10:00Z").await;
    assert_eq!(world.ticks().await, "10:00,done,1;11:00,done,1;12:00,done,1;13:00,done,1;14:00,done,1");
    let each =
        "SELECT run_id, count(*), max(end_at) FROM system.pipeline_intervals GROUP BY run_id ORDER BY 1";
    assert_eq!(
        world.rows(each).await,
        "1,2,2026-01-05 10:00:00;2,1,2026-01-05 11:00:00;3,1,2026-01-05 12:00:00;4,1,2026-01-05 13:00:00;5,1,2026-01-05 14:00:00"
    );
    let together = "SELECT count(*) FROM system.pipeline_runs AS a JOIN system.pipeline_runs AS b \
                    ON a.run_id < b.run_id AND a.ended_at > b.began_at";
    assert_eq!(world.rows(together).await, "0");
}

async fn a_run_that_fails_is_tried_again_later_and_goes_on_where_it_was() {
    let world = World::new().await;
    with_source(&world).await;
    let settings = format!("{HOURLY}retries = 2\nretry_delay = \"1min\"\n");
    let models = [("models/mart/a.sql", "SELECT 1 AS n"), ("models/mart/b.sql", TESTED)];
    world.deploy(&settings, &models).await;
    world.at("2026-01-05T10:00:00Z").await;
    assert_eq!(world.ticks().await, "10:00,waiting,1");
    let note = "SELECT note FROM system.pipeline_ticks";
    assert!(world.rows(note).await.contains("expression(n < 3) fails"), "{}", world.rows(note).await);
    assert_eq!(world.rows("SELECT state FROM system.pipeline_schedules").await, "retrying");
    world.at("2026-01-05T10:00:59Z").await;
    assert_eq!(world.ticks().await, "10:00,waiting,1");
    world.at("2026-01-05T10:01:00Z").await;
    assert_eq!(world.ticks().await, "10:00,waiting,2");
    let models = "SELECT state, note LIKE 'staged by the run%' FROM system.pipeline_models WHERE run_id = 2 AND model = 'mart.a'";
    assert_eq!(world.rows(models).await, "done,true", "what was staged is not made again");
    world.at("2026-01-05T10:03:00Z").await;
    assert_eq!(world.ticks().await, "10:00,failed,3");
    assert_eq!(world.rows("SELECT state FROM system.pipeline_schedules").await, "failing");
    world.run("DELETE FROM lake.source").await;
    world.at("2026-01-05T11:00:00Z").await;
    assert_eq!(world.ticks().await, "10:00,failed,3;11:00,done,1");
}

async fn a_run_that_takes_too_long_is_stopped() {
    let world = World::new().await;
    let settings = format!(
        "{HOURLY}timeout = \"10min\"\nlate_after = \"5min\"\n[[notify]]\non = [\"late\"]\ncommand = [\"true\"]\n"
    );
    let long = "SELECT count(*) AS n FROM range(100000000) AS a, range(100000000) AS b";
    world.deploy(&settings, &[("models/mart/a.sql", long)]).await;
    world.clock.set("2026-01-05T10:00:00Z");
    world.scheduler.turn().await.unwrap();
    let clock = clock::system();
    let start = clock.instant();
    while world.ticks().await != "10:00,running,1" {
        assert!(clock.instant() - start < PATIENCE, "it does not begin");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.clock.set("2026-01-05T10:09:59Z");
    world.scheduler.turn().await.unwrap();
    assert_eq!(world.ticks().await, "10:00,running,1");
    world.at("2026-01-05T10:10:00Z").await;
    assert_eq!(world.ticks().await, "10:00,failed,1");
    let note = world.rows("SELECT note FROM system.pipeline_ticks").await;
    assert_eq!(note, "it took longer than 600s, the timeout of its schedule");
    assert_eq!(world.rows("SELECT state, error FROM system.pipeline_runs").await, format!("failed,{note}"));
    assert_eq!(world.told().await, "late,sent,1");
}

async fn a_run_that_was_lost_with_its_coordinator_is_begun_again() {
    let mut world = World::new().await;
    let long = "SELECT count(*) AS n FROM range($rows) AS a, range($rows) AS b";
    world.deploy(&format!("{HOURLY}[vars]\nrows = 100000000\n"), &[("models/mart/a.sql", long)]).await;
    world.clock.set("2026-01-05T10:00:00Z");
    world.scheduler.turn().await.unwrap();
    let clock = clock::system();
    let start = clock.instant();
    while world.ticks().await != "10:00,running,1" {
        assert!(clock.instant() - start < PATIENCE, "it does not begin");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Stopped in order, its run is lost at once; killed, when it starts again.
    world.scheduler.stop().await;
    assert_eq!(
        world.rows("SELECT state, error FROM system.pipeline_runs").await,
        "lost,its coordinator ended"
    );
    world.restart().await;
    world.deploy(&format!("{HOURLY}[vars]\nrows = 10\n"), &[("models/mart/a.sql", long)]).await;
    world.settled().await;
    assert_eq!(world.ticks().await, "10:00,done,2", "no retries were asked for");
    assert_eq!(world.rows("SELECT state FROM system.pipeline_runs ORDER BY run_id").await, "lost;done");
}

async fn a_run_of_a_client_is_waited_for() {
    let world = World::new().await;
    world.deploy(HOURLY, &[("models/mart/a.sql", "SELECT 1 AS n")]).await;
    let of = crate::ledger::Of { pipeline: "shop".to_owned(), environment: "prod".to_owned() };
    let ledger = &world.scheduler.ledger;
    let key = uuid::Uuid::now_v7();
    world.clock.set("2026-01-05T10:00:00Z");
    let run = ledger.begin(&of, "v", key, "ben", None, world.clock.now()).await.unwrap();
    world.settled().await;
    assert_eq!(world.ticks().await, "10:00,waiting,0");
    ledger.end(run, State::Failed, None, world.clock.now()).await.unwrap();
    world.settled().await;
    assert_eq!(world.ticks().await, "10:00,done,1");
}

async fn one_of_two_coordinators_schedules() {
    let world = World::new().await;
    world.deploy(HOURLY, &[("models/mart/hours.sql", HOURS)]).await;
    let other = coordinator(world.folder.path()).await;
    let two = pipelines(&other, "two", config(), &world.clock).await.scheduler().unwrap();
    world.clock.set("2026-01-05T10:00:00Z");
    settled(&world.scheduler).await;
    settled(&two).await;
    assert_eq!(world.ticks().await, "10:00,done,1");
    assert!(two.held.lock().is_none());
    // The first falls silent with a time that has come, and wakes up when the other has taken over.
    let stale = world.scheduler.lease().await.unwrap().unwrap();
    world.clock.set("2026-01-05T11:00:00Z");
    settled(&two).await;
    assert_eq!(rows(&other, "SELECT count(*) FROM system.pipeline_ticks WHERE state = 'done'").await, "2");
    // What it still writes is refused, whatever it believes.
    world.clock.set("2026-01-05T12:00:00Z");
    let known = world.scheduler.ticks.known().await.unwrap();
    let nobody = BTreeSet::new();
    let steps = core::decide(&known.schedules, &nobody, 1, world.clock.now());
    assert!(steps.iter().any(|step| matches!(step, Step::Begin { .. })));
    let refused = world.scheduler.ticks.write(&stale, &steps, &known, world.clock.now()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict, "{refused:?}");
    let waits =
        two.ticks.write(&two.lease().await.unwrap().unwrap(), &steps, &known, world.clock.now()).await;
    waits.unwrap();
    let known = world.scheduler.ticks.known().await.unwrap();
    let key = known.schedules[0].key.clone();
    world.scheduler.begin(&stale, &known, &key, known.schedules[0].open[0].nominal);
    let clock = clock::system();
    let start = clock.instant();
    while !world.scheduler.idle() {
        assert!(clock.instant() - start < PATIENCE, "it goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(world.ticks().await, "10:00,done,1;11:00,done,1;12:00,waiting,0", "it could not begin");
    assert_eq!(world.rows("SELECT count(*) FROM system.pipeline_runs").await, "2");
    settled(&two).await;
    assert_eq!(world.ticks().await, "10:00,done,1;11:00,done,1;12:00,done,1");
    // Stopped in order, the other takes over at once.
    two.stop().await;
    world.clock.set("2026-01-05T13:00:00Z");
    settled(&world.scheduler).await;
    assert_eq!(world.rows("SELECT count(*) FROM system.pipeline_runs").await, "4");
}

/// Answers POSTs with one status after the other, and keeps what was sent.
async fn webhook(answers: &[&'static str]) -> (String, Arc<Mutex<Vec<String>>>, Task<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/hook", listener.local_addr().unwrap());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (kept, mut answers) = (Arc::clone(&heard), answers.to_vec());
    let serving = task::spawn("webhook", async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = String::new();
            let mut bytes = [0; 4096];
            // A body of JSON ends with its brace.
            while !text.trim_end().ends_with('}') {
                let read = stream.read(&mut bytes).await.unwrap();
                text.push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
            kept.lock().push(text);
            let status = if answers.is_empty() { "200 OK" } else { answers.remove(0) };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (address, heard, serving)
}

async fn a_webhook_hears_of_failure_and_once_of_recovery() {
    let world = World::new().await;
    with_source(&world).await;
    let (address, heard, _serving) = webhook(&["200 OK", "503 Busy", "200 OK"]).await;
    let settings = format!("{HOURLY}[[notify]]\non = [\"failure\", \"recovery\"]\nwebhook = \"{address}\"\n");
    world.deploy(&settings, &[("models/mart/b.sql", TESTED)]).await;
    world.at("2026-01-05T10:00:00Z").await;
    assert_eq!(world.told().await, "failure,sent,1");
    world.run("DELETE FROM lake.source").await;
    world.at("2026-01-05T11:00:00Z").await;
    assert_eq!(world.told().await, "failure,sent,1;recovery,waiting,1", "it was busy");
    world.at("2026-01-05T11:00:05Z").await;
    assert_eq!(world.told().await, "failure,sent,1;recovery,sent,2");
    world.at("2026-01-05T12:00:00Z").await;
    assert_eq!(world.told().await, "failure,sent,1;recovery,sent,2", "told once");
    let heard = heard.lock().clone();
    let body = heard[0].split("\r\n\r\n").nth(1).unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert!(
        heard[0].starts_with("POST /hook HTTP/1.1\r\n")
            && heard[0].contains("content-type: application/json")
    );
    let text = body["text"].as_str().unwrap();
    assert!(
        text.starts_with("shop/hourly (prod): the run of 2026-01-05T10:00:00Z failed: model 'mart.b'"),
        "{text}"
    );
    assert_eq!((&body["event"], &body["run"], &body["attempt"]), (&"failure".into(), &1.into(), &1.into()));
    assert!(heard[1].contains("ended well, after failures") && heard.len() == 3, "{heard:?}");
}

async fn a_webhook_that_is_not_reached_harms_nothing() {
    let world = World::new().await;
    with_source(&world).await;
    // A port that was free a moment ago, and nobody listens on.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let settings =
        format!("{HOURLY}[[notify]]\non = [\"failure\"]\nwebhook = \"http://127.0.0.1:{port}/secret\"\n");
    world.deploy(&settings, &[("models/mart/b.sql", TESTED)]).await;
    world.at("2026-01-05T10:00:00Z").await;
    assert_eq!(world.ticks().await, "10:00,failed,1");
    assert_eq!(world.told().await, "failure,waiting,1");
    for (attempts, time) in
        [(2, "10:00:05"), (3, "10:00:15"), (4, "10:00:35"), (5, "10:01:15"), (6, "10:02:35")]
    {
        world.at(&format!("2026-01-05T{time}Z")).await;
        let state = if attempts < 6 { "waiting" } else { "failed" };
        assert_eq!(world.told().await, format!("failure,{state},{attempts}"));
    }
    let shown = world.rows("SELECT target, error FROM system.pipeline_notifications").await;
    assert!(shown.starts_with("webhook 127.0.0.1,") && !shown.contains("secret"), "{shown}");
    assert!(shown.to_lowercase().contains("refused"), "{shown}");
    world.run("DELETE FROM lake.source").await;
    world.at("2026-01-05T11:00:00Z").await;
    assert_eq!(world.ticks().await, "10:00,failed,1;11:00,done,1");
}

/// A project whose failures are told by a program that writes down what it was told.
async fn with_command(config: Config) -> (World, std::path::PathBuf) {
    let world = World::with(config).await;
    with_source(&world).await;
    let out = world.folder.path().join("told");
    let script = format!("echo $SKEP_EVENT $SKEP_PIPELINE $SKEP_RUN > {0}; cat >> {0}", out.display());
    let settings =
        format!("{HOURLY}[[notify]]\non = [\"failure\"]\ncommand = [\"sh\", \"-c\", \"{script}\"]\n");
    world.deploy(&settings, &[("models/mart/b.sql", TESTED)]).await;
    world.at("2026-01-05T10:00:00Z").await;
    (world, out)
}

async fn programs_run_only_where_the_config_file_allows_it() {
    let (world, out) = with_command(config()).await;
    assert_eq!(world.told().await, "failure,sent,1");
    let text = std::fs::read_to_string(&out).unwrap();
    assert!(text.starts_with("failure shop 1\n{") && text.contains("\"schedule\":\"hourly\""), "{text}");

    let (world, out) = with_command(Config::default()).await;
    assert_eq!(world.told().await, "failure,failed,1");
    let error = world.rows("SELECT error FROM system.pipeline_notifications").await;
    assert!(error.contains("[pipelines] commands = true"), "{error}");
    assert!(!Path::is_file(&out));
}

async fn another_version_runs_from_the_next_time_on() {
    let world = World::new().await;
    world.deploy(HOURLY, &[("models/mart/a.sql", "SELECT 1 AS n")]).await;
    world.at("2026-01-05T10:00:00Z").await;
    // Other times begin anew: what the old ones did not come to is not caught up.
    let quarters = HOURLY.replace("0 * * * *", "*/15 * * * *");
    world.clock.set("2026-01-05T10:50:00Z");
    world.deploy(&quarters, &[("models/mart/a.sql", "SELECT 2 AS n")]).await;
    world.settled().await;
    assert_eq!(world.ticks().await, "10:00,done,1");
    world.at("2026-01-05T11:00:00Z").await;
    assert_eq!(world.ticks().await, "10:00,done,1;11:00,done,1");
    let versions = "SELECT version FROM system.pipeline_ticks ORDER BY nominal_time";
    assert_eq!(
        (world.rows(versions).await, world.rows("SELECT n FROM mart.a").await),
        ("1;2".into(), "2".into())
    );
    // Without its schedule nothing comes any more.
    world.deploy("", &[("models/mart/a.sql", "SELECT 3 AS n")]).await;
    world.at("2026-01-05T15:00:00Z").await;
    assert_eq!(world.ticks().await, "10:00,done,1;11:00,done,1");
    assert_eq!(world.rows("SELECT count(*) FROM system.pipeline_schedules").await, "0");
}

async fn lines_are_kept_of_the_latest_runs() {
    let world = World::with(Config { logs_kept: 2, ..config() }).await;
    let settings = format!("{HOURLY}catch_up = \"all\"\n");
    world.deploy(&settings, &[("models/mart/hours.sql", HOURS)]).await;
    world.at("2026-01-05T13:00:00Z").await;
    assert_eq!(world.rows("SELECT count(*) FROM system.pipeline_runs").await, "4");
    let session = world.coordinator.open_session("ada");
    let lines = async |run: i64| {
        let body = serde_json::to_vec(&crate::log::Logs { run: Some(run), follow: false }).unwrap();
        let answers = world.pipelines.call(&session, crate::service::LOGS, body.into()).await.unwrap();
        answers.try_collect::<Vec<_>>().await
    };
    for run in [1, 2] {
        let error = lines(run).await.unwrap_err();
        assert!(error.message().contains("no longer there"), "{error:?}");
    }
    for run in [3, 4] {
        let told = lines(run).await.unwrap();
        let last: crate::log::Line = serde_json::from_slice(told.last().unwrap()).unwrap();
        assert!(matches!(last.event, Event::Over { run: Some(of), .. } if of == run), "{last:?}");
        assert_eq!(last.time, world.clock.now());
    }
}

async fn a_folder_that_is_gone_is_said() {
    let world = World::new().await;
    let load = "/*---\nkind = \"load\"\ncolumns = \"n BIGINT\"\noptions = { format = \"csv\", header = true }\n---*/\nSELECT * FROM 'raw/*.csv'";
    let folder = world.folder.path().join("project");
    std::fs::create_dir_all(folder.join("raw")).unwrap();
    std::fs::write(folder.join("raw/a.csv"), "n\n1\n2\n").unwrap();
    world.deploy_from(&folder, HOURLY, &[("models/lake/a.sql", load)]).await;
    world.at("2026-01-05T10:00:00Z").await;
    let first = world.rows("SELECT state, note FROM system.pipeline_ticks").await;
    assert!(first.starts_with("done,"), "{first}");
    assert_eq!(world.rows("SELECT sum(n) FROM lake.a").await, "3", "paths start at the project's folder");
    std::fs::rename(&folder, world.folder.path().join("moved")).unwrap();
    world.at("2026-01-05T11:00:00Z").await;
    assert_eq!(world.ticks().await, "10:00,done,1;11:00,failed,1");
    let note = world.rows("SELECT note FROM system.pipeline_ticks WHERE state = 'failed'").await;
    assert!(note.contains("which version 1 was deployed from, is not there"), "{note}");
}

async fn environments_run_beside_each_other_as_far_as_the_limit_goes() {
    let world = World::with(Config { runs_max: 2, ..config() }).await;
    let environments = ["a", "b", "c", "d"];
    let more: String =
        environments.iter().map(|name| format!("[env.{name}]\nschema_suffix = \"_{name}\"\n")).collect();
    let slow = [("models/mart/a.sql", "SELECT count(*) AS n FROM range(4000) AS a, range(4000) AS b")];
    for environment in environments {
        let settings = format!("{HOURLY}{more}");
        world.deploy_to(Some(environment), world.folder.path(), &settings, &slow).await;
    }
    world.clock.set("2026-01-05T10:00:00Z");
    world.scheduler.turn().await.unwrap();
    assert_eq!(world.scheduler.going.lock().len(), 2, "two begin, and two wait");
    world.scheduler.turn().await.unwrap();
    assert!(world.scheduler.going.lock().len() <= 2);
    world.settled().await;
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema LIKE 'mart%'";
    assert_eq!(
        (world.ticks().await, world.rows(tables).await),
        (["10:00,done,1"; 4].join(";"), "4".to_owned())
    );
}
