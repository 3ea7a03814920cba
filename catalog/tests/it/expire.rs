//! Expired snapshots: what goes, what stays, and that DuckDB agrees.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use chrono::{DateTime, Duration, Utc};
use skep_catalog::{Change, Expired, Retention};
use skep_common::Kind;

use crate::lake::{Lake, batch, info};

fn rows(from: i64, to: i64) -> RecordBatch {
    batch([("id", Arc::new(Int64Array::from_iter_values(from..to)) as _)])
}

fn later(lake: &Lake) -> DateTime<Utc> {
    lake.catalog.now() + Duration::hours(1)
}

async fn expire(lake: &Lake, last: u64) -> Expired {
    lake.catalog.expire(Retention { since: later(lake), last }).await.unwrap()
}

async fn snapshots(lake: &Lake) -> Vec<i64> {
    lake.catalog.history().await.unwrap().iter().map(|info| info.id).collect()
}

async fn count(lake: &Lake, sql: &'static str) -> i64 {
    let row: (i64,) = sqlx::query_as(sql).fetch_one(lake.catalog.db().reader()).await.unwrap();
    row.0
}

/// Puts rows in the place of those of table `t`, in one commit.
async fn replace(lake: &Lake, to: i64) {
    let snapshot = lake.snapshot().await;
    let table = lake.table("lake", "t").await;
    let files = lake.catalog.files(&snapshot, table.id).await.unwrap();
    let fresh = lake.stage(&table, &rows(0, to));
    lake.commit([
        Change::RemoveFiles { table: table.id, files: files.iter().map(|file| file.id).collect() },
        Change::Append { table: table.id, files: vec![fresh] },
    ])
    .await
    .unwrap();
}

#[tokio::test]
async fn what_only_expired_snapshots_show_goes() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(0, 10)).await;
    lake.create("lake", "gone", &rows(0, 5)).await;
    for to in [11, 12, 13] {
        replace(&lake, to).await;
    }
    let id = lake.table("lake", "gone").await.id;
    lake.commit([Change::DropTable { id }]).await.unwrap();
    assert_eq!(snapshots(&lake).await, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(lake.catalog.known_files().await.unwrap().len(), 5);

    lake.catalog.tag("keep", 3, false).await.unwrap();
    assert_eq!(expire(&lake, 2).await, Expired { snapshots: vec![0, 1, 2, 4], files: 2 });
    assert_eq!(snapshots(&lake).await, [3, 5, 6]);
    // Snapshot 3 has the second file of t and table gone; 5 and 6 have the fourth.
    assert_eq!(count(&lake, "SELECT count(*) FROM ducklake_data_file").await, 3);
    assert_eq!(count(&lake, "SELECT count(*) FROM ducklake_file_column_stats").await, 3);
    let kept = lake.catalog.snapshot_at(3).await.unwrap();
    assert_eq!(kept.table("lake", "t").unwrap().record_count, 11);
    assert_eq!(kept.table("lake", "gone").unwrap().record_count, 5);
    assert_eq!(lake.catalog.snapshot_at(4).await.unwrap_err().kind(), Kind::NotFound);

    lake.catalog.untag("keep").await.unwrap();
    assert_eq!(expire(&lake, 0).await, Expired { snapshots: vec![3, 5], files: 2 });
    assert_eq!(snapshots(&lake).await, [6], "the latest stays whatever is asked");
    assert_eq!(count(&lake, "SELECT count(*) FROM ducklake_table").await, 1);
    assert_eq!(count(&lake, "SELECT count(*) FROM skep_column").await, 1);
    assert_eq!(count(&lake, "SELECT count(*) FROM ducklake_table_stats").await, 1);
    assert_eq!(expire(&lake, 0).await, Expired { snapshots: Vec::new(), files: 0 });

    let scheduled = lake.catalog.scheduled(later(&lake)).await.unwrap();
    assert_eq!(scheduled.len(), 4);
    assert!(scheduled.iter().all(|file| !file.absolute && lake.data().join(&file.path).is_file()));
    assert!(lake.catalog.scheduled(lake.catalog.now() - Duration::hours(1)).await.unwrap().is_empty());
    assert_eq!(lake.catalog.known_files().await.unwrap().len(), 5, "scheduled files are known");
    lake.catalog.deleted(&scheduled).await.unwrap();
    assert_eq!(lake.catalog.known_files().await.unwrap().len(), 1);
    assert_eq!(lake.table("lake", "t").await.record_count, 13);
    lake.append("lake", "t", &rows(0, 1)).await;
    assert_eq!(lake.catalog.check().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_damaged_transaction_keeps_files_from_being_taken_for_nobodys() {
    let lake = Lake::new().await;
    let mut tx = lake.catalog.db().begin().await.unwrap();
    sqlx::query(
        "INSERT INTO skep_transaction VALUES ('no key', 0, NULL, NULL, '[]', '2030-01-01 00:00:00+00')",
    )
    .execute(tx.conn())
    .await
    .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(lake.catalog.saved().await.unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(lake.catalog.known_files().await.unwrap_err().kind(), Kind::Corrupt);
}

#[tokio::test]
async fn what_transactions_need_stays() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(0, 10)).await;
    let open = lake.catalog.begin(lake.snapshot().await, info());
    lake.append("lake", "t", &rows(0, 1)).await;
    let saved = lake.catalog.begin(lake.snapshot().await, info());
    let table = lake.table("lake", "t").await;
    let file = lake.stage(&table, &rows(5, 7));
    saved.apply([Change::Append { table: table.id, files: vec![file] }]).unwrap();
    saved.save().await.unwrap();
    drop(saved);
    lake.append("lake", "t", &rows(0, 1)).await;
    lake.append("lake", "t", &rows(0, 1)).await;
    assert_eq!(expire(&lake, 1).await.snapshots, [0]);
    open.apply([Change::CreateSchema { name: "late".to_owned() }]).unwrap();
    open.commit().await.unwrap();
    assert_eq!(expire(&lake, 1).await.snapshots, [1], "it is over");
    assert_eq!(snapshots(&lake).await, [2, 3, 4, 5]);
    assert_eq!(lake.catalog.known_files().await.unwrap().len(), 5, "what it staged is not an orphan");
    let key = lake.catalog.saved().await.unwrap()[0].key;
    lake.catalog.resume(key).await.unwrap().commit().await.unwrap();
    assert_eq!(expire(&lake, 1).await.snapshots, [2, 3, 4, 5]);
}
