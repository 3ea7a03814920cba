use crate::fixture::Fixture;

async fn things() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.file("f/things.csv", "id,name,price\n1,pen,1.5\n2,\"ink, black\",4\n3,,\n");
    fixture.file("f/bad_row.csv", "id,name,price\n10,pen,1.5\n11,ink\n12,pad,2.0\n");
    fixture.file("f/bad_value.csv", "id,name,price\n7,pen,1.5\n8,\"ink\nblack\",2\n8,ink,cheap\n9,pad,2.0\n");
    fixture.file("f/semicolon.csv", "id;name;price\n4;pad;2.25\n5;NA;NA\n");
    fixture.file("f/headless.csv", "6,cap,3.5\n");
    fixture.file(
        "f/things.jsonl",
        "{\"id\":1,\"name\":\"pen\",\"tags\":[\"a\"]}\n{\"id\":2,\"name\":null}\n{\"id\":3}\n",
    );
    fixture.file("f/bad.jsonl", "{\"id\":1,\"name\":\"pen\"}\n{\"id\":2,\"name\":\n");
    fixture.file("f/type.jsonl", "{\"id\":1,\"name\":\"pen\"}\n{\"id\":\"two\",\"name\":\"x\"}\n");
    fixture.file("f/array.json", "[{\"id\":1}]\n");
    fixture.file("f/empty.csv", "");
    for (folder, rows) in [
        ("year=2023/month=12", "1,10.5\n2,11.5\n"),
        ("year=2024/month=1", "3,12.5\n"),
        ("year=2024/month=2", "4,\n"),
    ] {
        fixture.file(&format!("hive/{folder}/a.csv"), &format!("id,amount\n{rows}"));
    }
    fixture.file("hive/year=2024/_SUCCESS", "");
    fixture
}

fn dir(fixture: &Fixture, sql: &str) -> String {
    sql.replace("DIR", &fixture.folder.path().display().to_string())
}

