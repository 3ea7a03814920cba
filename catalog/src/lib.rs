//! DuckLake 1.0 in a SQL database: names, schemas, snapshots, files, statistics, transactions
