//! The SQL test files on one node and on three workers: the same answers.

use std::fmt::Write as _;

use skep_testkit::client::Client;
use skep_testkit::process::{Server, skep};
use skep_testkit::slt;

/// Runs every file; on the catalog of the server at `catalog`, or on the folder's own.
pub(crate) async fn run(lane: &str, catalog: Option<&str>) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut arguments =
        vec!["up", "--data", data.to_str().unwrap(), "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    arguments.extend(["--workers", "3"]);
    let mut command = skep(&arguments);
    if let Some(catalog) = catalog {
        command.env("SKEP_CATALOG", catalog);
    }
    let server = Server::start_command(command).unwrap();
    let mut report = String::new();
    for (number, file) in slt::files().unwrap().into_iter().enumerate() {
        let scratch = folder.path().join(format!("scratch-{number}"));
        std::fs::create_dir(&scratch).unwrap();
        if lane == "local" && std::env::var_os("SKEP_BLESS").is_some() {
            if slt::bless_file(server.flight(), &file, &scratch).await.unwrap() {
                eprintln!("blessed {}", file.display());
            }
            continue;
        }
        match slt::run_file(server.flight(), &file, lane, &scratch).await {
            Ok(failures) => {
                for failure in failures {
                    let _ = writeln!(report, "\n{}", failure.trim_end());
                }
            }
            Err(error) => {
                let _ = writeln!(report, "\n{}: {error:?}", file.display());
            }
        }
    }
    if lane != "local" {
        let mut client = Client::connect(server.flight()).await.unwrap();
        let tasks = client.rows("SELECT worker, tasks FROM system.workers ORDER BY worker").await.unwrap();
        let busy = tasks.iter().filter(|row| row[1] != "0").count();
        assert!(busy >= 2, "at least two workers must have run tasks: {tasks:?}");
    }
    assert!(report.is_empty(), "{lane}:{report}");
}

#[tokio::test]
async fn local() {
    run("local", None).await;
}

#[tokio::test]
async fn pipelined_on_three_workers() {
    run("pipelined", None).await;
}

#[tokio::test]
async fn durable_on_three_workers() {
    run("durable", None).await;
}
