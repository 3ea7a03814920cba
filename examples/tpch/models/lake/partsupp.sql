SELECT * FROM 'raw/partsupp/*.parquet'
