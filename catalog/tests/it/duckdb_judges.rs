//! DuckDB judges: what we commit it reads, with the filters and sorts that trust our statistics; what it commits we read.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use skep_catalog::{Catalog, Change, Column, OpenOptions, columns_from_arrow};
use skep_common::Kind;

use crate::duckdb::DuckDb;
use crate::lake::{Lake, batch, write};
use crate::types::every_type;

/// DuckDB on the lake's catalog. Every query is a process of its own.
struct Duck {
    duckdb: DuckDb,
    attach: String,
}

impl Duck {
    /// Rows as lines, values joined by commas.
    fn lines(&self, sql: &str) -> Result<Vec<String>, String> {
        let rows = self.duckdb.run(&format!("{}USE skep;\n{sql};\n", self.attach))?;
        Ok(rows.into_iter().map(|row| row.join(",")).collect())
    }
}

fn duck(lake: &Lake, read_only: bool) -> Option<Duck> {
    let Some(duckdb) = DuckDb::find() else {
        assert!(
            std::env::var_os("SKEP_REQUIRE_SERVICES").is_none(),
            "DuckDB is required to judge and SKEP_DUCKDB does not name it"
        );
        eprintln!("skipped: SKEP_DUCKDB is not set, so no DuckDB judges; 'cargo xtask services' provides it");
        return None;
    };
    let attach = duckdb.attach(&lake.path(), read_only);
    Some(Duck { duckdb, attach })
}

fn rows(from: i64, to: i64) -> RecordBatch {
    let ids = Int64Array::from_iter_values(from..to);
    let names = StringArray::from_iter_values((from..to).map(|i| format!("name {i}")));
    let parts =
        Int32Array::from_iter((from..to).map(|i| (i % 7 != 0).then(|| i32::try_from(i % 7).unwrap())));
    batch([("id", Arc::new(ids) as ArrayRef), ("name", Arc::new(names)), ("part", Arc::new(parts))])
}

/// Runs all queries in one process, which is most of their cost, and compares each answer.
fn judge<S: AsRef<str>>(duck: &Duck, queries: &[(S, &str)]) {
    const MARK: &str = "-- next --";
    let script: Vec<String> =
        queries.iter().map(|(sql, _)| format!("{};\nSELECT '{MARK}'", sql.as_ref())).collect();
    let lines = duck.lines(&script.join(";\n")).unwrap();
    let answers = lines.split(|line| line == MARK);
    for ((sql, expected), answer) in queries.iter().zip(answers) {
        assert_eq!(answer.join("\n"), *expected, "{}", sql.as_ref());
    }
}

fn one(duck: &Duck, sql: &str) -> String {
    duck.lines(sql).unwrap_or_else(|e| panic!("{sql}: {e}")).join("\n")
}

#[tokio::test]
async fn an_empty_catalog_attaches() {
    let lake = Lake::new().await;
    let Some(duck) = duck(&lake, true) else { return };
    let schemas = duck
        .lines("SELECT schema_name FROM duckdb_schemas() WHERE database_name = 'skep' ORDER BY 1")
        .unwrap();
    assert_eq!(schemas, ["lake", "main", "mart", "warehouse"]);
}

