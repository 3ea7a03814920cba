SELECT * FROM 'raw/lineitem/*.parquet'
