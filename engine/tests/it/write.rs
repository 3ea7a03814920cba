use datafusion::scalar::ScalarValue;

use crate::fixture::Fixture;

#[tokio::test]
async fn inserts_match_names_positions_and_defaults() {
    let fixture = Fixture::new().await;
    fixture
        .run("CREATE TABLE t (id INT NOT NULL, name VARCHAR DEFAULT 'none', day DATE DEFAULT DATE '2024-01-01', price DECIMAL(8, 2))")
        .await
        .unwrap();
    fixture
        .run(
            "INSERT INTO t VALUES (1, 'a', '2024-02-03', 1.005);
             INSERT INTO t (price, id) VALUES (2.5, 2);
             INSERT INTO t (id, name) SELECT id + 10, upper(name) FROM t WHERE id = 1;
             INSERT INTO t (id, name) VALUES (3, NULL)",
        )
        .await
        .unwrap();
    fixture
        .run("INSERT INTO t VALUES ('5', 'e', DATE '2024-05-05', '5.5'), (6, 'f', '2024-06-06', 6), (7, NULL, NULL, NULL)")
        .await
        .unwrap();
    insta::assert_snapshot!(fixture.rows("SELECT * FROM t ORDER BY id").await, @r#"
    1|a|2024-02-03|1.01
    2|none|2024-01-01|2.50
    3|NULL|2024-01-01|NULL
    5|e|2024-05-05|5.50
    6|f|2024-06-06|6.00
    7|NULL|NULL|NULL
    11|A|2024-01-01|NULL
    "#);
}

#[tokio::test]
async fn what_a_column_cannot_take_is_refused_by_name() {
    let fixture = Fixture::new().await;
    fixture.run("CREATE TABLE t (id INT NOT NULL, small TINYINT, d DATE)").await.unwrap();
    let mut errors = Vec::new();
    for sql in [
        "INSERT INTO t VALUES (1)",
        "INSERT INTO t VALUES (1, 2, NULL, 4)",
        "INSERT INTO t (id, nosuch) VALUES (1, 2)",
        "INSERT INTO t (id, smal) VALUES (1, 2)",
        "INSERT INTO t (id, id) VALUES (1, 2)",
        "INSERT INTO t VALUES (NULL, 1, NULL)",
        "INSERT INTO t (small) VALUES (1)",
        "INSERT INTO t VALUES (1, 200, NULL)",
        "INSERT INTO t VALUES (1, 1.5, NULL)",
        "INSERT INTO t VALUES ('x', 1, NULL)",
        "INSERT INTO t VALUES (1, 1, '2023-13-01')",
        "INSERT INTO t SELECT CASE WHEN value = 9 THEN NULL ELSE value END, 1, NULL FROM generate_series(1, 10) AS s(value)",
        "INSERT INTO t SELECT value, value * 100, NULL FROM generate_series(1, 2) AS s(value)",
        "INSERT INTO nosuch VALUES (1)",
        "CREATE TABLE s (a INT DEFAULT now())",
        "CREATE TABLE s (a INT DEFAULT 'x')",
        "CREATE TABLE s (a UUID)",
        "CREATE TABLE s AS SELECT 1 AS a, 2 AS a",
        "CREATE TABLE s (a, b) AS SELECT 1",
        "CREATE TABLE s AS SELECT INTERVAL '1 day' AS i",
    ] {
        errors.push(fixture.error(sql).await);
    }
    insta::assert_snapshot!(errors.join("\n"), @r#"
    invalid: table 't' has 3 columns and 1 values are given (line 1, column 13) (hint: name the columns that are given; the table has id, small, d)
    invalid: table 't' has 3 columns and 4 values are given (line 1, column 13) (hint: name the columns that are given; the table has id, small, d)
    invalid: table 't' has no column 'nosuch' (line 1, column 20) (hint: columns are id, small, d)
    invalid: table 't' has no column 'smal' (line 1, column 20) (hint: did you mean 'small'?)
    invalid: column 'id' is named twice (line 1, column 20)
    invalid: column 'id' is NOT NULL, and a row has NULL for it (hint: give it a value, for example with COALESCE, or leave the row out)
    invalid: column 'id' is NOT NULL and has no value (hint: give it a value, or a default when the table is created)
    invalid: '200' is not a value of column 'small', which is TINYINT
    invalid: '1.5' is not a value of column 'small', which is TINYINT (hint: ROUND(value) makes it whole)
    invalid: 'x' is not a value of column 'id', which is INTEGER
    invalid: '2023-13-01' is not a value of column 'd', which is DATE
    invalid: column 'id' is NOT NULL, and a row has NULL for it (hint: give it a value, for example with COALESCE, or leave the row out)
    invalid: '200' is not a value of column 'small', which is TINYINT
    not_found: table 'nosuch' does not exist (line 1, column 13) (hint: SHOW TABLES FROM main lists them)
    unsupported: the default of column 'a' is not a constant (line 1, column 17) (hint: a default is a constant such as 0, 'none' or DATE '2024-01-01')
    invalid: 'x' is not a value of column 'a', which is INTEGER (line 1, column 17)
    unsupported: type 'UUID' is not supported (line 1, column 17) (hint: types are BOOLEAN, TINYINT, SMALLINT, INTEGER, BIGINT (and UNSIGNED), REAL, DOUBLE, DECIMAL(p, s), VARCHAR, BINARY, DATE, TIME, TIMESTAMP, TIMESTAMP WITH TIME ZONE, type[], STRUCT<name type>, MAP(key, value))
    invalid: projections require unique expression names but the expression "Int64(1) AS a" at position 0 and "Int64(2) AS a" at position 1 have the same name. Consider aliasing ("AS") one of them
    invalid: the table names 2 columns and the query has 1
    unsupported: column 'i' has the type Interval(MonthDayNano), which tables do not hold (hint: store a number of seconds, for example extract(epoch from x))
    "#);
    assert_eq!(fixture.rows("SELECT count(*) FROM t").await, "0");
}

#[tokio::test]
async fn tables_of_queries_take_names_and_plain_types() {
    let fixture = Fixture::new().await;
    fixture
        .run("CREATE TABLE t AS SELECT 1 AS i, 'x' AS t, 1.5 AS d, DATE '2024-02-29' AS day, true AS yes, now() AS at, NULL AS nothing")
        .await
        .unwrap();
    insta::assert_snapshot!(fixture.rows("DESCRIBE t").await, @r#"
    i|BIGINT|YES|NULL|NULL
    t|VARCHAR|YES|NULL|NULL
    d|DECIMAL(2, 1)|YES|NULL|NULL
    day|DATE|YES|NULL|NULL
    yes|BOOLEAN|YES|NULL|NULL
    at|TIMESTAMP WITH TIME ZONE|YES|NULL|NULL
    nothing|VARCHAR|YES|NULL|NULL
    "#);
    fixture.run("CREATE TABLE u (a, b VARCHAR NOT NULL) AS SELECT 1, 2").await.unwrap();
    insta::assert_snapshot!(fixture.rows("DESCRIBE u").await, @r#"
    a|BIGINT|YES|NULL|NULL
    b|VARCHAR|NO|NULL|NULL
    "#);
}

#[tokio::test]
async fn parameters_take_the_types_of_their_places() {
    let fixture = Fixture::new().await;
    fixture.run("CREATE TABLE t (id INT, name VARCHAR, at TIMESTAMP)").await.unwrap();
    let values = vec![
        ScalarValue::from(7_i64),
        ScalarValue::from("seven"),
        ScalarValue::TimestampMicrosecond(Some(0), None),
    ];
    fixture.run_with("INSERT INTO t VALUES ($1, $2, $3)", values).await.unwrap();
    let answer =
        fixture.run_with("SELECT name FROM t WHERE id = $1", vec![ScalarValue::from(7_i32)]).await.unwrap();
    assert_eq!(answer.rows, [["seven"]]);

    let planner = fixture.planner().await;
    for (sql, expected) in [
        ("SELECT name FROM t WHERE id = $1 AND name LIKE $2", "Int32 Utf8"),
        ("INSERT INTO t VALUES ($1, $2, $3)", "Int32 Utf8 Timestamp(\u{b5}s)"),
        ("INSERT INTO t (name, id) VALUES ($2, $1)", "Int32 Utf8"),
    ] {
        let statement = skep_engine::parse_one(sql).unwrap().statement;
        let plan = planner.plan(&statement).await.unwrap().unwrap();
        let types = skep_engine::parameters(&plan).unwrap();
        let types: Vec<String> = types.fields().iter().map(|field| field.data_type().to_string()).collect();
        assert_eq!(types.join(" "), expected, "{sql}");
    }
}

#[tokio::test]
async fn copies_go_out_and_come_back() {
    let fixture = Fixture::new().await;
    fixture
        .run("CREATE TABLE source AS SELECT value AS id, 'name ' || CAST(value AS VARCHAR) AS name, value * 0.5 AS price, DATE '2024-01-01' AS day FROM generate_series(1, 100) AS s(value)")
        .await
        .unwrap();
    for (end, options) in [
        ("parquet", ""),
        ("csv", "(HEADER true)"),
        ("json", ""),
        ("csv.gz", "(FORMAT csv, COMPRESSION gzip)"),
    ] {
        let path = fixture.path(&format!("out.{end}")).display().to_string();
        assert_eq!(fixture.rows(&format!("COPY source TO '{path}' {options}")).await, "100", "{end}");
        let back = format!("SELECT count(*), sum(id), sum(price), max(name), min(day) FROM '{path}'");
        let rows = fixture.rows(&back).await;
        assert!(rows.starts_with("100|5050|2525.0|name 99|2024-01-01"), "{end}: {rows}");
        let table = format!("back_{}", end.replace('.', "_"));
        fixture
            .run(&format!("CREATE TABLE {table} (day DATE, price DOUBLE, id BIGINT, name VARCHAR, more INT)"))
            .await
            .unwrap();
        fixture.run(&format!("COPY INTO {table} FROM '{path}'")).await.unwrap();
        assert_eq!(
            fixture
                .rows(&format!("SELECT count(*), sum(id), sum(price), max(name), count(more) FROM {table}"))
                .await,
            "100|5050|2525.0|name 99|0",
            "{end}"
        );
    }
}
