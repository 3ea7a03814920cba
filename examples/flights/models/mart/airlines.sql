/*---
kind = "view"
description = "The month of each airline, best first when ordered by late_percent."
---*/
SELECT
    carrier,
    airline,
    sum(flights)                                  AS flights,
    round(100.0 * sum(late) / sum(arrived), 1)    AS late_percent
FROM mart.airline_days
GROUP BY carrier, airline
