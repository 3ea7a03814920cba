use crate::fixture::Fixture;

async fn fixture() -> Fixture {
    let fixture = Fixture::new().await;
    fixture
        .run("CREATE TABLE lake.raw (id INT NOT NULL, name VARCHAR DEFAULT 'it''s', amount DECIMAL(10, 2) DEFAULT 1.5, day DATE) COMMENT 'as it came'")
        .await
        .unwrap();
    fixture.run("CREATE VIEW lake.recent AS SELECT id, day FROM lake.raw").await.unwrap();
    fixture
}

#[tokio::test]
async fn names_and_columns_are_shown() {
    let fixture = fixture().await;
    let mut answers = Vec::new();
    for sql in [
        "SHOW SCHEMAS",
        "SHOW SCHEMAS LIKE 'ma%'",
        "SHOW TABLES",
        "SHOW TABLES FROM lake LIKE '%w'",
        "SHOW COLUMNS FROM lake.raw",
        "SHOW COLUMNS FROM lake.raw LIKE '%a%'",
        "DESCRIBE lake.recent",
        "DESCRIBE SELECT id + 1 AS next FROM lake.raw",
        "SHOW CREATE TABLE lake.raw",
        "SHOW CREATE VIEW lake.recent",
        "SHOW skep.execution",
        "SELECT table_catalog, table_schema, table_name, table_type FROM information_schema.tables WHERE table_schema = 'lake'",
        "SELECT column_name, ordinal_position, is_nullable, data_type FROM information_schema.columns WHERE table_name = 'raw'",
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'recent'",
        "SELECT schema_name FROM information_schema.schemata",
    ] {
        answers.push(fixture.rows(sql).await);
    }
    insta::assert_snapshot!(answers.join("\n--\n"), @r#"
    information_schema
    lake
    main
    mart
    warehouse
    --
    main
    mart
    --
    lake|raw|BASE TABLE
    lake|recent|VIEW
    --
    lake|raw|BASE TABLE
    --
    id|INTEGER|NO|NULL|NULL
    name|VARCHAR|YES|'it''s'|NULL
    amount|DECIMAL(10, 2)|YES|1.50|NULL
    day|DATE|YES|NULL|NULL
    --
    name|VARCHAR|YES|'it''s'|NULL
    amount|DECIMAL(10, 2)|YES|1.50|NULL
    day|DATE|YES|NULL|NULL
    --
    id|INTEGER|NO|NULL|NULL
    day|DATE|YES|NULL|NULL
    --
    next|BIGINT|NO|NULL|NULL
    --
    CREATE TABLE lake.raw (
        id INTEGER NOT NULL,
        name VARCHAR DEFAULT 'it''s',
        amount DECIMAL(10, 2) DEFAULT 1.50,
        day DATE
    )
    COMMENT 'as it came'
    --
    CREATE VIEW lake.recent AS SELECT id, day FROM lake.raw
    --
    auto
    --
    skep|lake|raw|BASE TABLE
    skep|lake|recent|VIEW
    --
    id|1|NO|INTEGER
    name|2|YES|VARCHAR
    amount|3|YES|DECIMAL(10, 2)
    day|4|YES|DATE
    --
    id
    day
    --
    information_schema
    lake
    main
    mart
    warehouse
    "#);
}

/// What SHOW CREATE prints makes the same table again.
#[tokio::test]
async fn shown_statements_run() {
    let fixture = fixture().await;
    let before = fixture.rows("SHOW CREATE TABLE lake.raw").await;
    fixture.run(&before.replace("lake.raw", "mart.raw")).await.unwrap();
    let after = fixture.rows("SHOW CREATE TABLE mart.raw").await;
    assert_eq!(after, before.replace("lake.raw", "mart.raw"));
}

#[tokio::test]
async fn views_stand_by_themselves() {
    let mut fixture = fixture().await;
    fixture.run("INSERT INTO lake.raw (id, day) VALUES (1, '2024-01-01'), (2, '2024-06-01')").await.unwrap();
    fixture.settings.set("schema", Some("lake")).unwrap();
    fixture.run("CREATE VIEW main.late (number) AS WITH r AS (SELECT * FROM recent) SELECT r.id FROM r WHERE r.day > DATE '2024-03-01'").await.unwrap();
    fixture.settings.set("schema", Some("mart")).unwrap();
    assert_eq!(fixture.rows("SELECT number FROM main.late").await, "2");
    assert_eq!(
        fixture.rows("SHOW CREATE VIEW main.late").await,
        "CREATE VIEW main.late (number) AS WITH r AS (SELECT * FROM \"lake\".recent) SELECT r.id FROM r WHERE r.day > DATE '2024-03-01'"
    );
}

#[tokio::test]
async fn literals_with_a_point_are_exact() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.rows("SELECT 0.1 + 0.2, round(2.345, 2), 7 / 2").await, "0.3|2.35|3");
}

/// Decimals give way to floats beside them, and a UNION has the type of all its inputs.
#[tokio::test]
async fn columns_of_two_types_take_one_that_holds_both() {
    let fixture = Fixture::new().await;
    fixture.run("CREATE TABLE t (d DOUBLE, i INT, m DECIMAL(10, 2))").await.unwrap();
    let rows = "(1e300, 1, 1.25), (CAST('NaN' AS DOUBLE), 2, 2.5), (-2.5, 3, -2.5), (NULL, NULL, 0.5)";
    fixture.run(&format!("INSERT INTO t VALUES {rows}")).await.unwrap();
    for (sql, rows) in [
        ("SELECT i FROM t WHERE d > 2.5 ORDER BY i", "1\n2"),
        ("SELECT i FROM t WHERE d BETWEEN -3.5 AND 0.5", "3"),
        ("SELECT i FROM t WHERE d IN (-2.5, 7.5)", "3"),
        ("SELECT coalesce(d, 0.5) FROM t ORDER BY i", "1e300\nNaN\n-2.5\n0.5"),
        ("SELECT CASE WHEN i > 1 THEN d ELSE 0.5 END FROM t ORDER BY i", "0.5\nNaN\n-2.5\n0.5"),
        ("SELECT i FROM t WHERE d > m ORDER BY i", "1\n2"),
        ("SELECT i FROM t WHERE m = 2.5e0 OR m = d ORDER BY i", "2\n3"),
        ("SELECT coalesce(d, m) FROM t ORDER BY i", "1e300\nNaN\n-2.5\n0.5"),
        ("SELECT i FROM t WHERE i = 1 UNION ALL SELECT 2.5 ORDER BY 1", "1.0\n2.5"),
        ("SELECT x FROM (SELECT i AS x FROM t UNION ALL SELECT 2.5) AS u WHERE x > 2 ORDER BY x", "2.5\n3.0"),
    ] {
        assert_eq!(fixture.rows(sql).await, rows, "{sql}");
    }
    fixture.run("CREATE TABLE u AS SELECT i AS x FROM t UNION ALL SELECT 2.5").await.unwrap();
    assert_eq!(fixture.rows("SELECT sum(x) FROM u").await, "8.5");
}
