//! The commit protocol: one snapshot or nothing, once for a key, and which commits commute.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use async_trait::async_trait;
use skep_catalog::{
    Change, CommitInfo, DIALECT, External, NewFile, SideEffect, Snapshot, columns_from_arrow,
};
use skep_common::{Error, Kind, Result, task};
use skep_metadb::Conn;

use crate::lake::{Lake, batch, info};

fn rows(from: i64, to: i64) -> RecordBatch {
    let ids = Int64Array::from_iter_values(from..to);
    let names = StringArray::from_iter_values((from..to).map(|i| format!("name {i}")));
    batch([("id", Arc::new(ids) as _), ("name", Arc::new(names) as _)])
}

async fn one<T>(lake: &Lake, sql: &'static str) -> T
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Any> + sqlx::Type<sqlx::Any>,
{
    let row: (T,) = sqlx::query_as(sql).fetch_one(lake.catalog.db().reader()).await.unwrap();
    row.0
}

async fn changes(lake: &Lake) -> String {
    one(lake, "SELECT changes_made FROM ducklake_snapshot_changes ORDER BY snapshot_id DESC LIMIT 1").await
}

async fn ids(lake: &Lake, schema: &str, name: &str) -> Vec<i64> {
    let table = lake.table(schema, name).await;
    lake.catalog.files(&*lake.snapshot().await, table.id).await.unwrap().iter().map(|file| file.id).collect()
}

#[tokio::test]
async fn a_table_and_its_rows_appear_together() {
    let lake = Lake::new().await;
    let before = lake.snapshot().await;
    let committed = lake.create("lake", "t", &rows(0, 10)).await;
    assert_eq!((committed.snapshot, committed.already), (1, false));
    assert!(before.table("lake", "t").is_none(), "a snapshot never changes");

    let snapshot = lake.snapshot().await;
    let table = snapshot.table("lake", "t").unwrap();
    assert_eq!((snapshot.id, snapshot.schema_version, table.record_count), (1, 1, 10));
    assert_eq!(table.path, "lake/t/");
    assert_eq!(snapshot.table_by_id(table.id).unwrap().name, "t");
    assert_eq!(changes(&lake).await, "created_table:\"lake\".\"t\",inserted_into_table:4");
    assert_eq!(
        one::<i64>(&lake, "SELECT schema_version FROM ducklake_schema_versions WHERE table_id = 4").await,
        1
    );
    assert_eq!(
        one::<i64>(&lake, "SELECT next_catalog_id FROM ducklake_snapshot WHERE snapshot_id = 1").await,
        5
    );
    assert_eq!(
        one::<i64>(&lake, "SELECT next_file_id FROM ducklake_snapshot WHERE snapshot_id = 1").await,
        1
    );
    assert_eq!(lake.catalog.snapshot_at(0).await.unwrap().tables("lake").count(), 0);
}

#[tokio::test]
async fn appends_widen_bounds_and_go_on_with_row_ids() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(5, 10)).await;
    lake.append("lake", "t", &rows(100, 150)).await;
    lake.append("lake", "t", &rows(-3, 0)).await;
    let snapshot = lake.snapshot().await;
    let table = snapshot.table("lake", "t").unwrap();
    let files = lake.catalog.files(&snapshot, table.id).await.unwrap();
    let starts: Vec<_> = files.iter().map(|file| file.row_id_start.unwrap()).collect();
    assert_eq!(starts, [0, 5, 55]);
    assert_eq!((table.record_count, snapshot.schema_version), (58, 1), "rows do not change the schema");
    let bounds: (String, String) =
        sqlx::query_as("SELECT min_value, max_value FROM ducklake_table_column_stats WHERE column_id = 1")
            .fetch_one(lake.catalog.db().reader())
            .await
            .unwrap();
    assert_eq!(bounds, ("-3".to_owned(), "149".to_owned()));
    assert_eq!(one::<i64>(&lake, "SELECT record_count FROM ducklake_table_stats").await, 58);
    assert_eq!(one::<i64>(&lake, "SELECT next_row_id FROM ducklake_table_stats").await, 58);
}

