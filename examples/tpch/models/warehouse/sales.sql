/*---
description = "One row for each line of an order, with what it brought and what it cost."
sort = ["order_date"]
tests = [
  { unique = ["order_key", "line_number"] },
  { not_null = ["customer_key", "supplier_key", "part_key", "order_date"] },
  { relationships = "customer_key", to = "warehouse.customers" },
  { relationships = "supplier_key", to = "warehouse.suppliers" },
  { expression = "revenue >= 0 AND quantity > 0" },
]
---*/
SELECT
    l.l_orderkey                                      AS order_key,
    l.l_linenumber                                    AS line_number,
    o.o_custkey                                       AS customer_key,
    l.l_suppkey                                       AS supplier_key,
    l.l_partkey                                       AS part_key,
    o.o_orderdate                                     AS order_date,
    year(o.o_orderdate)                               AS order_year,
    month(o.o_orderdate)                              AS order_month,
    o.o_orderpriority                                 AS priority,
    l.l_shipmode                                      AS ship_mode,
    l.l_returnflag = 'R'                              AS returned,
    l.l_receiptdate > l.l_commitdate                  AS late,
    l.l_quantity                                      AS quantity,
    l.l_extendedprice * (1 - l.l_discount)            AS revenue,
    ps.ps_supplycost * l.l_quantity                   AS cost
FROM lake.lineitem AS l
JOIN lake.orders AS o ON o.o_orderkey = l.l_orderkey
JOIN lake.partsupp AS ps ON ps.ps_partkey = l.l_partkey AND ps.ps_suppkey = l.l_suppkey
