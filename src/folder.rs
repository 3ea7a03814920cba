//! The data folder: its format, its lock, and where its server can be reached.
//!
//! ```text
//! DIR/skep.json       {"format": 1, "store": "skep"}: what the folder holds; format 2 with "catalog": the server that does
//! DIR/id              tells this folder from those of the same path on other machines
//! DIR/lock            held by the process that serves the folder
//! DIR/endpoint.json   where that process listens, for `skep sql --data DIR`
//! DIR/secret          what its nodes show each other, for `skep store --data DIR`; of a cluster in one process
//! DIR/catalog.sqlite  DIR/blocks.sqlite  DIR/worker-N/  DIR/files/
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skep_cluster::Secret;
use skep_common::{Error, Kind, Result};
use skep_metadb::Location;
use url::Url;

use crate::config::StoreKind;

/// Version of the layout above. A folder of a newer one is refused.
const FORMAT: u32 = 2;
/// The version of folders that hold their catalog: programs that know no other read them too.
const WITH_CATALOG: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Format {
    format: u32,
    #[serde(default)]
    store: StoreKind,
    /// The server that has the catalog, without a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    catalog: Option<String>,
}

/// The catalog of a folder that has it itself.
const CATALOG: &str = "catalog.sqlite";
const SECRET: &str = "secret";

/// Whether `error` says that another process serves the folder.
pub(crate) fn is_in_use(error: &Error) -> bool {
    error.kind() == Kind::AlreadyExists
}

/// Where the server of a folder listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) flight: String,
    pub(crate) http: String,
    /// Where nodes reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) listen: Option<Url>,
    pub(crate) pid: u32,
}

/// A locked data folder. Dropping it unlocks.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    store: StoreKind,
    catalog: Option<Location>,
    _lock: File,
}

impl Folder {
    /// Creates or opens the folder and locks it. `store` is what a new folder will use, or what an existing one must;
    /// `catalog` likewise, if it is a server: a new folder remembers it, without the password.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`] if another process serves it; [`Kind::Invalid`] if a newer version wrote it, if it is of
    /// another store or catalog, or cannot be written.
    pub(crate) fn open(path: &Path, store: Option<StoreKind>, catalog: Option<Location>) -> Result<Self> {
        let unusable = |e: std::io::Error| {
            Error::invalid(format!("cannot use '{}' as a data folder", path.display()))
                .hint("name a folder that this user may create and write")
                .source(e)
        };
        std::fs::create_dir_all(path).map_err(unusable)?;
        let path = path.canonicalize().map_err(unusable)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let served = endpoint(&path)
                    .map(|e| format!(" (process {}, {})", e.pid, e.flight))
                    .unwrap_or_default();
                return Err(Error::already_exists(format!(
                    "data folder '{}' is in use by another skep{served}",
                    path.display()
                ))
                .hint("connect to it with 'skep sql --data DIR', stop it, or give this one another --data"));
            }
            Err(TryLockError::Error(e)) => return Err(unusable(e)),
        }
        let found = check_format(&path, store, catalog.as_ref())?;
        let catalog = match (catalog, found.catalog) {
            (Some(given), _) => Some(given),
            (None, Some(text)) => Some(text.parse()?),
            (None, None) => None,
        };
        Ok(Self { path, store: found.store, catalog, _lock: lock })
    }

    /// The absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where this folder's tables keep their files.
    pub(crate) fn store(&self) -> StoreKind {
        self.store
    }

    /// Who serves this folder, the same in every life: its path, and a number for folders of that name elsewhere.
    pub(crate) fn identity(&self) -> Result<String> {
        let file = self.path.join("id");
        let id = match std::fs::read_to_string(&file) {
            Ok(id) => id,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let id = skep_common::QueryId::generate().to_string();
                write_whole(&file, &id)?;
                id
            }
            Err(e) => return Err(Error::invalid(format!("cannot read '{}'", file.display())).source(e)),
        };
        Ok(format!("{} ({})", self.path.display(), id.trim()))
    }

    /// Where the catalog is.
    pub(crate) fn catalog(&self) -> Location {
        self.catalog.clone().unwrap_or_else(|| Location::File(self.path.join(CATALOG)))
    }

    /// Tells `skep sql --data` where the server listens.
    pub(crate) fn publish(&self, endpoint: &Endpoint) -> Result<()> {
        let text = serde_json::to_string(endpoint)
            .map_err(|e| Error::internal("cannot write the endpoint as JSON").source(e))?;
        write_whole(&self.path.join("endpoint.json"), &text)
    }

    /// Tells `skep store --data` what nodes show each other, for as long as the folder is open. Only this user may read it.
    pub(crate) fn keep_secret(&self, secret: &Secret) -> Result<()> {
        let path = self.path.join(SECRET);
        secret.write(&path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A stale file does no harm: whoever reads it finds the folder unlocked.
        let _ = std::fs::remove_file(self.path.join("endpoint.json"));
        let _ = std::fs::remove_file(self.path.join(SECRET));
    }
}

/// The file with what nodes of the cluster on `path` show each other, if it keeps one.
pub(crate) fn secret(path: &Path) -> Option<PathBuf> {
    Some(path.join(SECRET)).filter(|file| file.is_file())
}

/// Where the process that serves `path` listens, if one does and said so.
pub(crate) fn endpoint(path: &Path) -> Option<Endpoint> {
    let text = std::fs::read_to_string(path.join("endpoint.json")).ok()?;
    serde_json::from_str(&text).ok()
}

