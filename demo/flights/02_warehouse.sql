-- The warehouse: each thing once, with its types, under names that say what it is.

CREATE OR REPLACE TABLE warehouse.airlines AS
SELECT
    carrier,
    name AS airline
FROM lake.airlines;

CREATE OR REPLACE TABLE warehouse.airports AS
SELECT
    faa                         AS airport,
    name,
    CAST(lat AS DOUBLE)         AS latitude,
    CAST(lon AS DOUBLE)         AS longitude,
    CAST(alt AS INT)            AS altitude_feet,
    NULLIF(tzone, 'NA')         AS time_zone
FROM lake.airports;

CREATE OR REPLACE TABLE warehouse.planes AS
SELECT
    tailnum,
    manufacturer,
    model,
    year AS built,
    seats
FROM lake.planes;

-- What an hour was like at an airport, in one word: the worst thing that happened in it.
CREATE OR REPLACE TABLE warehouse.weather AS
SELECT
    origin                       AS airport,
    CAST(time_hour AS TIMESTAMP) AS hour_utc,
    temp                         AS temperature_f,
    wind_speed                   AS wind_mph,
    wind_gust                    AS gust_mph,
    precip                       AS precipitation_inches,
    visib                        AS visibility_miles,
    CASE
        WHEN precip > 0 AND temp <= 34         THEN 'snow'
        WHEN precip > 0                        THEN 'rain'
        WHEN visib < 3                         THEN 'fog'
        WHEN wind_speed >= 23 OR wind_gust >= 35 THEN 'wind'
        ELSE 'fair'
    END                          AS conditions
FROM lake.weather;

-- One row for each flight, with its airline, destination, plane, and the weather it was to leave in.
CREATE OR REPLACE TABLE warehouse.flights AS
WITH typed AS (
    SELECT
        make_date(CAST(year AS INT), CAST(month AS INT), CAST(day AS INT)) AS flight_date,
        CAST(time_hour AS TIMESTAMP)         AS departure_hour_utc,
        carrier,
        CAST(flight AS INT)                  AS flight_number,
        NULLIF(tailnum, 'NA')                AS tailnum,
        origin,
        dest                                 AS destination,
        CAST(distance AS INT)                AS distance_miles,
        CAST(NULLIF(dep_delay, 'NA') AS INT) AS departure_delay,
        CAST(NULLIF(arr_delay, 'NA') AS INT) AS arrival_delay,
        CAST(NULLIF(air_time, 'NA') AS INT)  AS air_minutes
    FROM lake.flights
),

-- A flight that was delivered twice counts once: the delivery that knows its arrival wins.
once AS (
    SELECT *
    FROM (
        SELECT
            *,
            row_number() OVER (
                PARTITION BY flight_date, carrier, flight_number, origin
                ORDER BY arrival_delay NULLS LAST
            ) AS delivery
        FROM typed
    ) AS numbered
    WHERE delivery = 1
)

SELECT
    f.flight_date,
    f.departure_hour_utc,
    f.carrier,
    a.airline,
    f.flight_number,
    f.tailnum,
    p.manufacturer,
    p.built                   AS plane_built,
    p.seats,
    f.origin,
    f.destination,
    d.name                    AS destination_name,
    f.distance_miles,
    f.departure_delay IS NULL AS cancelled,
    f.departure_delay,
    f.arrival_delay,
    f.air_minutes,
    w.conditions              AS weather
FROM once AS f
JOIN warehouse.airlines AS a ON a.carrier = f.carrier
LEFT JOIN warehouse.airports AS d ON d.airport = f.destination
LEFT JOIN warehouse.planes AS p ON p.tailnum = f.tailnum
LEFT JOIN warehouse.weather AS w ON w.airport = f.origin AND w.hour_utc = f.departure_hour_utc;
