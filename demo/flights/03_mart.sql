-- The mart: answers, ready to read. Delays are in minutes; late means fifteen minutes or more at the gate.

-- How each airline did on each day.
CREATE OR REPLACE TABLE mart.airline_days AS
SELECT
    flight_date,
    carrier,
    airline,
    count(*)                                     AS flights,
    count(*) FILTER (WHERE cancelled)            AS cancelled,
    count(arrival_delay)                         AS arrived,
    count(*) FILTER (WHERE arrival_delay >= 15)  AS late,
    round(avg(departure_delay), 1)               AS avg_departure_delay,
    round(avg(arrival_delay), 1)                 AS avg_arrival_delay,
    max(arrival_delay)                           AS worst_arrival_delay
FROM warehouse.flights
GROUP BY flight_date, carrier, airline;

-- How each route did over the month, and how many minutes its pilots made up in the air.
CREATE OR REPLACE TABLE mart.routes AS
SELECT
    origin,
    destination,
    coalesce(destination_name, destination)      AS destination_name,
    count(*)                                     AS flights,
    count(DISTINCT carrier)                      AS airlines,
    max(distance_miles)                          AS distance_miles,
    count(*) FILTER (WHERE cancelled)            AS cancelled,
    round(100.0 * count(*) FILTER (WHERE arrival_delay >= 15) / count(*), 1) AS late_percent,
    round(avg(arrival_delay), 1)                 AS avg_arrival_delay,
    round(avg(departure_delay - arrival_delay), 1) AS avg_minutes_made_up
FROM warehouse.flights
GROUP BY origin, destination, coalesce(destination_name, destination);

-- What the weather at departure does to a flight.
CREATE OR REPLACE TABLE mart.weather_delays AS
SELECT
    origin,
    coalesce(weather, 'unknown')                 AS weather,
    count(*)                                     AS flights,
    round(100.0 * count(*) FILTER (WHERE cancelled) / count(*), 1)           AS cancelled_percent,
    round(100.0 * count(*) FILTER (WHERE arrival_delay >= 15) / count(*), 1) AS late_percent,
    round(avg(departure_delay), 1)               AS avg_departure_delay
FROM warehouse.flights
GROUP BY origin, coalesce(weather, 'unknown');

-- The month of each airline, best first when ordered by late_percent.
CREATE OR REPLACE VIEW mart.airlines AS
SELECT
    carrier,
    airline,
    sum(flights)                                 AS flights,
    round(100.0 * sum(cancelled) / sum(flights), 1) AS cancelled_percent,
    round(100.0 * sum(late) / sum(arrived), 1)   AS late_percent,
    max(worst_arrival_delay)                     AS worst_arrival_delay
FROM mart.airline_days
GROUP BY carrier, airline;
