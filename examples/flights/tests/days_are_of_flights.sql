-- Every flight of the warehouse is counted once in the days of its airline.
SELECT *
FROM (SELECT sum(flights) AS of_days FROM mart.airline_days) AS d,
     (SELECT count(*) AS of_flights FROM warehouse.flights) AS f
WHERE of_days <> of_flights
