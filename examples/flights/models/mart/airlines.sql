/*---
kind = "view"
description = "The month of each airline, best first when ordered by late_percent."
---*/
SELECT
    carrier,
    airline,
    sum(flights)                                    AS flights,
    round(100.0 * sum(cancelled) / sum(flights), 1) AS cancelled_percent,
    round(100.0 * sum(late) / sum(arrived), 1)      AS late_percent,
    max(worst_arrival_delay)                        AS worst_arrival_delay
FROM mart.airline_days
GROUP BY carrier, airline
