/*---
description = "One row for each flight of each delivery; a flight that was late in the evening comes in two."
columns = """
    year VARCHAR, month VARCHAR, day VARCHAR, dep_time VARCHAR, sched_dep_time VARCHAR, dep_delay VARCHAR, arr_time VARCHAR,
    sched_arr_time VARCHAR, arr_delay VARCHAR, carrier VARCHAR, flight VARCHAR, tailnum VARCHAR, origin VARCHAR, dest VARCHAR,
    air_time VARCHAR, distance VARCHAR, hour VARCHAR, minute VARCHAR, time_hour VARCHAR
"""
options = { format = "csv", header = true }
tests = [{ not_null = ["year", "month", "day", "carrier"] }]
---*/
SELECT * FROM 'raw/flights_*.csv.gz'
