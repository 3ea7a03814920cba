//! Opening: what is made, what is found again, what is refused.

use skep_catalog::{Catalog, OpenOptions};
use skep_common::Kind;
use tempfile::TempDir;

use crate::lake::{Lake, location};

#[tokio::test]
async fn a_catalog_starts_with_its_four_schemas() {
    let lake = Lake::new().await;
    let snapshot = lake.snapshot().await;
    let names: Vec<&str> = snapshot.schemas().map(|schema| schema.name.as_str()).collect();
    assert_eq!(names, ["lake", "main", "mart", "warehouse"]);
    assert_eq!((snapshot.id, snapshot.schema_version), (0, 0));
    assert_eq!(snapshot.schema("main").unwrap().id, 0);
    assert_eq!(snapshot.tables("main").count() + snapshot.views("lake").count(), 0);
}

#[tokio::test]
async fn it_has_the_tables_of_the_specification_and_ours() {
    let lake = Lake::new().await;
    let tables = lake.catalog.db().tables().await.unwrap();
    assert_eq!(tables.iter().filter(|name| name.starts_with("ducklake_")).count(), 28);
    let options: Vec<(String, String)> =
        sqlx::query_as("SELECT key, value FROM ducklake_metadata WHERE scope IS NULL ORDER BY key")
            .fetch_all(lake.catalog.db().reader())
            .await
            .unwrap();
    let value = |key: &str| options.iter().find(|(k, _)| k == key).unwrap().1.clone();
    assert_eq!((value("version").as_str(), value("encrypted").as_str()), ("1.0", "false"));
    assert_eq!(value("data_inlining_row_limit"), "0");
    assert_eq!(value("data_path"), format!("{}/", lake.data().display()));
}

#[tokio::test]
async fn the_data_path_is_kept() {
    let lake = Lake::new().await;
    lake.catalog.db().close().await;
    let catalog = Catalog::open(location(&lake.dir), OpenOptions::new("skep://blocks/")).await.unwrap();
    assert_eq!(catalog.data_path(), format!("{}/", lake.data().display()));
}

#[tokio::test]
async fn a_data_path_that_depends_on_the_folder_of_the_day_is_refused() {
    let dir = TempDir::new().unwrap();
    for path in ["data/", "/data", "", "skep://blocks"] {
        let error = Catalog::open(&dir.path().join("c.sqlite"), OpenOptions::new(path)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{path}: {error:?}");
    }
    assert!(Catalog::open(&dir.path().join("c.sqlite"), OpenOptions::new("skep://blocks/")).await.is_ok());
}

async fn tampered(sql: &'static str) -> skep_common::Error {
    let lake = Lake::new().await;
    let mut tx = lake.catalog.db().begin().await.unwrap();
    sqlx::raw_sql(sql).execute(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
    lake.catalog.db().close().await;
    Catalog::open(location(&lake.dir), OpenOptions::new("/x/")).await.unwrap_err()
}

#[tokio::test]
async fn newer_and_encrypted_catalogs_are_refused_with_a_way_out() {
    let newer = tampered("UPDATE ducklake_metadata SET value = '1.1' WHERE key = 'version'").await;
    assert_eq!(newer.kind(), Kind::Invalid);
    assert!(newer.message().contains("'1.1'") && newer.hint_text().unwrap().contains("newer skep"));

    let ours = tampered("UPDATE skep_migration SET version = 99 WHERE component = 'catalog'").await;
    assert_eq!(ours.kind(), Kind::Invalid);
    assert!(ours.hint_text().unwrap().contains("newer skep"), "{ours:?}");

    let encrypted = tampered("UPDATE ducklake_metadata SET value = 'true' WHERE key = 'encrypted'").await;
    assert_eq!(encrypted.kind(), Kind::Unsupported);
}

#[tokio::test]
async fn files_that_are_something_else_are_left_alone() {
    let dir = TempDir::new().unwrap();
    let other = dir.path().join("other.sqlite");
    let db = skep_metadb::MetaDb::open(&other, skep_metadb::Options::default()).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    sqlx::raw_sql("CREATE TABLE recipes (name TEXT)").execute(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
    db.close().await;
    let error = Catalog::open(&other, OpenOptions::new("/x/")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    assert!(error.message().contains("other.sqlite"));

    let text = dir.path().join("notes.txt");
    std::fs::write(&text, "milk, eggs, flour. ".repeat(200)).unwrap();
    let error = Catalog::open(&text, OpenOptions::new("/x/")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error:?}");
    assert!(error.hint_text().is_some());
}