#[tokio::test]
async fn filters_sorts_and_bounds_agree() {
    let lake = Lake::new().await;
    let Some(duck) = duck(&lake, true) else { return };
    lake.create("lake", "t", &rows(0, 250)).await;
    for i in 1..5 {
        lake.append("lake", "t", &rows(i * 250, i * 250 + 250)).await;
    }
    lake.append("lake", "t", &rows(-10, 0)).await;
    judge(
        &duck,
        &[
            (
                "SELECT count(*), sum(id), min(id), max(id), min(name), max(name) FROM lake.t",
                "1260,780570,-10,1249,name -1,name 999",
            ),
            ("SELECT count(*) FROM lake.t WHERE id >= 1000", "250"),
            ("SELECT count(*) FROM lake.t WHERE id < 0", "10"),
            ("SELECT name FROM lake.t WHERE id = 777", "name 777"),
            ("SELECT id FROM lake.t WHERE name = 'name 1249'", "1249"),
            ("SELECT count(*) FROM lake.t WHERE id BETWEEN 249 AND 250", "2"),
            ("SELECT id FROM lake.t ORDER BY id LIMIT 1", "-10"),
            (
                "SELECT string_agg(id, ' ') FROM (SELECT id FROM lake.t ORDER BY id DESC LIMIT 3)",
                "1249 1248 1247",
            ),
            ("SELECT id FROM (SELECT id, name FROM lake.t ORDER BY name, id) OFFSET 1259", "999"),
            ("SELECT count(*) FROM lake.t WHERE part IS NULL", "180"),
            (
                "SELECT part, count(*) FROM lake.t WHERE part > 4 AND id >= 0 GROUP BY part ORDER BY part",
                "5,178\n6,178",
            ),
            ("SELECT count(DISTINCT rowid), min(rowid), max(rowid) FROM lake.t", "1260,0,1259"),
            ("SELECT count(*) FROM lake.t AT (VERSION => 1)", "250"),
            ("SELECT max(id) FROM lake.t AT (VERSION => 3)", "749"),
        ],
    );
}

#[tokio::test]
async fn every_type_reads_back_as_it_was_written() {
    let lake = Lake::new().await;
    let Some(duck) = duck(&lake, true) else { return };
    lake.create("lake", "t", &every_type()).await;
    lake.append("lake", "t", &every_type()).await;
    let types =
        duck.lines("SELECT data_type FROM duckdb_columns() WHERE table_name = 't' ORDER BY column_index");
    assert_eq!(
        types.unwrap().join(" "),
        "BOOLEAN TINYINT BIGINT UTINYINT USMALLINT UINTEGER UBIGINT FLOAT DOUBLE DECIMAL(9,2) DECIMAL(38,10) \
         DATE TIME TIMESTAMP_MS TIMESTAMP_MS TIMESTAMP TIMESTAMP_NS TIMESTAMP WITH TIME ZONE VARCHAR BLOB VARCHAR[] \
         STRUCT(a INTEGER, f DOUBLE) MAP(VARCHAR, INTEGER)"
    );
    judge(
        &duck,
        &[
            (
                "SELECT i8, i64, u8, u16, u32, u64 FROM lake.t WHERE b LIMIT 1",
                "-128,-9223372036854775808,0,0,1,1",
            ),
            (
                "SELECT max(u64), max(u32), min(i64), max(d38), min(d9) FROM lake.t",
                "18446744073709551615,4294967295,-9223372036854775808,9999999999999999999999999999.9999999999,-0.05",
            ),
        ],
    );
    let mut queries = Vec::new();
    for (predicate, count) in [
        ("b = true", "2"),
        ("i8 = -128", "2"),
        ("i64 > 0", "2"),
        ("u8 >= 255", "2"),
        ("u32 = 4294967295", "2"),
        ("u64 > 9223372036854775807", "2"),
        ("f32 = 'inf'::FLOAT", "2"),
        ("f32 < 0", "2"),
        ("f64 >= 1e300", "2"),
        ("f64 < 0", "2"),
        ("d9 = -0.05", "2"),
        ("d38 > 9999999999999999999999999999", "2"),
        ("day > DATE '9999-12-31'", "2"),
        ("day < DATE '0001-01-01'", "2"),
        ("time = TIME '12:30:00.5'", "2"),
        ("ts_s >= TIMESTAMP_S '2023-11-14 22:13:20'", "2"),
        ("ts_ms < TIMESTAMP_MS '1970-01-01'", "2"),
        ("ts = TIMESTAMP '2023-11-14 22:13:20.123456'", "2"),
        ("ts_ns = TIMESTAMP_NS '2023-11-14 22:13:20.123456789'", "2"),
        ("tz >= TIMESTAMPTZ '2023-11-14 22:13:20.123456+00'", "2"),
        ("text = ''", "2"),
        ("text LIKE 'it''s%'", "2"),
        ("blob = '\\x00\\xFF'::BLOB", "2"),
        ("list[1] = 'x'", "2"),
        ("struct.a = 2", "2"),
        ("struct.f > 2", "4"),
        ("isnan(struct.f)", "2"),
        ("map['k'] = 7", "2"),
        ("b IS NULL AND i8 IS NULL AND d38 IS NULL AND tz IS NULL AND list IS NULL AND map IS NULL", "2"),
    ] {
        queries.push((format!("SELECT count(*) FROM lake.t WHERE {predicate}"), count));
    }
    for column in ["i8", "u64", "f64", "d9", "d38", "day", "time", "ts_ms", "ts", "ts_ns", "tz", "text"] {
        let sorted = format!("SELECT {column} x FROM lake.t ORDER BY {column} NULLS LAST");
        queries.push((
            format!("SELECT count(x), list(x) = list_sort(list(x), 'ASC', 'NULLS LAST') FROM ({sorted})"),
            "4,true",
        ));
    }
    judge(&duck, &queries);
}

