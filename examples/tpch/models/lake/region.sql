SELECT * FROM 'raw/region/*.parquet'
