//! Programs that nobody here wrote read and write what Skep does: DuckDB the catalog, Python the door.

use std::path::Path;
use std::process::Command;

use skep_testkit::client::Client;
use skep_testkit::duckdb::DuckDb;
use skep_testkit::process::{Server, output};
use skep_testkit::{rows, skip};

use crate::flights;

fn up(data: &Path, more: &[&str]) -> Server {
    let mut arguments =
        vec!["up", "--data", data.to_str().unwrap(), "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    arguments.extend(more);
    Server::start(&arguments).unwrap()
}

const QUERIES: [&str; 8] = [
    "SELECT count(*), count(DISTINCT tailnum), min(flight_date), max(flight_date) FROM skep.warehouse.flights",
    "SELECT flight_date, carrier, flight_number, arrival_delay FROM skep.warehouse.flights WHERE arrival_delay > 300 ORDER BY arrival_delay DESC, flight_number",
    "SELECT count(*) FROM skep.warehouse.flights WHERE flight_date = DATE '2013-01-16' AND carrier = 'EV'",
    "SELECT count(*) FROM skep.warehouse.flights WHERE destination_name IS NULL",
    "SELECT airport, hour_utc, precipitation_inches, conditions FROM skep.warehouse.weather WHERE precipitation_inches > 0.1 ORDER BY hour_utc, airport",
    "SELECT airport, name, latitude FROM skep.warehouse.airports WHERE name >= 'Z' ORDER BY airport",
    "SELECT * FROM skep.mart.airline_days WHERE late > 60 ORDER BY flight_date, carrier",
    "SELECT * FROM skep.mart.routes WHERE late_percent > 40.5 ORDER BY origin, destination",
];

#[tokio::test]
async fn duckdb_reads_every_table_and_writes_one() {
    let Some(duckdb) = DuckDb::find() else {
        return skip("judge::duckdb_reads_every_table_and_writes_one", "DuckDB");
    };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = up(&data, &["--store", "file"]);
    let mut client = Client::connect(server.flight()).await.unwrap();
    flights::build(&server, "local");

    let attach = duckdb.attach(&data.join("catalog.sqlite"), true);
    let tables = client
        .rows(
            "SELECT table_schema, table_name FROM information_schema.tables \
             WHERE table_type = 'BASE TABLE' AND table_schema IN ('lake', 'warehouse', 'mart')",
        )
        .await
        .unwrap();
    assert_eq!(tables.len(), 16, "{tables:?}");
    let counts = tables.iter().map(|table| format!("SELECT * FROM skep.{}.{}", table[0], table[1]));
    for sql in counts.chain(QUERIES.map(str::to_owned)) {
        let theirs = duckdb.run(&format!("{attach}{sql};")).unwrap_or_else(|e| panic!("{sql}: {e}"));
        let ours = client.rows(&sql).await.unwrap();
        assert!(!ours.is_empty(), "{sql}");
        assert_eq!(rows::difference(&ours, &theirs, 0.0), None, "{sql}");
    }

    // DuckDB writes; Skep reads it back, and writes again on top.
    let insert = "INSERT INTO skep.warehouse.airlines VALUES ('ZZ', 'Zeppelin Lines'), ('ZY', NULL);";
    let write = duckdb.attach(&data.join("catalog.sqlite"), false);
    duckdb.run(&format!("{write}{insert}")).unwrap();
    let new = "SELECT carrier, airline FROM skep.warehouse.airlines WHERE carrier > 'YZ' ORDER BY carrier";
    assert_eq!(client.rows(new).await.unwrap(), [["ZY", "NULL"], ["ZZ", "Zeppelin Lines"]]);
    client.update("INSERT INTO warehouse.airlines VALUES ('ZX', 'Zenith')").await.unwrap();
    let theirs = duckdb.run(&format!("{attach}{new};")).unwrap();
    assert_eq!(rows::difference(&client.rows(new).await.unwrap(), &theirs, 0.0), None);
    assert_eq!(theirs.len(), 3);
}

const ADBC: &str = r#"
import sys
import adbc_driver_flightsql.dbapi as flightsql

url = sys.argv[1].replace("grpc://", "grpc+tcp://")
with flightsql.connect(url, autocommit=True) as connection:
    objects = connection.adbc_get_objects(depth="tables", catalog_filter="skep").read_all().to_pylist()
    names = {
        (schema["db_schema_name"], table["table_name"])
        for catalog in objects
        for schema in catalog["catalog_db_schemas"]
        for table in schema["db_schema_tables"]
    }
    assert ("mart", "airline_days") in names and ("warehouse", "flights") in names, names
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM mart.airline_days ORDER BY flight_date, carrier")
        table = cursor.fetch_arrow_table()
        assert table.num_rows == 460, table.num_rows
        assert table.column("flights").to_pylist()[0] == 28, table.slice(0, 1).to_pylist()
        cursor.execute("CREATE TABLE main.notes (id INT, text VARCHAR)")
        cursor.execute("INSERT INTO main.notes VALUES (1, 'once')")
        cursor.execute("SELECT id, text FROM main.notes")
        assert cursor.fetchall() == [(1, "once")]
        cursor.execute("SELECT carrier FROM warehouse.airlines WHERE carrier = ?", ("B6",))
        assert cursor.fetchall() == [("B6",)]
        try:
            cursor.execute("SELECT * FROM mart.airline_dayz")
        except Exception as error:
            assert "airline_dayz" in str(error), error
        else:
            raise AssertionError("an unknown table is no error")
print("fine")
"#;

#[tokio::test]
async fn adbc_reads_and_writes_through_the_door() {
    let Some(python) = std::env::var_os("SKEP_PYTHON") else {
        return skip("judge::adbc_reads_and_writes_through_the_door", "Python with adbc-driver-flightsql");
    };
    let folder = tempfile::tempdir().unwrap();
    let server = up(&folder.path().join("data"), &[]);
    let mut client = Client::connect(server.flight()).await.unwrap();
    flights::build(&server, "local");
    let mut script = Command::new(python);
    script.args(["-c", ADBC, server.flight()]);
    let script = output(script);
    assert_eq!((script.code, script.stdout.trim()), (Some(0), "fine"), "{}", script.stderr);
    assert_eq!(client.rows("SELECT count(*) FROM notes").await.unwrap(), [["1"]]);
}