#[tokio::test]
async fn floats_that_are_no_numbers_are_found() {
    let lake = Lake::new().await;
    let Some(duck) = duck(&lake, true) else { return };
    let floats = |values: &[f64]| batch([("x", Arc::new(Float64Array::from(values.to_vec())) as ArrayRef)]);
    lake.create("lake", "t", &floats(&[1.0, f64::NAN, -3.5])).await;
    lake.append("lake", "t", &floats(&[100.0, 1e16])).await;
    lake.append("lake", "t", &floats(&[f64::NAN])).await;
    judge(
        &duck,
        &[
            ("SELECT count(*) FROM lake.t WHERE x = 'nan'::DOUBLE", "2"),
            ("SELECT count(*) FROM lake.t WHERE x > 1e300", "2"),
            ("SELECT count(*) FROM lake.t WHERE x >= 1e16", "3"),
            ("SELECT max(x), min(x) FROM lake.t", "nan,-3.5"),
            ("SELECT x FROM lake.t ORDER BY x DESC LIMIT 1", "nan"),
        ],
    );
}

#[tokio::test]
async fn nulls_and_long_texts_do_not_hide_rows() {
    let lake = Lake::new().await;
    let Some(duck) = duck(&lake, true) else { return };
    let long = |c: &str| c.repeat(1000);
    let texts = |values: Vec<Option<String>>| {
        let numbers =
            Int32Array::from_iter(values.iter().map(|v| v.as_ref().map(|v| i32::try_from(v.len()).unwrap())));
        batch([("s", Arc::new(StringArray::from(values)) as ArrayRef), ("n", Arc::new(numbers))])
    };
    lake.create("lake", "t", &texts(vec![None, None])).await;
    judge(
        &duck,
        &[
            ("SELECT count(*) FROM lake.t WHERE s IS NULL AND n IS NULL", "2"),
            ("SELECT max(n) FROM lake.t", "NULL"),
        ],
    );
    lake.append("lake", "t", &texts(vec![Some(long("m")), Some(long("\u{10ffff}"))])).await;
    lake.append("lake", "t", &texts(vec![Some(String::new()), Some("\u{fc}".to_owned())])).await;
    lake.append("lake", "t", &texts(vec![None])).await;
    judge(
        &duck,
        &[
            ("SELECT count(*), count(s), count(n) FROM lake.t", "7,4,4"),
            ("SELECT count(*) FROM lake.t WHERE s = repeat('m', 1000)", "1"),
            ("SELECT count(*) FROM lake.t WHERE s > repeat('m', 999)", "3"),
            ("SELECT count(*) FROM lake.t WHERE s >= chr(1114111)", "1"),
            ("SELECT count(*) FROM lake.t WHERE n > 1000", "1"),
            ("SELECT max(n), min(n), length(min(s)) FROM lake.t", "4000,0,0"),
            ("SELECT n FROM lake.t ORDER BY n DESC NULLS LAST LIMIT 1", "4000"),
            ("SELECT count(*) FROM lake.t WHERE s IS NULL", "3"),
        ],
    );
}

