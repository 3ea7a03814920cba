//! The stores a process can reach, by the scheme of their URLs.
//!
//! ```text
//! file:///folder/file        the file system of this machine
//! skep://blocks/folder/file  replicated blocks
//! s3://bucket/folder/file    a service that speaks the protocol of S3
//! hdfs://host:port/folder    a NameNode, or a name service: hdfs://name/folder
//! ```
//!
//! The last two are opened when they are named for the first time, by the settings of this process, so that every process
//! of a cluster comes to the same store by its URL alone.
//!
//! # What `file://` promises
//! It is [`DurableFiles`] over the whole file system. A file appears by rename or hard link, whole; creating exclusively has
//! one winner; folders are created as needed. A write is acknowledged when the file and its name are forced to the disk.
//!
//! # Invariants
//! - A store is proved to create exclusively once in the life of a process, before managed tables are kept there; one that
//!   failed is asked again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use parking_lot::RwLock;
use skep_common::{Error, Result, clock};
use url::Url;

use crate::config::Config;
use crate::durable::DurableFiles;
use crate::other::{self, Cache, CacheStats};
use crate::probe::{self, Race};
use crate::skep::SkepStore;

/// The root of the replicated store.
pub const SKEP_URL: &str = "skep://blocks";
/// The root of the file system.
pub const FILE_URL: &str = "file:///";

/// The stores by their roots. Cheap to clone; clones share what is registered.
#[derive(Debug, Clone)]
pub struct Stores(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: RwLock<State>,
    config: Config,
    cache: Cache,
}

#[derive(Debug)]
struct State {
    by_root: BTreeMap<String, (Url, Arc<dyn ObjectStore>)>,
    skep: Option<SkepStore>,
    /// Roots that were proved to create exclusively.
    proved: BTreeMap<String, Race>,
}

/// A store and the path that a URL names in it.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The part of the URL that names the store, as engines register it.
    pub root: Url,
    /// The path in the store.
    pub path: Path,
}

impl Stores {
    /// Knows `file://`, and other stores as far as the environment tells how to reach them. Keeps no cache on disk.
    pub fn new() -> Self {
        Self::with_config(Config::default(), None)
    }

    /// Knows `file://`, and other stores by `config`; what is read of those is kept in `cache`, a folder of this process.
    pub fn with_config(config: Config, cache: Option<PathBuf>) -> Self {
        let cache = Cache::new(config.cache.clone(), cache, clock::system());
        let state = RwLock::new(State { by_root: BTreeMap::new(), skep: None, proved: BTreeMap::new() });
        let stores = Self(Arc::new(Shared { state, config, cache }));
        if let Ok(root) = Url::parse(FILE_URL) {
            stores.register(&root, Arc::new(DurableFiles::new(LocalFileSystem::new())));
        }
        stores
    }

    /// Knows `skep://blocks` as well.
    #[must_use]
    pub fn with_skep(self, store: SkepStore) -> Self {
        if let Ok(root) = Url::parse(SKEP_URL) {
            self.register(&root, Arc::new(store.clone()));
        }
        self.0.state.write().skep = Some(store);
        self
    }

    /// Adds the store at `root`, of which scheme, host and port count. Returns the one that it replaces.
    pub fn register(&self, root: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        let before = self.0.state.write().by_root.insert(key(root), (root.clone(), store));
        before.map(|(_, store)| store)
    }

    /// The replicated store, if this process reaches one.
    pub fn skep(&self) -> Option<SkepStore> {
        self.0.state.read().skep.clone()
    }

