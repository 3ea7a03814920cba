/*---
model = "warehouse.flights"
description = "Of two deliveries of a flight, the one that knows its arrival wins; days around the interval are left out."
start = "2013-01-05"
---*/
WITH flights(year, month, day, time_hour, carrier, flight, tailnum, origin, dest, distance, dep_delay, arr_delay) AS (
    VALUES ('2013', '1', '5', '2013-01-05T11:00:00Z', 'UA', '1', 'N1', 'EWR', 'IAH', '1400', '2', 'NA'),
           ('2013', '1', '5', '2013-01-05T11:00:00Z', 'UA', '1', 'N1', 'EWR', 'IAH', '1400', '2', '11'),
           ('2013', '1', '5', '2013-01-05T12:00:00Z', 'UA', '2', 'NA', 'EWR', 'XXX', '500', 'NA', 'NA'),
           ('2013', '1', '4', '2013-01-04T11:00:00Z', 'UA', '1', 'N1', 'EWR', 'IAH', '1400', '2', '11'),
           ('2013', '1', '6', '2013-01-06T11:00:00Z', 'UA', '1', 'N1', 'EWR', 'IAH', '1400', '2', '11')
),
airlines(carrier, airline) AS (VALUES ('UA', 'United')),
airports(airport, name) AS (VALUES ('IAH', 'Houston')),
planes(tailnum, manufacturer, is_current) AS (VALUES ('N1', 'BOEING', true), ('N1', 'AIRBUS', false)),
weather(airport, hour_utc, conditions) AS (VALUES ('EWR', '2013-01-05 11:00:00', 'clear'))

SELECT *
FROM (
    VALUES (1, 'N1', 'BOEING', 'Houston', false, 11, 'clear'),
           (2, NULL, NULL, NULL, true, NULL, NULL)
) AS expected(flight_number, tailnum, manufacturer, destination_name, cancelled, arrival_delay, weather)
