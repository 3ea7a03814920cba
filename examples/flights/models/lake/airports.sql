/*---
columns = "faa VARCHAR, name VARCHAR, lat VARCHAR, lon VARCHAR, alt VARCHAR, tz VARCHAR, dst VARCHAR, tzone VARCHAR"
options = { format = "csv", header = true }
---*/
SELECT * FROM 'raw/airports.csv'
