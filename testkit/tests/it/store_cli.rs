//! `skep store`, the tables of `system` about blocks, and SYSTEM statements: through the command line, on a cluster in one
//! process, served and not, and on one of processes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use skep_testkit::process::{Cluster, Output, Server, run};

fn store(place: &[&str], arguments: &[&str]) -> Output {
    run(&[&["store"], place, arguments].concat())
}

fn done(output: Output) -> String {
    assert_eq!(output.code, Some(0), "{output:?}");
    output.stdout
}

fn sql(url: &str, statement: &str) -> String {
    let output = run(&["sql", "--url", url, "--format", "csv", "--no-header", "-c", statement]);
    assert_eq!(output.code, Some(0), "{statement}: {output:?}");
    output.stdout.trim().to_owned()
}

/// Asks until the answer is `wanted`, while the cluster works towards it.
fn until(url: &str, statement: &str, wanted: &str) {
    let (clock, patience) = (skep_common::clock::system(), Duration::from_secs(60));
    let start = clock.instant();
    loop {
        let got = sql(url, statement);
        if got == wanted {
            return;
        }
        assert!(clock.instant() - start < patience, "{statement} is {got}, not {wanted}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Every command about files, on the store at `place`.
fn files(place: &[&str], folder: &Path) {
    let (small, large) = (folder.join("small.txt"), folder.join("large.bin"));
    std::fs::write(&small, "hello\n").unwrap();
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&large, &bytes).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();

    done(store(place, &["put", &text(&small), "/notes/small.txt"]));
    done(store(place, &["put", &text(&large), "skep://blocks/notes/deep/large.bin"]));
    assert_eq!(done(store(place, &["cat", "notes/small.txt"])), "hello\n");
    let again = store(place, &["put", &text(&small), "notes/small.txt"]);
    assert_eq!(again.code, Some(2), "{again:?}");
    assert!(again.stderr.contains("--replace"), "{again:?}");
    done(store(place, &["put", "--replace", &text(&small), "notes/small.txt"]));

    let list = done(store(place, &["ls", "notes"]));
    assert!(list.contains("notes/deep/") && list.contains("notes/small.txt"), "{list}");
    let list = done(store(place, &["ls", "-r", "/notes"]));
    assert!(list.contains("12000000") && list.contains("notes/deep/large.bin"), "{list}");
    let usage = done(store(place, &["du", "notes"]));
    assert!(usage.lines().last().unwrap().contains("12000006"), "{usage}");
    let shown = done(store(place, &["stat", "notes/deep/large.bin"]));
    assert!(shown.contains("bytes    12000000") && shown.contains("blocks   1"), "{shown}");

    done(store(place, &["mv", "notes/deep/large.bin", "notes/moved.bin"]));
    done(store(place, &["cp", "notes/moved.bin", "notes/copied.bin"]));
    let taken = store(place, &["cp", "notes/moved.bin", "notes/small.txt"]);
    assert_eq!(taken.code, Some(2), "{taken:?}");
    let fetched = folder.join("fetched.bin");
    done(store(place, &["get", "notes/copied.bin", &text(&fetched)]));
    assert!(std::fs::read(&fetched).unwrap() == bytes, "what came back differs");
    let twice = store(place, &["get", "notes/copied.bin", &text(&fetched)]);
    assert_eq!(twice.code, Some(2), "{twice:?}");

    std::fs::remove_file(&fetched).unwrap();

    done(store(place, &["rm", "notes/moved.bin"]));
    let missing = store(place, &["rm", "notes/moved.bin"]);
    assert_eq!(missing.code, Some(2), "{missing:?}");
    assert!(missing.stderr.contains("notes/moved.bin"), "{missing:?}");
    done(store(place, &["rm", "-r", "notes"]));
    assert_eq!(done(store(place, &["ls", "-r"])).matches("notes/").count(), 0);
}

#[test]
fn files_go_in_and_out_of_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let place = ["--data", data.to_str().unwrap()];
    let nowhere = store(&place, &["ls"]);
    assert_eq!(nowhere.code, Some(2), "{nowhere:?}");
    assert!(nowhere.stderr.contains("--data"), "{nowhere:?}");

    let url = ["--flight=127.0.0.1:0", "--http=127.0.0.1:0"];
    let server = Server::start(&[&["up"][..], &place, &url].concat()).unwrap();
    files(&place, folder.path());
    let secret = std::fs::metadata(data.join("secret")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&secret.permissions()) & 0o777, 0o600);
    server.stop();
    assert!(!data.join("secret").try_exists().unwrap(), "the secret outlives its cluster");
    // The folder itself, which nobody serves.
    files(&place, folder.path());
    let report = done(store(&place, &["report"]));
    assert!(report.contains("under_replicated"), "{report}");
}

