/*---
columns = "tailnum VARCHAR, year INT, type VARCHAR, manufacturer VARCHAR, model VARCHAR, engines INT, seats INT, speed INT, engine VARCHAR"
options = { format = "json" }
---*/
SELECT * FROM 'raw/planes.jsonl'
