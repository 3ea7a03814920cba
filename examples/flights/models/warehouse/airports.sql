/*---
tests = [
  { unique = ["airport"] },
  { expression = "latitude BETWEEN -90 AND 90 AND longitude BETWEEN -180 AND 180" },
]
---*/
SELECT
    faa                  AS airport,
    name,
    CAST(lat AS DOUBLE)  AS latitude,
    CAST(lon AS DOUBLE)  AS longitude,
    CAST(alt AS INT)     AS altitude_feet,
    NULLIF(tzone, 'NA')  AS time_zone
FROM lake.airports
