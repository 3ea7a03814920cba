/*---
kind = "interval"
description = "One row for each flight, with its airline, destination, plane, and the weather it was to leave in."
time = "flight_date"
grain = "day"
lookback = 1
partition = ["flight_date"]
tags = ["core"]
tests = [
  { unique = ["flight_date", "carrier", "flight_number", "origin"] },
  { not_null = ["flight_date", "carrier", "flight_number"] },
  { relationships = "carrier", to = "warehouse.airlines" },
  { expression = "distance_miles > 0" },
  { row_count = { min = 1 } },
]
---*/
WITH typed AS (
    SELECT
        make_date(CAST(year AS INT), CAST(month AS INT), CAST(day AS INT)) AS flight_date,
        CAST(time_hour AS TIMESTAMP)         AS departure_hour_utc,
        carrier,
        CAST(flight AS INT)                  AS flight_number,
        NULLIF(tailnum, 'NA')                AS tailnum,
        origin,
        dest                                 AS destination,
        CAST(distance AS INT)                AS distance_miles,
        CAST(NULLIF(dep_delay, 'NA') AS INT) AS departure_delay,
        CAST(NULLIF(arr_delay, 'NA') AS INT) AS arrival_delay,
        CAST(NULLIF(air_time, 'NA') AS INT)  AS air_minutes
    FROM lake.flights
    WHERE make_date(CAST(year AS INT), CAST(month AS INT), CAST(day AS INT)) >= $start
      AND make_date(CAST(year AS INT), CAST(month AS INT), CAST(day AS INT)) < $end
),

-- A flight that was delivered twice counts once: the delivery that knows its arrival wins.
once AS (
    SELECT *
    FROM (
        SELECT
            *,
            row_number() OVER (
                PARTITION BY flight_date, carrier, flight_number, origin
                ORDER BY arrival_delay NULLS LAST
            ) AS delivery
        FROM typed
    ) AS numbered
    WHERE delivery = 1
)

SELECT
    f.departure_hour_utc,
    f.carrier,
    a.airline,
    f.flight_number,
    f.tailnum,
    p.manufacturer,
    p.built                   AS plane_built,
    p.seats,
    f.origin,
    f.destination,
    d.name                    AS destination_name,
    f.distance_miles,
    f.departure_delay IS NULL AS cancelled,
    f.departure_delay,
    f.arrival_delay,
    f.air_minutes,
    w.conditions              AS weather,
    f.flight_date
FROM once AS f
JOIN warehouse.airlines AS a ON a.carrier = f.carrier
LEFT JOIN warehouse.airports AS d ON d.airport = f.destination
LEFT JOIN warehouse.planes AS p ON p.tailnum = f.tailnum AND p.is_current
LEFT JOIN warehouse.weather AS w ON w.airport = f.origin AND w.hour_utc = f.departure_hour_utc
