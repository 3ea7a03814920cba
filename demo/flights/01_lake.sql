-- The lake: every raw file as it came, one table for each kind. Nothing is dropped, fixed or guessed.
--
-- CSV has no types and writes NA for what it does not know, so its columns stay text here; the warehouse
-- gives them types. JSON has numbers and null already. Relative paths start at the folder that holds `raw`.

-- One row for each flight of each delivery. A flight that was late in the evening comes in two deliveries.
CREATE OR REPLACE TABLE lake.flights (
    year           VARCHAR,
    month          VARCHAR,
    day            VARCHAR,
    dep_time       VARCHAR,
    sched_dep_time VARCHAR,
    dep_delay      VARCHAR,
    arr_time       VARCHAR,
    sched_arr_time VARCHAR,
    arr_delay      VARCHAR,
    carrier        VARCHAR,
    flight         VARCHAR,
    tailnum        VARCHAR,
    origin         VARCHAR,
    dest           VARCHAR,
    air_time       VARCHAR,
    distance       VARCHAR,
    hour           VARCHAR,
    minute         VARCHAR,
    time_hour      VARCHAR
);

COPY INTO lake.flights FROM 'raw/flights_*.csv.gz' (FORMAT csv, HEADER true);

CREATE OR REPLACE TABLE lake.airlines (
    carrier VARCHAR,
    name    VARCHAR
);

COPY INTO lake.airlines FROM 'raw/airlines.csv' (FORMAT csv, HEADER true);

CREATE OR REPLACE TABLE lake.airports (
    faa   VARCHAR,
    name  VARCHAR,
    lat   VARCHAR,
    lon   VARCHAR,
    alt   VARCHAR,
    tz    VARCHAR,
    dst   VARCHAR,
    tzone VARCHAR
);

COPY INTO lake.airports FROM 'raw/airports.csv' (FORMAT csv, HEADER true);

CREATE OR REPLACE TABLE lake.planes (
    tailnum      VARCHAR,
    year         INT,
    type         VARCHAR,
    manufacturer VARCHAR,
    model        VARCHAR,
    engines      INT,
    seats        INT,
    speed        INT,
    engine       VARCHAR
);

COPY INTO lake.planes FROM 'raw/planes.jsonl' (FORMAT json);

-- One row for each airport and hour; time_hour is UTC.
CREATE OR REPLACE TABLE lake.weather (
    origin     VARCHAR,
    year       INT,
    month      INT,
    day        INT,
    hour       INT,
    temp       DOUBLE,
    dewp       DOUBLE,
    humid      DOUBLE,
    wind_dir   INT,
    wind_speed DOUBLE,
    wind_gust  DOUBLE,
    precip     DOUBLE,
    pressure   DOUBLE,
    visib      DOUBLE,
    time_hour  VARCHAR
);

COPY INTO lake.weather FROM 'raw/weather_*.jsonl.gz' (FORMAT json);