#[tokio::test]
async fn concurrent_appends_all_commit() {
    let lake = Arc::new(Lake::new().await);
    lake.create("lake", "t", &rows(0, 1)).await;
    let base = lake.snapshot().await;
    let table = Arc::clone(base.table("lake", "t").unwrap());
    let writers: Vec<_> = (1..9)
        .map(|i| {
            let (lake, base, table) = (Arc::clone(&lake), Arc::clone(&base), Arc::clone(&table));
            task::spawn("writer", async move {
                let file = lake.stage(&table, &rows(i * 10, i * 10 + 10));
                let append = Change::Append { table: table.id, files: vec![file] };
                lake.commit_on(base, [append]).await.unwrap().snapshot
            })
        })
        .collect();
    let mut snapshots = Vec::new();
    for writer in writers {
        snapshots.push(writer.join().await.unwrap());
    }
    snapshots.sort_unstable();
    assert_eq!(snapshots, (2..10).collect::<Vec<_>>(), "one snapshot each");
    let snapshot = lake.snapshot().await;
    assert_eq!(snapshot.table("lake", "t").unwrap().record_count, 81);
    let mut starts: Vec<i64> = lake
        .catalog
        .files(&snapshot, table.id)
        .await
        .unwrap()
        .iter()
        .map(|file| file.row_id_start.unwrap())
        .collect();
    starts.sort_unstable();
    assert_eq!(starts, [0, 1, 11, 21, 31, 41, 51, 61, 71], "row ids do not overlap");
}

#[tokio::test]
async fn the_same_key_commits_once() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(0, 1)).await;
    let (base, table) = (lake.snapshot().await, lake.table("lake", "t").await);
    let file = lake.stage(&table, &rows(1, 3));
    let key = info();
    let mut results = Vec::new();
    for _ in 0..3 {
        let transaction = lake.catalog.begin(Arc::clone(&base), key.clone());
        transaction.apply([Change::Append { table: table.id, files: vec![file.clone()] }]).unwrap();
        results.push(transaction.commit().await.unwrap());
    }
    assert_eq!(
        results.iter().map(|r| (r.snapshot, r.already)).collect::<Vec<_>>(),
        [(2, false), (2, true), (2, true)]
    );
    assert_eq!(lake.catalog.committed(key.key).await.unwrap(), Some(2));
    assert_eq!(lake.table("lake", "t").await.record_count, 3);
    let lake = lake.reopen().await;
    let transaction = lake.catalog.begin(base, key);
    transaction.apply([Change::Append { table: table.id, files: vec![file] }]).unwrap();
    assert!(transaction.commit().await.unwrap().already, "also after a restart");
}

