"""What Python programs do through Arrow Flight SQL, checked against a running server.

    python adbc.py grpc://127.0.0.1:8815 path/to/skep [CHECK...]

Needs adbc-driver-flightsql, pyarrow, pandas and polars. Prints one line per check and exits 1 if one fails. The checks use
a schema of their own, which they drop again.
"""

import datetime
import decimal
import importlib.metadata
import sys
import threading

import adbc_driver_flightsql.dbapi as flightsql
import adbc_driver_manager
import checks
import pandas
import polars
import pyarrow as pa
import pyarrow.flight as flight

URL = sys.argv[1].replace("grpc://", "grpc+tcp://")
SCHEMA = "adbc_check"
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def connect(**options):
    return flightsql.connect(URL, autocommit=True, **options)


def rows(cursor, sql, parameters=None):
    cursor.execute(sql, parameters)
    return cursor.fetchall()


def fails(status, action):
    """The error of `action`, which must have the ADBC status."""
    try:
        action()
    except adbc_driver_manager.Error as error:
        assert error.status_code == status, (error.status_code, str(error))
        return str(error)
    raise AssertionError("no error")


@check
def a_query_into_arrow(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 AS a, 'x' AS b, CAST(NULL AS DOUBLE) AS c, DECIMAL '1.50' AS d")
        table = cursor.fetch_arrow_table()
    assert table.column_names == ["a", "b", "c", "d"], table.schema
    assert table.schema.field("b").type == pa.string(), table.schema
    assert table.to_pylist()[0]["b"] == "x"
    assert pa.types.is_decimal128(table.schema.field("d").type), table.schema


@check
def f4_ddl_runs_exactly_once(connection):
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {SCHEMA}.once (id BIGINT, text VARCHAR)")
        message = fails(
            adbc_driver_manager.AdbcStatusCode.ALREADY_EXISTS,
            lambda: cursor.execute(f"CREATE TABLE {SCHEMA}.once (id BIGINT)"),
        )
        assert "once" in message, message


@check
def f4_insert_runs_exactly_once(connection):
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {SCHEMA}.one (id BIGINT, text VARCHAR)")
        cursor.execute(f"INSERT INTO {SCHEMA}.one VALUES (1, 'a')")
        assert rows(cursor, f"SELECT * FROM {SCHEMA}.one") == [(1, "a")]
        # The same through the update call, which returns the count.
        cursor.adbc_statement.set_sql_query(f"INSERT INTO {SCHEMA}.one VALUES (2, 'b'), (3, NULL)")
        assert cursor.adbc_statement.execute_update() == 2
        assert rows(cursor, f"SELECT count(*) FROM {SCHEMA}.one") == [(3,)]


@check
def an_insert_answers_with_its_count(connection):
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {SCHEMA}.counted AS SELECT 1 AS id")
        cursor.execute(f"INSERT INTO {SCHEMA}.counted VALUES (2), (3)")
        # Drivers that ask whether it is an update get a count, others a row with it.
        assert cursor.rowcount == 2 or cursor.fetchall() == [(2,)], cursor.rowcount


@check
def parameters_are_bound(connection):
    with connection.cursor() as cursor:
        assert rows(cursor, "SELECT CAST($1 AS BIGINT) + 1, $2 = 'x'", (41, "x")) == [(42, True)]
        cursor.execute(f"CREATE TABLE {SCHEMA}.bound (id BIGINT, text VARCHAR)")
        cursor.execute(f"INSERT INTO {SCHEMA}.bound VALUES ($1, $2)", (7, "it's"))
        assert rows(cursor, f"SELECT text FROM {SCHEMA}.bound WHERE id = $1", (7,)) == [("it's",)]
        assert rows(cursor, f"SELECT text FROM {SCHEMA}.bound WHERE id = $1", (8,)) == []


@check
def question_marks_are_parameters(connection):
    with connection.cursor() as cursor:
        assert rows(cursor, "SELECT CAST(? AS BIGINT) * CAST(? AS BIGINT)", (6, 7)) == [(42,)]


@check
def executemany_runs_each_row_once(connection):
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {SCHEMA}.many (id BIGINT, text VARCHAR)")
        cursor.executemany(f"INSERT INTO {SCHEMA}.many VALUES ($1, $2)", [(1, "a"), (2, "b"), (3, None)])
        expected = [(1, "a"), (2, "b"), (3, None)]
        assert rows(cursor, f"SELECT * FROM {SCHEMA}.many ORDER BY id") == expected


@check
def a_prepared_statement_tells_its_schemas(connection):
    with connection.cursor() as cursor:
        parameters = cursor.adbc_prepare("SELECT text FROM " + SCHEMA + ".many WHERE id = $1")
        assert parameters is not None and len(parameters) == 1, parameters
        assert parameters.field(0).type == pa.int64(), parameters


@check
def f19_execute_schema_plans_without_running(connection):
    with connection.cursor() as cursor:
        schema = cursor.adbc_execute_schema("SELECT 1 AS a, 'x' AS b")
        assert schema.names == ["a", "b"], schema


@check
def f11_objects_are_listed(connection):
    objects = connection.adbc_get_objects(depth="all").read_all().to_pylist()
    catalogs = {catalog["catalog_name"]: catalog for catalog in objects}
    assert "skep" in catalogs, catalogs.keys()
    schemas = {schema["db_schema_name"]: schema for schema in catalogs["skep"]["catalog_db_schemas"]}
    assert {"main", "lake", "warehouse", "mart", SCHEMA} <= set(schemas), schemas.keys()
    tables = {table["table_name"]: table for table in schemas[SCHEMA]["db_schema_tables"]}
    columns = [column["column_name"] for column in tables["many"]["table_columns"]]
    assert tables["many"]["table_type"] == "TABLE" and columns == ["id", "text"], tables["many"]


@check
def objects_are_filtered(connection):
    reader = connection.adbc_get_objects(
        depth="tables", catalog_filter="skep", db_schema_filter=SCHEMA, table_name_filter="man%"
    )
    schemas = reader.read_all().to_pylist()[0]["catalog_db_schemas"]
    names = [table["table_name"] for schema in schemas for table in schema["db_schema_tables"]]
    assert names == ["many"], names


@check
def f12_a_table_s_schema(connection):
    schema = connection.adbc_get_table_schema("many", db_schema_filter=SCHEMA)
    assert schema.names == ["id", "text"], schema
    assert schema.field("id").type == pa.int64(), schema
    assert connection.adbc_get_table_types() == ["SYSTEM TABLE", "TABLE", "VIEW"]


@check
def info_names_the_server(connection):
    info = connection.adbc_get_info()
    assert info["vendor_name"] == "Skep", info
    assert info["vendor_arrow_version"], info


@check
def f1_a_handshake_with_a_name(_):
    options = {"username": "ada", "password": "secret"}
    with connect(db_kwargs=options) as connection, connection.cursor() as cursor:
        assert rows(cursor, "SELECT 1") == [(1,)]


@check
def connections_are_sessions_of_their_own(connection):
    with connect() as other, connection.cursor() as here, other.cursor() as there:
        here.execute("SET skep.schema = 'lake'")
        ours, theirs = rows(here, "SHOW skep.schema"), rows(there, "SHOW skep.schema")
        here.execute("SET skep.schema = 'main'")
    assert "lake" in str(ours) and "main" in str(theirs), (ours, theirs)


@check
def options_of_the_session(connection):
    connection.adbc_current_db_schema = SCHEMA
    try:
        assert connection.adbc_current_db_schema == SCHEMA
        with connection.cursor() as cursor:
            assert rows(cursor, "SELECT count(*) FROM many") == [(3,)]
    finally:
        connection.adbc_current_db_schema = "main"
    assert connection.adbc_current_catalog == "skep"


@check
def errors_have_their_codes(connection):
    codes = adbc_driver_manager.AdbcStatusCode
    with connection.cursor() as cursor:
        message = fails(codes.NOT_FOUND, lambda: cursor.execute(f"SELECT * FROM {SCHEMA}.mani"))
        assert "mani" in message, message
        fails(codes.INVALID_ARGUMENT, lambda: cursor.execute("SELEC 1"))
        fails(codes.INVALID_ARGUMENT, lambda: cursor.execute("SELECT nothing FROM " + SCHEMA + ".many"))
        # The connection is usable after errors.
        assert rows(cursor, "SELECT 1") == [(1,)]


@check
def f5_f6_types_are_plain_and_announced(connection):
    sql = (
        "SELECT CAST(1 AS INT) AS i, CAST('x' AS VARCHAR) AS s, DATE '2013-01-01' AS d, "
        "TIMESTAMP '2013-01-01 05:15:00' AS t, TRUE AS b, [1, 2] AS l, CAST(1.5 AS DECIMAL(10, 2)) AS n"
    )
    with connection.cursor() as cursor:
        announced = cursor.adbc_execute_schema(sql)
        cursor.execute(sql)
        table = cursor.fetch_arrow_table()
    assert table.schema.equals(announced), (table.schema, announced)
    assert table.schema.field("s").type == pa.string(), table.schema
    row = table.to_pylist()[0]
    assert str(row["t"]) == "2013-01-01 05:15:00" and row["l"] == [1, 2] and str(row["n"]) == "1.50", row


@check
def many_rows_stream(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*), sum(value) FROM generate_series(1, 100000)")
        assert cursor.fetchall() == [(100000, 5000050000)]
        cursor.execute("SELECT value FROM generate_series(1, 300000)")
        total = sum(batch.num_rows for batch in cursor.fetch_record_batch())
    assert total == 300000, total


@check
def a_result_left_unread_does_no_harm(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT value FROM generate_series(1, 100000000)")
        assert cursor.fetchone() == (1,)
    with connection.cursor() as cursor:
        assert rows(cursor, "SELECT 2") == [(2,)]


@check
def rows_are_ingested(connection):
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {SCHEMA}.ingested (id BIGINT, text VARCHAR)")
        table = pa.table({"id": [1, 2], "text": ["a", None]})
        assert cursor.adbc_ingest("ingested", table, mode="append", db_schema_name=SCHEMA) == 2
        assert rows(cursor, f"SELECT * FROM {SCHEMA}.ingested ORDER BY id") == [(1, "a"), (2, None)]


@check
def pyarrow_shakes_hands_and_describes(_):
    client = flight.connect(URL)
    name, token = client.authenticate_basic_token(b"ada", b"pw")
    assert name == b"authorization" and token.startswith(b"Bearer skep-session-"), (name, token)
    actions = {action.type for action in client.list_actions()}
    assert {"CreatePreparedStatement", "CancelFlightInfo", "SetSessionOptions", "CloseSession"} <= actions, actions
    client.close()


@check
def the_schema_is_known_before_the_rows(connection):
    """DB-API programs read `description` after `execute`, also of results without rows."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT id, text FROM {SCHEMA}.many WHERE FALSE")
        assert [column[0] for column in cursor.description] == ["id", "text"], cursor.description
        assert cursor.fetchall() == []
        cursor.execute("SELECT 1 AS a UNION ALL SELECT 2 ORDER BY a")
        assert cursor.fetchmany(1) == [(1,)] and cursor.fetchmany(5) == [(2,)] and cursor.fetchone() is None


TYPES = pa.schema(
    [
        ("b", pa.bool_()),
        ("i8", pa.int8()),
        ("i16", pa.int16()),
        ("i32", pa.int32()),
        ("i64", pa.int64()),
        ("f32", pa.float32()),
        ("f64", pa.float64()),
        ("d", pa.decimal128(10, 2)),
        ("s", pa.string()),
        ("y", pa.binary()),
        ("day", pa.date32()),
        ("t", pa.timestamp("us")),
        ("z", pa.timestamp("us", "UTC")),
        ("l", pa.list_(pa.int64())),
        ("st", pa.struct([("x", pa.int64()), ("y", pa.string())])),
    ]
)
ROW = {
    "b": True,
    "i8": -8,
    "i16": 16,
    "i32": -32,
    "i64": 2**40,
    "f32": 0.5,
    "f64": 0.25,
    "d": decimal.Decimal("12345678.90"),
    "s": "\u00e4 'quoted' text",
    "y": b"\x00\xff",
    "day": datetime.date(2013, 1, 31),
    "t": datetime.datetime(2013, 1, 31, 5, 15, 0, 123456),
    "z": datetime.datetime(2013, 1, 31, 5, 15, tzinfo=datetime.timezone.utc),
    "l": [1, None, 3],
    "st": {"x": 1, "y": "z"},
}
EMPTY = {name: None for name in ROW}


@check
def types_go_in_and_come_back(connection):
    table = pa.Table.from_pylist([ROW, EMPTY], schema=TYPES)
    with connection.cursor() as cursor:
        assert cursor.adbc_ingest("types", table, mode="create", db_schema_name=SCHEMA) == 2
        cursor.execute(f"SELECT * FROM {SCHEMA}.types ORDER BY b DESC NULLS LAST")
        found = cursor.fetch_arrow_table()
    assert found.to_pylist() == [ROW, EMPTY], found.to_pylist()
    types = {field.name: field.type for field in found.schema}
    for field in TYPES:
        # Small integers keep their type, and a time without a zone gets none.
        assert types[field.name] == field.type, (field, types[field.name])


@check
def f7_times_with_a_zone_are_not_shifted(connection):
    moment = datetime.datetime(2013, 7, 1, 12, 0, tzinfo=datetime.timezone.utc)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT z FROM {SCHEMA}.types WHERE z = $1", (ROW["z"],))
        assert cursor.fetchall() == [(ROW["z"],)]
        cursor.execute("SELECT CAST($1 AS TIMESTAMP WITH TIME ZONE) AS z", (moment,))
        assert cursor.fetchone()[0] == moment


@check
def parameters_of_every_type(connection):
    with connection.cursor() as cursor:
        for name, value in ROW.items():
            if name in ("l", "st", "f32"):
                continue
            found = rows(cursor, f"SELECT count(*) FROM {SCHEMA}.types WHERE {name} = $1", (value,))
            assert found == [(1,)], (name, value, found)


@check
def many_rows_of_parameters_for_a_query(connection):
    with connection.cursor() as cursor:
        cursor.adbc_statement.set_sql_query("SELECT CAST($1 AS BIGINT) * 10 AS n")
        cursor.adbc_statement.prepare()
        batch = pa.record_batch({"0": [1, 2, 3]})
        cursor.adbc_statement.bind(batch)
        handle, _ = cursor.adbc_statement.execute_query()
        reader = pa.RecordBatchReader._import_from_c(handle.address)
        assert reader.read_all()["n"].to_pylist() == [10, 20, 30]


@check
def ingest_creates_appends_and_replaces(connection):
    codes = adbc_driver_manager.AdbcStatusCode
    table = pa.table({"id": [1, 2]})
    with connection.cursor() as cursor:

        def ingest(mode):
            return cursor.adbc_ingest("modes", table, mode=mode, db_schema_name=SCHEMA)

        fails(codes.NOT_FOUND, lambda: ingest("append"))
        assert ingest("create") == 2
        fails(codes.ALREADY_EXISTS, lambda: ingest("create"))
        assert ingest("append") == 2 and ingest("create_append") == 2
        assert rows(cursor, f"SELECT count(*) FROM {SCHEMA}.modes") == [(6,)]
        assert ingest("replace") == 2
        assert rows(cursor, f"SELECT count(*) FROM {SCHEMA}.modes") == [(2,)]
        reader = pa.RecordBatchReader.from_batches(table.schema, (batch for batch in table.to_batches() * 50))
        assert cursor.adbc_ingest("modes", reader, mode="append", db_schema_name=SCHEMA) == 100


@check
def a_failed_ingest_leaves_nothing(connection):
    schema = pa.schema([("id", pa.int64())])

    def batches():
        yield pa.record_batch({"id": [1]}, schema=schema)
        raise RuntimeError("the client fails")

    with connection.cursor() as cursor:
        try:
            reader = pa.RecordBatchReader.from_batches(schema, batches())
            cursor.adbc_ingest("half", reader, mode="create", db_schema_name=SCHEMA)
        except Exception:
            pass
        else:
            raise AssertionError("no error")
        fails(
            adbc_driver_manager.AdbcStatusCode.NOT_FOUND,
            lambda: cursor.execute(f"SELECT * FROM {SCHEMA}.half"),
        )


@check
def a_query_is_cancelled(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM generate_series(1, 1000000000000)")
        timer = threading.Timer(0.2, cursor.adbc_cancel)
        timer.start()
        message = fails(adbc_driver_manager.AdbcStatusCode.CANCELLED, cursor.fetchall)
        timer.join()
    assert message, message
    with connection.cursor() as cursor:
        assert rows(cursor, "SELECT 1") == [(1,)]


@check
def transactions_commit_and_roll_back(_):
    with flightsql.connect(URL) as connection, connect() as outside:
        with connection.cursor() as cursor, outside.cursor() as other:

            def count(of):
                return rows(of, f"SELECT count(*) FROM {SCHEMA}.tx")[0][0]

            other.execute(f"CREATE TABLE {SCHEMA}.tx (id BIGINT)")
            connection.rollback()
            cursor.execute(f"INSERT INTO {SCHEMA}.tx VALUES (1)")
            cursor.execute(f"INSERT INTO {SCHEMA}.tx VALUES (2)")
            assert (count(cursor), count(other)) == (2, 0)
            connection.commit()
            assert count(other) == 2
            cursor.execute(f"DELETE FROM {SCHEMA}.tx")
            assert count(cursor) == 0
            connection.rollback()
            assert count(cursor) == 2
            # The same text again, for which the driver keeps its prepared statement.
            insert = f"INSERT INTO {SCHEMA}.tx VALUES ($1)"
            for id in (3, 4):
                cursor.execute(insert, (id,))
                connection.commit()
            assert count(other) == 4
            # The driver sends the rows without the id of the transaction.
            assert cursor.adbc_ingest("tx", pa.table({"id": [5]}), mode="append", db_schema_name=SCHEMA) == 1
            assert cursor.adbc_ingest("new", pa.table({"id": [5]}), mode="create", db_schema_name=SCHEMA) == 1
            assert connection.adbc_get_table_schema("new", db_schema_filter=SCHEMA).names == ["id"]
            assert (count(cursor), count(other)) == (5, 4)
            connection.rollback()
            assert count(cursor) == 4
            cursor.execute(f"DELETE FROM {SCHEMA}.tx")
    with connect() as outside, outside.cursor() as other:
        # Closed without a commit.
        assert rows(other, f"SELECT count(*) FROM {SCHEMA}.tx") == [(4,)]


@check
def transactions_see_one_snapshot(_):
    with flightsql.connect(URL) as connection, connect() as outside:
        with connection.cursor() as cursor, outside.cursor() as other:
            before = rows(cursor, f"SELECT count(*) FROM {SCHEMA}.many")
            other.execute(f"INSERT INTO {SCHEMA}.many VALUES (99, 'late')")
            assert rows(cursor, f"SELECT count(*) FROM {SCHEMA}.many") == before
            connection.commit()
            assert rows(cursor, f"SELECT count(*) FROM {SCHEMA}.many") == [(before[0][0] + 1,)]
            other.execute(f"DELETE FROM {SCHEMA}.many WHERE id = 99")


@check
def partitions_are_read_elsewhere(connection):
    with connection.cursor() as cursor:
        partitions, schema = cursor.adbc_execute_partitions("SELECT value FROM generate_series(1, 10)")
        assert schema.names == ["value"] and len(partitions) == 1, (partitions, schema)
        cursor.adbc_read_partition(partitions[0])
        assert len(cursor.fetchall()) == 10


@check
def partitions_come_while_the_query_runs(connection):
    """PollFlightInfo, as the driver does it."""
    statement = adbc_driver_manager.AdbcStatement(connection.adbc_connection)
    try:
        statement.set_options(**{"adbc.statement.exec.incremental": "true"})
        statement.set_sql_query("SELECT sum(value) AS s FROM generate_series(1, 3000000)")
        found = []
        while True:
            partitions, _, _ = statement.execute_partitions()
            if not partitions:
                break
            found.extend(partitions)
    finally:
        statement.close()
    assert len(found) == 1, found
    with connection.cursor() as cursor:
        cursor.adbc_read_partition(found[0])
        assert cursor.fetchall() == [(3000000 * 3000001 // 2,)]


@check
def f22_constraints_are_listed(connection):
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {SCHEMA}.limited (id BIGINT, CONSTRAINT positive CHECK (id > 0))")
        sql = "SELECT constraint_name, constraint_type FROM information_schema.table_constraints WHERE table_schema = $1"
        assert rows(cursor, sql, (SCHEMA,)) == [("positive", "CHECK")]
        assert rows(cursor, "SELECT column_name FROM information_schema.key_column_usage") == []


@check
def pandas_reads_and_writes(connection):
    frame = pandas.read_sql(f"SELECT * FROM {SCHEMA}.many ORDER BY id", connection)
    assert list(frame["id"]) == [1, 2, 3], frame
    frame.to_sql("from_pandas", connection, schema=SCHEMA, index=False, if_exists="replace")
    frame.to_sql("from_pandas", connection, schema=SCHEMA, index=False, if_exists="append")
    again = pandas.read_sql_query(f"SELECT count(*) AS n FROM {SCHEMA}.from_pandas", connection)
    assert again["n"][0] == 6, again
    typed = pandas.read_sql(f"SELECT i64, d, day, t FROM {SCHEMA}.types", connection, dtype_backend="pyarrow")
    assert len(typed) == 2, typed


@check
def polars_reads_and_writes(connection):
    frame = polars.read_database(f"SELECT * FROM {SCHEMA}.many ORDER BY id", connection)
    assert frame["id"].to_list() == [1, 2, 3], frame
    written = frame.write_database(f"{SCHEMA}.from_polars", connection, engine="adbc", if_table_exists="replace")
    assert written == 3, written
    frame.write_database(f"{SCHEMA}.from_polars", connection, engine="adbc", if_table_exists="append")
    total = polars.read_database(f"SELECT sum(id) AS s FROM {SCHEMA}.from_polars", connection)
    assert total["s"].to_list() == [12], total


def setup():
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        cursor.execute(f"CREATE SCHEMA {SCHEMA}")
    return connection


def teardown(connection):
    with connection.cursor() as cursor:
        cursor.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
    connection.close()


version = importlib.metadata.version("adbc-driver-flightsql")
checks.run(f"Python ADBC {version} with pandas and polars", "adbc", CHECKS, sys.argv[3:], setup, teardown)
