"""How fast rows leave through Flight SQL, beside DuckDB in this process.

    python doors_bench.py grpc://127.0.0.1:8815 ROWS REPEAT

Needs adbc-driver-flightsql, duckdb and pyarrow. The rows are the same: numbers, texts, doubles and times. Prints rows and
bytes a second, the best of REPEAT, and how long it takes from nothing to the first row.
"""

import statistics
import sys
import time

import adbc_driver_flightsql.dbapi as flightsql
import duckdb
import pyarrow.compute as compute

URL = sys.argv[1].replace("grpc://", "grpc+tcp://")
ROWS, REPEAT = int(sys.argv[2]), int(sys.argv[3])
LATENCY_RUNS = 50
COLUMNS = (
    "{v} AS id, CAST({v} % 1000 AS INTEGER) AS part, 'value ' || CAST({v} AS VARCHAR) AS name, {v} * 0.5e0 AS half, "
    "TIMESTAMP '2013-01-01 00:00:00' AS moment"
)
QUERY = "SELECT id, part, name, half, moment FROM fetched"


def timed(action):
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def best(name, action):
    """Rows and megabytes a second, and the table."""
    least, table = float("inf"), None
    for _ in range(REPEAT):
        took, table = timed(action)
        least = min(least, took)
    rate, megabytes = table.num_rows / least, table.nbytes / least / 1e6
    print(f"{name:<44} {least:>8.3f} s {rate / 1e6:>8.2f} M rows/s {megabytes:>9.1f} MB/s", flush=True)
    return rate, table


def latency(name, action):
    times = sorted(timed(action)[0] * 1000 for _ in range(LATENCY_RUNS))
    print(f"{name:<44} median {statistics.median(times):>7.2f} ms   95th {times[int(LATENCY_RUNS * 0.95)]:>7.2f} ms", flush=True)


def main():
    with flightsql.connect(URL, autocommit=True) as connection, connection.cursor() as cursor:
        series = f"generate_series(1, {ROWS}) AS s(v)"
        cursor.execute(f"CREATE OR REPLACE TABLE fetched AS SELECT {COLUMNS.format(v='v')} FROM {series}")
        duck = duckdb.connect()
        duck.execute(f"CREATE TABLE fetched AS SELECT {COLUMNS.format(v='range')} FROM range(1, {ROWS} + 1)")

        def fetch():
            cursor.execute(QUERY)
            return cursor.fetch_arrow_table()

        print(f"{ROWS} rows into an Arrow table, best of {REPEAT}")
        duck_rate, theirs = best("DuckDB, in the same process", lambda: duck.execute(QUERY).to_arrow_table())
        rates = {}
        for lane in ("local", "pipelined"):
            cursor.execute(f"SET skep.execution = '{lane}'")
            rates[lane], ours = best(f"Skep through ADBC, {lane}", fetch)
            assert ours.num_rows == theirs.num_rows == ROWS
            for column in ("id", "half"):
                # Order is nobody's promise.
                assert compute.sum(ours[column]) == compute.sum(theirs[column]), column
        for lane, rate in rates.items():
            print(f"ratio of DuckDB's time to that of {lane}: {rate / duck_rate:.3f}")
        cursor.execute("RESET skep.execution")

    def first_row():
        with flightsql.connect(URL, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT id FROM fetched LIMIT 1")
            assert cursor.fetchone() is not None

    def first_row_again(cursor):
        cursor.execute("SELECT id FROM fetched LIMIT 1")
        assert cursor.fetchone() is not None

    print("from nothing to the first row")
    latency("connect, prepare, run, first row", first_row)
    with flightsql.connect(URL, autocommit=True) as connection, connection.cursor() as cursor:
        latency("the same without connecting", lambda: first_row_again(cursor))
        latency("SELECT 1", lambda: (cursor.execute("SELECT 1"), cursor.fetchone()))


main()
