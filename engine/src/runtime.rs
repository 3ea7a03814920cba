//! What plans run with on any node: memory, spill files, stores.

use std::path::Path;
use std::sync::Arc;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use skep_common::{Error, Result};
use skep_store::Stores;

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
        .build()
        .map_err(|e| unusable(e.into()))?;
    for (root, store) in stores.all() {
        runtime.register_object_store(&root, store);
    }
    Ok(Arc::new(runtime))
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
