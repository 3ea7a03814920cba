//! Projects of SQL models, through the command line: what a run publishes, what it does not, and what a reader sees meanwhile.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use skep_testkit::client::Client;
use skep_testkit::process::{Output, Server, output, skep};

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// A project with the files of `project`, beside a server.
pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) server: Server,
}

impl Bench {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let bench = Self::empty();
        files.iter().for_each(|(name, text)| bench.write(name, text));
        bench
    }

    pub(crate) fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = up(&folder.path().join("data"));
        Self { folder, server }
    }

    /// The flights of the examples, with raw files of its own.
    pub(crate) fn flights() -> Self {
        let bench = Self::empty();
        copy(&root().join("examples/flights"), &bench.project());
        copy(&root().join("testdata/flights/raw"), &bench.folder.path().join("testdata/flights/raw"));
        bench.edit("pipeline.toml", "../../testdata/flights", "../testdata/flights");
        bench
    }

    pub(crate) fn project(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.project().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn edit(&self, name: &str, from: &str, to: &str) {
        let path = self.project().join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    }

    pub(crate) fn arguments(&self, command: &str, more: &[&str]) -> Vec<String> {
        let project = self.project().display().to_string();
        let first = ["pipeline", command, &project, "--url", self.server.flight()].map(str::to_owned);
        first.into_iter().chain(more.iter().map(|&word| word.to_owned())).collect()
    }

    pub(crate) fn pipeline(&self, command: &str, more: &[&str]) -> Output {
        let arguments = self.arguments(command, more);
        output(skep(&arguments.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    /// Runs it, which must end well.
    pub(crate) fn run(&self, more: &[&str]) -> String {
        let output = self.pipeline("run", more);
        assert_eq!(output.code, Some(0), "{output:?}");
        output.stdout
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.server.flight()).await.unwrap()
    }

    pub(crate) async fn one(&self, sql: &str) -> String {
        let rows = self.client().await.rows(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", e.report()));
        rows.iter().map(|row| row.join(",")).collect::<Vec<_>>().join(";")
    }
}

pub(crate) fn up(data: &Path) -> Server {
    let data = data.to_str().unwrap();
    Server::start(&["up", "--data", data, "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"]).unwrap()
}

const MARTS: [&str; 4] = [
    "SELECT * FROM mart.airline_days ORDER BY flight_date, carrier",
    "SELECT * FROM mart.routes ORDER BY origin, destination",
    "SELECT * FROM mart.weather_delays ORDER BY origin, weather",
    "SELECT * FROM mart.delays ORDER BY class",
];

#[tokio::test]
async fn flights_from_an_empty_lake_then_nothing_then_a_late_file() {
    let bench = Bench::flights();
    let first = bench.run(&[]);
    assert!(first.contains("published 17 tables in snapshot"), "{first}");
    assert_eq!(bench.one("SELECT count(*) FROM warehouse.flights").await, "27004");
    assert_eq!(
        bench.one("SELECT count(*), min(start_at), max(end_at) FROM system.pipeline_intervals WHERE model = 'mart.airline_days'").await,
        "31,2013-01-01 00:00:00,2013-02-01 00:00:00"
    );
    let tests =
        bench.one("SELECT count(*), count(DISTINCT model) FROM system.pipeline_tests WHERE run_id = 1").await;
    assert!(tests.split(',').next().unwrap().parse::<u32>().unwrap() >= 20, "{tests}");
    // One snapshot made all of it.
    assert_eq!(bench.one("SELECT count(*), max(snapshot_id) FROM system.pipeline_runs").await, "1,1");

    let second = bench.run(&[]);
    assert!(second.contains("nothing to do") && !second.contains("\nok "), "{second}");
    assert_eq!(
        bench.one("SELECT state, snapshot_id FROM system.pipeline_runs ORDER BY run_id").await,
        "done,1;unchanged,NULL"
    );

    // A flight of the fifth comes a month late, and one day is made again: the others keep their files.
    let file = bench.folder.path().join("testdata/flights/raw/flights_late.csv.gz");
    let text = "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour\n\
                2013,1,5,600,600,0,900,900,0,UA,9999,N14228,EWR,IAH,227,1400,6,0,2013-01-05T11:00:00Z\n";
    let mut gzip =
        flate2::write::GzEncoder::new(std::fs::File::create(&file).unwrap(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, text.as_bytes()).unwrap();
    gzip.finish().unwrap();
    let third = bench.run(&[]);
    assert!(third.contains("warehouse.flights (interval): 2013-01-05 to 2013-01-06"), "{third}");
    assert!(third.contains("mart.airline_days (interval): 2013-01-05 to 2013-01-06"), "{third}");
    assert!(third.contains("ok     [") && third.contains("lake.flights 1 rows"), "{third}");
    assert!(third.contains("lake.weather") && third.contains("no file that was not loaded yet"), "{third}");
    assert_eq!(bench.one("SELECT count(*) FROM warehouse.flights WHERE flight_number = 9999").await, "1");
    // What was appended stays as it was first seen.
    let delivered = "SELECT rows_delivered FROM warehouse.deliveries WHERE day = DATE '2013-01-05'";
    let before = bench.one(delivered).await;
    assert_eq!(
        bench.one("SELECT count(*) - 1 FROM lake.flights WHERE month = '1' AND day = '5'").await,
        before
    );

    // From nothing the marts come out the same.
    let mut client = bench.client().await;
    let mut marts = Vec::new();
    for sql in MARTS {
        marts.push(client.rows(sql).await.unwrap());
    }
    bench.run(&["--full-refresh", "--select", "+path:models/mart"]);
    for (sql, before) in MARTS.iter().zip(marts) {
        assert!(!before.is_empty());
        assert_eq!(client.rows(sql).await.unwrap(), before, "{sql}");
    }
    // Making an interval again changes nothing.
    let sums = "SELECT count(*), sum(flights), sum(late) FROM mart.airline_days";
    let before = bench.one(sums).await;
    bench.run(&["--start", "2013-01-10", "--end", "2013-01-12"]);
    assert_eq!(bench.one(sums).await, before);
}

pub(crate) const SETTINGS: &str =
    "[pipeline]\nname = \"t\"\nstart = \"2024-01-01\"\nend = \"2024-01-03\"\nexecution = \"local\"\n";

#[tokio::test]
async fn a_failed_test_publishes_nothing_and_retry_goes_on() {
    let bench = Bench::new(&[
        ("pipeline.toml", SETTINGS),
        (
            "models/lake/a.sql",
            "/*---\ntests = [{ row_count = { min = 1 } }]\n---*/\nSELECT value AS n FROM range(5)",
        ),
        (
            "models/mart/b.sql",
            "/*---\ntests = [{ expression = \"n < 3\" }, { unique = [\"n\"], on_fail = \"warn\" }]\n---*/\nSELECT n FROM lake.a UNION ALL SELECT 1",
        ),
        ("models/mart/c.sql", "SELECT count(*) AS n FROM mart.b"),
    ]);
    let failed = bench.pipeline("run", &[]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    for what in [
        "FAILED   mart.b expression(n < 3), 2 rows: n = 3; n = 4",
        "warn     mart.b unique(n)",
        "skip   [3/3] mart.c",
    ] {
        assert!(failed.stdout.contains(what), "{what}: {failed:?}");
    }
    let mut client = bench.client().await;
    for table in ["lake.a", "mart.b", "mart.c"] {
        let error = client.rows(&format!("SELECT * FROM {table}")).await.unwrap_err();
        assert_eq!(error.kind(), skep_common::Kind::NotFound, "{table}: {}", error.report());
    }
    bench.edit("models/mart/b.sql", "n < 3", "n < 30");
    let retried = bench.pipeline("retry", &[]);
    assert_eq!(retried.code, Some(0), "{retried:?}");
    assert!(
        retried.stdout.contains("lake.a 5 rows (0.0 s): staged by the run that this one goes on with"),
        "{retried:?}"
    );
    assert_eq!(bench.one("SELECT (SELECT count(*) FROM lake.a), n FROM mart.c").await, "5,6");
    assert_eq!(bench.one("SELECT state FROM system.pipeline_runs ORDER BY run_id").await, "failed;done");
    let nothing = bench.pipeline("retry", &[]);
    assert!(nothing.code == Some(1) && nothing.stdout.contains("did not fail"), "{nothing:?}");
}

#[tokio::test]
async fn every_kind_does_what_it_says() {
    let bench = Bench::new(&[
        ("pipeline.toml", SETTINGS),
        ("seeds/lake/people.csv", "id,name,day\n1,ada,2024-01-01\n2,ben,2024-01-02\n"),
        (
            "models/mart/merged.sql",
            "/*---\nkind = \"merge\"\nkey = [\"id\"]\n---*/\nSELECT id, name FROM lake.people",
        ),
        (
            "models/mart/kept.sql",
            "/*---\nkind = \"snapshot\"\nkey = [\"id\"]\n---*/\nSELECT id, name FROM lake.people",
        ),
        (
            "models/mart/parts.sql",
            "/*---\nkind = \"partition\"\npartition = [\"name\"]\n---*/\nSELECT id, name FROM lake.people",
        ),
        (
            "models/mart/dropped.sql",
            "/*---\ntests = [{ expression = \"id > 1\", on_fail = \"drop\" }]\n---*/\nSELECT id, name FROM lake.people",
        ),
        ("models/mart/seen.sql", "/*---\nkind = \"view\"\n---*/\nSELECT name FROM mart.merged"),
    ]);
    bench.run(&[]);
    assert_eq!(bench.one("SELECT * FROM mart.merged ORDER BY id").await, "1,ada;2,ben");
    assert_eq!(bench.one("SELECT id FROM mart.dropped").await, "2");
    assert_eq!(
        bench.one("SELECT run_id, failed_test, id, name FROM mart.dropped__quarantine").await,
        "1,expression(id > 1),1,ada"
    );
    // Ada is called otherwise, Ben is gone, Cleo comes.
    bench.write("seeds/lake/people.csv", "id,name,day\n1,Ada,2024-01-01\n3,cleo,2024-01-02\n");
    bench.run(&[]);
    assert_eq!(bench.one("SELECT * FROM mart.merged ORDER BY id").await, "1,Ada;2,ben;3,cleo");
    assert_eq!(
        bench
            .one("SELECT id, name, is_current, valid_to IS NULL FROM mart.kept ORDER BY id, is_current")
            .await,
        "1,ada,false,false;1,Ada,true,true;2,ben,false,false;3,cleo,true,true"
    );
    assert_eq!(
        bench.one("SELECT count(*) FROM mart.kept AS a JOIN mart.kept AS b ON a.id = b.id AND a.valid_to = b.valid_from").await,
        "1",
        "a state ends where the next begins"
    );
    assert_eq!(
        bench.one("SELECT id, name FROM mart.parts ORDER BY id, name").await,
        "1,Ada;1,ada;2,ben;3,cleo"
    );
    assert_eq!(bench.one("SELECT name FROM mart.seen ORDER BY 1").await, "Ada;ben;cleo");
    // Beside production, without copying it.
    bench.edit("pipeline.toml", "execution", "threads = 1\nexecution");
    bench.write(
        "models/mart/merged.sql",
        "/*---\nkind = \"merge\"\nkey = [\"id\"]\n---*/\nSELECT id, upper(name) AS name FROM lake.people",
    );
    let settings = std::fs::read_to_string(bench.project().join("pipeline.toml")).unwrap();
    bench.write("pipeline.toml", &format!("{settings}\n[env.dev]\nschema_suffix = \"_dev\"\n"));
    bench.run(&["--env", "dev", "--select", "mart.merged"]);
    assert_eq!(bench.one("SELECT * FROM mart_dev.merged ORDER BY id").await, "1,ADA;3,CLEO");
    assert_eq!(bench.one("SELECT * FROM mart.merged ORDER BY id").await, "1,Ada;2,ben;3,cleo");
    let modified = bench.run(&["--select", "state:modified+"]);
    assert!(modified.contains("mart.merged") && !modified.contains("mart.kept"), "{modified}");
}

#[tokio::test]
async fn what_is_wrong_is_said_with_file_and_place_and_nothing_is_run() {
    let good = "SELECT 1 AS id, 'x' AS name, TIMESTAMP '2024-01-01 00:00:00' AS at";
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (
            "a cycle",
            &[("models/mart/b.sql", "SELECT * FROM mart.c"), ("models/mart/c.sql", "SELECT * FROM mart.b")],
            &["in a circle: mart.b <- mart.c <- mart.b", "models/mart/b.sql:1:15"],
        ),
        (
            "an unknown table",
            &[("models/lake/customers.sql", good), ("models/mart/b.sql", "SELECT *\nFROM lake.custmers")],
            &["'lake.custmers' does not exist", "did you mean", "lake.customers", "models/mart/b.sql:2:6"],
        ),
        (
            "a missing column",
            &[("models/mart/b.sql", "SELECT id,\n  nmae FROM lake.a")],
            &["nmae", "models/mart/b.sql:2:3"],
        ),
        (
            "an ambiguous column",
            &[("models/mart/b.sql", "SELECT id FROM lake.a AS x JOIN lake.a AS y ON x.id = y.id")],
            &["'id' is in more than one table", "models/mart/b.sql:1:8"],
        ),
        (
            "a type",
            &[("models/mart/b.sql", "SELECT id + INTERVAL '1 day' AS d, sum(name) AS s FROM lake.a")],
            &["models/mart/b.sql"],
        ),
        (
            "a key that is no column",
            &[("models/mart/b.sql", "/*---\nkind = \"merge\"\nkey = [\"di\"]\n---*/\nSELECT id FROM lake.a")],
            &["no column 'di'", "did you mean 'id'"],
        ),
        (
            "a test on no column",
            &[(
                "models/mart/b.sql",
                "/*---\ntests = [{ not_null = [\"nope\"] }]\n---*/\nSELECT id FROM lake.a",
            )],
            &["test not_null(nope)", "nope"],
        ),
        (
            "an unknown key",
            &[("models/mart/b.sql", "/*---\nkid = \"table\"\n---*/\nSELECT id FROM lake.a")],
            &["unknown field `kid`", "models/mart/b.sql:2:1"],
        ),
        (
            "no value",
            &[("models/mart/b.sql", "SELECT id FROM lake.a WHERE id > $limt")],
            &["$limt has no value", "did you mean 'limit'", "models/mart/b.sql:1:34"],
        ),
        (
            "no interval",
            &[("models/mart/b.sql", "SELECT id FROM lake.a WHERE at >= $start")],
            &["$start has no value: the model has no intervals"],
        ),
        (
            "a kind without its time",
            &[("models/mart/b.sql", "/*---\nkind = \"interval\"\n---*/\nSELECT id FROM lake.a")],
            &["kind interval needs a time"],
        ),
        ("no query", &[("models/mart/b.sql", "DELETE FROM lake.a")], &["a model is one query"]),
        (
            "one name for two",
            &[("models/mart/b.sql", good), ("models/mart/deep/b.sql", good)],
            &["is the model of 'models/mart/b.sql' too"],
        ),
        (
            "a load that changes rows",
            &[("models/lake/b.sql", "/*---\nkind = \"load\"\n---*/\nSELECT id + 1 FROM 'x.csv'")],
            &["takes the rows of files as they are"],
        ),
        (
            "settings",
            &[("pipeline.toml", "[pipeline]\nname = \"t\"\nstrat = 1\n")],
            &["unknown field `strat`", "pipeline.toml:3:1"],
        ),
    ];
    let bench = Bench::empty();
    for (what, files, says) in cases {
        let _ = std::fs::remove_dir_all(bench.project());
        bench.write("pipeline.toml", &format!("{SETTINGS}[vars]\nlimit = 3\n"));
        bench.write("models/lake/a.sql", good);
        files.iter().for_each(|(name, text)| bench.write(name, text));
        for command in ["check", "run"] {
            if command == "run" && ["a key that is no column", "a test on no column", "a type"].contains(what)
            {
                continue;
            }
            let output = bench.pipeline(command, &[]);
            assert_eq!(output.code, Some(1), "{what}: {output:?}");
            let all = format!("{}{}", output.stdout, output.stderr);
            says.iter().for_each(|says| assert!(all.contains(says), "{what}: {says:?} in {all}"));
        }
        let left = bench
            .one("SELECT count(*) FROM information_schema.tables WHERE table_schema IN ('lake', 'mart')")
            .await;
        assert_eq!(left, "0", "{what}");
    }
    // A key twice is found when the rows are there.
    bench.write("pipeline.toml", SETTINGS);
    let _ = std::fs::remove_dir_all(bench.project().join("models"));
    bench.write(
        "models/mart/m.sql",
        "/*---\nkind = \"merge\"\nkey = [\"k\"]\n---*/\nSELECT 1 AS k, value AS n FROM range(2)",
    );
    let twice = bench.pipeline("run", &[]);
    assert!(
        twice.code == Some(1) && twice.stdout.contains("several rows for one key: k = 1, times = 2"),
        "{twice:?}"
    );
    // A column of another type is refused before a row is written.
    bench.write("models/mart/m.sql", "/*---\nkind = \"merge\"\nkey = [\"k\"]\n---*/\nSELECT 1 AS k, 2 AS n");
    bench.run(&[]);
    bench.write(
        "models/mart/m.sql",
        "/*---\nkind = \"merge\"\nkey = [\"k\"]\n---*/\nSELECT 1 AS k, 'two' AS n",
    );
    let changed = bench.pipeline("run", &[]);
    assert!(
        changed.stdout.contains("column 'n' is BIGINT in the table and VARCHAR in the query"),
        "{changed:?}"
    );
}

/// What was loaded, appended or merged by a run that failed is there once when it is gone on with.
#[tokio::test]
async fn retry_brings_no_row_twice() {
    let bench = Bench::new(&[
        ("pipeline.toml", SETTINGS),
        ("raw/a.csv", "n\n1\n2\n"),
        (
            "models/lake/a.sql",
            "/*---\nkind = \"load\"\ncolumns = \"n INT\"\noptions = { format = \"csv\", header = true }\n---*/\nSELECT * FROM 'raw/*.csv'",
        ),
        (
            "models/mart/b.sql",
            "/*---\nkind = \"append\"\ntime = \"at\"\ngrain = \"day\"\ntests = [{ expression = \"n < 2\" }]\n---*/\nSELECT n, CAST($start AS TIMESTAMP) AS at FROM lake.a",
        ),
    ]);
    assert_eq!(bench.pipeline("run", &[]).code, Some(1));
    bench.edit("models/mart/b.sql", "n < 2", "n < 3");
    let retried = bench.pipeline("retry", &[]);
    assert!(retried.code == Some(0) && retried.stdout.contains("begins again from nothing"), "{retried:?}");
    let counts = "SELECT (SELECT count(*) FROM lake.a) AS a, (SELECT count(*) FROM mart.b) AS b, (SELECT count(*) FROM system.loads) AS c";
    assert_eq!(bench.one(counts).await, "2,2,1");
    // Nothing is loaded this time, and what failed had appended already.
    bench.edit("pipeline.toml", "2024-01-03", "2024-01-04");
    bench.edit("models/mart/b.sql", "n < 3", "n < 2");
    assert_eq!(bench.pipeline("run", &[]).code, Some(1));
    bench.edit("models/mart/b.sql", "n < 2", "n < 3");
    let retried = bench.pipeline("retry", &[]);
    assert!(retried.code == Some(0) && !retried.stdout.contains("from nothing"), "{retried:?}");
    assert_eq!(bench.one("SELECT count(*), count(DISTINCT at) FROM mart.b").await, "4,2");
    assert!(bench.run(&[]).contains("nothing to do"));
}

#[tokio::test]
async fn a_run_that_another_commit_came_in_the_way_of_begins_again() {
    let bench = Bench::new(&[
        ("pipeline.toml", &SETTINGS.replace("execution", "threads = 1\nexecution")),
        ("models/mart/one.sql", "SELECT value AS n FROM range(5)"),
        ("models/mart/two.sql", "SELECT count(*) AS n FROM mart.one, range(40000) AS a, range(1000) AS b"),
    ]);
    bench.run(&["--select", "mart.one"]);
    bench.edit("models/mart/one.sql", "range(5)", "range(6)");
    let arguments = bench.arguments("run", &["--json"]);
    let mut command = skep(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let staged = |line: &str| line.contains("\"ended\"") && line.contains("mart.one");
    while !staged(&lines.next().unwrap().unwrap()) {}
    bench.client().await.update("DELETE FROM mart.one WHERE n = 0").await.unwrap();
    let last = lines.last().unwrap().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(last.contains("\"failed\"") && last.contains("skep pipeline run"), "{last}");
    assert_eq!(bench.one("SELECT count(*) FROM mart.one").await, "4");
    let retried = bench.pipeline("retry", &[]);
    assert!(retried.code == Some(0) && retried.stdout.contains("begins again from nothing"), "{retried:?}");
    assert_eq!(bench.one("SELECT (SELECT count(*) FROM mart.one), n FROM mart.two").await, "6,240000000");
}

/// Three tables that must always tell the same.
const AGREE: &str = "SELECT (SELECT max(v) FROM mart.one), (SELECT max(v) FROM mart.two), (SELECT max(v) FROM mart.three), \
                     (SELECT count(*) FROM mart.days), (SELECT count(DISTINCT day) FROM mart.days)";

#[tokio::test]
async fn readers_never_see_a_part_of_a_run_however_it_ends() {
    let mut bench = Bench::new(&[
        ("pipeline.toml", &SETTINGS.replace("local", "durable")),
        ("models/mart/one.sql", "SELECT $v AS v"),
        ("models/mart/two.sql", "SELECT v FROM mart.one"),
        (
            "models/mart/three.sql",
            "/*---\ntests = [{ expression = \"v <> $v_bad\" }]\n---*/\nSELECT v FROM mart.two",
        ),
        (
            "models/mart/days.sql",
            "/*---\nkind = \"interval\"\ntime = \"day\"\ngrain = \"day\"\n---*/\n\
             SELECT CAST($start AS TIMESTAMP) AS day, max(v) AS v FROM mart.three",
        ),
    ]);
    bench.edit("models/mart/three.sql", "v <> $v_bad", "v % 3 <> 2");
    bench.edit("pipeline.toml", "end = \"2024-01-03\"", "end = \"2024-01-02\"");
    let settings = std::fs::read_to_string(bench.project().join("pipeline.toml")).unwrap();
    bench.write("pipeline.toml", &format!("{settings}[vars]\nv = 0\n"));
    bench.run(&["--var", "v=0"]);
    let mut published = 0_u64;
    // At each event in turn the server, or the client, is killed; and runs fail, and succeed.
    for round in 1..=12_u64 {
        let version = format!("v={round}");
        match round % 3 {
            2 => {
                let failed = bench.pipeline("run", &["--var", &version]);
                assert_eq!(failed.code, Some(1), "{failed:?}");
            }
            1 => {
                bench.run(&["--var", &version]);
                published = round;
            }
            _ => {
                let arguments = bench.arguments("run", &["--json", "--var", &version]);
                let mut command = skep(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
                let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
                let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
                for _ in 0..round / 3 {
                    lines.next().unwrap().unwrap();
                }
                if round % 2 == 0 {
                    let data = bench.folder.path().join("data");
                    let server = std::mem::replace(&mut bench.server, idle());
                    server.kill();
                    bench.server = up(&data);
                } else {
                    child.kill().unwrap();
                }
                child.wait().unwrap();
            }
        }
        let seen = bench.one(AGREE).await;
        let parts: Vec<u64> = seen.split(',').map(|part| part.parse().unwrap()).collect();
        assert!(parts[0] == parts[1] && parts[1] == parts[2], "round {round}: {seen}");
        // A run that was killed may have been committed already.
        assert!(parts[0] == published || (round % 3 == 0 && parts[0] == round), "round {round}: {seen}");
        published = parts[0];
        assert_eq!(parts[3], parts[4], "no interval twice: {seen}");
        let agree = "SELECT count(*) FROM system.pipeline_intervals WHERE model = 'mart.days'";
        assert_eq!(bench.one(agree).await, parts[3].to_string(), "ledger and data agree");
        // A client that was killed leaves a run that ends when it is noticed.
        until_over(&bench).await;
    }
    bench.run(&["--var", "v=100"]);
    assert_eq!(bench.one(AGREE).await, "100,100,100,1,1");
}

/// A server that stands in for one that was killed.
pub(crate) fn idle() -> Server {
    let folder = tempfile::tempdir().unwrap();
    up(&folder.path().join("idle"))
}

async fn until_over(bench: &Bench) {
    let clock = skep_common::clock::system();
    let start = clock.instant();
    let going = "SELECT count(*) FROM system.pipeline_runs WHERE state = 'running'";
    while bench.one(going).await != "0" {
        assert!(
            clock.instant() - start < std::time::Duration::from_secs(30),
            "a run goes on without its client"
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
