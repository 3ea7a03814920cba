/*---
kind = "load"                   # new files are loaded, each once
columns = "order_id BIGINT, ordered_at TIMESTAMP, customer VARCHAR, amount DECIMAL(10,2)"
options = { format = "csv", header = true }
tests = [
  { unique = ["order_id"] },
  { not_null = ["order_id", "ordered_at"] },
  { expression = "amount >= 0", on_fail = "warn" },
]
---*/
SELECT * FROM 'raw/orders*.csv'
