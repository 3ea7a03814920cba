//! What a table says beside its columns is versioned with them, and survives a restart.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use skep_catalog::{Change, Check, PartitionKey, Snapshot, SortKey, TableDef, Transform, Unchanged};
use skep_common::Kind;

use crate::lake::{Lake, batch, info};

fn rows(from: i64, to: i64) -> RecordBatch {
    let names = StringArray::from_iter_values((from..to).map(|i| format!("name {i}")));
    batch([("id", Arc::new(Int64Array::from_iter_values(from..to)) as _), ("name", Arc::new(names) as _)])
}

fn check(name: &str, sql: &str) -> Check {
    Check { name: name.to_owned(), sql: sql.to_owned() }
}

async fn at(lake: &Lake, snapshot: i64) -> TableDef {
    let snapshot = lake.catalog.snapshot_at(snapshot).await.unwrap();
    TableDef::clone(snapshot.table("lake", "t").unwrap())
}

#[tokio::test]
async fn notes_about_a_table_are_versioned() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(0, 3)).await;
    let t = lake.table("lake", "t").await;
    let (table, id) = (t.id, t.columns[0].id);
    let keys = vec![PartitionKey { column: id, transform: Transform::Bucket(4) }];
    let sorting = vec![SortKey { column: id, descending: true, nulls_first: false }];
    let properties = BTreeMap::from([("owner".to_owned(), "me".to_owned())]);
    lake.commit([
        Change::SetPartitioning { table, keys: keys.clone() },
        Change::SetSorting { table, keys: sorting.clone() },
        Change::SetChecks { table, checks: vec![check("b", "id >= 0"), check("a", "id < 9")] },
        Change::SetProperties { table, properties: properties.clone() },
        Change::Comment { table, comment: Some("noted".to_owned()) },
    ])
    .await
    .unwrap();
    let mut columns = t.columns.clone();
    columns[0].name = "number".to_owned();
    columns[0].comment = Some("a key".to_owned());
    lake.commit([
        Change::SetColumns { table, columns },
        Change::SetChecks { table, checks: Vec::new() },
        Change::SetProperties { table, properties: BTreeMap::new() },
    ])
    .await
    .unwrap();

    let lake = lake.reopen().await;
    let (first, second, third) = (at(&lake, 1).await, at(&lake, 2).await, at(&lake, 3).await);
    assert_eq!((first.checks.len(), first.partitioning.keys.len(), first.sorting.len()), (0, 0, 0));
    let names: Vec<&str> = second.checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!((names, &second.properties), (vec!["a", "b"], &properties));
    assert_eq!((&second.partitioning.keys, &second.sorting), (&keys, &sorting));
    assert_eq!((second.comment.as_deref(), second.columns[0].comment.as_deref()), (Some("noted"), None));
    assert_eq!((third.checks.len(), third.properties.len()), (0, 0));
    // The order follows the name of its column.
    assert_eq!((&third.partitioning.keys, &third.sorting), (&keys, &sorting));
    assert_eq!(third.columns[0].comment.as_deref(), Some("a key"));
    assert_eq!(lake.catalog.check().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn layouts_that_do_not_fit_are_refused() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(0, 3)).await;
    let t = lake.table("lake", "t").await;
    let (table, name) = (t.id, t.columns[1].id);
    let keys = vec![PartitionKey { column: name, transform: Transform::Year }];
    let error = lake.commit([Change::SetPartitioning { table, keys }]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Internal, "{error}");
    let keys = vec![PartitionKey { column: name, transform: Transform::Identity }];
    lake.commit([Change::SetPartitioning { table, keys }]).await.unwrap();
    let mut columns = t.columns.clone();
    columns.remove(1);
    let error = lake.commit([Change::SetColumns { table, columns }]).await.unwrap_err();
    assert!(error.message().contains("laid out"), "{error}");
}

/// Whoever looked at all rows for a constraint did not see those that came before the commit.
#[tokio::test]
async fn a_constraint_is_not_added_over_rows_that_nobody_looked_at() {
    let lake = Lake::new().await;
    lake.create("lake", "t", &rows(0, 3)).await;
    let table = lake.table("lake", "t").await.id;
    let add = |base: Arc<Snapshot>| {
        let since = base.id;
        let transaction = lake.catalog.begin(base, info());
        transaction.apply([Change::SetChecks { table, checks: vec![check("few", "id < 3")] }]).unwrap();
        transaction.with(Unchanged { table, since });
        transaction
    };
    let late = add(lake.snapshot().await);
    lake.append("lake", "t", &rows(3, 6)).await;
    let error = late.commit().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    assert!(lake.table("lake", "t").await.checks.is_empty());
    add(lake.snapshot().await).commit().await.unwrap();
    assert_eq!(lake.table("lake", "t").await.checks.len(), 1);
}
