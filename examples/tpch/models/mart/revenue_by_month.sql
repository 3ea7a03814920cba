/*---
description = "Revenue and profit of each nation's customers in each month."
tests = [{ unique = ["order_year", "order_month", "nation"] }]
---*/
SELECT
    s.order_year,
    s.order_month,
    c.region,
    c.nation,
    count(DISTINCT s.order_key) AS orders,
    sum(s.revenue)              AS revenue,
    sum(s.revenue - s.cost)     AS profit
FROM warehouse.sales AS s
JOIN warehouse.customers AS c ON c.customer_key = s.customer_key
GROUP BY s.order_year, s.order_month, c.region, c.nation
