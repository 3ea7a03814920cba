/*---
model = "mart.airline_days"
description = "A flight of exactly $late_minutes is late; one that was cancelled never arrived."
start = "2013-01-05"
vars = { late_minutes = 30 }
---*/
WITH flights(flight_date, carrier, airline, cancelled, arrival_delay) AS (
    VALUES ('2013-01-05', 'UA', 'United', false, 29),
           ('2013-01-05', 'UA', 'United', false, 30),
           ('2013-01-05', 'UA', 'United', true, NULL),
           ('2013-01-06', 'UA', 'United', false, 99)
)
SELECT *
FROM (VALUES ('2013-01-05', 'UA', 3, 1, 2, 1, 29.5))
    AS expected(flight_date, carrier, flights, cancelled, arrived, late, avg_arrival_delay)
