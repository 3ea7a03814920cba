//! Leases: one holder at a time, and nothing of a holder that lost it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use skep_common::Kind;
use skep_metadb::{Lease, MetaDb, Taken};
use tempfile::TempDir;

use super::open;

const TIME: Duration = Duration::from_secs(10);

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

async fn take(db: &MetaDb, holder: &str, seconds: i64) -> Taken {
    db.take_lease("blocks", holder, at(seconds), TIME).await.unwrap()
}

fn held(taken: Taken) -> Lease {
    match taken {
        Taken::Yes(lease) => lease,
        Taken::No { holder, .. } => panic!("held by {holder}"),
    }
}

#[tokio::test]
async fn another_waits_until_the_time_is_over() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir).await;
    let a = held(take(&db, "a", 0).await);
    assert_eq!(take(&db, "b", 9).await, Taken::No { holder: "a".to_owned(), until: at(10) });
    db.renew_lease(&a, at(9), TIME).await.unwrap();
    assert_eq!(take(&db, "b", 18).await, Taken::No { holder: "a".to_owned(), until: at(19) });
    let b = held(take(&db, "b", 19).await);
    assert!(b.epoch > a.epoch);
    db.release_lease(&b).await.unwrap();
    let c = held(take(&db, "c", 19).await);
    assert!(c.epoch > b.epoch, "an epoch is never given twice");
    db.release_lease(&b).await.unwrap();
    assert!(matches!(take(&db, "a", 20).await, Taken::No { .. }), "a stale holder cannot give it away");
}

#[tokio::test]
async fn a_stale_holder_writes_nothing() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir).await;
    db.migrate("t", &["CREATE TABLE skep_t (x INTEGER)"]).await.unwrap();
    let a = held(take(&db, "a", 0).await);
    let mut tx = db.begin().await.unwrap();
    tx.fence(&a).await.unwrap();
    tx.commit().await.unwrap();

    let b = held(take(&db, "b", 11).await);
    let mut tx = db.begin().await.unwrap();
    let lost = tx.fence(&a).await.unwrap_err();
    assert_eq!(lost.kind(), Kind::Conflict);
    assert!(lost.message().contains("'b' took it"), "{lost:?}");
    drop(tx);
    assert_eq!(db.renew_lease(&a, at(11), TIME).await.unwrap_err().kind(), Kind::Conflict);
    let mut tx = db.begin().await.unwrap();
    tx.fence(&b).await.unwrap();
}

#[tokio::test]
async fn a_holder_that_comes_back_has_a_new_epoch() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir).await;
    let first = held(take(&db, "a", 0).await);
    let second = held(take(&db, "a", 1).await);
    assert!(second.epoch > first.epoch, "what its earlier life began must not go on");
    let mut tx = db.begin().await.unwrap();
    assert!(tx.fence(&first).await.is_err());
}