#[tokio::test]
async fn several_tables_appear_in_one_commit() {
    let lake = Lake::new().await;
    let Some(duck) = duck(&lake, true) else { return };
    let columns = columns_from_arrow(&rows(0, 0).schema()).unwrap();
    let snapshot = lake.snapshot().await;
    let mut changes = vec![Change::CreateSchema { name: "extra".to_owned() }];
    for (at, name) in [(0, "a"), (1, "b, \"quoted\"")] {
        let path = lake.data().join(snapshot.path_of_new_table("extra", name));
        let file = write(&path, &columns, &rows(0, 10 * (at + 1)));
        changes.push(Change::CreateTable {
            id: -1 - at,
            schema: "extra".to_owned(),
            name: name.to_owned(),
            columns: columns.clone(),
            comment: Some(format!("table {at}")),
        });
        changes.push(Change::Append { table: -1 - at, files: vec![file] });
    }
    lake.commit(changes).await.unwrap();
    assert_eq!(one(&duck, "SELECT sum(id) FROM extra.a"), "45");
    assert_eq!(one(&duck, "SELECT sum(id) FROM extra.\"b, \"\"quoted\"\"\""), "190");
    assert_eq!(one(&duck, "SELECT comment FROM duckdb_tables() WHERE table_name = 'a'"), "table 0");
    let log = one(&duck, "SELECT changes, author FROM skep.snapshots() ORDER BY snapshot_id DESC LIMIT 1");
    assert!(log.contains("tables_created") && log.contains("ada"), "{log}");
}

#[tokio::test]
async fn views_external_tables_and_comments_do_not_disturb() {
    let lake = Lake::new().await;
    let Some(duck) = duck(&lake, false) else { return };
    lake.create("lake", "t", &rows(0, 10)).await;
    let table = lake.table("lake", "t").await;
    let external = skep_catalog::External {
        location: "file:///raw/".to_owned(),
        format: "csv".to_owned(),
        options: Default::default(),
        partition_columns: Vec::new(),
    };
    lake.commit([Change::PutExternal {
        schema: "lake".to_owned(),
        name: "raw".to_owned(),
        columns: table.columns.clone(),
        external,
        comment: None,
        or_replace: false,
    }])
    .await
    .unwrap();
    lake.commit([Change::PutView {
        schema: "mart".to_owned(),
        name: "v".to_owned(),
        sql: "SELECT id FROM lake.t WHERE id > 4".to_owned(),
        column_aliases: Vec::new(),
        or_replace: false,
    }])
    .await
    .unwrap();
    lake.commit([Change::Comment { table: table.id, comment: Some("ours".to_owned()) }]).await.unwrap();
    assert_eq!(one(&duck, "SELECT count(*) FROM lake.t WHERE id >= 5"), "5");
    assert_eq!(one(&duck, "SELECT comment FROM duckdb_tables() WHERE table_name = 't'"), "ours");
    assert_eq!(one(&duck, "SELECT count(*) FROM skep.snapshots()"), "5");
    one(&duck, "INSERT INTO lake.t VALUES (100, 'duck', 1)");
    assert_eq!(lake.table("lake", "t").await.record_count, 11);
    assert_eq!(lake.table("lake", "raw").await.external.as_ref().unwrap().format, "csv");
    assert_eq!(lake.snapshot().await.views("mart").count(), 1);
    assert_eq!(
        one(&duck, "SELECT count(*) FROM mart.v"),
        "6",
        "DuckDB runs what it understands of our dialect"
    );
}

