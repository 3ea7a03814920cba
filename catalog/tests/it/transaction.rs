//! Transactions of several statements: what they read, what they leave, and how they live on.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use skep_catalog::{Change, Column, LakeType, TableDef, Transaction, columns_from_arrow};
use skep_common::Kind;

use crate::lake::{Lake, batch, info, write};

fn rows(from: i64, to: i64) -> RecordBatch {
    batch([("id", Arc::new(Int64Array::from_iter_values(from..to)) as _)])
}

fn create(transaction: &Transaction, name: &str) -> Change {
    Change::CreateTable {
        id: transaction.snapshot().fresh_id(),
        schema: "lake".to_owned(),
        name: name.to_owned(),
        columns: columns_from_arrow(&rows(0, 0).schema()).unwrap(),
        comment: None,
    }
}

fn append(lake: &Lake, table: &TableDef, from: i64, to: i64) -> Change {
    let file = write(&lake.data().join(&table.path), &table.columns, &rows(from, to));
    Change::Append { table: table.id, files: vec![file] }
}

fn table(transaction: &Transaction, name: &str) -> Arc<TableDef> {
    Arc::clone(transaction.snapshot().table("lake", name).unwrap())
}

async fn counts(lake: &Lake, transaction: &Transaction, name: &str) -> Vec<u64> {
    let snapshot = transaction.snapshot();
    let table = snapshot.table("lake", name).unwrap();
    lake.catalog.files(&snapshot, table.id).await.unwrap().iter().map(|file| file.rows).collect()
}

async fn changes_made(lake: &Lake) -> String {
    let row: (String,) = sqlx::query_as(
        "SELECT changes_made FROM ducklake_snapshot_changes ORDER BY snapshot_id DESC LIMIT 1",
    )
    .fetch_one(lake.catalog.db().reader())
    .await
    .unwrap();
    row.0
}

async fn begin(lake: &Lake) -> Transaction {
    lake.catalog.begin(lake.snapshot().await, info())
}

#[tokio::test]
async fn it_reads_its_own_changes_and_nobody_else_does() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(0, 10)).await;
    let transaction = begin(&lake).await;
    let t = table(&transaction, "t");
    transaction.apply([append(&lake, &t, 10, 15)]).unwrap();
    transaction.apply([create(&transaction, "u")]).unwrap();
    let u = table(&transaction, "u");
    assert!(u.id < 0 && lake.snapshot().await.table("lake", "u").is_none());
    transaction.apply([append(&lake, &u, 0, 3)]).unwrap();
    transaction.apply([append(&lake, &u, 3, 7)]).unwrap();
    assert_eq!(counts(&lake, &transaction, "t").await, [10, 5]);
    assert_eq!(counts(&lake, &transaction, "u").await, [3, 4]);
    assert_eq!(table(&transaction, "u").record_count, 7);
    assert_eq!(lake.table("lake", "t").await.record_count, 10);

    assert_eq!(transaction.commit().await.unwrap().snapshot, 2);
    assert_eq!(
        changes_made(&lake).await,
        "created_table:\"lake\".\"u\",inserted_into_table:5,inserted_into_table:4"
    );
    assert_eq!(lake.table("lake", "t").await.record_count, 15);
    assert_eq!(lake.table("lake", "u").await.record_count, 7);
    assert_eq!(lake.catalog.check().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn what_came_and_went_inside_leaves_no_trace() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(0, 10)).await;
    let transaction = begin(&lake).await;
    let t = table(&transaction, "t");
    transaction.apply([create(&transaction, "u")]).unwrap();
    let u = table(&transaction, "u");
    transaction.apply([append(&lake, &u, 0, 3)]).unwrap();
    transaction.apply([Change::DropTable { id: u.id }]).unwrap();
    transaction.apply([append(&lake, &t, 0, 2)]).unwrap();
    let staged = lake.catalog.files(&transaction.snapshot(), t.id).await.unwrap();
    let last = staged.last().unwrap();
    assert!(last.id < 0 && staged.len() == 2);
    transaction.apply([Change::RemoveFiles { table: t.id, files: vec![last.id] }]).unwrap();
    for comment in ["a", "b"] {
        transaction.apply([Change::Comment { table: t.id, comment: Some(comment.to_owned()) }]).unwrap();
    }
    transaction.apply([Change::Comment { table: t.id, comment: None }]).unwrap();
    assert_eq!(counts(&lake, &transaction, "t").await, [10]);
    assert_eq!(transaction.staged_files().len(), 2, "files that no commit will name can be deleted");
    assert_eq!(transaction.commit().await.unwrap().snapshot, 1, "no difference, no snapshot");
}