    /// The store at the root of `url`, opened if it is named for the first time.
    ///
    /// # Errors
    /// `Invalid` for a scheme that is not known, a host that nothing is configured for, and secrets in the URL.
    pub fn store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        self.find(url).map(|(_, store)| store)
    }

    fn find(&self, url: &Url) -> Result<(Url, Arc<dyn ObjectStore>)> {
        other::refuse_secrets(url)?;
        let key = key(url);
        if let Some((root, store)) = self.0.state.read().by_root.get(&key) {
            return Ok((root.clone(), Arc::clone(store)));
        }
        let Some(opened) = other::open(url, &self.0.config, &self.0.cache)? else {
            let state = self.0.state.read();
            let known = state.by_root.values().map(|(root, _)| root.as_str());
            let known: Vec<&str> =
                known.filter(|root| !root.starts_with("s3") && !root.starts_with("hdfs")).collect();
            return Err(Error::invalid(format!(
                "no store is known for '{}://{}'",
                url.scheme(),
                url.host_str().unwrap_or("")
            ))
            .hint(format!(
                "locations start with one of {}, s3://BUCKET/, hdfs://HOST:PORT/",
                known.join(", ")
            )));
        };
        let root: Url = key
            .parse()
            .map_err(|e| Error::invalid(format!("'{key}' is not the root of a store")).source(e))?;
        // Another thread may have opened it at the same time: the first one counts.
        let mut state = self.0.state.write();
        let (root, store) = state.by_root.entry(key).or_insert((root, opened));
        Ok((root.clone(), Arc::clone(store)))
    }

    /// The store of a URL and the path in it.
    ///
    /// # Errors
    /// Those of [`Stores::store`].
    pub fn resolve(&self, url: &Url) -> Result<Resolved> {
        let (root, store) = self.find(url)?;
        let path = Path::from_url_path(url.path())
            .map_err(|e| Error::invalid(format!("'{url}' does not name a path")).source(e))?;
        Ok(Resolved { store, root, path })
    }

    /// Proves that managed tables may be kept in `folder` of the store at `root`: once for each store in the life of this
    /// process.
    ///
    /// # Errors
    /// `Unsupported` if creating there is not exclusive; those of [`Stores::store`] and of the store.
    pub async fn check_managed(&self, root: &Url, folder: &Path, race: Race) -> Result<()> {
        let store = self.store(root)?;
        let key = key(root);
        if self.0.state.read().proved.get(&key).is_some_and(|proved| proved.covers(race)) {
            return Ok(());
        }
        probe::conditional_create(&store, folder, race).await?;
        self.0.state.write().proved.insert(key, race);
        Ok(())
    }

    /// What was found in the cache of other stores.
    pub fn cache_stats(&self) -> CacheStats {
        self.0.cache.stats()
    }
}

impl Default for Stores {
    fn default() -> Self {
        Self::new()
    }
}

fn key(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_common::Kind;

    #[test]
    fn urls_find_their_store_and_path() {
        let stores = Stores::new();
        let resolved = stores.resolve(&"file:///tmp/a%20b/c.parquet".parse().unwrap()).unwrap();
        assert_eq!((resolved.path.as_ref(), resolved.root.as_str()), ("tmp/a b/c.parquet", "file:///"));
        let error = stores.resolve(&"gs://bucket/x".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.hint_text().unwrap().contains("file:///"));
        let resolved = stores.resolve(&"s3://bucket/x/y".parse().unwrap()).unwrap();
        assert_eq!((resolved.path.as_ref(), resolved.root.as_str()), ("x/y", "s3://bucket"));
        let again = stores.store(&"s3://bucket/z".parse().unwrap()).unwrap();
        assert!(Arc::ptr_eq(&resolved.store, &again), "a store is opened once");
        for secret in ["s3://id:geheim@bucket/x", "s3://bucket/x?secret=geheim"] {
            let error = stores.resolve(&secret.parse().unwrap()).unwrap_err();
            assert!(!error.report().contains("geheim") && error.hint_text().is_some(), "{error:?}");
        }
        assert!(stores.skep().is_none() && stores.resolve(&SKEP_URL.parse().unwrap()).is_err());
    }

    #[tokio::test]
    async fn folders_on_this_machine_may_hold_managed_tables() {
        let folder = tempfile::tempdir().unwrap();
        let (root, tables) = (FILE_URL.parse().unwrap(), folder.path().join("tables"));
        let tables = Path::from_absolute_path(&tables).unwrap();
        Stores::new().check_managed(&root, &tables, Race { writers: 16, keys: 2 }).await.unwrap();
    }
}
