//! What plans run with on any node: memory, spill files, stores.

use std::path::Path;
use std::sync::Arc;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use object_store::ObjectStore;
use skep_common::{Error, Result};
use skep_store::Stores;
use url::Url;

use crate::error;
use crate::memory::{Memory, QueryPool, Share};

/// The environment of plans: the pool of `memory`, spill files under `spill`, and every store.
///
/// What an earlier process left under `spill` is deleted.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) if the folder cannot be used.
pub fn build(memory: &Memory, spill: &Path, stores: &Stores) -> Result<Arc<RuntimeEnv>> {
    let unusable = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::invalid(format!("cannot keep spill files in '{}'", spill.display()))
            .hint("name a data folder that this user may write")
            .source(e)
    };
    match std::fs::remove_dir_all(spill) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(unusable(e.into())),
        _ => {}
    }
    std::fs::create_dir_all(spill).map_err(|e| unusable(e.into()))?;
    let disk =
        DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![spill.to_path_buf()]));
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(memory.pool())
        .with_disk_manager_builder(disk)
        .with_object_store_registry(Arc::new(Registry(stores.clone())))
        .build()
        .map_err(|e| unusable(e.into()))?;
    Ok(Arc::new(runtime))
}

/// The stores of the process, as DataFusion asks for them: other stores are opened when a plan names them first.
#[derive(Debug)]
struct Registry(Stores);

impl ObjectStoreRegistry for Registry {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        self.0.register(url, store)
    }

    fn get_store(&self, url: &Url) -> datafusion::error::Result<Arc<dyn ObjectStore>> {
        self.0.store(url).map_err(error::to_datafusion)
    }
}

/// `all` with the memory of one statement.
pub fn of_statement(
    all: &Arc<RuntimeEnv>,
    memory: &Memory,
    id: &str,
    share: &Share,
) -> (Arc<RuntimeEnv>, Arc<QueryPool>) {
    let pool = memory.query(id, share);
    let runtime = RuntimeEnv { memory_pool: Arc::clone(&pool) as _, ..RuntimeEnv::clone(all) };
    (Arc::new(runtime), pool)
}
