/*---
kind = "interval"               # each day once; days with rows that come late are made again
time = "day"
grain = "day"
tests = [{ not_null = ["day", "revenue"] }]
---*/
SELECT
    CAST(ordered_at AS DATE)          AS day,
    count(*)                          AS orders,
    sum(amount)                       AS revenue,
    round(sum(amount) * $vat, 2)      AS vat
FROM lake.orders
WHERE ordered_at >= $start AND ordered_at < $end
GROUP BY CAST(ordered_at AS DATE)
