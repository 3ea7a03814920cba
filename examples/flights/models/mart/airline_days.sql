/*---
kind = "interval"
description = "How each airline did on each day."
time = "flight_date"
grain = "day"
tags = ["daily"]
tests = [
  { unique = ["flight_date", "carrier"] },
  { expression = "cancelled + arrived <= flights" },
  { expression = "late <= arrived" },
]
---*/
SELECT
    flight_date,
    carrier,
    airline,
    count(*)                                               AS flights,
    count(*) FILTER (WHERE cancelled)                      AS cancelled,
    count(arrival_delay)                                   AS arrived,
    count(*) FILTER (WHERE arrival_delay >= $late_minutes) AS late,
    round(avg(departure_delay), 1)                         AS avg_departure_delay,
    round(avg(arrival_delay), 1)                           AS avg_arrival_delay,
    max(arrival_delay)                                     AS worst_arrival_delay
FROM warehouse.flights
WHERE flight_date >= $start AND flight_date < $end
GROUP BY flight_date, carrier, airline
