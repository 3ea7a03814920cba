/*---
columns = "carrier VARCHAR, name VARCHAR"
options = { format = "csv", header = true }
---*/
SELECT * FROM 'raw/airlines.csv'
