//! Deployed projects: versions, schedules, who is told of them, and what was logged.

use std::path::PathBuf;

use skep_testkit::client::Client;
use skep_testkit::postgres::Postgres;
use skep_testkit::process::{Output, Server, output, skep};
use skep_testkit::skip;

/// A project beside a server.
struct Bench {
    folder: tempfile::TempDir,
    server: Server,
}

fn up(data: &std::path::Path) -> Server {
    let data = data.to_str().unwrap();
    Server::start(&["up", "--data", data, "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"]).unwrap()
}

const SETTINGS: &str =
    "[pipeline]\nname = \"shop\"\nexecution = \"local\"\n[env.dev]\nschema_suffix = \"_dev\"\n";

impl Bench {
    fn new() -> Self {
        Self::with(|folder| up(&folder.join("data")))
    }

    fn with(server: impl FnOnce(&std::path::Path) -> Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = server(folder.path());
        let bench = Self { folder, server };
        bench.write("pipeline.toml", SETTINGS);
        bench.write("models/mart/a.sql", "SELECT 1 AS n");
        bench
    }

    fn project(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.project().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// The settings of the project, and more of them.
    fn settings(&self, more: &str) {
        self.write("pipeline.toml", &format!("{SETTINGS}{more}"));
    }

    fn pipeline(&self, words: &[&str]) -> Output {
        let url = ["--url", self.server.flight()];
        let words: Vec<&str> = ["pipeline"].iter().chain(words).chain(&url).copied().collect();
        output(skep(&words))
    }

    /// Deploys, which must end well.
    fn deploy(&self, more: &[&str]) -> String {
        let project = self.project().display().to_string();
        let words: Vec<&str> = ["deploy", project.as_str()].iter().chain(more).copied().collect();
        let output = self.pipeline(&words);
        assert_eq!(output.code, Some(0), "{output:?}");
        output.stdout
    }

    async fn client(&self) -> Client {
        Client::connect(self.server.flight()).await.unwrap()
    }

    async fn one(&self, sql: &str) -> String {
        let rows = self.client().await.rows(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", e.report()));
        rows.iter().map(|row| row.join(",")).collect::<Vec<_>>().join(";")
    }
}

const NIGHTLY: &str = "[[schedule]]\nname = \"nightly\"\ncron = \"0 3 1 1 *\"\n";

#[tokio::test]
async fn a_version_is_deployed_once_and_gone_back_to() {
    let bench = Bench::new();
    bench.settings(NIGHTLY);
    let first = bench.deploy(&[]);
    assert!(first.contains("version 1 of shop is current in prod; nightly next at "), "{first}");
    assert!(bench.deploy(&[]).contains("version 1 of shop is current in prod already"));
    bench.write("models/mart/a.sql", "SELECT 2 AS n");
    let second = bench.deploy(&[]);
    assert!(second.contains("version 2 of shop is current in prod, after version 1"), "{second}");
    assert!(bench.deploy(&["--env", "dev"]).contains("version 2 of shop is current in dev"));
    let back = bench.deploy(&["--version", "1"]);
    assert!(back.contains("version 1 of shop is current in prod, after version 2"), "{back}");
    // By name, from anywhere.
    let named = bench.pipeline(&["deploy", "shop", "--version", "2"]);
    assert!(named.code == Some(0) && named.stdout.contains("version 2 of shop"), "{named:?}");
    let versions =
        "SELECT pipeline, version, current_in, folder LIKE '%/project' FROM system.pipeline_versions";
    assert_eq!(bench.one(versions).await, "shop,1,NULL,true;shop,2,dev, prod,true");
    assert_eq!(bench.one("SELECT count(DISTINCT fingerprint) FROM system.pipeline_versions").await, "2");
    // Nothing was run.
    assert_eq!(bench.one("SELECT count(*) FROM system.pipeline_runs").await, "0");
}

#[tokio::test]
async fn what_does_not_fit_is_not_deployed() {
    let bench = Bench::new();
    bench.write("models/mart/b.sql", "SELECT m FROM mart.a");
    let project = bench.project().display().to_string();
    let failed = bench.pipeline(&["deploy", &project]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.stderr.contains("models/mart/b.sql:1:8"), "{failed:?}");
    assert!(failed.stdout.contains("1 problem: nothing is deployed"), "{failed:?}");
    bench.write("models/mart/b.sql", "SELECT n FROM mart.a");
    bench.settings("[[schedule]]\nname = \"a\"\ncron = \"0 25 * * *\"\ntime_zone = \"Europe/Berln\"\n");
    for command in ["check", "deploy"] {
        let failed = bench.pipeline(&[command, &project]);
        assert_eq!(failed.code, Some(1), "{failed:?}");
        assert!(failed.stderr.contains("pipeline.toml:8:8"), "{failed:?}");
        assert!(failed.stderr.contains("'0 25 * * *' is no cron pattern"), "{failed:?}");
    }
    bench.settings("");
    for (words, says) in [
        (["deploy", &project, "--env", "stage"], "no environment 'stage'"),
        (["deploy", &project, "--version", "7"], "'shop' has no version 7"),
        (["deploy", "other", "--version", "1"], "'other' has no version 1"),
    ] {
        let failed = bench.pipeline(&words);
        assert!(failed.code != Some(0) && failed.stderr.contains(says), "{words:?}: {failed:?}");
    }
    assert_eq!(bench.one("SELECT count(*) FROM system.pipeline_versions").await, "0");
}

#[tokio::test]
async fn what_a_run_told_is_kept_and_followed() {
    let bench = Bench::new();
    bench.write(
        "models/mart/b.sql",
        "/*---\ntests = [{ expression = \"n < 1\" }]\n---*/\nSELECT n FROM mart.a",
    );
    let project = bench.project().display().to_string();
    assert_eq!(bench.pipeline(&["logs"]).code, Some(2), "there is no run yet");
    assert_eq!(bench.pipeline(&["run", &project]).code, Some(1));
    for words in [&["logs"][..], &["logs", "1"], &["logs", "--follow"]] {
        let logs = bench.pipeline(words);
        assert_eq!(logs.code, Some(0), "{logs:?}");
        let lines: Vec<&str> = logs.stdout.lines().collect();
        assert!(lines.iter().all(|line| line.starts_with("20") && line[..25].contains('Z')), "{logs:?}");
        assert!(lines[0].contains("run 1 of shop in prod: 2 models"), "{logs:?}");
        assert!(logs.stdout.contains("ok     [1/2] mart.a 1 rows"), "{logs:?}");
        assert!(logs.stdout.contains("FAILED   mart.b expression(n < 1), 1 rows: n = 1"), "{logs:?}");
        assert!(lines.last().unwrap().contains("FAILED model 'mart.b'"), "{logs:?}");
    }
    let json = bench.pipeline(&["logs", "--json"]);
    let lines: Vec<serde_json::Value> =
        json.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["event"], &lines[0]["run"]), (&"begun".into(), &1.into()));
    assert!(lines.iter().all(|line| line["time"].as_str().unwrap().ends_with('Z')), "{lines:?}");
    // One that goes on is followed to its end.
    bench.write("models/mart/b.sql", "SELECT count(*) AS n FROM range(60000) AS a, range(30000) AS b");
    let words = ["pipeline", "run", &project, "--url", bench.server.flight()];
    let mut child = skep(&words).stdout(std::process::Stdio::null()).spawn().unwrap();
    bench.until("SELECT state FROM system.pipeline_runs WHERE run_id = 2", "running").await;
    let followed = bench.pipeline(&["logs", "2", "--follow"]);
    assert!(
        followed.stdout.contains("run 2 of shop") && followed.stdout.contains("published"),
        "{followed:?}"
    );
    assert!(child.wait().unwrap().success());
    let gone = bench.pipeline(&["logs", "9"]);
    assert!(gone.code == Some(2) && gone.stderr.contains("there is no run 9"), "{gone:?}");
}

