"""What Superset and other users of SQLAlchemy do through flightsql-dbapi, checked against a running server.

    python superset.py grpc://127.0.0.1:8815 path/to/skep [CHECK...]

Needs flightsql-dbapi, SQLAlchemy 1.4 and pyarrow. Prints one line per check and exits 1 if one fails. The checks use a schema
of their own, which they drop again.
"""

import importlib.metadata
import sys
import warnings

import checks
import pyarrow
import sqlalchemy
from flightsql import FlightSQLClient
from flightsql import connect as dbapi_connect
from flightsql.client import TableRef

ADDRESS = sys.argv[1].removeprefix("grpc://")
HOST, PORT = ADDRESS.rsplit(":", 1)
SCHEMA = "superset_check"
CHECKS = []

warnings.filterwarnings("ignore", category=DeprecationWarning)


def check(function):
    CHECKS.append(function)
    return function


def engine():
    return sqlalchemy.create_engine(f"datafusion://ada:secret@{ADDRESS}?insecure=true")


def client():
    return FlightSQLClient(host=HOST, port=int(PORT), insecure=True)


def read(flight, info):
    return flight.do_get(info.endpoints[0].ticket).read_all()


@check
def f1_it_connects_and_queries(connection):
    assert connection.execute(sqlalchemy.text("SELECT 1 AS one, 'x' AS x")).fetchall() == [(1, "x")]


@check
def f13_a_whole_result_is_read(connection):
    """The dialect reads the first endpoint only."""
    total = connection.execute(sqlalchemy.text("SELECT value FROM generate_series(1, 200000)")).fetchall()
    assert len(total) == 200000, len(total)


@check
def schemas_tables_and_columns_are_inspected(connection):
    inspector = sqlalchemy.inspect(connection)
    schemas = inspector.get_schema_names()
    assert {"main", SCHEMA} <= set(schemas), schemas
    assert "t" in inspector.get_table_names(schema=SCHEMA), inspector.get_table_names(schema=SCHEMA)
    columns = {column["name"]: column for column in inspector.get_columns("t", schema=SCHEMA)}
    assert list(columns) == ["id", "name", "price"], columns
    assert not columns["id"]["nullable"] and columns["name"]["nullable"], columns
    inspector.get_pk_constraint("t", schema=SCHEMA)
    inspector.get_foreign_keys("t", schema=SCHEMA)
    inspector.get_indexes("t", schema=SCHEMA)
    inspector.get_view_names(schema=SCHEMA)


@check
def errors_are_errors(connection):
    try:
        connection.execute(sqlalchemy.text("SELECT * FROM nowhere"))
    except Exception as error:
        assert "nowhere" in str(error), error
    else:
        raise AssertionError("no error")
    assert connection.execute(sqlalchemy.text("SELECT 2")).fetchall() == [(2,)]


@check
def the_dbapi_runs_queries(_):
    cursor = dbapi_connect(client()).cursor()
    cursor.execute("SELECT 1 AS a")
    assert [column[0] for column in cursor.description] == ["a"], cursor.description
    assert [tuple(row) for row in cursor.fetchall()] == [(1,)]


@check
def parameters_come_as_dense_unions(_):
    on = "feature-sqlalchemy-prepared-statements=on"
    prepared = sqlalchemy.create_engine(f"datafusion://ada:secret@{ADDRESS}?insecure=true&{on}")
    with prepared.connect() as connection:
        sql = sqlalchemy.text(f"SELECT name FROM {SCHEMA}.t WHERE id = :id AND name = :name")
        assert connection.execute(sql, {"id": 2, "name": "b"}).fetchall() == [("b",)]
        assert connection.execute(sql, {"id": 2, "name": "a"}).fetchall() == []


@check
def f23_updates_are_answered_while_the_client_waits(_):
    flight = client()
    assert flight.execute_update(f"INSERT INTO {SCHEMA}.t VALUES (3, 'c', 1.5)") == 1
    assert read(flight, flight.execute(f"SELECT name FROM {SCHEMA}.t WHERE id = 3")).to_pylist() == [{"name": "c"}]
    assert flight.execute_update(f"DELETE FROM {SCHEMA}.t WHERE id = 3") == 1


@check
def prepared_statements_run(_):
    flight = client()
    with flight.prepare(f"SELECT name FROM {SCHEMA}.t WHERE id > $1 ORDER BY id") as prepared:
        for after, left in ((0, 2), (1, 1), (2, 0)):
            binding = pyarrow.record_batch({"0": [after]})
            assert read(flight, prepared.execute(binding)).num_rows == left


@check
def metadata_calls_answer(_):
    flight = client()
    assert read(flight, flight.get_catalogs())["catalog_name"].to_pylist() == ["skep"]
    assert SCHEMA in read(flight, flight.get_db_schemas())["db_schema_name"].to_pylist()
    tables = read(flight, flight.get_tables(include_schema=True, db_schema_filter_pattern=SCHEMA))
    assert tables["table_name"].to_pylist() == ["t"] and "table_schema" in tables.column_names, tables
    assert "TABLE" in read(flight, flight.get_table_types())["table_type"].to_pylist()
    table = TableRef(catalog=None, db_schema=SCHEMA, table="t")
    assert read(flight, flight.get_primary_keys(table)).num_rows == 0
    assert read(flight, flight.get_imported_keys(table)).num_rows == 0
    assert read(flight, flight.get_exported_keys(table)).num_rows == 0
    assert read(flight, flight.get_cross_reference(table, table)).num_rows == 0
    assert read(flight, flight.get_xdbc_type_info(None)).num_rows > 10
    assert read(flight, flight.get_sql_info([0, 1, 2, 3])).num_rows == 4


def setup():
    connection = engine().connect()
    flight = client()
    for sql in (
        f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE",
        f"CREATE SCHEMA {SCHEMA}",
        f"CREATE TABLE {SCHEMA}.t (id BIGINT NOT NULL, name VARCHAR, price DOUBLE)",
        f"INSERT INTO {SCHEMA}.t VALUES (1, 'a', 0.5), (2, 'b', NULL)",
    ):
        flight.execute_update(sql)
    return connection


def teardown(connection):
    connection.close()
    client().execute_update(f"DROP SCHEMA {SCHEMA} CASCADE")


version = importlib.metadata.version("flightsql-dbapi")
client_name = f"flightsql-dbapi {version} (Superset) on SQLAlchemy {sqlalchemy.__version__}"
checks.run(client_name, "superset", CHECKS, sys.argv[3:], setup, teardown)
