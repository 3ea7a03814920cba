//! TPC-H: its tables, generated, and its queries.
//!
//! # Source
//! TPC Benchmark H, standard specification, revision 3.

use std::path::Path;

use skep_common::{Error, Result};
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow,
    SupplierArrow,
};

use crate::benchmark::{Benchmark, Query, write};

/// All of it, for comparisons of engines.
pub const TPCH: Benchmark = Benchmark { name: "TPC-H", tables: &TABLES, generate, queries, unplanned: &[] };
/// The tables, each with the number of files that a larger scale factor gives it.
pub const TABLES: [(&str, i32); 8] = [
    ("region", 1),
    ("nation", 1),
    ("supplier", 1),
    ("customer", 3),
    ("part", 3),
    ("partsupp", 6),
    ("orders", 6),
    ("lineitem", 6),
];
/// How many queries there are.
pub const QUERIES: usize = 22;

/// Writes every table under `folder`, as `TABLE/N.parquet`.
///
/// # Errors
/// Those of writing files.
pub fn generate(folder: &Path, scale: f64) -> Result<()> {
    for (table, files) in TABLES {
        std::fs::create_dir_all(folder.join(table))
            .map_err(|e| Error::invalid("cannot write data").source(e))?;
        for part in 1..=files {
            let path = folder.join(table).join(format!("{part}.parquet"));
            match table {
                "region" => write(&path, RegionArrow::new(RegionGenerator::new(scale, part, files))),
                "nation" => write(&path, NationArrow::new(NationGenerator::new(scale, part, files))),
                "supplier" => write(&path, SupplierArrow::new(SupplierGenerator::new(scale, part, files))),
                "customer" => write(&path, CustomerArrow::new(CustomerGenerator::new(scale, part, files))),
                "part" => write(&path, PartArrow::new(PartGenerator::new(scale, part, files))),
                "partsupp" => write(&path, PartSuppArrow::new(PartSuppGenerator::new(scale, part, files))),
                "orders" => write(&path, OrderArrow::new(OrderGenerator::new(scale, part, files))),
                _ => write(&path, LineItemArrow::new(LineItemGenerator::new(scale, part, files))),
            }?;
        }
    }
    Ok(())
}

/// The text of query `number`, from 1.
///
/// # Errors
/// If its file cannot be read.
pub fn query(number: usize, scale: f64) -> Result<String> {
    let fraction = format!("{:.10}", 0.0001 / scale);
    Ok(Query::read("tpch", number)?.sql.replace("$fraction", &fraction))
}

fn queries(scale: f64) -> Result<Vec<Query>> {
    (1..=QUERIES)
        .map(|number| Ok(Query { sql: query(number, scale)?, ..Query::read("tpch", number)? }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::benchmark::LAST_DIGIT;
    use crate::duckdb::DuckDb;
    use crate::rows;

    /// The data and the queries themselves, before any engine of ours sees them.
    #[tokio::test]
    async fn plain_datafusion_runs_every_query_and_agrees_with_duckdb() {
        let folder = tempfile::tempdir().unwrap();
        generate(folder.path(), 0.005).unwrap();
        let plain = TPCH.plain_datafusion(folder.path()).await.unwrap();
        let duckdb = DuckDb::find();
        for number in 1..=QUERIES {
            let sql = query(number, 0.005).unwrap();
            let batches = plain.sql(&sql).await.unwrap().collect().await.unwrap();
            let found = rows::text(&batches).unwrap();
            if let Some(duckdb) = &duckdb {
                let (expected, seconds) =
                    duckdb.time(&TPCH.duckdb_views(folder.path()), &format!("{sql};")).unwrap();
                assert_eq!(rows::difference(&found, &expected, LAST_DIGIT), None, "q{number}");
                assert!(seconds > 0.0);
            }
        }
    }
}
