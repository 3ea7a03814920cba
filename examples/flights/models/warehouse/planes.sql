/*---
kind = "snapshot"
description = "Planes as they were: a plane whose entry changes keeps its earlier state."
key = ["tailnum"]
tests = [{ not_null = ["tailnum", "valid_from"] }, { expression = "valid_to IS NOT NULL OR is_current" }]
---*/
SELECT tailnum, manufacturer, model, year AS built, seats
FROM lake.planes
