use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::displayable;
use skep_engine::placement::OnCoordinator;

use crate::fixture::Fixture;

/// Three files: ids 1 to 100, 101 to 200, 201 to 300, a day each.
async fn events() -> Fixture {
    let fixture = Fixture::new().await;
    fixture
        .run("CREATE TABLE events (id BIGINT NOT NULL, day DATE, kind VARCHAR, amount DOUBLE)")
        .await
        .unwrap();
    for file in 0..3 {
        let (first, last) = (file * 100 + 1, file * 100 + 100);
        let insert = format!(
            "INSERT INTO events SELECT value, DATE '2024-01-0{}', 'k' || CAST(value % 5 AS VARCHAR), value * 0.5
             FROM generate_series({first}, {last}) AS s(value)",
            file + 1
        );
        fixture.run(&insert).await.unwrap();
    }
    fixture
}

async fn kept(fixture: &Fixture, filter: &str) -> (String, usize) {
    let answer = fixture.run(&format!("SELECT count(*) FROM events WHERE {filter}")).await.unwrap();
    (answer.rows[0][0].clone(), answer.reports[0].files_kept)
}

#[tokio::test]
async fn files_are_skipped_by_their_statistics() {
    let fixture = events().await;
    for (filter, rows, files) in [
        ("id = 150", "1", 1),
        ("id IN (1, 300)", "2", 2),
        ("id > 300", "0", 0),
        ("day = DATE '2024-01-02'", "100", 1),
        ("day >= DATE '2024-01-02' AND id < 150", "49", 1),
        ("amount < 10", "19", 1),
        ("kind = 'k1'", "60", 3),
        ("kind > 'z'", "0", 0),
        ("kind IS NULL", "0", 0),
        ("id + 1 = 151", "1", 3),
        ("id = (SELECT max(id) FROM events)", "1", 3),
    ] {
        assert_eq!(kept(&fixture, filter).await, (rows.to_owned(), files), "{filter}");
    }
    let answer = fixture.run("SELECT count(*) FROM events WHERE id = 150").await.unwrap();
    let report = &answer.reports[0];
    assert_eq!((report.table.as_str(), report.files_total), ("main.events", 3));
    assert!(report.bytes_kept < report.bytes_total);
}

#[tokio::test]
async fn a_limit_takes_the_files_it_needs() {
    let fixture = events().await;
    let answer = fixture.run("SELECT * FROM events LIMIT 5").await.unwrap();
    assert_eq!((answer.rows.len(), answer.reports[0].files_kept), (5, 1));
    let answer = fixture.run("SELECT * FROM events LIMIT 101").await.unwrap();
    assert_eq!((answer.rows.len(), answer.reports[0].files_kept), (101, 2));
    let answer = fixture.run("SELECT * FROM events WHERE id > 250 LIMIT 5").await.unwrap();
    assert_eq!(answer.rows.len(), 5);
}

#[tokio::test]
async fn counts_and_bounds_come_from_the_catalog() {
    let fixture = events().await;
    let answer = fixture.run("SELECT count(*), min(id), max(day) FROM events").await.unwrap();
    assert_eq!(answer.rows, [["300", "1", "2024-01-03"]]);
    let plan = displayable(answer.plan.as_ref()).indent(false).to_string();
    assert!(!plan.contains("DataSourceExec"), "{plan}");
    // Bounds of texts are cut: they are read.
    assert_eq!(fixture.rows("SELECT min(kind), max(kind) FROM events").await, "k0|k4");
}

#[tokio::test]
async fn not_a_number_is_neither_lost_nor_trusted() {
    let fixture = Fixture::new().await;
    fixture.run("CREATE TABLE odd (id INT, d DOUBLE)").await.unwrap();
    fixture.run("INSERT INTO odd VALUES (1, 1.0), (2, CAST('NaN' AS DOUBLE)), (3, NULL)").await.unwrap();
    fixture.run("INSERT INTO odd VALUES (4, CAST('-Infinity' AS DOUBLE)), (5, 100.0)").await.unwrap();
    assert_eq!(fixture.rows("SELECT id FROM odd WHERE d > 100 ORDER BY id").await, "2");
    assert_eq!(fixture.rows("SELECT id FROM odd WHERE d = CAST('NaN' AS DOUBLE)").await, "2");
    assert_eq!(fixture.rows("SELECT max(d), min(d) FROM odd").await, "NaN|-inf");
}

