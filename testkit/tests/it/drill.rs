//! `skep drill`: a script under faults, through the program.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use skep_testkit::process::{Output, output, skep};
use skep_testkit::testdata;

/// Runs a drill whose files lie in `temporary`.
fn drill(temporary: &Path, arguments: &[&str]) -> Output {
    let mut command = skep(&["drill"]);
    command.args(arguments).env("TMPDIR", temporary);
    output(command)
}

fn shop() -> String {
    testdata().join("drill/shop.sql").display().to_string()
}

/// Neither a file nor a process of a drill is left.
fn assert_nothing_left(temporary: &Path) {
    let files: Vec<_> = std::fs::read_dir(temporary).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.is_empty(), "{files:?}");
    let here = temporary.to_str().unwrap().to_owned();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        assert!(!line.contains(&here), "still runs: {line}");
    }
}

/// Runs `script` in a folder of its own.
fn drill_script(script: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("script.sql");
    std::fs::write(&path, script).unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let done = drill(temporary.path(), &[arguments, &[path.to_str().unwrap()]].concat());
    assert_nothing_left(temporary.path());
    done
}

#[test]
fn a_worker_that_dies_and_a_bad_block_change_no_answer() {
    let temporary = tempfile::tempdir().unwrap();
    let asked = ["--seed=7", "--kill=w2@stage:1@statement:4+", "--corrupt=block:w1@statement:5"];
    let done = drill(temporary.path(), &[&asked[..], &["--delay=rpc:10%:20", &shop()]].concat());
    assert_eq!(done.code, Some(0), "{done:?}");
    for said in [
        "kill -9 of w2: stage 1 has begun",
        "w2 was started again",
        "is damaged in",
        "every answer is equal: 8 statements, 2 faults",
        "replay: skep drill --seed 7 --kill w2@stage:1@statement:4+ --corrupt block:w1@statement:5 --delay rpc:10%:20 \
         --lane durable --workers 4",
    ] {
        assert!(done.stdout.contains(said), "no '{said}' in {}", done.stdout);
    }
    assert_nothing_left(temporary.path());
}

#[test]
fn the_pipelined_lane_gives_equal_answers_or_one_error_that_is_sent_again() {
    let temporary = tempfile::tempdir().unwrap();
    let asked = ["--seed=3", "--lane=pipelined", "--workers=3", "--kill=worker@stage:1", "--pause=worker:1"];
    let done = drill(temporary.path(), &[&asked[..], &[&shop()]].concat());
    // 5: the statement may end before the moment of the pause.
    assert!(matches!(done.code, Some(0 | 5)), "{done:?}");
    assert!(done.stdout.contains("every answer is equal: 8 statements"), "{}", done.stdout);
    assert!(done.stdout.contains("stage 1 has begun"), "{}", done.stdout);
    assert_nothing_left(temporary.path());
}

/// Nothing is as wrong as what is drawn anew in every run.
#[test]
fn an_answer_that_differs_ends_the_drill_and_is_named() {
    let script = "CREATE TABLE t AS SELECT value AS v FROM generate_series(1, 1000);
                  SELECT count(*) FROM t;
                  SELECT v, random() AS r FROM t;
                  SELECT 4";
    let done = drill_script(script, &["--seed=1", "--workers=2", "--delay=rpc:1%:1"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(
        done.stdout.contains("WRONG: statement 3: the answer differs from that of one node"),
        "{}",
        done.stdout
    );
    assert!(!done.stdout.contains("SELECT 4"), "it ends there: {}", done.stdout);
    assert!(done.stdout.contains("replay: skep drill --seed 1"), "{}", done.stdout);
}

#[test]
fn a_fault_that_never_happens_is_said() {
    let script = "CREATE TABLE t AS SELECT value AS v FROM generate_series(1, 1000); SELECT count(*) FROM t";
    let done = drill_script(script, &["--seed=1", "--workers=2", "--kill=w1@stage:99"]);
    assert_eq!(done.code, Some(5), "{done:?}");
    assert!(done.stdout.contains("never happened: kill -9 of w1 when stage 99"), "{}", done.stdout);
}

#[test]
fn a_script_that_fails_on_one_node_is_no_drill() {
    let done = drill_script("SELECT 1;\nSELECT * FROM missing", &["--seed=1"]);
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.stderr.contains("statement 2, line 2, fails on one node"), "{}", done.stderr);
}

#[test]
fn wrong_options_are_explained() {
    let cases: [(&[&str], &str); 8] = [
        (&["--kill=w2"], "write WORKER@stage:K"),
        (&["--kill=w9@stage:1"], "there is no w9: the drill has 4 workers"),
        (&["--kill=w1@stage:1@statement:99"], "the script has 8"),
        (&["--pause=worker:x"], "'x' is not a number of seconds"),
        (&["--corrupt=disk"], "write block"),
        (&["--delay=20%"], "write rpc:P%"),
        (&["--workers=1"], "1 is not in 2..=16"),
        (&["--timeout=soon"], "'soon' is not a duration"),
    ];
    let temporary = tempfile::tempdir().unwrap();
    for (arguments, said) in cases {
        let done = drill(temporary.path(), &[arguments, &[&shop()]].concat());
        assert_eq!(done.code, Some(2), "{arguments:?}: {done:?}");
        assert!(done.stderr.contains(said), "{arguments:?}: {}", done.stderr);
    }
    let done = drill(temporary.path(), &["nowhere.sql"]);
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.stderr.contains("cannot read 'nowhere.sql'"), "{}", done.stderr);
    assert_nothing_left(temporary.path());
}

/// Interrupts a drill when it says `moment`.
fn interrupt_at(moment: &str) {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = skep(&["drill", "--seed=1", "--kill=worker@stage:1", &shop()]);
    let mut child =
        command.env("TMPDIR", temporary.path()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains(moment)), "it ended early");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let told: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(told.iter().any(|line| line.starts_with("replay: skep drill --seed 1")), "{told:?}");
    assert_eq!(child.wait().unwrap().code(), Some(4));
    assert_nothing_left(temporary.path());
}

#[test]
fn an_interrupted_drill_ends_all_of_its_processes() {
    // Before any process is there, while one node answers, while a worker is dead.
    for moment in ["the plan:", "on one node:", "stage 1 has begun"] {
        interrupt_at(moment);
    }
}
