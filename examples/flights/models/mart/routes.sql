/*---
description = "How each route did over the month."
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
    round(100.0 * count(*) FILTER (WHERE arrival_delay >= $late_minutes) / count(*), 1) AS late_percent
FROM warehouse.flights
GROUP BY origin, destination, coalesce(destination_name, destination)
