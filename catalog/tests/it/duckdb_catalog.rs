//! Reads a catalog that DuckDB wrote, from its text: no DuckDB is needed here.

use std::collections::BTreeMap;

use skep_catalog::{Catalog, OpenOptions, leaves};
use tempfile::TempDir;

async fn open(dir: &TempDir) -> Catalog {
    let path = dir.path().join("catalog.sqlite");
    let db = skep_metadb::MetaDb::open(&path, skep_metadb::Options::default()).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    sqlx::raw_sql(include_str!("duckdb_catalog.sql")).execute(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
    db.close().await;
    Catalog::open(&path, OpenOptions::new("/unused/")).await.unwrap()
}

#[tokio::test]
async fn names_and_columns_of_duckdb() {
    let dir = TempDir::new().unwrap();
    let catalog = open(&dir).await;
    assert_eq!(catalog.data_path(), format!("{}/data/", dir.path().display()), "relative to the catalog");
    let snapshot = catalog.snapshot().await.unwrap();
    assert_eq!((snapshot.id, snapshot.schema_version), (24, 16));
    let names: Vec<_> = snapshot.tables("mart").map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["agg", "sales", "small"]);

    let sales = snapshot.table("mart", "sales").unwrap();
    assert_eq!((sales.path.as_str(), sales.comment.as_deref()), ("mart/sales/", Some("fact table")));
    assert_eq!(sales.record_count, 205);
    let of_leaves: Vec<_> =
        leaves(&sales.columns).iter().map(|c| format!("{}:{} {}", c.id, c.name, c.ty)).collect();
    assert_eq!(
        of_leaves.join(", "),
        "1:id int64, 2:region varchar, 3:ts timestamp, 4:amt decimal(12,2), 5:f float64, 7:element varchar, 9:a int32, \
         10:b varchar, 14:c int32, 12:key varchar, 13:value int32"
    );
    assert_eq!(sales.next_column_id, 15);

    let small = snapshot.table("mart", "small").unwrap();
    let columns: BTreeMap<_, _> = small.columns.iter().map(|c| (c.name.as_str(), c)).collect();
    assert_eq!((columns["vv"].physical.as_str(), columns["k"].ty.to_string().as_str()), ("v", "int64"));
    assert_eq!(columns["extra"].initial_default.as_deref(), Some("7"));
    assert_eq!(columns["extra"].default.as_deref(), Some("7"));
    assert_eq!(columns["d"].default, None);

    let view = snapshot.view("mart", "v_sales").unwrap();
    assert_eq!((view.dialect.as_str(), view.column_aliases.len()), ("duckdb", 0));
}

#[tokio::test]
async fn files_of_duckdb_and_what_it_hides() {
    let dir = TempDir::new().unwrap();
    let catalog = open(&dir).await;
    let snapshot = catalog.snapshot().await.unwrap();
    let sales = snapshot.table("mart", "sales").unwrap();
    let files = catalog.files(&snapshot, sales.id).await.unwrap();
    assert_eq!((files.len(), files.iter().map(|file| file.rows).sum::<u64>()), (27, 205));
    let first = &files[0];
    assert!(first.path.starts_with("mart/sales/region=EU/year=2024/bucket=0/ducklake-"), "{}", first.path);
    assert_eq!(first.partition, [Some("EU".to_owned()), Some("2024".to_owned()), Some("0".to_owned())]);
    assert_eq!(files[2].partition[0], None);
    for file in files.iter().filter(|file| file.begin < 16) {
        for leaf in leaves(&sales.columns).into_iter().filter(|leaf| leaf.id != 14) {
            let stats = &file.stats[&leaf.id];
            let (min, max) = stats.bounds(&leaf.ty);
            let known = stats.values > 0 && stats.nan != Some(true);
            assert_eq!(
                (min.is_some(), max.is_some()),
                (known, known),
                "file {} column {}",
                file.id,
                leaf.name
            );
        }
    }
    let small = snapshot.table("mart", "small").unwrap();
    let files = catalog.files(&snapshot, small.id).await.unwrap();
    let deletes = files[0].deletes.as_ref().unwrap();
    assert!(deletes.path.starts_with("mart/small/ducklake-"), "{}", deletes.path);
    assert_eq!((deletes.rows, deletes.until, files[0].live()), (8, None, Some(files[0].rows - 8)));
    let before = catalog.snapshot_at(6).await.unwrap();
    let files = catalog.files(&before, small.id).await.unwrap();
    assert_eq!((files.len(), files[0].live()), (1, Some(files[0].rows)));
    let partial = catalog.snapshot_at(7).await.unwrap();
    let files = catalog.files(&partial, small.id).await.unwrap();
    assert_eq!((files[0].deletes.as_ref().unwrap().until, files[0].live()), (Some(7), None));
}

#[tokio::test]
async fn every_snapshot_of_duckdb_loads() {
    let dir = TempDir::new().unwrap();
    let catalog = open(&dir).await;
    let mut last = None;
    for id in 0..=24 {
        let snapshot = catalog.snapshot_at(id).await.unwrap();
        assert!(last.is_none_or(|last| last <= snapshot.time));
        last = Some(snapshot.time);
    }
    assert_eq!(catalog.check().await.unwrap(), Vec::<String>::new());
}
