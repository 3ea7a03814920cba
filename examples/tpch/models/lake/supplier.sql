SELECT * FROM 'raw/supplier/*.parquet'
