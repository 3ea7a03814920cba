SELECT *
FROM (SELECT sum(flights) AS of_routes FROM mart.routes) AS r,
     (SELECT sum(flights) AS of_weather FROM mart.weather_delays) AS w
WHERE of_routes <> of_weather
