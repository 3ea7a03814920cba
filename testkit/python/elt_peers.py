"""The models of a project, run by another engine: what `skep pipeline run` is measured against.

    python elt_peers.py duckdb|spark PROJECT RAW GRAPH OUT

GRAPH is what `skep pipeline graph --format json` prints. Each model becomes a table (or a view) of its name, from the text of
its file: only `$names` are replaced by literals, and a load is a read of its files. Marts are written to OUT as Parquet.
Prints a line `MODEL<tab>SECONDS` for each and `TOTAL<tab>SECONDS` at the end. Tests are not run, starting the engine does not count.
"""

import json
import pathlib
import re
import sys
import time
import tomllib

ENGINE, PROJECT, RAW, GRAPH, OUT = sys.argv[1], *map(pathlib.Path, sys.argv[2:])
SETTINGS = tomllib.loads((PROJECT / "pipeline.toml").read_text())
HEADER = re.compile(r"/\*---\n(.*?)\n---\*/", re.DOTALL)


def models():
    """Name, kind, header and query, in an order in which they can be made."""
    for entry in json.loads(GRAPH.read_text())["models"]:
        text = (PROJECT / entry["file"]).read_text()
        if entry["kind"] == "seed":
            yield entry["name"], "seed", {}, str(PROJECT / entry["file"])
            continue
        found = HEADER.search(text)
        own = tomllib.loads(found.group(1)) if found else {}
        schema = entry["name"].split(".")[0]
        header = {**SETTINGS.get("defaults", {}).get(schema, {}), **own}
        yield entry["name"], entry["kind"], header, bound(HEADER.sub("", text))


def bound(sql):
    """The query with literals for the variables of the project."""
    values = {name: str(value) for name, value in SETTINGS.get("vars", {}).items()}
    for end in ("start", "end"):
        if end in SETTINGS["pipeline"]:
            values[end] = f"TIMESTAMP '{SETTINGS['pipeline'][end]} 00:00:00'"
    return re.sub(r"\$([a-z_]+)", lambda found: values[found.group(1)], sql).strip()


def shaped(kind, sql):
    """With the column that a snapshot has beside those of its query, and others read."""
    return f"SELECT model.*, TRUE AS is_current FROM (\n{sql}\n) AS model" if kind == "snapshot" else sql


def source(sql):
    """The files that a load names."""
    return str(RAW.parent / re.search(r"FROM\s+'([^']+)'", sql).group(1))


def columns(header):
    return [column.split() for column in header["columns"].replace("\n", " ").split(",")]


class DuckDb:
    def __init__(self):
        import duckdb

        self.db = duckdb.connect(str(OUT / "duck.db"), config={"threads": 2, "preserve_insertion_order": False})
        for schema in ("lake", "warehouse", "mart"):
            self.db.execute(f"CREATE SCHEMA {schema}")

    def load(self, name, header, files):
        kind = header.get("options", {}).get("format")
        if kind == "parquet":
            read = f"read_parquet('{files}')"
        else:
            types = ", ".join(f"'{column}': '{type}'" for column, type in columns(header))
            options = "header = true, nullstr = ''" if kind == "csv" else "format = 'newline_delimited'"
            read = f"read_{kind}('{files}', columns = {{{types}}}, {options})"
        self.db.execute(f"CREATE TABLE {name} AS SELECT * FROM {read}")

    def seed(self, name, file):
        self.db.execute(f"CREATE TABLE {name} AS SELECT * FROM read_csv('{file}')")

    def make(self, name, kind, sql):
        self.db.execute(f"CREATE {'VIEW' if kind == 'view' else 'TABLE'} {name} AS {shaped(kind, sql)}")

    def write(self, name):
        folder = OUT / name
        folder.mkdir()
        self.db.execute(f"COPY {name} TO '{folder}/rows.parquet' (FORMAT parquet)")


class Spark:
    def __init__(self):
        from pyspark.sql import SparkSession

        settings = {
            "spark.driver.memory": "6g",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.timestampType": "TIMESTAMP_NTZ",
            "spark.sql.warehouse.dir": str(OUT / "warehouse"),
            "spark.sql.shuffle.partitions": "8",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
        }
        builder = SparkSession.builder.master("local[2]").appName("elt")
        for name, value in settings.items():
            builder = builder.config(name, value)
        self.session = builder.getOrCreate()
        self.session.sparkContext.setLogLevel("ERROR")
        for schema in ("lake", "warehouse", "mart"):
            self.session.sql(f"CREATE SCHEMA {schema}")
        self.session.range(1000).count()

    def load(self, name, header, files):
        kind = header.get("options", {}).get("format")
        reader = self.session.read
        if kind != "parquet":
            types = {"VARCHAR": "STRING"}
            reader = reader.schema(", ".join(f"`{column}` {types.get(type, type)}" for column, type in columns(header)))
        read = {"csv": lambda: reader.csv(files, header=True), "json": lambda: reader.json(files), "parquet": lambda: reader.parquet(files)}
        read[kind]().write.saveAsTable(name)

    def seed(self, name, file):
        self.session.read.csv(file, header=True, inferSchema=True).write.saveAsTable(name)

    def make(self, name, kind, sql):
        what = f"VIEW {name}" if kind == "view" else f"TABLE {name} USING parquet"
        self.session.sql(f"CREATE {what} AS {shaped(kind, sql)}")

    def write(self, name):
        self.session.table(name).coalesce(1).write.parquet(str(OUT / name))


def main():
    engine = {"duckdb": DuckDb, "spark": Spark}[ENGINE]()
    total, marts = 0.0, []
    for name, kind, header, sql in models():
        start = time.perf_counter()
        if kind == "seed":
            engine.seed(name, sql)
        elif kind == "load":
            engine.load(name, header, source(sql))
        else:
            engine.make(name, kind, sql)
        took = time.perf_counter() - start
        total += took
        print(f"{name}\t{took:.3f}", flush=True)
        if name.startswith("mart."):
            marts.append(name)
    for name in marts:
        engine.write(name)
    print(f"TOTAL\t{total:.3f}")


main()
