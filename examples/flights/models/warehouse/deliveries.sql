/*---
kind = "append"
description = "How many rows of each day had been delivered when the day was first seen: never changed afterwards."
time = "day"
grain = "day"
tests = [{ not_null = ["day"] }, { expression = "rows_delivered > 0" }]
---*/
SELECT
    make_date(CAST(year AS INT), CAST(month AS INT), CAST(day AS INT)) AS day,
    count(*)                                                           AS rows_delivered
FROM lake.flights
WHERE make_date(CAST(year AS INT), CAST(month AS INT), CAST(day AS INT)) >= $start
  AND make_date(CAST(year AS INT), CAST(month AS INT), CAST(day AS INT)) < $end
GROUP BY make_date(CAST(year AS INT), CAST(month AS INT), CAST(day AS INT))
