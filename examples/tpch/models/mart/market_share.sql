/*---
description = "What share of a region's purchases came from suppliers of each nation, by year."
tests = [{ unique = ["order_year", "region", "supplier_nation"] }, { expression = "share BETWEEN 0 AND 1" }]
---*/
SELECT
    order_year,
    region,
    supplier_nation,
    revenue,
    CAST(revenue AS DOUBLE) / CAST(sum(revenue) OVER (PARTITION BY order_year, region) AS DOUBLE) AS share
FROM (
    SELECT s.order_year, c.region, p.nation AS supplier_nation, sum(s.revenue) AS revenue
    FROM warehouse.sales AS s
    JOIN warehouse.customers AS c ON c.customer_key = s.customer_key
    JOIN warehouse.suppliers AS p ON p.supplier_key = s.supplier_key
    GROUP BY s.order_year, c.region, p.nation
) AS sums
