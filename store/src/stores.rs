//! The stores a process can reach, by the scheme of their URLs.
//!
//! ```text
//! file:///folder/file        the file system of this machine
//! skep://blocks/folder/file  replicated blocks
//! ```
//!
//! # What `file://` promises
//! It is [`DurableFiles`] over the whole file system. A file appears by rename or hard link, whole; creating exclusively has
//! one winner; folders are created as needed. A write is acknowledged when the file and its name are forced to the disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use parking_lot::RwLock;
use skep_common::{Error, Result};
use url::Url;

use crate::durable::DurableFiles;
use crate::probe::{self, Race};
use crate::skep::SkepStore;

/// The root of the replicated store.
pub const SKEP_URL: &str = "skep://blocks";
/// The root of the file system.
pub const FILE_URL: &str = "file:///";

/// The stores by their roots. Cheap to clone; clones share what is registered.
#[derive(Debug, Clone)]
pub struct Stores(Arc<RwLock<State>>);

#[derive(Debug)]
struct State {
    by_root: BTreeMap<String, (Url, Arc<dyn ObjectStore>)>,
    skep: Option<SkepStore>,
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
    /// Knows `file://` alone.
    pub fn new() -> Self {
        let stores = Self(Arc::new(RwLock::new(State { by_root: BTreeMap::new(), skep: None })));
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
        self.0.write().skep = Some(store);
        self
    }

    /// Adds or replaces the store at `root`, of which scheme, host and port count.
    pub fn register(&self, root: &Url, store: Arc<dyn ObjectStore>) {
        self.0.write().by_root.insert(key(root), (root.clone(), store));
    }

    /// The replicated store, if this process reaches one.
    pub fn skep(&self) -> Option<SkepStore> {
        self.0.read().skep.clone()
    }

    /// Every store with its root, to hand to an engine.
    pub fn all(&self) -> Vec<(Url, Arc<dyn ObjectStore>)> {
        self.0.read().by_root.values().map(|(root, store)| (root.clone(), Arc::clone(store))).collect()
    }

    /// The store of a URL and the path in it.
    ///
    /// # Errors
    /// `Invalid` for a scheme or host that nothing is registered for.
    pub fn resolve(&self, url: &Url) -> Result<Resolved> {
        let state = self.0.read();
        let Some((root, store)) = state.by_root.get(&key(url)) else {
            let known: Vec<&str> = state.by_root.values().map(|(root, _)| root.as_str()).collect();
            return Err(Error::invalid(format!("no store is known for '{url}'"))
                .hint(format!("locations start with one of {}", known.join(", "))));
        };
        let path = Path::from_url_path(url.path())
            .map_err(|e| Error::invalid(format!("'{url}' does not name a path")).source(e))?;
        Ok(Resolved { store: Arc::clone(store), root: root.clone(), path })
    }

    /// Proves that managed tables may be kept at `url`.
    ///
    /// # Errors
    /// `Unsupported` if creating there is not exclusive; those of [`Stores::resolve`] and of the store.
    pub async fn check_managed(&self, url: &Url, race: Race) -> Result<()> {
        let resolved = self.resolve(url)?;
        probe::conditional_create(&resolved.store, &resolved.path, race).await
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
        let error = stores.resolve(&"s3://bucket/x".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.hint_text().unwrap().contains("file:///"));
        assert!(stores.skep().is_none() && stores.resolve(&SKEP_URL.parse().unwrap()).is_err());
    }

    #[tokio::test]
    async fn folders_on_this_machine_may_hold_managed_tables() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_directory_path(folder.path().join("tables")).unwrap();
        Stores::new().check_managed(&url, Race { writers: 16, keys: 2 }).await.unwrap();
    }
}