#[derive(Debug)]
struct Note(&'static str, Option<Kind>);

#[async_trait]
impl SideEffect for Note {
    async fn apply(&self, connection: &mut Conn, snapshot: i64) -> Result<()> {
        sqlx::query("INSERT INTO skep_note VALUES (?, ?)")
            .bind(self.0)
            .bind(snapshot)
            .execute(connection)
            .await
            .unwrap();
        match self.1 {
            Some(kind) => Err(Error::new(kind, "no")),
            None => Ok(()),
        }
    }
}

#[tokio::test]
async fn side_effects_land_with_the_commit_or_not_at_all() {
    let lake = Lake::new().await;
    lake.catalog
        .db()
        .migrate("note", &["CREATE TABLE skep_note (text TEXT, snapshot INTEGER)"])
        .await
        .unwrap();
    let schema = |name: &str| Change::CreateSchema { name: name.to_owned() };

    let transaction = lake.catalog.begin(lake.snapshot().await, info());
    transaction.apply([schema("a")]).unwrap().with(Note("kept", None));
    assert_eq!(transaction.commit().await.unwrap().snapshot, 1);
    assert_eq!(one::<i64>(&lake, "SELECT snapshot FROM skep_note WHERE text = 'kept'").await, 1);

    let transaction = lake.catalog.begin(lake.snapshot().await, info());
    transaction.apply([schema("b")]).unwrap().with(Note("lost", Some(Kind::Invalid)));
    assert_eq!(transaction.commit().await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(one::<i64>(&lake, "SELECT count(*) FROM skep_note").await, 1);
    assert_eq!(
        (lake.snapshot().await.id, one::<i64>(&lake, "SELECT count(*) FROM skep_commit").await),
        (1, 1)
    );

    let transaction = lake.catalog.begin(lake.snapshot().await, info());
    transaction.with(Note("alone", None));
    assert_eq!(transaction.commit().await.unwrap().snapshot, 1, "rows of our own make no snapshot");
    assert_eq!(one::<i64>(&lake, "SELECT count(*) FROM skep_note").await, 2);
}

#[tokio::test]
async fn a_crash_before_the_commit_leaves_nothing() {
    let lake = Lake::in_file().await;
    lake.create("lake", "t", &rows(0, 5)).await;
    let mut tx = lake.catalog.db().begin().await.unwrap();
    for sql in [
        "INSERT INTO ducklake_snapshot VALUES (2, '2030-01-01 00:00:00+00', 1, 5, 2)",
        "INSERT INTO ducklake_data_file (data_file_id, table_id, begin_snapshot, path, record_count, file_size_bytes) \
         VALUES (1, 4, 2, 'x', 1, 1)",
    ] {
        sqlx::query(sql).execute(tx.conn()).await.unwrap();
    }
    // What the disk holds while the transaction is open is what a crash leaves: open a copy of it.
    let copy = Lake::in_file().await;
    let target = copy.path();
    copy.catalog.db().close().await;
    for suffix in ["", "-wal"] {
        let (from, to) = (lake.path(), target.clone());
        let name = |path: std::path::PathBuf| path.with_file_name(format!("catalog.sqlite{suffix}"));
        std::fs::copy(name(from), name(to)).unwrap();
    }
    let copy = copy.reopen().await;
    assert_eq!((copy.snapshot().await.id, copy.table("lake", "t").await.record_count), (1, 5));
    drop(tx);
    lake.append("lake", "t", &rows(5, 6)).await;
    assert_eq!((lake.snapshot().await.id, lake.table("lake", "t").await.record_count), (2, 6));
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_stop_a_commit() {
    let lake = Lake::new().await;
    let blocker = lake.catalog.db().begin().await.unwrap();
    let key = info();
    let transaction = lake.catalog.begin(lake.snapshot().await, key.clone());
    transaction.apply([Change::CreateSchema { name: "late".to_owned() }]).unwrap();
    let mut commit = Box::pin(transaction.commit());
    assert!(futures::poll!(&mut commit).is_pending());
    drop(commit);
    drop(blocker);
    let waited = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        while lake.catalog.committed(key.key).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap();
    assert!(lake.snapshot().await.schema("late").is_some());
}

#[tokio::test]
async fn an_empty_transaction_makes_no_snapshot() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(0, 1)).await;
    let id = lake.table("lake", "t").await.id;
    let nothing = Change::Append { table: id, files: Vec::new() };
    assert_eq!(lake.commit([nothing]).await.unwrap().snapshot, 1);
    assert_eq!(lake.commit([]).await.unwrap().snapshot, 1);
}

#[tokio::test]
async fn files_are_replaced_in_one_commit() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(0, 10)).await;
    lake.append("lake", "t", &rows(10, 20)).await;
    let table = lake.table("lake", "t").await;
    let before = lake.snapshot().await;
    let old = ids(&lake, "lake", "t").await;
    let file = lake.stage(&table, &rows(0, 3));
    lake.commit([
        Change::RemoveFiles { table: table.id, files: vec![old[0]] },
        Change::Append { table: table.id, files: vec![file] },
    ])
    .await
    .unwrap();
    assert_eq!(changes(&lake).await, "deleted_from_table:4,inserted_into_table:4");
    assert_eq!(lake.table("lake", "t").await.record_count, 13);
    assert_eq!(ids(&lake, "lake", "t").await, [1, 2]);
    assert_eq!(lake.catalog.files(&before, table.id).await.unwrap().len(), 2, "the past stays");

    let again = Change::RemoveFiles { table: table.id, files: vec![old[0]] };
    assert_eq!(lake.commit([again]).await.unwrap_err().kind(), Kind::Conflict);
}

