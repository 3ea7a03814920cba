/*---
description = "What the weather at departure does to a flight."
tests = [{ not_null = ["weather"] }]
---*/
SELECT
    origin,
    coalesce(weather, 'unknown')   AS weather,
    count(*)                       AS flights,
    round(avg(departure_delay), 1) AS avg_departure_delay
FROM warehouse.flights
GROUP BY origin, coalesce(weather, 'unknown')
