/*---
description = "The hundred customers of each segment that brought most."
tests = [{ unique = ["segment", "place"] }, { row_count = { min = 5 } }]
---*/
SELECT segment, place, customer_key, customer, nation, orders, revenue
FROM (
    SELECT
        c.segment,
        c.customer_key,
        c.customer,
        c.nation,
        count(DISTINCT s.order_key) AS orders,
        sum(s.revenue)              AS revenue,
        row_number() OVER (PARTITION BY c.segment ORDER BY sum(s.revenue) DESC, c.customer_key) AS place
    FROM warehouse.sales AS s
    JOIN warehouse.customers AS c ON c.customer_key = s.customer_key
    GROUP BY c.segment, c.customer_key, c.customer, c.nation
) AS ranked
WHERE place <= 100
