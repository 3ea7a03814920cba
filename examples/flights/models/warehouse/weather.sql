/*---
kind = "partition"
description = "What an hour was like at an airport, in one word: the worst thing that happened in it."
partition = ["airport"]
tests = [
  { unique = ["airport", "hour_utc"], on_fail = "warn" },
  { accepted_values = "conditions", values = ["snow", "rain", "fog", "wind", "fair"] },
]
---*/
SELECT
    CAST(time_hour AS TIMESTAMP) AS hour_utc,
    temp                         AS temperature_f,
    wind_speed                   AS wind_mph,
    wind_gust                    AS gust_mph,
    precip                       AS precipitation_inches,
    visib                        AS visibility_miles,
    CASE
        WHEN precip > 0 AND temp <= 34           THEN 'snow'
        WHEN precip > 0                          THEN 'rain'
        WHEN visib < 3                           THEN 'fog'
        WHEN wind_speed >= 23 OR wind_gust >= 35 THEN 'wind'
        ELSE 'fair'
    END                          AS conditions,
    origin                       AS airport
FROM lake.weather
