//! What planning and running need from the process, handed in once.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::path::Path;
use skep_catalog::Catalog;
use skep_common::{NodeId, Result};
use skep_store::Stores;

use crate::memory::Memory;
use crate::scan::FactsCache;

/// Knows which nodes hold a file.
#[async_trait]
pub trait Locate: fmt::Debug + Send + Sync {
    /// The holders of each of `paths`, best first; none where it is not known, which is never an error of the query.
    ///
    /// # Errors
    /// Those of asking. The scan is then planned without hints.
    async fn locate(&self, store: &ObjectStoreUrl, paths: &[Path]) -> Result<Vec<Vec<NodeId>>>;
}

/// Knows nothing: for stores without replicas of ours.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nowhere;

#[async_trait]
impl Locate for Nowhere {
    async fn locate(&self, _: &ObjectStoreUrl, paths: &[Path]) -> Result<Vec<Vec<NodeId>>> {
        Ok(vec![Vec::new(); paths.len()])
    }
}

/// What every plan of a process shares.
#[derive(Clone)]
pub struct Environment {
    /// The catalog that names are looked up in.
    pub catalog: Catalog,
    /// The memory budget, the spill disk, and the stores by URL.
    pub runtime: Arc<RuntimeEnv>,
    /// The same stores, to ask what they can do.
    pub stores: Stores,
    /// The same budget, by statement.
    pub memory: Memory,
    /// Folders that all nodes see under the same path.
    pub shared_paths: Vec<PathBuf>,
    /// Where replicas lie.
    pub locate: Arc<dyn Locate>,
    /// What was read from the statistics of tables.
    pub facts: Arc<FactsCache>,
    /// Partitions of a plan on one node, unless the session says otherwise.
    pub partitions: NonZeroUsize,
}

impl Environment {
    /// Whether only the coordinator can read `path` in `store`: it is on a disk, outside of the shared folders.
    pub fn only_here(&self, store: &ObjectStoreUrl, path: &Path) -> bool {
        store.as_str().starts_with("file:") && {
            let path = PathBuf::from(format!("/{path}"));
            !self.shared_paths.iter().any(|folder| path.starts_with(folder))
        }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("shared_paths", &self.shared_paths)
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}
