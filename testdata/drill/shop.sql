-- A small shop in the shape of TPC-H, for `skep drill`: it makes its own data.
CREATE TABLE customers AS
SELECT value AS c_id, 'customer ' || value AS c_name, value % 25 AS c_nation, value % 5 AS c_segment
FROM generate_series(1, 1500);

CREATE TABLE orders AS
SELECT value AS o_id, value * 7919 % 1500 + 1 AS o_customer, DATE '1995-01-01' + CAST(value % 900 || ' days' AS INTERVAL) AS o_date
FROM generate_series(1, 15000);

CREATE TABLE items AS
SELECT value % 15000 + 1 AS i_order, value * 31 % 2000 AS i_part, value % 50 + 1 AS i_quantity,
       CAST(value * 17 % 100000 AS DECIMAL(15, 2)) / 100 AS i_price, value % 11 * 0.01e0 AS i_discount,
       CASE value % 3 WHEN 0 THEN 'A' WHEN 1 THEN 'N' ELSE 'R' END AS i_flag
FROM generate_series(1, 60000);

-- Pricing summary.
SELECT i_flag, sum(i_quantity) AS quantity, sum(i_price) AS price, sum(i_price * (1 - i_discount)) AS discounted,
       avg(i_discount) AS discount, count(*) AS items
FROM items GROUP BY i_flag ORDER BY i_flag;

-- Revenue of a segment by order.
SELECT o_id, sum(i_price * (1 - i_discount)) AS revenue, o_date
FROM customers JOIN orders ON c_id = o_customer JOIN items ON i_order = o_id
WHERE c_segment = 2 AND o_date < DATE '1996-03-15'
GROUP BY o_id, o_date ORDER BY revenue DESC, o_id LIMIT 20;

-- Orders by customer, those without any too.
SELECT orders_of, count(*) AS customers FROM (
    SELECT c_id, count(o_id) AS orders_of FROM customers LEFT JOIN orders ON c_id = o_customer GROUP BY c_id
) GROUP BY orders_of ORDER BY customers DESC, orders_of;

CREATE TABLE nations AS
SELECT c_nation, count(DISTINCT o_id) AS orders, sum(i_quantity) AS quantity
FROM customers JOIN orders ON c_id = o_customer JOIN items ON i_order = o_id GROUP BY c_nation;

SELECT * FROM nations ORDER BY c_nation;