/// What a door for HTTP answers.
fn get(url: &str, path: &str) -> String {
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn nodes_are_drained_and_blocks_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_hasty(folder.path(), 4);
    let url = cluster.flight().to_owned();
    let config = folder.path().join("operator.toml");
    let listen = cluster.coordinator.address("listen");
    let flight = url.trim_start_matches("grpc://");
    std::fs::write(
        &config,
        format!("[worker]\ncoordinator = \"{listen}\"\n[coordinator]\nflight = \"{flight}\"\n"),
    )
    .unwrap();
    let place = ["--config", config.to_str().unwrap()];
    files(&place, folder.path());

    sql(&url, "CREATE TABLE t AS SELECT value AS v FROM generate_series(1, 1000) AS s(value)");
    let blocks = sql(&url, "SHOW BLOCKS FOR TABLE t");
    assert_eq!(blocks.lines().count(), 3, "{blocks}");
    assert!(
        blocks.lines().all(|line| line.contains(",healthy,") && line.ends_with(",good,live")),
        "{blocks}"
    );
    let seen = "SELECT count(*), count(DISTINCT node), count(DISTINCT block_id) FROM system.blocks";
    assert_eq!(sql(&url, seen), "3,3,1");
    assert_eq!(
        sql(&url, "SELECT files, blocks, wanted_replicas, under_replicated FROM system.replication"),
        "1,1,3,0"
    );
    let metrics = get(cluster.coordinator.address("http"), "/metrics");
    assert!(
        metrics.starts_with("HTTP/1.1 200") && metrics.contains("application/openmetrics-text"),
        "{metrics}"
    );
    for line in ["skep_store_blocks{health=\"healthy\"} 1", "skep_workers 4", "# EOF"] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    let external = run(&["sql", "--url", &url, "-c", "SHOW BLOCKS FOR TABLE nothing"]);
    assert!(external.stderr.contains("nothing"), "{external:?}");

    // The node that is drained has a block: it goes where none is.
    let holder = sql(&url, "SELECT min(node) FROM system.blocks");
    done(store(&place, &["drain", &holder]));
    let drained = format!("SELECT drained FROM system.nodes WHERE node = '{holder}'");
    until(&url, &drained, "true");
    let elsewhere =
        format!("SELECT count(*) FROM system.blocks WHERE node <> '{holder}' AND replica_state = 'good'");
    assert_eq!(sql(&url, &elsewhere), "3");
    let nodes = done(store(&place, &["nodes"]));
    assert!(nodes.lines().any(|line| line.contains(&holder) && line.contains("draining")), "{nodes}");
    let unknown = store(&place, &["drain", "w99"]);
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(unknown.stderr.contains("'w99'") && unknown.stderr.contains(&holder), "{unknown:?}");
    done(store(&place, &["undrain", &holder]));
    until(&url, &format!("SELECT state FROM system.nodes WHERE node = '{holder}'"), "live");

    done(store(&place, &["maintain", &holder, "2h"]));
    let until_when = format!("SELECT maintenance_until > now() FROM system.nodes WHERE node = '{holder}'");
    assert_eq!(sql(&url, &until_when), "true");
    done(store(&place, &["resume", &holder]));
    assert_eq!(sql(&url, &until_when), "");
    let wrong = store(&place, &["maintain", &holder, "soon"]);
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    let alive = store(&place, &["remove", &holder]);
    assert_eq!(alive.code, Some(1), "{alive:?}");

    done(store(&place, &["balance", "--percent", "5"]));
    let wrong = store(&place, &["balance", "--percent", "0"]);
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    let checked = store(&place, &["fsck"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.stderr.contains("1 of 1 blocks are healthy"), "{checked:?}");
    assert!(done(store(&place, &["fsck", "--all", "main"])).contains("healthy"));
}