#[tokio::test]
async fn what_does_not_commute_is_a_conflict() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(0, 10)).await;
    let table = lake.table("lake", "t").await;
    let base = lake.snapshot().await;
    let append =
        |rows: RecordBatch| Change::Append { table: table.id, files: vec![lake.stage(&table, &rows)] };
    let remove = Change::RemoveFiles { table: table.id, files: ids(&lake, "lake", "t").await };

    lake.commit_on(Arc::clone(&base), [append(rows(10, 11))]).await.unwrap();
    let error = lake.commit_on(Arc::clone(&base), [remove]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert_eq!(error.message(), "snapshot 2 inserted rows into table 'lake.t' in the meantime");

    lake.commit([Change::DropTable { id: table.id }]).await.unwrap();
    let error = lake.commit_on(Arc::clone(&base), [append(rows(11, 12))]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    let error = lake.commit_on(base, [Change::DropTable { id: table.id }]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert_eq!(lake.snapshot().await.id, 3);
}

#[tokio::test]
async fn two_creators_of_one_name_do_not_both_win() {
    let lake = Lake::new().await;
    let base = lake.snapshot().await;
    let create = |name: &str| Change::CreateTable {
        id: -1,
        schema: "lake".to_owned(),
        name: name.to_owned(),
        columns: columns_from_arrow(&rows(0, 0).schema()).unwrap(),
        comment: None,
    };
    lake.commit_on(Arc::clone(&base), [create("t")]).await.unwrap();
    lake.commit_on(Arc::clone(&base), [create("u")]).await.unwrap();
    let error = lake.commit_on(Arc::clone(&base), [create("t")]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error:?}");
    let error = lake.commit([create("t")]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::AlreadyExists, "{error:?}");
    let error = lake.commit([create("T")]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::AlreadyExists, "DuckDB ignores case: {error:?}");
    let view = put_view("lake", "t", "SELECT 1", true);
    assert_eq!(lake.commit([view]).await.unwrap_err().kind(), Kind::AlreadyExists);
}

#[tokio::test]
async fn a_table_is_replaced_by_another_of_its_name() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(0, 10)).await;
    let old = lake.table("lake", "t").await;
    let columns = columns_from_arrow(&rows(0, 0).schema()).unwrap();
    let path = lake.snapshot().await.path_of_new_table("lake", "t");
    let file = crate::lake::write(&lake.data().join(path), &columns, &rows(0, 2));
    lake.commit([
        Change::DropTable { id: old.id },
        Change::CreateTable {
            id: -7,
            schema: "lake".to_owned(),
            name: "t".to_owned(),
            columns,
            comment: Some("fresh".to_owned()),
        },
        Change::Append { table: -7, files: vec![file] },
    ])
    .await
    .unwrap();
    let fresh = lake.table("lake", "t").await;
    assert_ne!(fresh.id, old.id);
    assert_eq!((fresh.record_count, fresh.comment.as_deref()), (2, Some("fresh")));
    assert_eq!(changes(&lake).await, "dropped_table:4,created_table:\"lake\".\"t\",inserted_into_table:5");
    assert_eq!(lake.catalog.snapshot_at(1).await.unwrap().table("lake", "t").unwrap().id, old.id);
}

#[tokio::test]
async fn schemas_come_and_go() {
    let lake = Lake::new().await;
    let create = |name: &str| Change::CreateSchema { name: name.to_owned() };
    lake.commit([create("extra")]).await.unwrap();
    assert_eq!(lake.commit([create("extra")]).await.unwrap_err().kind(), Kind::AlreadyExists);
    lake.create("extra", "t", &rows(0, 1)).await;
    let snapshot = lake.snapshot().await;
    let (schema, table) = (snapshot.schema("extra").unwrap().id, snapshot.table("extra", "t").unwrap().id);
    let error = lake.commit([Change::DropSchema { id: schema }]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.message().contains("'t'"));
    lake.commit([Change::DropTable { id: table }, Change::DropSchema { id: schema }]).await.unwrap();
    assert!(lake.snapshot().await.schema("extra").is_none());
    let main = lake.snapshot().await.schema("main").unwrap().id;
    assert_eq!(lake.commit([Change::DropSchema { id: main }]).await.unwrap_err().kind(), Kind::Invalid);
    let orphan = put_view("nowhere", "v", "SELECT 1", false);
    assert_eq!(lake.commit([orphan]).await.unwrap_err().kind(), Kind::NotFound);
}