#[tokio::test]
async fn replaced_files_are_gone_and_the_past_stays() {
    let lake = Lake::new().await;
    let Some(duck) = duck(&lake, true) else { return };
    lake.create("lake", "t", &rows(0, 100)).await;
    lake.append("lake", "t", &rows(100, 200)).await;
    let table = lake.table("lake", "t").await;
    let old = lake.catalog.files(&*lake.snapshot().await, table.id).await.unwrap()[0].id;
    let file = lake.stage(&table, &rows(50, 60));
    lake.commit([
        Change::RemoveFiles { table: table.id, files: vec![old] },
        Change::Append { table: table.id, files: vec![file] },
    ])
    .await
    .unwrap();
    assert_eq!(one(&duck, "SELECT count(*), min(id), max(id) FROM lake.t"), "110,50,199");
    assert_eq!(one(&duck, "SELECT count(*) FROM lake.t WHERE id < 50"), "0");
    assert_eq!(one(&duck, "SELECT count(*), min(id) FROM lake.t AT (VERSION => 2)"), "200,0");
    lake.commit([Change::DropTable { id: table.id }]).await.unwrap();
    assert!(duck.lines("SELECT count(*) FROM lake.t").is_err());
    assert_eq!(one(&duck, "SELECT count(*) FROM lake.t AT (VERSION => 3)"), "110");
}

#[tokio::test]
async fn duckdb_writes_and_we_read() {
    let lake = Lake::new().await;
    let Some(duck) = duck(&lake, false) else { return };
    lake.create("lake", "t", &rows(0, 10)).await;
    let ours = lake.snapshot().await;
    one(&duck, "INSERT INTO lake.t SELECT range, 'duck ' || range, NULL FROM range(1000, 1005)");
    let table = lake.table("lake", "t").await;
    let files = lake.catalog.files(&*lake.snapshot().await, table.id).await.unwrap();
    assert_eq!((table.record_count, files.len()), (15, 2));
    let id = &table.columns[0];
    let stats = &files[1].stats[&id.id];
    assert_eq!((stats.min.as_deref(), stats.max.as_deref(), stats.values), (Some("1000"), Some("1004"), 5));
    assert_eq!(files[1].row_id_start, Some(10));
    read_back(&lake, &files[1].path, &table.columns, 5);

    // Its insert and ours commute, on a base from before it.
    let file = lake.stage(&table, &rows(2000, 2010));
    let append = Change::Append { table: table.id, files: vec![file] };
    lake.commit_on(ours, [append]).await.unwrap();
    assert_eq!(one(&duck, "SELECT count(*), max(id), max(rowid) FROM lake.t"), "25,2009,24");
    assert_eq!(one(&duck, "SELECT id FROM lake.t ORDER BY id DESC LIMIT 1"), "2009");

    one(
        &duck,
        "CREATE TABLE warehouse.made AS SELECT 1 AS a, [1, 2] AS l, {'x': 'y'} AS s, DATE '2024-02-29' AS d",
    );
    let made = lake.table("warehouse", "made").await;
    let names: Vec<String> = made.columns.iter().map(|c| format!("{} {}", c.name, c.ty)).collect();
    assert_eq!(names, ["a int32", "l list", "s struct", "d date"]);
    let file = lake.stage(&made, &made_rows(&made.columns));
    lake.commit([Change::Append { table: made.id, files: vec![file] }]).await.unwrap();
    assert_eq!(
        one(&duck, "SELECT count(*), max(a), max(s.x) FROM warehouse.made WHERE d >= '2024-01-01'"),
        "2,7,z"
    );

    one(&duck, "CREATE TABLE warehouse.gap AS SELECT INTERVAL 1 DAY AS i");
    let gap = lake.table("warehouse", "gap").await;
    let error = lake.catalog.files(&*lake.snapshot().await, gap.id).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.message().contains("'interval'"), "{error:?}");
}