#[tokio::test]
async fn a_failing_list_of_changes_changes_nothing() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(0, 10)).await;
    let transaction = begin(&lake).await;
    let kinds = [
        (vec![create(&transaction, "u"), create(&transaction, "T")], Kind::AlreadyExists),
        (vec![create(&transaction, "u"), Change::DropTable { id: 99 }], Kind::NotFound),
        (vec![Change::RenameTable { table: 4, name: String::new() }], Kind::Invalid),
        (vec![Change::RemoveFiles { table: 4, files: vec![-7] }], Kind::Conflict),
        (vec![Change::DropSchema { id: 1 }], Kind::Invalid),
        (vec![create(&transaction, "u"), create(&transaction, "v")], Kind::Internal),
    ];
    for (changes, kind) in kinds {
        let error = transaction.apply(changes.clone()).unwrap_err();
        assert_eq!(error.kind(), kind, "{changes:?}: {error}");
        assert!(transaction.is_empty() && transaction.snapshot().table("lake", "u").is_none());
    }
}

#[tokio::test]
async fn several_statements_stage_at_once() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(0, 10)).await;
    let transaction = begin(&lake).await;
    let t = table(&transaction, "t");
    std::thread::scope(|scope| {
        for at in 0..8 {
            let (transaction, t, lake) = (&transaction, &t, &lake);
            scope.spawn(move || transaction.apply([append(lake, t, at, at + 1)]).map(drop).unwrap());
        }
    });
    assert_eq!(counts(&lake, &transaction, "t").await.len(), 9);
    // Two of them that rewrite one file: the second is told.
    let whole = lake.catalog.files(&*lake.snapshot().await, t.id).await.unwrap()[0].id;
    let rewrite = || [Change::RemoveFiles { table: t.id, files: vec![whole] }, append(&lake, &t, 0, 9)];
    transaction.apply(rewrite()).unwrap();
    assert_eq!(transaction.apply(rewrite()).unwrap_err().kind(), Kind::Conflict);
    transaction.commit().await.unwrap();
    assert_eq!(lake.table("lake", "t").await.record_count, 17);
    assert_eq!(lake.catalog.check().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn names_and_columns_change_with_their_rows() {
    let lake = Lake::new().await;
    lake.create("lake", "a", &rows(0, 3)).await;
    lake.create("lake", "b", &rows(0, 4)).await;
    let transaction = begin(&lake).await;
    let (a, b) = (table(&transaction, "a"), table(&transaction, "b"));
    // Two names change hands.
    for (table, name) in [(a.id, "x"), (b.id, "a"), (a.id, "b")] {
        transaction.apply([Change::RenameTable { table, name: name.to_owned() }]).unwrap();
    }
    let mut columns = a.columns.clone();
    columns[0].name = "number".to_owned();
    columns.push(Column {
        id: a.next_column_id,
        name: "note".to_owned(),
        physical: "note".to_owned(),
        ty: LakeType::from("varchar"),
        nullable: true,
        initial_default: None,
        default: None,
        comment: None,
        children: Vec::new(),
    });
    transaction.apply([Change::SetColumns { table: a.id, columns: columns.clone() }]).unwrap();
    transaction.commit().await.unwrap();

    assert_eq!((lake.table("lake", "a").await.id, lake.table("lake", "b").await.id), (b.id, a.id));
    let after = lake.table("lake", "b").await;
    assert_eq!(after.columns, columns);
    assert_eq!((after.path.as_str(), after.next_column_id), ("lake/a/", a.next_column_id + 1));
    assert_eq!(after.columns[0].physical, "id");
    let past = lake.catalog.snapshot_at(2).await.unwrap();
    assert_eq!(past.table("lake", "a").unwrap().columns, a.columns);
    // A column can come back, and its id cannot come to another.
    let mut gone = columns.clone();
    let mut other = gone.pop().unwrap();
    lake.commit([Change::SetColumns { table: a.id, columns: gone.clone() }]).await.unwrap();
    other.physical = "other".to_owned();
    let others = gone.into_iter().chain([other]).collect();
    let error = lake.commit([Change::SetColumns { table: a.id, columns: others }]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Internal, "{error}");
    lake.commit([Change::SetColumns { table: a.id, columns: columns.clone() }]).await.unwrap();
    assert_eq!(lake.table("lake", "b").await.columns, columns);
    assert_eq!(lake.catalog.check().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_transaction_is_taken_up_after_a_restart() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(0, 10)).await;
    let transaction = begin(&lake).await;
    let key = {
        let t = table(&transaction, "t");
        transaction.apply([append(&lake, &t, 10, 15)]).unwrap();
        transaction.save().await.unwrap();
        transaction.apply([create(&transaction, "u")]).unwrap();
        let u = table(&transaction, "u");
        transaction.apply([append(&lake, &u, 0, 3)]).unwrap();
        transaction.save().await.unwrap();
        lake.catalog.saved().await.unwrap()[0].key
    };
    drop(transaction);
    let lake = lake.reopen().await;
    assert_eq!(lake.catalog.saved().await.unwrap().len(), 1);
    let transaction = lake.catalog.resume(key).await.unwrap();
    assert_eq!(counts(&lake, &transaction, "t").await, [10, 5]);
    assert_eq!(counts(&lake, &transaction, "u").await, [3]);
    assert_eq!(transaction.commit().await.unwrap().snapshot, 2);
    assert_eq!(lake.table("lake", "u").await.record_count, 3);
    assert!(lake.catalog.saved().await.unwrap().is_empty(), "the commit takes it away");
    assert_eq!(lake.catalog.resume(key).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(lake.catalog.committed(key).await.unwrap(), Some(2));

    let transaction = begin(&lake).await;
    transaction.apply([create(&transaction, "w")]).unwrap();
    transaction.save().await.unwrap();
    let key = lake.catalog.saved().await.unwrap()[0].key;
    lake.catalog.forget(key).await.unwrap();
    assert_eq!(lake.catalog.resume(key).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn compaction_commutes_with_inserts_alone() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(0, 10)).await;
    lake.append("lake", "t", &rows(10, 20)).await;
    let t = lake.table("lake", "t").await;
    let ids = |files: &[Arc<skep_catalog::DataFile>]| files.iter().map(|file| file.id).collect::<Vec<_>>();
    let compact = |remove: Vec<i64>, to: i64| Change::Compact {
        table: t.id,
        remove,
        add: vec![write(&lake.data().join(&t.path), &t.columns, &rows(0, to))],
    };
    let base = lake.snapshot().await;
    let files = ids(&lake.catalog.files(&base, t.id).await.unwrap());

    // With an insert that came in between: both stand.
    let transaction = lake.catalog.begin(Arc::clone(&base), info());
    transaction.apply([compact(files.clone(), 20)]).unwrap();
    lake.append("lake", "t", &rows(20, 25)).await;
    transaction.commit().await.unwrap();
    assert_eq!(changes_made(&lake).await, format!("rewrite_delete:{}", t.id));
    assert_eq!(lake.table("lake", "t").await.record_count, 25);

    // With a delete that came in between, or on a base whose files are gone: not.
    let late = lake.snapshot().await;
    let left = ids(&lake.catalog.files(&late, t.id).await.unwrap());
    let transaction = lake.catalog.begin(late, info());
    transaction.apply([compact(left.clone(), 25)]).unwrap();
    lake.commit([Change::RemoveFiles { table: t.id, files: vec![left[0]] }]).await.unwrap();
    assert_eq!(transaction.commit().await.unwrap_err().kind(), Kind::Conflict);
    let error = lake.commit_on(base, [compact(files, 20)]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);

    // Others tell compaction from changes of rows by the snapshot: never both.
    let left = ids(&lake.catalog.files(&*lake.snapshot().await, t.id).await.unwrap());
    let transaction = begin(&lake).await;
    transaction.apply([append(&lake, &t, 0, 1)]).unwrap();
    assert_eq!(transaction.apply([compact(left.clone(), 20)]).unwrap_err().kind(), Kind::Invalid);
    let transaction = begin(&lake).await;
    transaction.apply([compact(left, 20)]).unwrap();
    assert_eq!(transaction.apply([append(&lake, &t, 0, 1)]).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(lake.catalog.check().await.unwrap(), Vec::<String>::new());
}
