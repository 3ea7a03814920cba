"""What Python programs do through Arrow Flight SQL, checked against a running server.

    python flightsql.py grpc://127.0.0.1:8815 path/to/skep [CHECK...]

Needs adbc-driver-flightsql and pyarrow. Prints one line per check and exits 1 if one fails. The checks use a schema of
their own, which they drop again.
"""

import sys
import traceback

import adbc_driver_flightsql.dbapi as flightsql
import adbc_driver_manager
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
def pandas_reads_a_table(connection):
    try:
        import pandas
    except ImportError:
        return
    frame = pandas.read_sql(f"SELECT * FROM {SCHEMA}.many ORDER BY id", connection)
    assert list(frame["id"]) == [1, 2, 3], frame


def main():
    failed = []
    with connect() as connection:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
            cursor.execute(f"CREATE SCHEMA {SCHEMA}")
        wanted = sys.argv[3:]
        for function in CHECKS:
            if wanted and function.__name__ not in wanted:
                continue
            try:
                function(connection)
                print(f"ok      {function.__name__}", flush=True)
            except Exception:
                failed.append(function.__name__)
                print(f"FAILED  {function.__name__}", flush=True)
                traceback.print_exc()
        with connection.cursor() as cursor:
            cursor.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
    print(f"{len(CHECKS) - len(failed)} of {len(CHECKS)} checks passed")
    sys.exit(1 if failed else 0)


main()
