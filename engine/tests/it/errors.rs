use crate::fixture::Fixture;

#[tokio::test]
async fn names_that_do_not_exist_come_with_the_nearest() {
    let fixture = Fixture::new().await;
    fixture.run("CREATE TABLE warehouse.flights (id INT, carrier VARCHAR)").await.unwrap();
    fixture.run("CREATE VIEW late AS SELECT id FROM warehouse.flights").await.unwrap();
    let mut errors = Vec::new();
    for sql in [
        "SELECT *\nFROM warehouse.flihgts",
        "SELECT * FROM flights",
        "SELECT * FROM lait",
        "SELECT * FROM nosuch.flights",
        "SELECT * FROM warehous.flights",
        "SELECT * FROM a.b.c",
        "SELECT carier FROM warehouse.flights",
        "SELECT f.nosuch FROM warehouse.flights AS f",
        "SELECT nosuch(id) FROM warehouse.flights",
        "SELECT * FROM nosuch(1)",
        "SELECT coalese(id, 1) FROM warehouse.flights",
        "SELECT * FROM generate_serie(1, 2)",
        "SELECT id FROM warehouse.flights AS a JOIN warehouse.flights AS b ON a.id = b.id",
        "SELECT id, count(*) FROM warehouse.flights",
        "SELECT 'a' + 1",
        "SELECT sum(carrier) FROM warehouse.flights",
        "SELECT 1 / 0",
        "SELECT CAST('x' AS INT)",
        "SELECT * FROM information_schema.tabels",
        "SELECT * FROM late FOR SYSTEM_TIME AS OF '2000-01-01'",
        "INSERT INTO late VALUES (1)",
        "CREATE VIEW v AS SELECT nosuch FROM late",
        "DESCRIBE nosuch",
        "SHOW TABLES FROM warehous",
        "SELECT (SELECT value FROM generate_series(1, 2) AS s(value))",
    ] {
        errors.push(fixture.error(sql).await);
    }
    insta::assert_snapshot!(errors.join("\n"), @r"
    not_found: table 'warehouse.flihgts' does not exist (line 2, column 6) (hint: did you mean 'warehouse.flights'?)
    not_found: table 'flights' does not exist (line 1, column 15) (hint: did you mean 'warehouse.flights'?)
    not_found: table 'lait' does not exist (line 1, column 15) (hint: SHOW TABLES FROM main lists them)
    not_found: schema 'nosuch' does not exist, so there is no table 'nosuch.flights' (line 1, column 15) (hint: schemas are lake, main, mart, warehouse)
    not_found: schema 'warehous' does not exist, so there is no table 'warehous.flights' (line 1, column 15) (hint: did you mean 'warehouse.flights'?)
    invalid: catalog 'a' does not exist (line 1, column 15) (hint: the catalog is named 'skep')
    invalid: column 'carier' does not exist (line 1, column 8) (hint: did you mean 'carrier'?)
    invalid: column 'f.nosuch' does not exist (line 1, column 8) (hint: columns are id, carrier)
    invalid: function 'nosuch' does not exist (line 1, column 8)
    invalid: table function 'nosuch' does not exist (hint: table functions are generate_series, range)
    invalid: function 'coalese' does not exist (line 1, column 8) (hint: did you mean 'coalesce'?)
    invalid: table function 'generate_serie' does not exist (hint: did you mean 'generate_series'?)
    invalid: column 'id' is in more than one table (line 1, column 8) (hint: write the table before it, as in t.id)
    invalid: 'warehouse.flights.id' must appear in GROUP BY clause because it's not an aggregate expression (line 1, column 8) (hint: either add 'warehouse.flights.id' to GROUP BY clause, or use an aggregate function like ANY_VALUE(warehouse.flights.id))
    invalid: expressions have incompatible types
    invalid: no function takes sum(VARCHAR) (hint: write a CAST; it takes sum(Decimal) sum(BIGINT UNSIGNED) sum(BIGINT) sum(DOUBLE) sum(Duration) sum(Interval))
    invalid: division by zero (hint: NULLIF(divisor, 0) gives NULL instead)
    invalid: cannot cast string 'x' to value of INTEGER type
    not_found: table 'information_schema.tabels' does not exist (line 1, column 15) (hint: did you mean 'information_schema.tables'?)
    not_found: there is no snapshot as old as 2000-01-01 00:00:00 UTC (line 1, column 15) (hint: SHOW SNAPSHOTS lists those that are there)
    invalid: 'late' is a view, and only tables have rows to change (line 1, column 13) (hint: change the tables that it reads)
    invalid: column 'nosuch' does not exist (line 1, column 25) (hint: columns are id)
    not_found: table 'nosuch' does not exist (line 1, column 10) (hint: SHOW TABLES FROM main lists them)
    not_found: schema 'warehous' does not exist (hint: did you mean 'warehouse'?)
    invalid: a subquery that is used as a value has more than one row (hint: use an aggregate such as max, add LIMIT 1, or compare with IN)
    ");
}

/// What several places of a statement have to do with an error comes with the words for each.
#[tokio::test]
async fn places_have_their_ends_and_notes() {
    let fixture = Fixture::new().await;
    fixture.run("CREATE TABLE t (id INT, name VARCHAR)").await.unwrap();
    let mut told = Vec::new();
    for sql in [
        "SELECT nosuch FROM t",
        "SELECT id FROM t UNION SELECT id, name FROM t",
        "SELECT id + INTERVAL '1 day' * name FROM t",
        "SELECT id IN (SELECT id, name FROM t) FROM t",
    ] {
        let error = fixture.run(sql).await.err().unwrap();
        let at = |at: skep_common::Span| {
            assert_eq!((at.start.line, at.end.line), (1, 1), "{error:?}");
            let (start, end) = (at.start.column as usize - 1, at.end.column as usize - 1);
            sql[start..end].to_owned()
        };
        told.push(format!("{}: {}", error.message(), error.span().map(at).unwrap_or_default()));
        told.extend(
            error
                .notes()
                .iter()
                .map(|note| format!("  {}: {}", note.message, note.at.map(at).unwrap_or_default())),
        );
    }
    insta::assert_snapshot!(told.join("\n"), @r"
    column 'nosuch' does not exist: nosuch
    UNION queries have different number of columns: SELECT id FROM t UNION SELECT id, name FROM t
      this side has 1 column: SELECT id FROM t
      this side has 2 columns: SELECT id, name FROM t
    expressions have incompatible types: name
      has type Interval(MonthDayNano): 
      has type VARCHAR: name
    too many columns! The subquery should only return one column: id, name
      extra column 1: name
    ");
}

/// A subquery that is a value has at most one row, however the plan joins it in.
#[tokio::test]
async fn subqueries_that_are_values_have_one_row() {
    let mut fixture = Fixture::new().await;
    fixture.run("CREATE TABLE t (id INT, pay INT)").await.unwrap();
    fixture.run("INSERT INTO t VALUES (1, 10), (2, 20), (3, NULL)").await.unwrap();
    for joined in ["true", "false"] {
        let name = "datafusion.optimizer.enable_physical_uncorrelated_scalar_subquery";
        fixture.settings.set(name, Some(joined)).unwrap();
        for (sql, rows) in [
            ("SELECT (SELECT pay FROM t WHERE id = 2)", "20"),
            ("SELECT (SELECT pay FROM t WHERE id = 9)", "NULL"),
            ("SELECT (SELECT max(pay) FROM t)", "20"),
            ("SELECT id FROM t WHERE pay > (SELECT pay FROM t WHERE id = 1)", "2"),
            (
                "SELECT id, (SELECT max(b.pay) FROM t AS b WHERE b.id = a.id) FROM t AS a ORDER BY id LIMIT 1",
                "1|10",
            ),
        ] {
            assert_eq!(fixture.rows(sql).await, rows, "{sql}");
        }
        for sql in
            ["SELECT (SELECT pay FROM t)", "SELECT id FROM t WHERE pay > (SELECT pay FROM t WHERE id > 1)"]
        {
            let error = fixture.error(sql).await;
            assert!(
                error.starts_with("invalid: a subquery that is used as a value has more than one row"),
                "{error}"
            );
        }
    }
}