#[tokio::test]
async fn schedules_are_listed_paused_and_resumed() {
    let mut bench = Bench::new();
    assert!(bench.pipeline(&["schedules"]).stdout.is_empty());
    bench.settings(&format!("{NIGHTLY}[[schedule]]\nname = \"yearly\"\ncron = \"@yearly\"\n"));
    bench.deploy(&[]);
    let listed = bench.pipeline(&["schedules"]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    for what in ["shop", "nightly", "0 3 1 1 *", "UTC", "-01-01T03:00:00Z"] {
        assert!(listed.stdout.contains(what), "{what}: {listed:?}");
    }
    let states = "SELECT schedule, state, next_at IS NULL FROM system.pipeline_schedules ORDER BY 1";
    let paused = bench.pipeline(&["pause", "shop/nightly"]);
    assert!(paused.code == Some(0) && paused.stdout.contains("paused nightly of shop"), "{paused:?}");
    assert_eq!(bench.one(states).await, "nightly,paused,true;yearly,on,false");
    assert!(bench.pipeline(&["pause", "shop/nightly"]).stdout.contains("was paused already"));
    // What is known of schedules is there after a restart, and another version changes nothing of it.
    let data = bench.folder.path().join("data");
    let before = std::mem::replace(&mut bench.server, up(&bench.folder.path().join("idle")));
    before.kill();
    bench.server = up(&data);
    bench.write("models/mart/a.sql", "SELECT 3 AS n");
    bench.deploy(&[]);
    assert_eq!(bench.one(states).await, "nightly,paused,true;yearly,on,false");
    let resumed = bench.pipeline(&["resume", "shop"]);
    assert!(resumed.stdout.contains("resumed nightly of shop"), "{resumed:?}");
    assert_eq!(bench.one(states).await, "nightly,on,false;yearly,on,false");
    let typo = bench.pipeline(&["pause", "shop/nightyl"]);
    assert!(typo.code == Some(2) && typo.stderr.contains("did you mean 'shop/nightly'?"), "{typo:?}");
    let none = bench.pipeline(&["pause", "shop", "--env", "dev"]);
    assert!(none.code == Some(2) && none.stderr.contains("has no schedule in 'dev'"), "{none:?}");
}

pub(crate) fn on_server(data: &std::path::Path, catalog: &str) -> Server {
    let data = data.to_str().unwrap();
    let mut command = skep(&[
        "up",
        "--data",
        data,
        "--store",
        "file",
        "--workers",
        "1",
        "--flight",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
    ]);
    command.env("SKEP_CATALOG", catalog);
    Server::start_command(command).unwrap()
}

/// A number of the catalog's database.
async fn number(url: &str, sql: &'static str) -> i64 {
    use sqlx::Connection;
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
}

/// Waits until a number of the catalog's database is what it should be.
async fn until(url: &str, sql: &'static str, enough: impl Fn(i64) -> bool) {
    let clock = skep_common::clock::system();
    let start = clock.instant();
    loop {
        let found = number(url, sql).await;
        if enough(found) {
            return;
        }
        assert!(clock.instant() - start < std::time::Duration::from_secs(180), "{sql}: {found}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// A day of missed hours, and the coordinator that catches up is killed in the middle of a run.
#[tokio::test]
async fn postgres_schedules_go_on_on_another_coordinator() {
    let Some(postgres) = Postgres::start() else {
        return skip("schedules::postgres_schedules_go_on_on_another_coordinator", "PostgreSQL");
    };
    const HOURS: i64 = 24;
    let (folder, url) = (tempfile::tempdir().unwrap(), postgres.url());
    let first = on_server(&folder.path().join("one"), &url);
    let bench = Bench { folder, server: first };
    bench.settings(
        "[[schedule]]\nname = \"hourly\"\ncron = \"0 * * * *\"\ncatch_up = \"all\"\n\
         [[notify]]\non = [\"recovery\"]\ncommand = [\"true\"]\n",
    );
    let now = skep_common::clock::system().now();
    let start = (now - std::time::Duration::from_secs(3600 * 24)).format("%Y-%m-%d %H:00:00");
    bench.write(
        "models/mart/hours.sql",
        &format!(
            "/*---\nkind = \"append\"\ntime = \"at\"\ngrain = \"hour\"\nstart = \"{start}\"\n---*/\n\
             SELECT CAST($start AS TIMESTAMP) AS at, count(*) AS n FROM range(3000) AS a, range(3000) AS b"
        ),
    );
    bench.deploy(&[]);
    let back = "WITH moved AS (UPDATE skep_pipeline_schedule SET failing = 1, \
                cursor_us = cursor_us - 24::BIGINT * 3600000000 RETURNING 1) SELECT count(*) FROM moved";
    assert_eq!(number(&url, back).await, 1);
    let done = "SELECT count(*) FROM skep_pipeline_tick WHERE state = 'done'";
    let owners = "SELECT count(DISTINCT owner) FROM skep_pipeline_run";
    until(&url, done, |done| done >= 2).await;
    let second = on_server(&bench.folder.path().join("two"), &url);
    until(&url, done, |done| done >= 4).await;
    assert_eq!(number(&url, owners).await, 1, "one of them schedules");
    until(&url, "SELECT count(*) FROM skep_pipeline_run WHERE state = 'running'", |runs| runs == 1).await;
    let Bench { folder, server } = bench;
    server.kill();
    let bench = Bench { folder, server: second };
    until(&url, done, |done| done >= HOURS).await;
    assert_eq!(number(&url, owners).await, 2, "the other went on");
    let ticks = "SELECT count(*), count(DISTINCT run_id), min(state), max(state) FROM system.pipeline_ticks";
    assert_eq!(bench.one(ticks).await, "24,24,done,done");
    let runs = "SELECT count(*) FROM system.pipeline_runs WHERE state = 'done'";
    assert_eq!(bench.one(runs).await, "24", "no time has two runs");
    assert_eq!(bench.one("SELECT count(*), count(DISTINCT at) FROM mart.hours").await, "24,24");
    assert_eq!(
        bench.one("SELECT count(*), count(DISTINCT run_id) FROM system.pipeline_intervals WHERE model = 'mart.hours'").await,
        "24,24"
    );
    // All else that is known of them reads on this database too.
    let logs = bench.pipeline(&["logs"]);
    assert!(logs.code == Some(0) && logs.stdout.contains("published 1 table"), "{logs:?}");
    let listed = bench.pipeline(&["schedules"]);
    assert!(listed.code == Some(0) && listed.stdout.contains("hourly"), "{listed:?}");
    assert!(bench.pipeline(&["pause", "shop"]).stdout.contains("paused hourly of shop"));
    bench.write("models/mart/a.sql", "SELECT 2 AS n");
    assert!(bench.deploy(&[]).contains("version 2 of shop is current in prod, after version 1"));
    assert_eq!(bench.one("SELECT state, version FROM system.pipeline_schedules").await, "paused,2");
    assert_eq!(bench.one("SELECT count(*) FROM system.pipeline_notifications").await, "1");
    bench.until("SELECT event, state FROM system.pipeline_notifications", "recovery,failed").await;
    // In order, and never two at a time.
    let order = "SELECT count(*) FROM system.pipeline_ticks AS a JOIN system.pipeline_ticks AS b \
                 ON a.nominal_time < b.nominal_time AND a.began_at >= b.began_at";
    assert_eq!(bench.one(order).await, "0");
}

/// Hears POSTs on a port of its own, and answers that all is well.
fn webhook() -> (String, std::sync::mpsc::Receiver<serde_json::Value>) {
    use std::io::{BufRead, BufReader, Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (heard, hears) = std::sync::mpsc::sync_channel(100);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while stream.read_line(&mut line).unwrap() > 2 {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
            stream.into_inner().write_all(answer).unwrap();
            if heard.send(serde_json::from_slice(&body).unwrap()).is_err() {
                return;
            }
        }
    });
    (url, hears)
}

/// A coordinator whose config file says what notifications may do.
fn coordinator(folder: &std::path::Path, commands: bool) -> Server {
    let config = folder.join("skep.toml");
    let text = format!(
        "[coordinator]\ndata = \"{}\"\nstore = \"file\"\nflight = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n\
         listen = \"127.0.0.1:0\"\n[pipelines]\ncommands = {commands}\n",
        folder.join("data").display()
    );
    std::fs::write(&config, text).unwrap();
    Server::start(&["coordinator", "--config", config.to_str().unwrap()]).unwrap()
}

impl Bench {
    fn replace(&mut self, server: Server) {
        std::mem::replace(&mut self.server, server).kill();
    }

    /// The server is killed, two years pass, and it starts again.
    async fn years_later(&mut self, commands: bool) {
        use sqlx::Connection;
        let idle = up(&self.folder.path().join("idle"));
        self.replace(idle);
        let file = format!("sqlite:{}", self.folder.path().join("data/catalog.sqlite").display());
        let mut database = sqlx::SqliteConnection::connect(&file).await.unwrap();
        for sql in [
            "DELETE FROM skep_pipeline_tick",
            "UPDATE skep_pipeline_schedule SET cursor_us = cursor_us - 63200000000000",
        ] {
            sqlx::query(sql).execute(&mut database).await.unwrap();
        }
        database.close().await.unwrap();
        let server = coordinator(self.folder.path(), commands);
        self.replace(server);
    }

    /// Waits until a query gives what it should.
    async fn until(&self, sql: &str, wanted: &str) {
        let clock = skep_common::clock::system();
        let start = clock.instant();
        loop {
            let found = self.one(sql).await;
            if found == wanted {
                return;
            }
            assert!(
                clock.instant() - start < std::time::Duration::from_secs(60),
                "{sql}: {found}, not {wanted}"
            );
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn a_missed_time_is_caught_up_after_a_restart_and_people_are_told() {
    let mut bench = Bench::with(|folder| coordinator(folder, true));
    let (url, hears) = webhook();
    let told = bench.folder.path().join("told");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = format!(
        "{NIGHTLY}[[notify]]\non = [\"failure\", \"recovery\"]\nwebhook = \"{url}\"\n\
         [[notify]]\non = [\"failure\", \"recovery\"]\ncommand = [\"sh\", \"-c\", \"cat > {}.$SKEP_EVENT\"]\n\
         [[notify]]\non = [\"failure\"]\nwebhook = \"http://{closed}/\"\n",
        told.display()
    );
    bench.settings(&settings);
    bench.write(
        "models/mart/b.sql",
        "/*---\ntests = [{ expression = \"n < 1\" }]\n---*/\nSELECT n FROM mart.a",
    );
    bench.deploy(&[]);

    bench.years_later(true).await;
    bench.until("SELECT state, missed, attempt, run_id FROM system.pipeline_ticks", "failed,1,1,1").await;
    let failure = hears.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
    assert_eq!((&failure["event"], &failure["run"]), (&"failure".into(), &1.into()));
    assert!(failure["text"].as_str().unwrap().starts_with("shop/nightly (prod): the run of "), "{failure}");
    let states =
        "SELECT state FROM system.pipeline_notifications WHERE attempts > 0 ORDER BY notification_id";
    bench.until(states, "sent;sent;waiting").await;
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(told.with_extension("failure")).unwrap()).unwrap();
    assert_eq!(json, failure);
    let unreached =
        "SELECT target, error LIKE '%refused%' FROM system.pipeline_notifications WHERE state = 'waiting'";
    assert_eq!(bench.one(unreached).await, "webhook 127.0.0.1,true");
    assert!(bench.pipeline(&["schedules"]).stdout.contains("failing"));
    assert!(bench.pipeline(&["logs", "1"]).stdout.contains("expression(n < 1), 1 rows"));

    // A version that does, on a coordinator that runs no programs.
    bench.write("models/mart/a.sql", "SELECT 0 AS n");
    assert!(!bench.deploy(&[]).contains("does not run"));
    bench.years_later(false).await;
    bench.until("SELECT state, version FROM system.pipeline_ticks", "done,2").await;
    let recovery = hears.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
    assert_eq!(recovery["event"], "recovery");
    let refused = "SELECT state, error LIKE '%[pipelines] commands = true%' FROM system.pipeline_notifications \
                   WHERE event = 'recovery' AND target = 'command sh'";
    bench.until(refused, "failed,true").await;
    assert!(!told.with_extension("recovery").is_file());
    assert!(bench.deploy(&["--env", "dev"]).contains("a command, which this coordinator does not run"));
    assert_eq!(bench.one("SELECT n FROM mart.b").await, "0");
}
