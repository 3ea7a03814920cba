/*---
description = "Flights by how late they were."
tests = [{ relationships = "class", to = "lake.delay_classes" }]
---*/
SELECT c.class, count(*) AS flights
FROM warehouse.flights AS f
JOIN lake.delay_classes AS c ON f.arrival_delay >= c.from_minutes AND f.arrival_delay < c.to_minutes
GROUP BY c.class