fn made_rows(columns: &[Column]) -> RecordBatch {
    let json = r#"{"a": 7, "l": [3, null], "s": {"x": "z"}, "d": "2024-03-01"}"#;
    let schema = Arc::new(skep_catalog::read_schema(columns));
    let mut reader = arrow::json::ReaderBuilder::new(schema).build(json.as_bytes()).unwrap();
    reader.next().unwrap().unwrap()
}

/// Opens a file of DuckDB by the physical names, as a scan does.
fn read_back(lake: &Lake, path: &str, columns: &[Column], rows: usize) {
    let file = std::fs::File::open(lake.data().join(path)).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    for column in columns {
        assert!(reader.schema().field_with_name(&column.physical).is_ok(), "{}", column.physical);
    }
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), rows);
}

#[tokio::test]
async fn a_catalog_that_duckdb_made_is_ours_too() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("catalog.sqlite");
    let Some(judge) = DuckDb::find() else { return };
    let attach = judge
        .attach(&path, false)
        .replace(" AS skep", &format!(" AS skep (DATA_PATH '{}/data/')", dir.path().display()));
    judge.run(&format!("{attach}CREATE TABLE skep.main.t AS SELECT range AS id FROM range(100);")).unwrap();
    let catalog = Catalog::open(&path, OpenOptions::new("/unused/")).await.unwrap();
    assert_eq!(catalog.data_path(), format!("{}/data/", dir.path().display()));
    let lake = Lake { dir, catalog };
    let table = lake.table("main", "t").await;
    let rows = batch([("id", Arc::new(Int64Array::from_iter_values(100..200)) as ArrayRef)]);
    let file = lake.stage(&table, &rows);
    lake.commit([Change::Append { table: table.id, files: vec![file] }]).await.unwrap();
    let Some(duck) = duck(&lake, true) else { return };
    assert_eq!(one(&duck, "SELECT count(*), max(id) FROM t WHERE id >= 50"), "150,199");
}

#[tokio::test]
async fn duckdb_makes_tables_of_its_types_and_both_fill_them() {
    let lake = Lake::new().await;
    let Some(duck) = duck(&lake, false) else { return };
    one(
        &duck,
        "CREATE TABLE lake.d (u UUID, j JSON, s TIMESTAMP_S, ms TIMESTAMP_MS, ns TIMESTAMP_NS, t TIME, tz TIMESTAMPTZ, \
         d DECIMAL(18,3), b BLOB, h STRUCT(x FLOAT[], y MAP(VARCHAR, DECIMAL(4,1)))); \
         INSERT INTO lake.d VALUES ('00112233-4455-6677-8899-aabbccddeeff', '{}', '2024-01-01', '2024-01-01', \
         '2024-01-01', '12:00:00', '2024-01-01 00:00:00+00', 1.5, '\\xAA', {'x': [1.5, NULL], 'y': MAP {'k': 2.5}})",
    );
    let table = lake.table("lake", "d").await;
    table.supported().unwrap();
    let files = lake.catalog.files(&*lake.snapshot().await, table.id).await.unwrap();
    for leaf in skep_catalog::leaves(&table.columns) {
        let (min, max) = files[0].stats[&leaf.id].bounds(&leaf.ty);
        assert!(min.is_some() && max.is_some(), "{} {}: {:?}", leaf.name, leaf.ty, files[0].stats[&leaf.id]);
    }
    // Its rows again, read by us and written by us.
    let file = std::fs::File::open(lake.data().join(&files[0].path)).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let rows = reader.build().unwrap().next().unwrap().unwrap();
    let file = lake.stage(&table, &rows);
    lake.commit([Change::Append { table: table.id, files: vec![file] }]).await.unwrap();
    judge(
        &duck,
        &[
            ("SELECT count(*), count(DISTINCT d) FROM lake.d", "2,1"),
            ("SELECT count(*) FROM lake.d WHERE u = '00112233-4455-6677-8899-aabbccddeeff'", "2"),
            (
                "SELECT count(*) FROM lake.d WHERE s = '2024-01-01' AND ms = '2024-01-01' AND ns = '2024-01-01'",
                "2",
            ),
            (
                "SELECT count(*) FROM lake.d WHERE t = '12:00:00' AND tz = '2024-01-01 00:00:00+00' AND d = 1.5",
                "2",
            ),
            ("SELECT count(*) FROM lake.d WHERE b = '\\xAA'::BLOB AND j = '{}'", "2"),
            ("SELECT count(*) FROM lake.d WHERE h.x[1] = 1.5 AND h.y['k'] = 2.5", "2"),
            ("SELECT DISTINCT u FROM lake.d", "00112233-4455-6677-8899-aabbccddeeff"),
        ],
    );
}

