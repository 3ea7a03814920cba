/*---
tests = [{ unique = ["part_key"] }]
---*/
SELECT
    p_partkey     AS part_key,
    p_name        AS part,
    p_brand       AS brand,
    p_type        AS part_type,
    p_size        AS size,
    p_retailprice AS list_price
FROM lake.part
