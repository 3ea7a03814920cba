/*---
description = "How each route did over the month, and how many minutes its pilots made up in the air."
tests = [
  { unique = ["origin", "destination"] },
  { expression = "late_percent BETWEEN 0 AND 100" },
]
---*/
SELECT
    origin,
    destination,
    coalesce(destination_name, destination) AS destination_name,
    count(*)                                AS flights,
    count(DISTINCT carrier)                 AS airlines,
    max(distance_miles)                     AS distance_miles,
    count(*) FILTER (WHERE cancelled)       AS cancelled,
    round(100.0 * count(*) FILTER (WHERE arrival_delay >= $late_minutes) / count(*), 1) AS late_percent,
    round(avg(arrival_delay), 1)            AS avg_arrival_delay,
    round(avg(departure_delay - arrival_delay), 1) AS avg_minutes_made_up
FROM warehouse.flights
GROUP BY origin, destination, coalesce(destination_name, destination)