fn put_view(schema: &str, name: &str, sql: &str, or_replace: bool) -> Change {
    Change::PutView {
        schema: schema.to_owned(),
        name: name.to_owned(),
        sql: sql.to_owned(),
        column_aliases: vec!["a".to_owned()],
        or_replace,
    }
}

#[tokio::test]
async fn views_are_replaced_and_dropped() {
    let lake = Lake::new().await;
    lake.commit([put_view("mart", "v", "SELECT 1", false)]).await.unwrap();
    assert_eq!(
        lake.commit([put_view("mart", "v", "SELECT 2", false)]).await.unwrap_err().kind(),
        Kind::AlreadyExists
    );
    lake.commit([put_view("mart", "v", "SELECT 2", true)]).await.unwrap();
    let snapshot = lake.snapshot().await;
    let view = snapshot.view("mart", "v").unwrap().clone();
    assert_eq!((view.sql.as_str(), view.dialect.as_str()), ("SELECT 2", DIALECT));
    assert_eq!(view.column_aliases, ["a"]);
    assert_eq!(lake.catalog.snapshot_at(1).await.unwrap().view("mart", "v").unwrap().sql, "SELECT 1");
    lake.commit([Change::DropView { id: view.id }]).await.unwrap();
    assert_eq!(lake.snapshot().await.views("mart").count(), 0);
    assert_eq!(lake.commit([Change::DropView { id: view.id }]).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(changes(&lake).await, format!("dropped_view:{}", view.id));
}

fn put_external(name: &str, format: &str, or_replace: bool) -> Change {
    Change::PutExternal {
        schema: "lake".to_owned(),
        name: name.to_owned(),
        columns: columns_from_arrow(&rows(0, 0).schema()).unwrap(),
        external: External {
            location: "file:///data/raw/".to_owned(),
            format: format.to_owned(),
            options: BTreeMap::from([("header".to_owned(), "true".to_owned())]),
            partition_columns: vec!["name".to_owned()],
        },
        comment: None,
        or_replace,
    }
}

#[tokio::test]
async fn external_tables_are_versioned_like_all_else() {
    let lake = Lake::new().await;
    lake.commit([put_external("raw", "csv", false)]).await.unwrap();
    assert_eq!(changes(&lake).await, "", "DuckDB knows no word for it");
    let lake = lake.reopen().await;
    let table = lake.table("lake", "raw").await;
    let external = table.external.clone().unwrap();
    assert_eq!((external.format.as_str(), external.options["header"].as_str()), ("csv", "true"));
    assert_eq!(table.columns.len(), 2);

    assert_eq!(
        lake.commit([put_external("raw", "csv", false)]).await.unwrap_err().kind(),
        Kind::AlreadyExists
    );
    lake.commit([put_external("raw", "json", true)]).await.unwrap();
    let comment =
        Change::Comment { table: lake.table("lake", "raw").await.id, comment: Some("c".to_owned()) };
    lake.commit([comment]).await.unwrap();
    let table = lake.table("lake", "raw").await;
    assert_eq!(table.external.as_ref().unwrap().format, "json");
    assert_eq!(table.comment.as_deref(), Some("c"));
    let past = lake.catalog.snapshot_at(1).await.unwrap();
    assert_eq!(past.table("lake", "raw").unwrap().external.as_ref().unwrap().format, "csv");

    let append = Change::Append { table: table.id, files: Vec::new() };
    assert_eq!(lake.commit([append]).await.unwrap_err().kind(), Kind::Invalid);
    lake.commit([Change::DropTable { id: table.id }]).await.unwrap();
    assert_eq!(lake.snapshot().await.tables("lake").count(), 0);
}

#[tokio::test]
async fn comments_are_kept_and_taken_away() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(0, 1)).await;
    let id = lake.table("lake", "t").await.id;
    let comment = |text: Option<&str>| Change::Comment { table: id, comment: text.map(str::to_owned) };
    lake.commit([comment(Some("first"))]).await.unwrap();
    lake.commit([comment(Some("second"))]).await.unwrap();
    assert_eq!(lake.table("lake", "t").await.comment.as_deref(), Some("second"));
    assert_eq!(lake.snapshot().await.schema_version, 3);
    lake.commit([comment(None)]).await.unwrap();
    assert_eq!(lake.table("lake", "t").await.comment, None);
}

