//! Opens the catalog database: one writer, transactions, leases, migrations of the skep_* tables
