/*---
description = "How goods travel: lines and lateness by mode, priority and month."
tests = [{ unique = ["order_year", "order_month", "ship_mode", "priority"] }, { expression = "late <= lines" }]
---*/
SELECT
    order_year,
    order_month,
    ship_mode,
    priority,
    count(*)                          AS lines,
    count(*) FILTER (WHERE late)      AS late,
    sum(quantity)                     AS quantity
FROM warehouse.sales
GROUP BY order_year, order_month, ship_mode, priority