#[tokio::test]
async fn what_duckdb_hides_from_files_is_refused() {
    let lake = Lake::new().await;
    let Some(duck) = duck(&lake, false) else { return };
    lake.create("lake", "t", &rows(0, 10)).await;
    let base = lake.snapshot().await;
    let table = lake.table("lake", "t").await;
    one(&duck, "DELETE FROM lake.t WHERE id = 3");
    let file = Arc::clone(&lake.catalog.files(&*lake.snapshot().await, table.id).await.unwrap()[0]);
    let deletes = file.deletes.as_ref().unwrap();
    assert!(file.hides() && lake.data().join(&deletes.path).try_exists().unwrap());
    assert_eq!((deletes.rows, deletes.until, file.live()), (1, None, Some(9)));
    let past = lake.catalog.files(&base, table.id).await.unwrap();
    assert_eq!((past.len(), past[0].live()), (1, Some(10)), "the past reads");
    let file = lake.stage(&table, &rows(10, 12));
    let append = Change::Append { table: table.id, files: vec![file] };
    let error = lake.commit_on(Arc::clone(&base), [append]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error:?}");

    // Its second deletion takes the place of the first, also for those who look at the time between.
    let between = lake.snapshot().await;
    one(&duck, "DELETE FROM lake.t WHERE id IN (4, 5)");
    let now = lake.snapshot().await;
    for (snapshot, until, live) in
        [(&between, Some(between.id), None), (&now, None, Some(7)), (&base, None, Some(10))]
    {
        let file = Arc::clone(&lake.catalog.files(snapshot, table.id).await.unwrap()[0]);
        assert_eq!(file.deletes.as_ref().and_then(|deletes| deletes.until), until);
        assert_eq!(file.live(), live);
    }
    let id = lake.catalog.files(&now, table.id).await.unwrap()[0].id;
    let remove = || Change::RemoveFiles { table: table.id, files: vec![id] };
    let error = lake.commit_on(between, [remove()]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error:?}");
    lake.commit_on(Arc::clone(&now), [remove()]).await.unwrap();
    assert_eq!(one(&duck, "SELECT count(*) FROM lake.t"), "0");
    let then = format!("SELECT count(*) FROM lake.t AT (VERSION => {})", now.id);
    assert_eq!(one(&duck, &then), "7");
    assert_eq!(lake.catalog.check().await.unwrap(), Vec::<String>::new());

    one(&duck, "CALL skep.set_option('data_inlining_row_limit', 10)");
    one(&duck, "CREATE TABLE lake.small AS SELECT 1 AS x");
    one(&duck, "INSERT INTO lake.small VALUES (2)");
    let small = lake.table("lake", "small").await;
    let error = lake.catalog.files(&*lake.snapshot().await, small.id).await.unwrap_err();
    assert!(error.message().contains("inlined"), "{error:?}");
}

