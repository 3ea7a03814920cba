//! `skep admin`: a catalog is copied while it is written to, lost, and brought back, on either database.

use std::path::Path;

use skep_testkit::postgres::Postgres;
use skep_testkit::process::{Output, Server, output, run, skep};
use skep_testkit::skip;

fn up(data: &Path, store: &str, catalog: Option<&str>) -> Server {
    let mut command = skep(&[
        "up",
        "--data",
        data.to_str().unwrap(),
        "--store",
        store,
        "--flight=127.0.0.1:0",
        "--http=127.0.0.1:0",
        "--workers=2",
    ]);
    if let Some(catalog) = catalog {
        command.env("SKEP_CATALOG", catalog);
    }
    Server::start_command(command).unwrap()
}

fn sql(url: &str, statement: &str) -> String {
    let output = run(&["sql", "--url", url, "--format", "csv", "-c", statement]);
    assert_eq!(output.code, Some(0), "{statement}: {output:?}");
    output.stdout.trim().replace('\n', " ")
}

fn admin(arguments: &[&str], catalog: Option<&str>) -> Output {
    let mut command = skep(&["admin"]);
    command.args(arguments);
    if let Some(catalog) = catalog {
        command.env("SKEP_CATALOG", catalog);
    }
    output(command)
}

fn done(output: &Output) -> &str {
    assert_eq!(output.code, Some(0), "{output:?}");
    output.stdout.trim()
}

const SUM: &str = "SELECT count(*) AS n, sum(v) AS s FROM t";

fn fill(url: &str) {
    sql(url, "CREATE TABLE t (v BIGINT, note VARCHAR)");
    sql(url, "INSERT INTO t SELECT value, 'before' FROM generate_series(1, 1000) AS s(value)");
    sql(url, "CREATE VIEW w AS SELECT sum(v) AS total FROM t");
    sql(url, "DELETE FROM t WHERE v > 900");
}

/// The catalog of `from` is copied while it is served, and what comes later is not in the copy.
fn backup(server: &Server, place: &[&str], catalog: Option<&str>, to: &Path) {
    fill(server.flight());
    let mut arguments = vec!["backup", "--to", to.to_str().unwrap()];
    arguments.extend(place);
    let said = admin(&arguments, catalog);
    assert!(done(&said).starts_with("backed up snapshot "), "{said:?}");
    sql(server.flight(), "INSERT INTO t VALUES (5000, 'after')");
    assert_eq!(sql(server.flight(), SUM), "n,s 901,410450");
    let again = admin(&arguments, catalog);
    assert_eq!(again.code, Some(2), "a backup never replaces another: {again:?}");
}

fn as_backed_up(url: &str) {
    assert_eq!(sql(url, SUM), "n,s 900,405450");
    assert_eq!(sql(url, "SELECT total FROM w"), "total 405450");
    assert_eq!(sql(url, "SELECT count(*) AS n FROM t WHERE note = 'before' AND v = 900"), "n 1");
    sql(url, "INSERT INTO t VALUES (1, 'new')");
    assert_eq!(sql(url, SUM), "n,s 901,405451");
}

#[test]
fn a_lost_catalog_is_brought_back() {
    for store in ["skep", "file"] {
        let folder = tempfile::tempdir().unwrap();
        let (data, copy) = (folder.path().join("data"), folder.path().join("copy"));
        let place = ["--data", data.to_str().unwrap()];
        let server = up(&data, store, None);
        backup(&server, &place, None, &copy);

        let restore = ["restore", "--from", copy.to_str().unwrap(), place[0], place[1]];
        let served = admin(&restore, None);
        assert_eq!(served.code, Some(2), "{served:?}");
        assert!(served.stderr.contains("in use"), "{served:?}");
        server.kill();
        for name in ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"] {
            let _ = std::fs::remove_file(data.join(name));
        }
        let there = admin(&restore, None);
        assert!(there.stderr.contains("blocks.sqlite") && there.stderr.contains("--force"), "{there:?}");
        assert!(!data.join("catalog.sqlite").is_file(), "nothing is changed by halves");
        let mut restore = restore.to_vec();
        restore.push("--force");
        let said = admin(&restore, None);
        assert!(done(&said).starts_with("restored snapshot "), "{said:?}");
        assert!(done(&admin(&["check", place[0], place[1]], None)).starts_with("the catalog is in order"));
        as_backed_up(up(&data, store, None).flight());
    }
}

#[test]
fn what_is_no_backup_is_refused_and_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let (data, copy) = (folder.path().join("data"), folder.path().join("copy"));
    let place = ["--data", data.to_str().unwrap()];
    let server = up(&data, "file", None);
    backup(&server, &place, None, &copy);
    server.stop();
    let restore = ["restore", "--from", copy.to_str().unwrap(), place[0], place[1], "--force"];
    let before = std::fs::read(data.join("catalog.sqlite")).unwrap();

    let mut bytes = std::fs::read(copy.join("catalog.sqlite")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(copy.join("catalog.sqlite"), &bytes).unwrap();
    let changed = admin(&restore, None);
    assert_eq!(changed.code, Some(2), "{changed:?}");
    assert!(changed.stderr.contains("changed after it was taken"), "{changed:?}");
    std::fs::remove_file(copy.join("backup.json")).unwrap();
    let half = admin(&restore, None);
    assert!(half.stderr.contains("not a complete backup"), "{half:?}");
    let nowhere = admin(&["backup", "--data", "/nowhere/at/all", "--to", copy.to_str().unwrap()], None);
    assert!(nowhere.stderr.contains("is not a data folder"), "{nowhere:?}");
    assert_eq!(std::fs::read(data.join("catalog.sqlite")).unwrap(), before);
}

#[test]
fn a_catalog_moves_between_sqlite_and_postgres() {
    let Some(server) = Postgres::start() else {
        return skip("admin::a_catalog_moves_between_sqlite_and_postgres", "PostgreSQL");
    };
    for store in ["skep", "file"] {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let text = data.to_str().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        let lake = server.schema(&format!("lake_{store}"));
        let node = up(&data, store, None);
        backup(&node, &["--data", text], None, &first);
        node.stop();

        // To the server: the folder forgets its own catalog only when it is told to.
        let restore = ["restore", "--from", first.to_str().unwrap(), "--data", text];
        let refused = admin(&restore, Some(&lake));
        assert!(refused.stderr.contains("catalog.sqlite"), "{refused:?}");
        std::fs::remove_file(data.join("skep.json")).unwrap();
        done(&admin(&restore, Some(&lake)));
        let twice = admin(&restore, Some(&lake));
        assert!(twice.stderr.contains("holds a catalog already"), "{twice:?}");
        let node = up(&data, store, Some(&lake));
        as_backed_up(node.flight());

        // And back, while it is served.
        done(&admin(&["backup", "--data", text, "--to", second.to_str().unwrap()], None));
        node.kill();
        std::fs::remove_file(data.join("skep.json")).unwrap();
        done(&admin(&["restore", "--from", second.to_str().unwrap(), "--data", text, "--force"], None));
        let node = up(&data, store, None);
        assert_eq!(sql(node.flight(), SUM), "n,s 901,405451");
        sql(node.flight(), "UPDATE t SET v = v + 1 WHERE note = 'new'");
        assert_eq!(sql(node.flight(), SUM), "n,s 901,405452");
    }
}
