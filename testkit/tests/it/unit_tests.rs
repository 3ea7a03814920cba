//! Unit tests of models, through the command line: no server, no data folder.

use std::path::Path;

use skep_testkit::process::{Output, run};

use crate::pipelines::{Bench, SETTINGS, root};

const MODEL: &str = "/*---\nkind = \"interval\"\ntime = \"day\"\ngrain = \"day\"\n---*/\n\
    SELECT CAST(at AS DATE) AS day, sum(n) AS n, sum(x * $factor) AS x\nFROM lake.a\nWHERE at >= $start\nGROUP BY CAST(at AS DATE)";

const TEST: &str = "/*---\nmodel = \"mart.b\"\nstart = \"2024-01-01\"\nvars = { factor = 3 }\n---*/\n\
    WITH a(at, n) AS (VALUES ('2024-01-01 10:00:00', 1), ('2024-01-01', 2), ('2024-01-02', 3))\n\
    SELECT * FROM (VALUES ('2024-01-01', 3, NULL)) AS expected(day, n, x)\n";

const DECLARED: &str = "/*---\nkind = \"load\"\ncolumns = \"at TIMESTAMP, n BIGINT, x DECIMAL(9,2)\"\n---*/\nSELECT * FROM 'a.csv'";

struct Project(tempfile::TempDir);

