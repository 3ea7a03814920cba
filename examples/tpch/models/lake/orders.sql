SELECT * FROM 'raw/orders/*.parquet'
