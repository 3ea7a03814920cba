/*---
kind = "merge"
key = ["carrier"]
tests = [{ unique = ["carrier"] }, { not_null = ["carrier", "airline"] }]
---*/
SELECT carrier, name AS airline
FROM lake.airlines
