//! The names of one snapshot, as DataFusion looks them up. Tables are put in before a query is planned.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::error::Result as DataFusionResult;
use parking_lot::RwLock;
use skep_catalog::Snapshot;

use crate::names;

/// The one catalog, with its schemas.
#[derive(Debug)]
pub(super) struct Catalogs(Arc<Schemas>);

#[derive(Debug)]
struct Schemas(BTreeMap<String, Arc<Tables>>);

/// The tables of a schema that the statement reads.
#[derive(Debug, Default)]
pub(super) struct Tables(RwLock<HashMap<String, Arc<dyn TableProvider>>>);

impl Catalogs {
    /// The schemas of `snapshot`, and `default`, which may be missing there: files are put into it.
    pub(super) fn new(snapshot: &Snapshot, default: &str) -> Self {
        let names = snapshot.schemas().map(|schema| schema.name.as_str());
        let all = names.chain([names::INFORMATION_SCHEMA, names::SYSTEM_SCHEMA, default]);
        Self(Arc::new(Schemas(all.map(|name| (name.to_owned(), Arc::default())).collect())))
    }

    pub(super) fn get(&self, schema: &str, table: &str) -> Option<Arc<dyn TableProvider>> {
        self.0.0.get(schema)?.0.read().get(table).map(Arc::clone)
    }

    pub(super) fn put(&self, schema: &str, table: &str, provider: Arc<dyn TableProvider>) {
        if let Some(tables) = self.0.0.get(schema) {
            tables.0.write().insert(table.to_owned(), provider);
        }
    }
}

impl CatalogProviderList for Catalogs {
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![names::CATALOG.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == names::CATALOG).then(|| Arc::clone(&self.0) as _)
    }
}

impl CatalogProvider for Schemas {
    fn schema_names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        self.0.get(name).map(|tables| Arc::clone(tables) as _)
    }
}

#[async_trait]
impl SchemaProvider for Tables {
    fn table_names(&self) -> Vec<String> {
        self.0.read().keys().cloned().collect()
    }

    async fn table(&self, name: &str) -> DataFusionResult<Option<Arc<dyn TableProvider>>> {
        Ok(self.0.read().get(name).map(Arc::clone))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.read().contains_key(name)
    }
}