#[tokio::test]
async fn types_come_back_as_they_went_in() {
    let fixture = Fixture::new().await;
    fixture
        .run(
            "CREATE TABLE t (a BOOLEAN, b TINYINT, c SMALLINT, d INT, e BIGINT, f REAL, g DOUBLE, h DECIMAL(18, 4),
             i VARCHAR, j BINARY, k DATE, l TIME, m TIMESTAMP, n TIMESTAMP WITH TIME ZONE, o INT[], p STRUCT<x INT, y VARCHAR>,
             q TIMESTAMP(3), r TIMESTAMP(9), s BIGINT UNSIGNED)",
        )
        .await
        .unwrap();
    fixture
        .run(
            "INSERT INTO t VALUES (true, -128, 32767, 1, 9223372036854775807, 1.5, 2.25, 12345678901234.5678, 'x',
             CAST('bytes' AS BINARY), '2024-02-29', '10:11:12', '2024-02-29 23:59:59.123456', '2024-02-29 23:59:59Z', [1, 2],
             {'x': 1, 'y': 'z'}, '2024-02-29 01:02:03.456', '2024-02-29 01:02:03.456789', 18446744073709551615),
             (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
        )
        .await
        .unwrap();
    insta::assert_snapshot!(fixture.rows("SELECT * FROM t ORDER BY a NULLS LAST").await, @r#"
    true|-128|32767|1|9223372036854775807|1.5|2.25|12345678901234.5678|x|6279746573|2024-02-29|10:11:12|2024-02-29T23:59:59.123456|2024-02-29T23:59:59Z|[1, 2]|{x: 1, y: z}|2024-02-29T01:02:03.456|2024-02-29T01:02:03.456789|18446744073709551615
    NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL
    "#);
    assert_eq!(
        fixture
            .rows(
                "SELECT d FROM t WHERE m = TIMESTAMP '2024-02-29 23:59:59.123456' AND h = 12345678901234.5678"
            )
            .await,
        "1"
    );
}

#[tokio::test]
async fn empty_tables_have_columns_and_no_rows() {
    let fixture = Fixture::new().await;
    fixture.run("CREATE TABLE t (a INT, b VARCHAR)").await.unwrap();
    assert_eq!(fixture.rows("SELECT * FROM t").await, "");
    assert_eq!(fixture.rows("SELECT count(*), max(b) FROM t").await, "0|NULL");
}

#[tokio::test]
async fn a_statement_reads_the_snapshot_it_began_with() {
    let fixture = events().await;
    let planner = fixture.planner().await;
    fixture.run("INSERT INTO events VALUES (1000, NULL, NULL, NULL)").await.unwrap();
    let query = skep_engine::sql::parse_query("SELECT count(*) FROM events").unwrap();
    let plan = planner.logical(&query).await.unwrap();
    assert_eq!(fixture.collect(&planner, &plan).await.unwrap().rows, [["300"]]);
    assert_eq!(fixture.rows("SELECT count(*) FROM events").await, "301");
}

/// Files outside of the shared folders are marked for the coordinator, those inside are not.
#[tokio::test]
async fn scans_of_the_coordinators_files_are_marked() {
    let fixture = events().await;
    let csv = fixture.file("own/x.csv", "a\n1\n");
    let marked = |plan: &std::sync::Arc<dyn datafusion::physical_plan::ExecutionPlan>| {
        let mut node = std::sync::Arc::clone(plan);
        while let Some(child) = node.children().first().map(|child| std::sync::Arc::clone(child)) {
            node = child;
        }
        let scan = node.downcast_ref::<DataSourceExec>().unwrap();
        let config = scan.data_source().downcast_ref::<FileScanConfig>().unwrap();
        config.file_groups[0].files()[0].extension::<OnCoordinator>().is_some()
    };
    assert!(!marked(&fixture.run("SELECT id FROM events").await.unwrap().plan));
    assert!(marked(&fixture.run(&format!("SELECT a FROM '{csv}'")).await.unwrap().plan));
}
