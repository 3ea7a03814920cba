SELECT * FROM 'raw/part/*.parquet'
