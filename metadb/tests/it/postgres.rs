//! What only a server has: several processes that write, and a server that is not there.
//!
//! The tests whose names begin with `postgres` need `SKEP_POSTGRES`, the address of a server without parameters.

use skep_common::Kind;
use skep_metadb::{Location, MetaDb, Options};
use tempfile::TempDir;

use super::in_schema;

/// The server, or nothing and a word about it: `cargo xtask services` runs the tests of this crate with a server.
fn server() -> Option<String> {
    let found = std::env::var("SKEP_POSTGRES").ok();
    if found.is_none() {
        eprintln!("skipped: SKEP_POSTGRES names no PostgreSQL server");
    }
    found
}

#[tokio::test]
async fn postgres_has_one_writer_over_all_processes() {
    let Some(server) = server() else { return };
    let dir = TempDir::new().unwrap();
    let one = MetaDb::open(in_schema(&server, &dir), Options::default()).await.unwrap();
    let two = MetaDb::open(in_schema(&server, &dir), Options::default()).await.unwrap();
    one.migrate("t", &["CREATE TABLE skep_t (x INTEGER)"]).await.unwrap();
    let writers = (0..24).map(|i: i64| {
        let db = if i % 2 == 0 { one.clone() } else { two.clone() };
        skep_common::task::spawn("writer", async move {
            let mut tx = db.begin().await.unwrap();
            sqlx::query("INSERT INTO skep_t SELECT coalesce(max(x), 0) + 1 FROM skep_t")
                .execute(tx.conn())
                .await
                .unwrap();
            tx.commit().await.unwrap();
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.join().await.unwrap();
    }
    let row: (i64, i64) =
        sqlx::query_as("SELECT count(DISTINCT x), max(x) FROM skep_t").fetch_one(two.reader()).await.unwrap();
    assert_eq!(row, (24, 24), "none read what another was about to change");
}

#[tokio::test]
async fn postgres_says_what_it_does_not_know() {
    let Some(server) = server() else { return };
    let (start, _) = server.rsplit_once('/').unwrap();
    let location: Location = format!("{start}/no_such_database").parse().unwrap();
    let error = MetaDb::open(location, Options::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    assert!(error.message().contains("no_such_database") && error.hint_text().is_some());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let location: Location = format!("postgres://me:secret@127.0.0.1:{port}/lake").parse().unwrap();
    let error = MetaDb::open(location, Options::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    assert!(!format!("{error:?} {error}").contains("secret"), "{error:?}");
    assert!(error.hint_text().unwrap().contains("server"));
}