#[tokio::test]
async fn files_are_tables() {
    let fixture = things().await;
    let mut answers = Vec::new();
    for sql in [
        "SELECT * FROM 'DIR/f/things.csv' ORDER BY id",
        "DESCRIBE 'DIR/f/things.csv'",
        "SELECT * FROM 'DIR/f/things.jsonl' ORDER BY id",
        "SELECT count(*), sum(amount) FROM 'DIR/hive/*/*/*.csv'",
        "SELECT count(*) FROM 'DIR/hive/**/*.csv'",
        "SELECT t.name FROM 'DIR/f/things.csv' AS t WHERE t.price > 2",
        "SELECT count(*) FROM 'DIR/f/things.csv'",
        "SELECT count(*) FROM 'DIR/f/things.jsonl'",
    ] {
        answers.push(fixture.rows(&dir(&fixture, sql)).await);
    }
    insta::assert_snapshot!(answers.join("\n--\n"), @r#"
    1|pen|1.5
    2|ink, black|4.0
    3|NULL|NULL
    --
    id|BIGINT|YES|NULL|NULL
    name|VARCHAR|YES|NULL|NULL
    price|DOUBLE|YES|NULL|NULL
    --
    1|pen|[a]
    2|NULL|NULL
    3|NULL|NULL
    --
    4|34.5
    --
    4
    --
    ink, black
    --
    3
    --
    3
    "#);
}

#[tokio::test]
async fn copies_read_what_files_hold() {
    let fixture = things().await;
    fixture.run("CREATE TABLE things (id INT, name VARCHAR, price DOUBLE)").await.unwrap();
    for (sql, rows) in [
        ("COPY INTO things FROM 'DIR/f/things.csv' (FORMAT csv, HEADER true)", "3"),
        ("COPY INTO things FROM 'DIR/f/semicolon.csv' (FORMAT csv, DELIMITER ';', NULL 'NA')", "2"),
        ("COPY INTO things FROM 'DIR/f/headless.csv' (FORMAT csv, HEADER false)", "1"),
        ("COPY INTO things (id, name) FROM 'DIR/f/things.jsonl' (FORMAT json)", "3"),
        ("COPY INTO things (price, name, id) FROM 'DIR/f/headless.csv' (FORMAT csv, HEADER false)", "no"),
    ] {
        match fixture.run(&dir(&fixture, sql)).await {
            Ok(answer) => assert_eq!(answer.rows[0][0], rows, "{sql}"),
            Err(e) => assert_eq!(rows, "no", "{sql}: {e:?}"),
        }
    }
    insta::assert_snapshot!(fixture.rows("SELECT * FROM things ORDER BY id, name").await, @r#"
    1|pen|1.5
    1|pen|NULL
    2|ink, black|4.0
    2|NULL|NULL
    3|NULL|NULL
    3|NULL|NULL
    4|pad|2.25
    5|NULL|NULL
    6|cap|3.5
    "#);
}

#[tokio::test]
async fn bad_files_are_named_with_their_lines() {
    let fixture = things().await;
    fixture.run("CREATE TABLE things (id INT, name VARCHAR, price DOUBLE)").await.unwrap();
    fixture.run("CREATE TABLE other (x INT)").await.unwrap();
    let mut errors = Vec::new();
    for sql in [
        "COPY INTO things FROM 'DIR/f/bad_row.csv'",
        "COPY INTO things FROM 'DIR/f/bad_value.csv'",
        "COPY INTO things FROM 'DIR/f/bad.jsonl'",
        "COPY INTO things FROM 'DIR/f/type.jsonl'",
        "COPY INTO things FROM 'DIR/f/thinks.csv'",
        "COPY INTO things FROM 'DIR/f/nothing_*.csv'",
        "COPY INTO things FROM 'DIR/f/things.csv' (FORMAT xml)",
        "COPY INTO other FROM 'DIR/f/things.csv'",
        "SELECT * FROM 'DIR/f/array.json'",
        "SELECT * FROM 'DIR/f/empty.csv'",
        "SELECT * FROM 'DIR/f/README.md'",
        "SELECT * FROM 'DIR/*/things.*'",
        "SELECT * FROM 'DIR/f/*.csv'",
        "SELECT * FROM 'gs://bucket/x.csv'",
    ] {
        errors.push(fixture.error(&dir(&fixture, sql)).await);
    }
    insta::assert_snapshot!(errors.join("\n"), @r#"
    invalid: '/DIR/f/bad_row.csv', line 3: the row does not have 3 fields: '11,ink' (hint: check the delimiter and the quotes of this row, or the columns of the table)
    invalid: '/DIR/f/bad_value.csv', line 5: 'cheap' is not a value of column 'price', which is DOUBLE (hint: correct the row, read the column as VARCHAR, or say what stands for NULL with the option NULL)
    invalid: '/DIR/f/bad.jsonl', line 2: truncated record whilst reading value (hint: every line must be one JSON object whose fields have the types of the columns)
    invalid: '/DIR/f/type.jsonl', line 2: whilst decoding field 'id': failed to parse "two" as INTEGER (hint: every line must be one JSON object whose fields have the types of the columns)
    not_found: file '/DIR/f/thinks.csv' does not exist (line 1, column 23) (hint: did you mean 'things.csv'?)
    not_found: no file matches '/DIR/f/nothing_*.csv' (line 1, column 23) (hint: '*' stands for any part of one name, '**' for any folders)
    invalid: format 'xml' does not exist (line 1, column 23) (hint: formats are csv, json and parquet)
    invalid: the files have none of the columns of table 'other' (line 1, column 22) (hint: the files have id, name, price; the table has x)
    invalid: the columns of '/DIR/f/array.json' cannot be found: the file is one JSON array (hint: write one object on each line, as in jq -c '.[]' file.json)
    invalid: '/DIR/f/empty.csv' has no columns (hint: an empty file has none)
    invalid: the format of '/DIR/f/README.md' is not known by its name (hint: names end in .parquet, .csv, .tsv, .json, .jsonl or .ndjson (and .gz, .zst, .bz2, .xz), or COPY and CREATE EXTERNAL TABLE name the format)
    invalid: the format of '/DIR/*/things.*' is not known by its name (hint: names end in .parquet, .csv, .tsv, .json, .jsonl or .ndjson (and .gz, .zst, .bz2, .xz), or COPY and CREATE EXTERNAL TABLE name the format)
    invalid: files differ in their columns: '/DIR/f/bad_row.csv' has id, name, price, '/DIR/f/empty.csv' has  (hint: read the files of each kind by a pattern of their own)
    invalid: no store is known for 'gs://bucket' (hint: locations start with one of file:///, s3://BUCKET/, hdfs://HOST:PORT/)
    "#);
    assert_eq!(fixture.rows("SELECT count(*) FROM things").await, "0");
}

#[tokio::test]
async fn folders_are_columns_of_external_tables() {
    let fixture = things().await;
    let create = "CREATE EXTERNAL TABLE sales (id INT, amount DOUBLE) STORED AS csv PARTITIONED BY (year INT, month) LOCATION 'DIR/hive' OPTIONS (HEADER true)";
    fixture.run(&dir(&fixture, create)).await.unwrap();
    assert_eq!(
        fixture.rows("SELECT id, amount, year, month FROM sales ORDER BY id").await,
        "1|10.5|2023|12\n2|11.5|2023|12\n3|12.5|2024|1\n4|NULL|2024|2"
    );
    let answer = fixture.run("SELECT count(*) FROM sales WHERE year = 2024 AND month < 2").await.unwrap();
    assert_eq!(
        (answer.rows[0][0].as_str(), answer.reports[0].files_kept, answer.reports[0].files_total),
        ("1", 1, 3)
    );
    assert_eq!(fixture.rows("SELECT count(*) FROM sales WHERE year = 1999").await, "0");
    assert_eq!(fixture.rows("SELECT DISTINCT month FROM sales ORDER BY 1").await, "1\n2\n12");
    let shown = fixture.rows("SHOW CREATE TABLE sales").await;
    insta::assert_snapshot!(fixture.hidden(&shown), @r#"
    CREATE EXTERNAL TABLE main.sales (
        id INTEGER,
        amount DOUBLE
    )
    STORED AS CSV
    PARTITIONED BY (year INTEGER, month BIGINT)
    LOCATION 'file:///DIR/hive'
    OPTIONS (header 'true')
    "#);
    let error = fixture.error("INSERT INTO sales VALUES (1, 2.0, 2024, 1)").await;
    insta::assert_snapshot!(error, @r#"invalid: 'sales' is an external table, which is only read (line 1, column 13) (hint: CREATE TABLE ... AS SELECT copies it into a table of the catalog)"#);
}

#[tokio::test]
async fn external_columns_may_be_found_in_the_files() {
    let fixture = things().await;
    fixture.run("CREATE TABLE t AS SELECT 1 AS a, 'x' AS b").await.unwrap();
    let path = fixture.path("p/k=1/x.parquet");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    fixture.run(&format!("COPY t TO '{}'", path.display())).await.unwrap();
    let create = "CREATE EXTERNAL TABLE e STORED AS PARQUET PARTITIONED BY (k) LOCATION 'DIR/p/'";
    fixture.run(&dir(&fixture, create)).await.unwrap();
    assert_eq!(fixture.rows("SELECT b, k, a FROM e").await, "x|1|1");
}