#[tokio::test]
async fn files_without_all_statistics_are_refused() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(0, 1)).await;
    let table = lake.table("lake", "t").await;
    let good = lake.stage(&table, &rows(1, 2));
    let refused = async |file: NewFile| {
        let append = Change::Append { table: table.id, files: vec![file] };
        lake.commit([append]).await.unwrap_err()
    };
    let mut missing = good.clone();
    missing.stats.pop();
    assert!(refused(missing).await.message().contains("no statistics for column 2"));
    let mut double = good.clone();
    double.stats[1].column = 1;
    assert_eq!(refused(double).await.kind(), Kind::Internal);
    assert_eq!(refused(NewFile { rows: 0, ..good.clone() }).await.kind(), Kind::Internal);
    assert_eq!(refused(NewFile { path: "/etc/x".to_owned(), ..good }).await.kind(), Kind::Internal);
    assert_eq!(lake.snapshot().await.id, 1);
}

#[tokio::test]
async fn lists_are_brought_forward_as_they_would_be_read() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(0, 10)).await;
    let table = lake.table("lake", "t").await;
    for i in 1..6 {
        lake.append("lake", "t", &rows(i * 10, i * 10 + 10)).await;
        if i % 2 == 0 {
            let files = vec![ids(&lake, "lake", "t").await[0]];
            lake.commit([Change::RemoveFiles { table: table.id, files }]).await.unwrap();
        }
        ids(&lake, "lake", "t").await;
    }
    let brought = lake.catalog.files(&*lake.snapshot().await, table.id).await.unwrap();
    let latest = lake.snapshot().await.id;
    let lake = lake.reopen().await;
    let fresh = lake.catalog.files(&*lake.snapshot().await, table.id).await.unwrap();
    assert_eq!(brought, fresh);
    for id in 1..=latest {
        let then: Arc<Snapshot> = lake.catalog.snapshot_at(id).await.unwrap();
        let files = lake.catalog.files(&then, table.id).await.unwrap();
        let rows: u64 = files.iter().map(|file| file.rows).sum();
        assert_eq!(rows, then.table_by_id(table.id).unwrap().record_count, "snapshot {id}");
    }
}

#[tokio::test]
async fn history_has_times_that_do_not_run_backwards() {
    let lake = Lake::new().await;
    for i in 0..5 {
        lake.commit([Change::CreateSchema { name: format!("s{i}") }]).await.unwrap();
    }
    let mut times = Vec::new();
    for id in 0..=5 {
        times.push(lake.catalog.snapshot_at(id).await.unwrap().time);
    }
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(lake.catalog.snapshot_as_of(times[5]).await.unwrap().id, 5);
    let error = lake.catalog.snapshot_as_of(times[0] - chrono::TimeDelta::days(1)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(lake.catalog.snapshot_at(99).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn odd_names_survive() {
    let lake = Lake::new().await;
    let name = "Um,laut \u{e4}\".x/..";
    lake.create("lake", name, &rows(0, 4)).await;
    let lake = lake.reopen().await;
    let table = lake.table("lake", name).await;
    assert_eq!(table.path, "lake/Um_2claut_20_c3_a4_22_2ex_2f_2e_2e/");
    let stale = lake.catalog.snapshot_at(0).await.unwrap();
    lake.commit_on(stale, [Change::CreateSchema { name: "parses".to_owned() }]).await.unwrap();
    let anonymous = lake.catalog.begin(lake.snapshot().await, CommitInfo::anonymous());
    assert!(!anonymous.commit().await.unwrap().already);
}
