/*---
description = "What each brand earned, by year."
tests = [{ unique = ["brand", "order_year"] }]
---*/
SELECT
    p.brand,
    s.order_year,
    count(DISTINCT s.part_key)                  AS parts,
    sum(s.quantity)                             AS quantity,
    sum(s.revenue - s.cost)                     AS profit,
    count(*) FILTER (WHERE s.returned)          AS lines_returned
FROM warehouse.sales AS s
JOIN warehouse.parts AS p ON p.part_key = s.part_key
GROUP BY p.brand, s.order_year
