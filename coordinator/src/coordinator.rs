//! The coordinator of one cluster: what its sessions share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use datafusion::execution::object_store::ObjectStoreUrl;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::{Mutex, RwLock};
use skep_catalog::Column;
use skep_cluster::membership::Members;
use skep_common::{Error, NodeId, Result};
use skep_engine::Environment;
use skep_engine::environment::Locate;
use skep_engine::write::WriteTarget;
use skep_store::{CacheStats, Namespace, SKEP_URL, SkepStore};

use crate::admission::{Admission, Groups};
use crate::extension::Extension;
use crate::lanes::{Lanes, Ran};
use crate::maintenance::{Activity, Log};
use crate::queries::Queries;
use crate::session::Session;

/// What a coordinator is made of. `src` builds the parts.
pub struct Config {
    /// Catalog, memory and stores.
    pub environment: Environment,
    /// Where plans run.
    pub lanes: Lanes,
    /// The workers that are alive.
    pub members: Members,
    /// Who may run how much at a time.
    pub groups: Groups,
    /// The blocks that this coordinator keeps, if it does.
    pub blocks: Option<Namespace>,
}

/// The coordinator of one cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Coordinator(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) environment: Arc<Environment>,
    pub(crate) lanes: Lanes,
    pub(crate) members: Members,
    /// Where the catalog's data path lies.
    pub(crate) root: DataRoot,
    /// Who is at work.
    pub(crate) activity: Arc<Activity>,
    /// What was done for tables that nobody used.
    pub(crate) maintenance: Log,
    /// What statements do.
    pub(crate) queries: Arc<Queries>,
    /// Who has to wait.
    pub(crate) admission: Arc<Admission>,
    /// Where blocks are.
    pub(crate) blocks: Option<Namespace>,
    /// What others added.
    pub(crate) extensions: RwLock<Vec<Arc<dyn Extension>>>,
    ready: AtomicBool,
    tasks: Mutex<BTreeMap<NodeId, u64>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("root", &self.root)
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

impl Coordinator {
    /// A coordinator over `config`. It takes statements at once.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) if the catalog's data path is not one that is understood,
    /// or a resource group is wrong.
    pub fn new(config: Config) -> Result<Self> {
        let Config { environment, lanes, members, groups, blocks } = config;
        let root = DataRoot::parse(environment.catalog.data_path())?;
        let queries = Arc::new(Queries::new(environment.catalog.clone()));
        members.tell(Arc::clone(&queries) as _);
        let environment = Arc::new(environment);
        Ok(Self(Arc::new(Shared {
            environment,
            lanes,
            members,
            root,
            activity: Arc::default(),
            maintenance: Log::default(),
            queries,
            admission: Arc::new(Admission::new(groups)?),
            blocks,
            extensions: RwLock::default(),
            ready: AtomicBool::new(true),
            tasks: Mutex::default(),
        })))
    }

    /// Opens a session for `user`. It ends when its last clone is dropped.
    pub fn open_session(&self, user: &str) -> Session {
        Session::new(Arc::clone(&self.0), user)
    }

    /// Whether it takes statements.
    pub fn ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire)
    }

    /// Refuses new statements; those that run go on.
    pub fn drain(&self) {
        self.0.ready.store(false, Ordering::Release);
    }

    /// Tasks that each worker was given since the coordinator started.
    pub fn tasks(&self) -> BTreeMap<NodeId, u64> {
        self.0.tasks.lock().clone()
    }

    /// The workers that are alive.
    pub fn members(&self) -> &Members {
        &self.0.members
    }
}

impl Shared {
    /// Counts the tasks of a run that has ended.
    pub(crate) fn count_tasks(&self, ran: &Ran) {
        let mut tasks = self.tasks.lock();
        for (node, count) in ran.tasks() {
            *tasks.entry(node).or_default() += count as u64;
        }
    }

    /// Deletes files that no commit names, given as the catalog does. What cannot be deleted now is an orphan.
    pub(crate) async fn discard(&self, files: Vec<String>) {
        for file in files {
            if let Err(error) = self.delete(&file).await {
                tracing::debug!(%file, error = error.report(), "a file that no commit names stays behind");
            }
        }
    }

    /// Deletes one file, given as the catalog does. Whether it was there.
    ///
    /// # Errors
    /// Those of its store.
    pub(crate) async fn delete(&self, file: &str) -> Result<bool> {
        let (store, path) = self.root.place(file)?;
        match self.store(&store)?.delete(&path).await {
            Ok(()) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(Error::unavailable(format!("cannot delete '{file}'")).source(error)),
        }
    }

