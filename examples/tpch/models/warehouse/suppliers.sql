/*---
description = "Suppliers with their nation and region."
tests = [{ unique = ["supplier_key"] }, { not_null = ["supplier_key", "nation", "region"] }]
---*/
SELECT
    s.s_suppkey AS supplier_key,
    s.s_name    AS supplier,
    n.n_name    AS nation,
    r.r_name    AS region
FROM lake.supplier AS s
JOIN lake.nation AS n ON n.n_nationkey = s.s_nationkey
JOIN lake.region AS r ON r.r_regionkey = n.n_regionkey
