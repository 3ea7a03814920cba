/*---
model = "mart.daily_revenue"    # run over the rows below, and nothing else: skep pipeline test
start = "2024-01-01"            # the interval; one day, as the model's grain says
vars = { vat = 0.5 }
---*/
WITH orders(ordered_at, amount) AS (
    VALUES ('2024-01-01 00:00:00', 10.00),
           ('2024-01-01 23:59:59', 2.50),
           ('2024-01-02 00:00:00', 99.00)
)
SELECT *
FROM (VALUES ('2024-01-01', 2, 12.50, 6.25)) AS expected(day, orders, revenue, vat)