    pub(crate) fn store(&self, url: &ObjectStoreUrl) -> Result<Arc<dyn ObjectStore>> {
        self.environment.runtime.object_store(url).map_err(skep_engine::error::from_datafusion)
    }

    /// What the caches of other stores did, by node, the coordinator's first.
    pub(crate) fn caches(&self) -> Vec<(String, CacheStats)> {
        let own = ("coordinator".to_owned(), self.environment.stores.cache_stats());
        let workers = self.members.caches().into_iter().map(|(node, stats)| (node.to_string(), stats));
        [own].into_iter().chain(workers).collect()
    }

    pub(crate) fn tasks_of(&self, node: &NodeId) -> u64 {
        self.tasks.lock().get(node).copied().unwrap_or(0)
    }
}

/// The store and folder that a catalog's data path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DataRoot {
    pub(crate) store: ObjectStoreUrl,
    pub(crate) folder: Path,
}

impl DataRoot {
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for what is neither a URL nor an absolute folder.
    pub(crate) fn parse(data_path: &str) -> Result<Self> {
        if !skep_catalog::stands_alone(data_path) {
            return Err(Error::invalid(format!("the data path '{data_path}' is not understood"))
                .hint("it is a URL, such as skep://blocks/, or an absolute folder"));
        }
        let (store, folder) = skep_engine::files::data_path(data_path)?;
        Ok(Self { store, folder })
    }

    /// Where a path of the catalog leads: relative to the data path, or by itself.
    ///
    /// # Errors
    /// As [`DataRoot::parse`], for one that stands by itself.
    pub(crate) fn place(&self, path: &str) -> Result<(ObjectStoreUrl, Path)> {
        if skep_catalog::stands_alone(path) {
            let Self { store, folder } = Self::parse(path)?;
            return Ok((store, folder));
        }
        Ok((self.store.clone(), self.join(path)))
    }

    /// What writes rows of `columns` into a folder of the catalog.
    ///
    /// # Errors
    /// As [`DataRoot::place`].
    pub(crate) fn target(&self, folder: &str, columns: Vec<Column>) -> Result<WriteTarget> {
        let (store, folder) = self.place(folder)?;
        Ok(WriteTarget::new(&store, &folder, columns))
    }

    /// A file or folder of the catalog, given relative to its data path, as the catalog writes it: folders of partitions
    /// have escapes in their names, which are not escaped again.
    fn join(&self, relative: &str) -> Path {
        match Path::parse(relative.trim_matches('/')) {
            Ok(below) => self.folder.parts().chain(below.parts()).collect(),
            // What no path can be is escaped, so that it names one file and no other.
            Err(_) => relative.split('/').fold(self.folder.clone(), |path, part| path.join(part)),
        }
    }
}

/// Where the replicated store has the files of a scan.
#[derive(Debug, Clone)]
pub struct StoreLocator(pub SkepStore);

#[async_trait]
impl Locate for StoreLocator {
    async fn locate(&self, store: &ObjectStoreUrl, paths: &[Path]) -> Result<Vec<Vec<NodeId>>> {
        if store.as_str().trim_end_matches('/') != SKEP_URL {
            return Ok(vec![Vec::new(); paths.len()]);
        }
        self.0.locations(paths).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_paths_name_a_store_and_a_folder() {
        for (text, store, table) in [
            ("skep://blocks/", "skep://blocks/", "main/t"),
            ("/srv/skep/files/", "file:///", "srv/skep/files/main/t"),
            ("file:///srv/x/", "file:///", "srv/x/main/t"),
        ] {
            let root = DataRoot::parse(text).unwrap();
            assert_eq!((root.store.as_str(), root.join("main/t/").as_ref()), (store, table), "{text}");
        }
        assert!(DataRoot::parse("relative/folder").is_err());
        let root = DataRoot::parse("/srv/skep/files/").unwrap();
        let place = |path: &str| {
            let (store, path) = root.place(path).unwrap();
            format!("{} {path}", store.as_str())
        };
        assert_eq!(place("main/t/a.parquet"), "file:/// srv/skep/files/main/t/a.parquet");
        assert_eq!(place("/other/t/a.parquet"), "file:/// other/t/a.parquet");
        assert_eq!(place("s3://bucket/t/a.parquet"), "s3://bucket/ t/a.parquet");
        let root = DataRoot::parse("/srv/skep/files/").unwrap();
        let escaped = "lake/t/k=a%20b/skep-1.parquet";
        assert_eq!(root.join(escaped).as_ref(), format!("srv/skep/files/{escaped}"));
    }
}