impl Project {
    /// A model with a test that passes, and other files.
    fn with(files: &[(&str, &str)]) -> Self {
        let project = Self(tempfile::tempdir().unwrap());
        project.write("pipeline.toml", &format!("{SETTINGS}[vars]\nfactor = 2\n"));
        project.write("models/lake/a.sql", DECLARED);
        project.write("models/mart/b.sql", MODEL);
        project.write("tests/unit/b.sql", TEST);
        files.iter().for_each(|(name, text)| project.write(name, text));
        project
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn test(&self, more: &[&str]) -> Output {
        test(self.0.path(), more)
    }
}

fn test(project: &Path, more: &[&str]) -> Output {
    let arguments = ["pipeline", "test", project.to_str().unwrap()];
    run(&arguments.iter().chain(more).copied().collect::<Vec<_>>())
}

#[test]
fn given_rows_take_the_types_of_models_and_what_is_left_out_is_null() {
    let project = Project::with(&[]);
    let passed = project.test(&[]);
    assert_eq!(passed.code, Some(0), "{passed:?}");
    assert!(
        passed.stdout.contains("ok     mart.b tests/unit/b.sql (")
            && passed.stdout.ends_with("ok     1 unit test\n")
    );
    // As CSV, where nothing is NULL; of a model in between, whose columns are those of its query.
    project.write("models/mart/c.sql", "SELECT day, n FROM mart.b WHERE day > DATE '2024-01-01'");
    project.write(
        "tests/unit/c.sql",
        "/*---\nmodel = \"mart.c\"\nexpected = \"\"\"\n  n,day\n  ,2024-01-03\n  5,2024-01-02\n  5,2024-01-02\n\"\"\"\n\n\
         [given]\n\"mart.b\" = \"\"\"\nday,n\n2024-01-01,4\n2024-01-02,5\n2024-01-03,\n2024-01-02,5\n\"\"\"\n---*/\n",
    );
    let both = project.test(&[]);
    assert!(both.code == Some(0) && both.stdout.ends_with("ok     2 unit tests\n"), "{both:?}");
    let one = project.test(&["--select", "mart.c"]);
    assert!(one.stdout.contains("mart.c") && !one.stdout.contains("mart.b"), "{one:?}");
    let none = project.test(&["--select", "lake.a"]);
    assert!(none.code == Some(0) && none.stdout.contains("no unit tests"), "{none:?}");
}

#[test]
fn rows_that_differ_are_shown_with_their_place() {
    let project = Project::with(&[(
        "tests/unit/b.sql",
        &TEST.replace(
            "('2024-01-01', 3, NULL)",
            "('2024-01-01', 3, 1.5), ('2024-01-01', 3, 1.5), ('2024-01-02', 3, 0)",
        ),
    )]);
    let failed = project.test(&[]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    for what in [
        "3 rows are missing, 1 row is not expected",
        "missing       2024-01-01  3  1.50",
        "missing       2024-01-02  3  0.00",
        "not expected  2024-01-01  3  NULL",
        "tests/unit/b.sql:7:1",
    ] {
        assert!(failed.stderr.contains(what), "{what}: {failed:?}");
    }
    assert_eq!(failed.stderr.matches("missing       2024-01-01").count(), 2, "{failed:?}");
    assert!(
        failed.stdout.contains("FAILED mart.b") && failed.stdout.ends_with("FAILED 1 of 1 unit test\n"),
        "{failed:?}"
    );
}

#[test]
fn what_is_wrong_with_a_test_is_said_where_it_stands() {
    let edited = |from: &str, to: &str| {
        assert!(TEST.contains(from));
        TEST.replace(from, to)
    };
    let cases: &[(String, &[&str])] = &[
        (
            edited("mart.b", "mart.bb"),
            &["no model 'mart.bb'", "did you mean 'mart.b'", "tests/unit/b.sql:2:9"],
        ),
        (edited("mart.b", "lake.a"), &["'lake.a' takes the rows of files as they are", "b.sql:2:9"]),
        (edited("model =", "modl ="), &["unknown field `modl`", "b.sql:2:1"]),
        (edited("model = \"mart.b\"", ""), &["does not say of which model it is"]),
        (edited("a(at, n)", "aa(at, n)"), &["'mart.b' reads no table 'aa'", "did you mean 'a'", "b.sql:6:6"]),
        (edited("a(at, n)", "a(at, m)"), &["table 'lake.a' has no column 'm'", "b.sql:6:6"]),
        (
            edited("expected(day, n, x)", "expected(day, n, y)"),
            &["the query of 'mart.b' has no column 'y'", "b.sql:7:1"],
        ),
        (edited(" AS expected(day, n, x)", ""), &["no column 'column1'", "VALUES have names behind them"]),
        (edited("'2024-01-02', 3", "'soon', 3"), &["column 'at' is TIMESTAMP", "soon", "b.sql:6:6"]),
        (edited("start = \"2024-01-01\"\n", ""), &["does not say for which interval 'mart.b' is run"]),
        (edited("2024-01-01\"", "2024-13-01\""), &["'2024-13-01' is no time", "b.sql:3:9"]),
        (edited("factor", "facter"), &["no variable 'facter'", "did you mean 'factor'", "b.sql:4:10"]),
        (edited("= 3", "= \"x\""), &["of type string here and of type integer in the project", "b.sql:4:10"]),
        (edited("SELECT *", "SELEC *"), &["found 'SELEC'", "b.sql:7:1"]),
        (
            TEST.split("WITH").next().unwrap().to_owned() + "SELECT 1 AS n",
            &["'mart.b' reads lake.a, and the test gives no rows of it", "b.sql:6:1", "as in WITH a(id, at)"],
        ),
        ("SELECT 1 AS n".to_owned(), &["in no header"]),
    ];
    for (text, says) in cases {
        let wrong = Project::with(&[("tests/unit/b.sql", text)]).test(&[]);
        assert_eq!(wrong.code, Some(1), "{text}: {wrong:?}");
        says.iter().for_each(|says| assert!(wrong.stderr.contains(says), "{text}: {says:?} in {wrong:?}"));
    }
    // A model that does not do what its rows ask for is shown in its own file.
    let model = MODEL.replace("sum(n)", "sum(nn)");
    let wrong = Project::with(&[("models/mart/b.sql", &model)]).test(&[]);
    assert!(
        wrong.stderr.contains("models/mart/b.sql:6:") && wrong.stderr.contains("'tests/unit/b.sql'"),
        "{wrong:?}"
    );
    // Two tables of one name must be told apart.
    let project = Project::with(&[
        ("models/mart/a.sql", "SELECT 1 AS n"),
        ("models/mart/c.sql", "SELECT l.n FROM lake.a AS l JOIN mart.a AS m ON l.n = m.n"),
        ("tests/unit/c.sql", "/*---\nmodel = \"mart.c\"\n---*/\nWITH a AS (SELECT 1 AS n)\nSELECT 1 AS n"),
    ]);
    let both = project.test(&[]);
    assert!(
        both.stderr.contains("'a' may be lake.a or mart.a") && both.stderr.contains("c.sql:4:6"),
        "{both:?}"
    );
    let text = "/*---\nmodel = \"mart.c\"\n---*/\nWITH one AS (SELECT 1 AS n), \"lake.a\" AS (SELECT n FROM one), \"mart.a\" AS (SELECT * FROM one)\n\
                SELECT n FROM one";
    project.write("tests/unit/c.sql", text);
    assert_eq!(project.test(&[]).code, Some(0), "{:?}", project.test(&[]));
}

#[test]
fn examples_pass_and_init_writes_one() {
    for (name, tests) in [("first", "ok     1 unit test\n"), ("flights", "ok     3 unit tests\n")] {
        let passed = test(&root().join("examples").join(name), &[]);
        assert!(passed.code == Some(0) && passed.stdout.ends_with(tests), "{passed:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("new");
    assert_eq!(run(&["pipeline", "init", project.to_str().unwrap()]).code, Some(0));
    let passed = test(&project, &[]);
    assert!(passed.stdout.ends_with("ok     1 unit test\n"), "{passed:?}");
}

#[tokio::test]
async fn check_runs_them_and_a_run_does_not() {
    let bench = Bench::new(&[
        ("pipeline.toml", SETTINGS),
        ("models/mart/b.sql", "SELECT value AS n FROM range(3)"),
        ("models/mart/c.sql", "SELECT sum(n) AS n FROM mart.b"),
        (
            "tests/unit/c.sql",
            "/*---\nmodel = \"mart.c\"\n---*/\nWITH b(n) AS (VALUES (1), (2))\nSELECT 3 AS n",
        ),
    ]);
    let good = bench.pipeline("check", &[]);
    assert!(
        good.code == Some(0) && good.stdout.contains("2 models fit together, 1 unit test passes"),
        "{good:?}"
    );
    bench.edit("tests/unit/c.sql", "SELECT 3", "SELECT 4");
    let wrong = bench.pipeline("check", &[]);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("not expected  3"), "{wrong:?}");
    bench.run(&[]);
    assert_eq!(bench.one("SELECT n FROM mart.c").await, "3");
}