#[tokio::test]
async fn columns_that_duckdb_changed_are_not_mixed_up() {
    let lake = Lake::new().await;
    let Some(duck) = duck(&lake, false) else { return };
    lake.create("lake", "t", &rows(0, 10)).await;
    one(&duck, "ALTER TABLE lake.t ADD COLUMN extra INTEGER DEFAULT 7");
    let table = lake.table("lake", "t").await;
    let extra = table.columns.last().unwrap();
    assert_eq!(
        (extra.name.as_str(), extra.initial_default.as_deref(), extra.default.as_deref()),
        ("extra", Some("7"), Some("7"))
    );
    assert_eq!((extra.id, table.next_column_id), (4, 5));

    // Our append widens what an added column had only by its default.
    let with_extra = rows(10, 12);
    let mut columns = with_extra.columns().to_vec();
    columns.push(Arc::new(Int32Array::from(vec![100, 200])));
    let batch = RecordBatch::try_new(table.read_schema(), columns).unwrap();
    let file = lake.stage(&table, &batch);
    lake.commit([Change::Append { table: table.id, files: vec![file] }]).await.unwrap();
    assert_eq!(one(&duck, "SELECT min(extra), max(extra), count(*) FROM lake.t"), "7,200,12");
    assert_eq!(one(&duck, "SELECT count(*) FROM lake.t WHERE extra < 50"), "10");

    one(&duck, "ALTER TABLE lake.t RENAME COLUMN name TO title");
    let table = lake.table("lake", "t").await;
    assert_eq!((table.columns[1].name.as_str(), table.columns[1].physical.as_str()), ("title", "name"));
    assert_eq!(lake.catalog.files(&*lake.snapshot().await, table.id).await.unwrap().len(), 2);
    one(&duck, "INSERT INTO lake.t VALUES (500, 'under its new name', NULL, 1)");
    let table = lake.table("lake", "t").await;
    let files = lake.catalog.files(&*lake.snapshot().await, table.id).await.unwrap();
    let names: Vec<Vec<Option<&str>>> = files
        .iter()
        .map(|file| table.columns.iter().map(|column| table.name_in(column, file)).collect())
        .collect();
    let ours = vec![Some("id"), Some("name"), Some("part"), Some("extra")];
    let mut before = ours.clone();
    before[3] = None;
    let theirs = vec![Some("id"), Some("title"), Some("part"), Some("extra")];
    assert_eq!(names, [before, ours, theirs]);
}

#[tokio::test]
async fn duckdb_rewrites_our_table_and_we_follow() {
    let lake = Lake::new().await;
    let Some(duck) = duck(&lake, false) else { return };
    lake.create("lake", "t", &rows(0, 10)).await;
    lake.append("lake", "t", &rows(10, 20)).await;
    lake.append("lake", "t", &rows(20, 30)).await;
    let table = lake.table("lake", "t").await;
    assert_eq!(lake.catalog.files(&*lake.snapshot().await, table.id).await.unwrap().len(), 3);
    one(&duck, "CALL ducklake_merge_adjacent_files('skep')");
    let files = lake.catalog.files(&*lake.snapshot().await, table.id).await.unwrap();
    assert_eq!(
        (files.len(), files[0].rows),
        (1, 30),
        "a list brought forward would still name the old files"
    );
    lake.append("lake", "t", &rows(30, 40)).await;
    assert_eq!(one(&duck, "SELECT count(*), sum(id) FROM lake.t"), "40,780");
    one(&duck, "UPDATE lake.t SET name = 'x' WHERE id = 5");
    one(&duck, "CALL ducklake_rewrite_data_files('skep', delete_threshold => 0)");
    one(&duck, "CALL ducklake_expire_snapshots('skep', older_than => now())");
    assert_eq!(one(&duck, "SELECT count(*), sum(id) FROM lake.t"), "40,780");
    let snapshot = lake.snapshot().await;
    let files = lake.catalog.files(&snapshot, table.id).await.unwrap();
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 40);
    lake.append("lake", "t", &rows(40, 50)).await;
    assert_eq!(one(&duck, "SELECT count(*), sum(id) FROM lake.t"), "50,1225");
    assert_eq!(lake.catalog.check().await.unwrap(), Vec::<String>::new());
}
