//! What plans run with on any node: memory, spill files, stores.

use std::path::Path;
use std::sync::Arc;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use skep_common::{ByteSize, Error, Result};
use skep_store::Stores;

/// Consumers that an error about spent memory names.
const NAMED_CONSUMERS: std::num::NonZeroUsize = std::num::NonZeroUsize::MIN.saturating_add(2);

/// A budget that the operators of every lane in the process share: those that can spill get fair shares of it.
pub fn memory(budget: ByteSize) -> Arc<dyn MemoryPool> {
    Arc::new(TrackConsumersPool::new(FairSpillPool::new(budget.as_usize()), NAMED_CONSUMERS))
}

/// The environment of plans: `memory`, spill files under `spill`, and every store.
///
/// What an earlier process left under `spill` is deleted.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) if the folder cannot be used.
pub fn build(memory: Arc<dyn MemoryPool>, spill: &Path, stores: &Stores) -> Result<Arc<RuntimeEnv>> {
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
        .with_memory_pool(memory)
        .with_disk_manager_builder(disk)
        .build()
        .map_err(|e| unusable(e.into()))?;
    for (root, store) in stores.all() {
        runtime.register_object_store(&root, store);
    }
    Ok(Arc::new(runtime))
}
