/*---
description = "What the weather at departure does to a flight."
tests = [{ not_null = ["weather"] }]
---*/
SELECT
    origin,
    coalesce(weather, 'unknown')   AS weather,
    count(*)                       AS flights,
    round(100.0 * count(*) FILTER (WHERE cancelled) / count(*), 1) AS cancelled_percent,
    round(100.0 * count(*) FILTER (WHERE arrival_delay >= $late_minutes) / count(*), 1) AS late_percent,
    round(avg(departure_delay), 1) AS avg_departure_delay
FROM warehouse.flights
GROUP BY origin, coalesce(weather, 'unknown')
