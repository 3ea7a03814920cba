//! The metadata database against real files, and against a real server where there is one.
#![allow(missing_docs, clippy::unwrap_used)]

use skep_common::Kind;
use skep_metadb::{Location, MetaDb, Options};
use tempfile::TempDir;

mod lease;
mod postgres;

/// A schema of the server that `SKEP_POSTGRES` names, or else a file.
fn location(dir: &TempDir) -> Location {
    let Ok(server) = std::env::var("SKEP_POSTGRES") else { return dir.path().join("meta.sqlite").into() };
    in_schema(&server, dir)
}

fn in_schema(server: &str, dir: &TempDir) -> Location {
    let name = dir.path().file_name().unwrap().to_string_lossy().replace('.', "skep_").to_lowercase();
    format!("{server}?options=-csearch_path%3D{name}").parse().unwrap()
}

async fn open(dir: &TempDir) -> MetaDb {
    MetaDb::open(location(dir), Options::default()).await.unwrap()
}

async fn count(db: &MetaDb) -> i64 {
    let row: (i64,) = sqlx::query_as("SELECT count(*) FROM skep_t").fetch_one(db.reader()).await.unwrap();
    row.0
}

#[tokio::test]
async fn a_dropped_transaction_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir).await;
    db.migrate("t", &["CREATE TABLE skep_t (x INTEGER)"]).await.unwrap();

    let mut tx = db.begin().await.unwrap();
    sqlx::query("INSERT INTO skep_t VALUES (1)").execute(tx.conn()).await.unwrap();
    assert_eq!(count(&db).await, 0, "readers see only commits");
    drop(tx);

    let mut tx = db.begin().await.unwrap();
    sqlx::query("INSERT INTO skep_t VALUES (2)").execute(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(count(&db).await, 1);
}

#[tokio::test]
async fn commits_survive_reopening() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir).await;
    db.migrate("t", &["CREATE TABLE skep_t (x INTEGER)", "INSERT INTO skep_t VALUES (7)"]).await.unwrap();
    db.close().await;

    let db = open(&dir).await;
    db.migrate("t", &["CREATE TABLE skep_t (x INTEGER)", "INSERT INTO skep_t VALUES (7)"]).await.unwrap();
    assert_eq!(count(&db).await, 1, "a step runs once");
}

#[tokio::test]
async fn writers_queue_and_lose_nothing() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir).await;
    db.migrate("t", &["CREATE TABLE skep_t (x INTEGER)"]).await.unwrap();

    let writers = (0..16).map(|i: i64| {
        let db = db.clone();
        skep_common::task::spawn("writer", async move {
            let mut tx = db.begin().await.unwrap();
            sqlx::query("INSERT INTO skep_t SELECT ? + coalesce(max(x), 0) FROM skep_t")
                .bind(i)
                .execute(tx.conn())
                .await
                .unwrap();
            tx.commit().await.unwrap();
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.join().await.unwrap();
    }
    assert_eq!(count(&db).await, 16);
}

#[tokio::test]
async fn readers_cannot_write() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir).await;
    assert!(sqlx::query("CREATE TABLE x (y TEXT)").execute(db.reader()).await.is_err());
}

#[tokio::test]
async fn newer_tables_are_refused_with_a_way_out() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir).await;
    db.migrate("t", &["CREATE TABLE skep_t (x TEXT)", "CREATE TABLE skep_u (x TEXT)"]).await.unwrap();
    let error = db.migrate("t", &["CREATE TABLE skep_t (x TEXT)"]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.message().contains("version 2") && error.message().contains("up to 1"), "{error:?}");
    assert!(error.hint_text().unwrap().contains("newer skep"));
}

#[tokio::test]
async fn a_failed_step_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir).await;
    assert!(db.migrate("t", &["CREATE TABLE skep_t (x INTEGER)", "no sql at all"]).await.is_err());
    db.migrate("t", &["CREATE TABLE skep_t (x INTEGER)"]).await.unwrap();
    assert_eq!(count(&db).await, 0);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_corrupt_and_left_alone() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("meta.sqlite");
    let text = "this is a letter to my aunt, and not a database at all. ".repeat(100);
    std::fs::write(&path, &text).unwrap();
    let error = MetaDb::open(&path, Options::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error:?}");
    assert!(error.message().contains("meta.sqlite") && error.hint_text().is_some());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn a_damaged_page_is_corrupt() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("meta.sqlite");
    let db = MetaDb::open(&path, Options::default()).await.unwrap();
    db.migrate("t", &["CREATE TABLE skep_t (x TEXT)"]).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    for i in 0..2000 {
        let text = format!("row {i} {}", "x".repeat(100));
        sqlx::query("INSERT INTO skep_t VALUES (?)").bind(text).execute(tx.conn()).await.unwrap();
    }
    tx.commit().await.unwrap();
    db.close().await;

    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xA5);
    std::fs::write(&path, bytes).unwrap();
    let error = MetaDb::open(&path, Options::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error:?}");
}

#[tokio::test]
async fn a_folder_that_is_missing_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("absent").join("meta.sqlite");
    let error = MetaDb::open(&path, Options::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    assert!(error.message().contains("absent"));
    let options = Options { create: false, ..Options::default() };
    let error = MetaDb::open(&dir.path().join("none.sqlite"), options).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}
