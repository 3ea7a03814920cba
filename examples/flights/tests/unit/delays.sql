/*---
model = "mart.delays"
description = "Classes begin at their first minute and end before the next; rows as CSV."

[given]
"warehouse.flights" = """
arrival_delay
-3
14
15
60
"""
"lake.delay_classes" = """
class,from_minutes,to_minutes
on time,-100000,15
late,15,60
very late,60,100000
"""
---*/
SELECT *
FROM (VALUES ('on time', 2), ('late', 1), ('very late', 1)) AS expected(class, flights)