/// Where the catalog of `path` is, without opening the folder: `given`, or what it remembers, or its own file.
///
/// # Errors
/// [`Kind::NotFound`] if there is no data folder and nothing was given.
pub(crate) fn catalog_of(path: &Path, given: Option<Location>) -> Result<Location> {
    if let Some(given) = given {
        return Ok(given);
    }
    let text = std::fs::read_to_string(path.join("skep.json")).map_err(|e| {
        Error::not_found(format!("'{}' is not a data folder", path.display()))
            .hint("name it with --data, or the catalog with --catalog")
            .source(e)
    })?;
    let format: Format = serde_json::from_str(&text).map_err(|e| {
        Error::corrupt(format!("'{}' does not say what the folder holds", path.join("skep.json").display()))
            .hint("name the catalog with --catalog")
            .source(e)
    })?;
    match format.catalog {
        Some(server) => server.parse(),
        None => Ok(Location::File(path.join(CATALOG))),
    }
}

fn check_format(path: &Path, store: Option<StoreKind>, catalog: Option<&Location>) -> Result<Format> {
    let file = path.join("skep.json");
    let server = match catalog {
        Some(server @ Location::Postgres(_)) => Some(server.without_password().to_string()),
        _ => None,
    };
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let format = if server.is_some() { FORMAT } else { WITH_CATALOG };
            let new = Format { format, store: store.unwrap_or_default(), catalog: server };
            let text = serde_json::to_string(&new)
                .map_err(|e| Error::internal("cannot write the folder's format as JSON").source(e))?;
            write_whole(&file, &text)?;
            return Ok(new);
        }
        Err(e) => return Err(Error::invalid(format!("cannot read '{}'", file.display())).source(e)),
    };
    let found: Format = serde_json::from_str(&text).map_err(|e| {
        Error::new(Kind::Corrupt, format!("'{}' does not say what the folder holds", file.display()))
            .hint("restore it from a backup; for a new folder give another --data")
            .source(e)
    })?;
    let shown = path.display();
    if found.format > FORMAT {
        return Err(Error::invalid(format!(
            "data folder '{shown}' has format {}, this skep knows up to {FORMAT}",
            found.format
        ))
        .hint("a newer skep wrote it; run that version"));
    }
    if let Some(wanted) = store.filter(|wanted| *wanted != found.store) {
        return Err(Error::invalid(format!(
            "the tables of '{shown}' lie in the {:?} store, not {wanted:?}",
            found.store
        ))
        .hint("leave --store out, or give another --data"));
    }
    if server.is_some() && server != found.catalog {
        let own = found.catalog.as_deref().unwrap_or(CATALOG);
        return Err(Error::invalid(format!("the catalog of '{shown}' is {own}, and not another"))
            .hint("leave --catalog out, or give another --data"));
    }
    Ok(found)
}

/// Replaces `path` by `text` in one step that survives a crash.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write()
        .map_err(|e: std::io::Error| Error::invalid(format!("cannot write '{}'", path.display())).source(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> PathBuf {
        std::env::temp_dir().join(format!("skep-folder-{}", skep_common::QueryId::generate()))
    }

    #[test]
    fn a_folder_is_served_once_and_remembers_its_store() {
        let path = scratch();
        let folder = Folder::open(&path, Some(StoreKind::File), None).unwrap();
        let second = Folder::open(&path, None, None).unwrap_err();
        assert!(is_in_use(&second));
        drop(folder);
        assert_eq!(Folder::open(&path, None, None).unwrap().store(), StoreKind::File);
        assert_eq!(Folder::open(&path, Some(StoreKind::Skep), None).unwrap_err().kind(), Kind::Invalid);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_folder_remembers_its_server_and_not_the_password() {
        let path = scratch();
        let server = |text: &str| Some(text.parse::<Location>().unwrap());
        drop(Folder::open(&path, None, server("postgres://me:secret@db/lake")).unwrap());
        assert!(!std::fs::read_to_string(path.join("skep.json")).unwrap().contains("secret"));
        assert_eq!(Folder::open(&path, None, None).unwrap().catalog().to_string(), "postgres://me@db/lake");
        assert_eq!(
            Folder::open(&path, None, server("postgres://me:new@db/lake")).unwrap().catalog(),
            server("postgres://me:new@db/lake").unwrap()
        );
        let other = Folder::open(&path, None, server("postgres://me@db/other")).unwrap_err();
        assert!(other.message().contains("postgres://me@db/lake"), "{other:?}");
        std::fs::remove_dir_all(&path).unwrap();

        drop(Folder::open(&path, None, None).unwrap());
        let late = Folder::open(&path, None, server("postgres://me@db/lake")).unwrap_err();
        assert!(late.message().contains("catalog.sqlite"), "{late:?}");
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn newer_and_broken_folders_are_refused_unchanged() {
        let path = scratch();
        std::fs::create_dir_all(&path).unwrap();
        for (text, kind) in [("{\"format\": 99}", Kind::Invalid), ("garbage", Kind::Corrupt)] {
            std::fs::write(path.join("skep.json"), text).unwrap();
            assert_eq!(Folder::open(&path, None, None).unwrap_err().kind(), kind);
            assert_eq!(std::fs::read_to_string(path.join("skep.json")).unwrap(), text);
        }
        std::fs::remove_dir_all(path).unwrap();
    }
}
