SELECT * FROM 'raw/nation/*.parquet'
