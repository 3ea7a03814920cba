-- A test of its own: rows are failures. The revenue of all days is that of all orders.
SELECT *
FROM (SELECT sum(revenue) AS of_days FROM mart.daily_revenue) AS d,
     (SELECT sum(amount) AS of_orders FROM lake.orders WHERE ordered_at < TIMESTAMP '2024-01-04') AS o
WHERE of_days <> of_orders
