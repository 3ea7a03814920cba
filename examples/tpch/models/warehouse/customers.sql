/*---
description = "Customers with their nation and region."
tests = [{ unique = ["customer_key"] }, { not_null = ["customer_key", "nation", "region"] }]
---*/
SELECT
    c.c_custkey    AS customer_key,
    c.c_name       AS customer,
    c.c_mktsegment AS segment,
    c.c_acctbal    AS balance,
    n.n_name       AS nation,
    r.r_name       AS region
FROM lake.customer AS c
JOIN lake.nation AS n ON n.n_nationkey = c.c_nationkey
JOIN lake.region AS r ON r.r_regionkey = n.n_regionkey
