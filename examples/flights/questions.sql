-- Which airline was on time?
SELECT airline, flights, cancelled_percent, late_percent, worst_arrival_delay
FROM mart.airlines
WHERE flights >= 100
ORDER BY late_percent, airline;

-- Which days went wrong, and for whom?
SELECT flight_date, airline, flights, cancelled, late, avg_arrival_delay
FROM mart.airline_days
WHERE flights >= 20
ORDER BY avg_arrival_delay DESC, flight_date, airline
LIMIT 10;

-- Where does the weather hurt most?
SELECT origin, weather, flights, cancelled_percent, late_percent, avg_departure_delay
FROM mart.weather_delays
ORDER BY avg_departure_delay DESC, origin, weather
LIMIT 10;

-- Which busy routes are late most often?
SELECT origin, destination_name, flights, airlines, late_percent, avg_arrival_delay, avg_minutes_made_up
FROM mart.routes
WHERE flights >= 100
ORDER BY late_percent DESC, origin, destination_name
LIMIT 10;
