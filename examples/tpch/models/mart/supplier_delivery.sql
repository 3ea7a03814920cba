/*---
description = "How often each supplier is late."
tests = [
  { unique = ["supplier_key"] },
  { relationships = "supplier_key", to = "warehouse.suppliers" },
  { expression = "late_share <= $late_share", on_fail = "warn" },
]
---*/
SELECT
    p.supplier_key,
    p.supplier,
    p.nation,
    count(*)                                                                          AS lines,
    CAST(count(*) FILTER (WHERE s.late) AS DOUBLE) / CAST(count(*) AS DOUBLE)         AS late_share,
    sum(s.revenue)                                                                    AS revenue
FROM warehouse.sales AS s
JOIN warehouse.suppliers AS p ON p.supplier_key = s.supplier_key
GROUP BY p.supplier_key, p.supplier, p.nation
