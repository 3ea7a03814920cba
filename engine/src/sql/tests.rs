use insta::assert_snapshot;

use super::*;

fn error(sql: &str) -> String {
    format!("{:?}", parse(sql).unwrap_err())
}

fn one(sql: &str) -> Statement {
    parse_one(sql).unwrap().statement
}

#[test]
fn a_script_splits_into_statements_with_text_and_place() {
    let script = "-- first\nSELECT 1;\n\n ; INSERT INTO t VALUES ('a;b'); -- last\n";
    let statements = parse(script).unwrap();
    let shown: Vec<String> =
        statements.iter().map(|s| format!("{}:{} {}", s.at.line, s.at.column, s.text)).collect();
    assert_snapshot!(shown.join("\n"), @r"
    2:1 SELECT 1
    4:4 INSERT INTO t VALUES ('a;b')
    ");
    assert!(parse("  -- nothing\n ;").unwrap().is_empty());
}

#[test]
fn queries_are_killed_by_their_id() {
    let balance = SystemAction::Balance { percent: Some(5) };
    assert!(matches!(one("system balance to 5 percent"), Statement::System(action) if action == balance));
    let drain = SystemAction::Drain { node: "w1".to_owned() };
    assert!(matches!(one("SYSTEM DRAIN NODE 'w1'"), Statement::System(action) if action == drain));
    assert!(matches!(one("show blocks for table a.b"), Statement::ShowBlocks { table } if table.name == "b"));
    assert!(matches!(one("kill query 'abc'"), Statement::Kill { query } if query == "abc"));
    assert_snapshot!(["KILL", "KILL 'abc'", "KILL QUERY 12"].map(error).join("\n"), @r"
    invalid: expected QUERY and the id of a query in single quotes, found the end of the statement (line 1, column 5)
    invalid: expected QUERY and the id of a query in single quotes, found 'abc' (line 1, column 6)
    invalid: expected the id of a query in single quotes, found '12' (line 1, column 12)
    ");
}

#[test]
fn syntax_errors_say_where_and_what_was_expected() {
    let errors = [
        "SELEC 1",
        "SELECT a,\n  FROM t WHERE",
        "SELECT 'open",
        "SELECT (1",
        "SELECT 1 SELECT 2",
        "CREATE TABLE t",
        "CREATE TABLE t (a INT b INT)",
        "CREATE TABLE t (a, b INT)",
        "CREATE TABLE t (a INT, A TEXT)",
        "INSERT t VALUES (1)",
        "COPY INTO t FROM x",
        "COPY INTO t FROM 'x' (FORMAT csv, FORMAT json)",
        "SELECT 1;\nSELECT *\nFROM t GROUP",
        "SHOW",
        "SELECT * FROM a.b.c.d.e; DROP TABLE a.b.c",
    ]
    .map(error);
    assert_snapshot!(errors.join("\n"), @r#"
    invalid: expected a statement such as SELECT, INSERT or CREATE, found 'SELEC' (line 1, column 1)
    invalid: expected an expression, found the end of the statement (line 2, column 15)
    invalid: unterminated string literal (line 1, column 8)
    invalid: expected ')', found the end of the statement (line 1, column 10)
    invalid: expected the end of the statement, found 'SELECT' (line 1, column 10)
    invalid: expected columns in parentheses, LIKE and a table, or AS and a query, found the end of the statement (line 1, column 15)
    invalid: expected ',' or ')' after the column, found 'b' (line 1, column 23)
    invalid: column 'a' has no type (line 1, column 17) (hint: as in: name VARCHAR)
    invalid: column 'a' is named twice (line 1, column 24)
    invalid: expected INTO or OVERWRITE, found 't' (line 1, column 8)
    invalid: expected a file, folder or pattern in single quotes, found 'x' (line 1, column 18)
    invalid: option 'format' is given twice (line 1, column 35)
    invalid: expected the end of the statement, found 'GROUP' (line 3, column 8)
    invalid: expected SCHEMAS, TABLES, COLUMNS, CREATE TABLE, SNAPSHOTS, TAGS, SETTINGS or the name of a setting, found the end of the statement (line 1, column 5)
    invalid: catalog 'a' does not exist, or can only be read in FROM (line 1, column 37) (hint: the catalog is named 'skep')
    "#);
}

#[test]
fn what_is_missing_is_named_with_the_way_out() {
    let errors = [
        "SAVEPOINT s",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "DELETE FROM t RETURNING a",
        "ALTER TABLE t ADD COLUMN b INT FIRST",
        "ALTER TABLE t ALTER COLUMN a TYPE INT USING a + 1",
        "ALTER TABLE t DROP PARTITION (a = 1)",
        "ALTER VIEW v AS SELECT 1",
        "INSERT OVERWRITE t PARTITION (a = 1) IF NOT EXISTS SELECT 1",
        "CREATE TABLE t (a INT PRIMARY KEY)",
        "CREATE TABLE t (a INT, PRIMARY KEY (a))",
        "CREATE TABLE t (a INT) CLUSTERED BY (a) INTO 4 BUCKETS",
        "CREATE TEMP TABLE t (a INT)",
        "CREATE FUNCTION f",
        "DROP TABLE t CASCADE",
        "COPY t FROM 'x.csv'",
    ]
    .map(error);
    assert_snapshot!(errors.join("\n"), @r#"
    unsupported: SAVEPOINT is not supported by this version (line 1, column 1) (hint: a statement that fails leaves its transaction as it was before; there are no savepoints)
    unsupported: transactions are isolated by snapshots, not serializable (line 1, column 23) (hint: leave the level out, or say ISOLATION LEVEL SNAPSHOT)
    unsupported: DELETE has no RETURNING (line 1, column 15) (hint: SELECT the rows before or after)
    unsupported: FIRST is not supported: a column is added after the others (line 1, column 32) (hint: leave it out, and name the columns where their order counts)
    unsupported: USING is not supported: values keep what they are (line 1, column 39) (hint: CREATE OR REPLACE TABLE t AS SELECT ... FROM t computes others)
    unsupported: ALTER TABLE ... DROP PARTITION is not supported (line 1, column 20) (hint: DELETE FROM t WHERE key = value takes the rows of a partition away)
    unsupported: ALTER VIEW ... AS is not supported (line 1, column 14) (hint: CREATE OR REPLACE VIEW gives a view another query)
    unsupported: INSERT has no IF NOT EXISTS (line 1, column 38) (hint: MERGE adds the rows that are not there)
    unsupported: PRIMARY KEY constraints are not supported (line 1, column 17) (hint: leave it out; NOT NULL and, on tables of the catalog, CHECK are enforced)
    unsupported: PRIMARY KEY constraints are not supported (line 1, column 24) (hint: leave it out; NOT NULL and, on tables of the catalog, CHECK are enforced)
    unsupported: CLUSTERED BY is not supported (line 1, column 24) (hint: PARTITIONED BY (bucket(8, column)) and SORTED BY (column) say the same)
    unsupported: temporary tables and views are not supported (line 1, column 8) (hint: use WITH inside the query, or a schema of your own for scratch tables)
    unsupported: CREATE FUNCTION is not supported (line 1, column 8) (hint: schemas, tables, external tables and views can be created)
    unsupported: DROP ... CASCADE drops nothing else for tables and views (line 1, column 14) (hint: leave CASCADE out; views that read the table fail until it is back)
    invalid: files are read by COPY INTO (line 1, column 8) (hint: write COPY INTO table FROM 'pattern')
    "#);
}

#[test]
fn names_fold_case_unless_quoted() {
    let Statement::DropTable { names, if_exists } =
        one("DROP TABLE IF EXISTS Lake.Flights, skep.main.\"Big\"")
    else {
        panic!("not a DROP TABLE")
    };
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    assert_eq!((names.join(" "), if_exists), ("lake.flights main.\"Big\"".to_owned(), true));
}

#[test]
fn copy_reads_its_options() {
    let Statement::CopyInto(copy) = one(
        "COPY INTO lake.f (a, \"B\") FROM 'd/*.csv.gz' WITH (FORMAT CSV, HEADER, DELIMITER = ';', NULL 'NA', SAMPLE 20)",
    ) else {
        panic!("not a COPY INTO")
    };
    assert_eq!(copy.pattern, "d/*.csv.gz");
    assert_eq!(copy.columns.map(|c| c.len()), Some(2));
    let options: Vec<String> = copy.options.0.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(options.join(" "), "format=csv header=true delimiter=; null=NA sample=20");

    assert!(
        matches!(one("COPY (SELECT 1) TO 'x.parquet'"), Statement::CopyTo(c) if matches!(c.source, CopySource::Query(_)))
    );
    assert!(
        matches!(one("COPY a.b TO 'x.csv' (HEADER false)"), Statement::CopyTo(c) if matches!(c.source, CopySource::Table(_)))
    );
}

#[test]
fn tables_read_their_clauses() {
    let Statement::CreateTable(table) = one(
        "CREATE TABLE IF NOT EXISTS t (a INT NOT NULL, b DECIMAL(10,2) DEFAULT 1 + 1, c STRUCT<x INT, y VARCHAR[]>) COMMENT 'hi'",
    ) else {
        panic!("not a CREATE TABLE")
    };
    assert!(table.if_not_exists && !table.columns[0].nullable && table.columns[1].default.is_some());
    assert_eq!(table.comment.as_deref(), Some("hi"));

    let Statement::CreateTableAs(table) =
        one("CREATE OR REPLACE TABLE s.t (x, y) AS WITH a AS (SELECT 1, 2) SELECT * FROM a")
    else {
        panic!("not a CREATE TABLE AS")
    };
    assert!(table.or_replace && table.columns.len() == 2);

    let Statement::CreateExternal(table) = one(
        "CREATE EXTERNAL TABLE e (a INT) STORED AS CSV PARTITIONED BY (year INT, month) LOCATION '/d/' OPTIONS (header true, 'delimiter' '|')",
    ) else {
        panic!("not a CREATE EXTERNAL TABLE")
    };
    assert_eq!(
        (table.format.as_deref(), table.partitions.len(), table.location.as_str()),
        (Some("csv"), 2, "/d/")
    );
    assert_eq!(table.options.get("delimiter"), Some("|"));

    let Statement::CreateView(view) = one("CREATE OR REPLACE VIEW v (a) AS SELECT 1") else {
        panic!("not a view")
    };
    assert_eq!(view.query.to_string(), "SELECT 1");
}

#[test]
fn show_and_set_read_their_names() {
    assert!(
        matches!(one("SHOW TABLES FROM lake LIKE 'f%'"), Statement::ShowTables { schema: Some(s), like: Some(l) } if s == "lake" && l == "f%")
    );
    assert!(matches!(one("SHOW COLUMNS IN lake.f"), Statement::ShowColumns { .. }));
    assert!(
        matches!(one("SHOW skep.execution"), Statement::ShowSettings { name: Some(n) } if n == "skep.execution")
    );
    let set = |sql| match one(sql) {
        Statement::Set { name, value, .. } => format!("{name}={value:?}"),
        other => panic!("{other:?}"),
    };
    assert_eq!(set("SET skep.execution = local"), "skep.execution=Some(\"local\")");
    assert_eq!(set("SET memory_limit TO 512 MiB"), "memory_limit=Some(\"512 MiB\")");
    assert_eq!(set("SET TIME ZONE 'Europe/Vienna'"), "timezone=Some(\"Europe/Vienna\")");
    assert_eq!(set("RESET batch_size"), "batch_size=None");
    let Statement::Set { at: (name, value), .. } = one("SET batch_size = 10") else { panic!("no SET") };
    assert_eq!((name.column, value.column), (5, 18));
    assert_eq!(set("USE Mart"), "schema=Some(\"mart\")");
}

#[test]
fn queries_in_every_shape_are_queries() {
    for sql in [
        "SELECT * FROM 'data/*.parquet' AS f WHERE f.a > $1",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "VALUES (1, 'a')",
        "WITH a AS (SELECT 1 AS x) SELECT * EXCLUDE (x) FROM a",
        "FROM t SELECT a",
        "SELECT {'a': 1}, [1, 2], t.s['a'] FROM t",
    ] {
        assert!(matches!(one(sql), Statement::Query(_)), "{sql}");
    }
    assert!(matches!(
        one("EXPLAIN ANALYZE VERBOSE SELECT 1"),
        Statement::Explain { analyze: true, verbose: true, .. }
    ));
    assert!(matches!(one("DESCRIBE SELECT 1"), Statement::Describe(Described::Query(_))));
    assert!(matches!(one("DESCRIBE 'a.csv'"), Statement::Describe(Described::Query(_))));
    assert!(matches!(one("DESC lake.f"), Statement::Describe(Described::Table(_))));
}

#[test]
fn question_marks_are_numbered_in_each_statement() {
    let parsed = parse("SELECT ?, '?', ? ; SELECT ?").unwrap();
    let shown: Vec<String> = parsed
        .iter()
        .map(|parsed| match &parsed.statement {
            Statement::Query(query) => query.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(shown, ["SELECT $1, '?', $2", "SELECT $1"]);
}

/// The page about SQL shows nothing that does not parse.
#[test]
fn the_page_about_sql_parses() {
    let page = include_str!("../../../docs/sql.md");
    let blocks: Vec<&str> =
        page.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() > 4);
    for block in blocks {
        assert!(!parse(block).unwrap().is_empty(), "{block}");
    }
}
