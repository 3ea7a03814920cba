/*---
description = "One row for each airport and hour; time_hour is UTC."
columns = """
    origin VARCHAR, year INT, month INT, day INT, hour INT, temp DOUBLE, dewp DOUBLE, humid DOUBLE, wind_dir INT, wind_speed DOUBLE,
    wind_gust DOUBLE, precip DOUBLE, pressure DOUBLE, visib DOUBLE, time_hour VARCHAR
"""
options = { format = "json" }
---*/
SELECT * FROM 'raw/weather_*.jsonl.gz'
