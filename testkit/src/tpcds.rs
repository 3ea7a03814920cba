//! TPC-DS: its tables, generated, and its queries.
//!
//! Invariant: what DataFusion cannot plan stands in [`UNPLANNED`], by name and with the error, and nowhere else.
//!
//! # Source
//! TPC Benchmark DS, standard specification, version 3 and later.

use std::path::Path;

use skep_common::{Error, Result};
use tpcdsgen::config::{Session, SessionBuilder, Table};
use tpcdsgen_arrow::{
    CallCenterArrow, CatalogPageArrow, CatalogReturnsArrow, CatalogSalesArrow, CustomerAddressArrow,
    CustomerArrow, CustomerDemographicsArrow, DateDimArrow, HouseholdDemographicsArrow, IncomeBandArrow,
    InventoryArrow, ItemArrow, PromotionArrow, ReasonArrow, ShipModeArrow, StoreArrow, StoreReturnsArrow,
    StoreSalesArrow, TimeDimArrow, WarehouseArrow, WebPageArrow, WebReturnsArrow, WebSalesArrow,
    WebSiteArrow,
};

use crate::benchmark::{Benchmark, Query, write};

/// All of it, for comparisons of engines.
pub const TPCDS: Benchmark =
    Benchmark { name: "TPC-DS", tables: &TABLES, generate, queries, unplanned: UNPLANNED };
/// The tables, each with the number of its files: several where a larger scale factor gives it more rows.
pub const TABLES: [(&str, i32); 24] = [
    ("call_center", 1),
    ("catalog_page", 1),
    ("catalog_returns", 3),
    ("catalog_sales", 6),
    ("customer", 3),
    ("customer_address", 3),
    ("customer_demographics", 3),
    ("date_dim", 1),
    ("household_demographics", 1),
    ("income_band", 1),
    ("inventory", 6),
    ("item", 1),
    ("promotion", 1),
    ("reason", 1),
    ("ship_mode", 1),
    ("store", 1),
    ("store_returns", 3),
    ("store_sales", 6),
    ("time_dim", 1),
    ("warehouse", 1),
    ("web_page", 1),
    ("web_returns", 3),
    ("web_sales", 6),
    ("web_site", 1),
];
/// How many queries there are.
pub const QUERIES: usize = 99;
/// The query whose ORDER BY names all of its columns. DataFusion cannot plan it with their numbers as well.
const NO_TIES: usize = 85;
/// What engines differ by that divide decimals as decimals, of four digits more than the dividend, or as doubles: 58 and 83 multiply or
/// show such quotients, and 78 rounds them to two digits, where 23 of 40 is 0.58 for one and 0.57 for the other.
const QUOTIENTS: [(usize, f64); 3] = [(58, 2e-4), (78, 0.0101), (83, 2e-4)];
/// The queries that DataFusion cannot plan, each with a part of its error.
pub const UNPLANNED: &[(&str, &str)] = &[];

/// Writes every table under `folder`, as `TABLE/N.parquet`.
///
/// # Errors
/// Those of writing files.
pub fn generate(folder: &Path, scale: f64) -> Result<()> {
    let session = SessionBuilder::new().with_scale_factor(scale).build();
    let session =
        session.map_err(|e| Error::invalid(format!("no TPC-DS data of scale factor {scale}")).source(e))?;
    for (table, files) in TABLES {
        let folder = folder.join(table);
        std::fs::create_dir_all(&folder).map_err(|e| Error::invalid("cannot write data").source(e))?;
        for part in 0..files {
            part_of(&folder, table, &session, part, files)?;
        }
    }
    Ok(())
}

/// Writes one of the `files` files of a table.
fn part_of(folder: &Path, table: &str, session: &Session, part: i32, files: i32) -> Result<()> {
    let path = folder.join(format!("{}.parquet", part + 1));
    // The generator's own chunks leave a table of less than a million rows in one.
    let (part, files) = (u64::from(part.unsigned_abs()), u64::from(files.unsigned_abs()));
    macro_rules! each {
        ($generator:ident, $table:expr) => {{
            let rows = session.get_scaling().get_row_count($table);
            let (first, last) = (rows * part / files + 1, rows * (part + 1) / files);
            write(&path, $generator::new(session.clone()).with_source_row_range(first, last))
        }};
    }
    match table {
        "call_center" => each!(CallCenterArrow, Table::CallCenter),
        "catalog_page" => each!(CatalogPageArrow, Table::CatalogPage),
        "catalog_returns" => each!(CatalogReturnsArrow, Table::CatalogReturns),
        "catalog_sales" => each!(CatalogSalesArrow, Table::CatalogSales),
        "customer" => each!(CustomerArrow, Table::Customer),
        "customer_address" => each!(CustomerAddressArrow, Table::CustomerAddress),
        "customer_demographics" => each!(CustomerDemographicsArrow, Table::CustomerDemographics),
        "date_dim" => each!(DateDimArrow, Table::DateDim),
        "household_demographics" => each!(HouseholdDemographicsArrow, Table::HouseholdDemographics),
        "income_band" => each!(IncomeBandArrow, Table::IncomeBand),
        "inventory" => each!(InventoryArrow, Table::Inventory),
        "item" => each!(ItemArrow, Table::Item),
        "promotion" => each!(PromotionArrow, Table::Promotion),
        "reason" => each!(ReasonArrow, Table::Reason),
        "ship_mode" => each!(ShipModeArrow, Table::ShipMode),
        "store" => each!(StoreArrow, Table::Store),
        "store_returns" => each!(StoreReturnsArrow, Table::StoreReturns),
        "store_sales" => each!(StoreSalesArrow, Table::StoreSales),
        "time_dim" => each!(TimeDimArrow, Table::TimeDim),
        "warehouse" => each!(WarehouseArrow, Table::Warehouse),
        "web_page" => each!(WebPageArrow, Table::WebPage),
        "web_returns" => each!(WebReturnsArrow, Table::WebReturns),
        "web_sales" => each!(WebSalesArrow, Table::WebSales),
        "web_site" => each!(WebSiteArrow, Table::WebSite),
        _ => Err(Error::internal(format!("TPC-DS has no table '{table}'"))),
    }
}

/// Every query, also what cannot be planned.
///
/// # Errors
/// If a file cannot be read.
pub fn all() -> Result<Vec<Query>> {
    let read = |number| {
        let query = Query::read("tpcds", number)?;
        let quotients = QUOTIENTS.iter().find(|(of, _)| *of == number);
        let tolerance = quotients.map_or(query.tolerance, |(_, tolerance)| *tolerance);
        Ok(Query { ties: number != NO_TIES, tolerance, ..query })
    };
    (1..=QUERIES).map(read).collect()
}

/// Every query that can be planned; the texts are the same for every scale factor.
fn queries(_scale: f64) -> Result<Vec<Query>> {
    let mut queries = all()?;
    queries.retain(|query| UNPLANNED.iter().all(|(name, _)| *name != query.name));
    Ok(queries)
}
