SELECT * FROM 'raw/customer/*.parquet'
