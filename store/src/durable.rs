//! `file://`: files of this machine that survive the end of its power.
//!
//! `object_store`'s `LocalFileSystem` makes a file appear whole, and leaves it to the operating system when its bytes reach the
//! disk. Here a write is acknowledged when the file, its name, and the folders made for it are there.
//!
//! # Invariants
//! - What was acknowledged is read again after a power cut, under the same name, with the same bytes.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::{Path, PathPart};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, UploadPart,
};
use parking_lot::Mutex;
use skep_common::Error;

use crate::skep::CreateExclusively;

/// Folders that are remembered as being on the disk. A forgotten one is forced there once more.
const KNOWN_MAX: usize = 10_000;

/// The file system of this machine, forced to the disk before a write is acknowledged. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DurableFiles {
    files: Arc<LocalFileSystem>,
    known: Arc<Mutex<HashSet<PathBuf>>>,
}

impl DurableFiles {
    /// Over `files`.
    pub fn new(files: LocalFileSystem) -> Self {
        Self { files: Arc::new(files), known: Arc::default() }
    }

    /// Sees to the folder of a file that is about to be written. `LocalFileSystem` tries for ever where a folder is there and
    /// files in it cannot be, as in `/proc`.
    async fn prepare(&self, location: &Path) -> object_store::Result<()> {
        let path = self.files.path_to_filesystem(location)?;
        if path.parent().is_none_or(|folder| self.known.lock().contains(folder)) {
            return Ok(());
        }
        let failed = |source| Err(object_store::Error::Generic { store: "file", source });
        match tokio::task::spawn_blocking(move || try_file(&path)).await {
            Ok(Ok(())) => Ok(()),
            // A full disk says itself what it is.
            Ok(Err(e)) if e.kind() == std::io::ErrorKind::StorageFull => failed(Box::new(e)),
            Ok(Err(e)) => failed(Box::new(Error::denied(e.to_string()))),
            Err(e) => failed(Box::new(e)),
        }
    }

    async fn force(&self, location: &Path) -> object_store::Result<()> {
        let path = self.files.path_to_filesystem(location)?;
        let known = Arc::clone(&self.known);
        let name = location.to_string();
        let forced = tokio::task::spawn_blocking(move || force(&path, &known)).await;
        let failed = |source| object_store::Error::Generic { store: "file", source };
        match forced {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => {
                let what = format!("cannot force '/{name}' to the disk: {e}");
                Err(failed(Box::new(std::io::Error::new(e.kind(), what))))
            }
            Err(e) => Err(failed(Box::new(e))),
        }
    }
}

/// A hidden name in the folder of `location`.
fn beside(location: &Path) -> Path {
    let name = format!(".skep-{}.tmp", uuid::Uuid::now_v7());
    let mut parts: Vec<PathPart<'_>> = location.parts().collect();
    parts.pop();
    parts.into_iter().chain([PathPart::from(name.as_str())]).collect()
}

/// Makes a file beside `path` and takes it away again.
fn try_file(path: &FilePath) -> std::io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let told = |what: &str, e: std::io::Error| {
        std::io::Error::new(e.kind(), format!("{what} '{}': {e}", folder.display()))
    };
    std::fs::create_dir_all(folder).map_err(|e| told("cannot make the folder", e))?;
    let probe = folder.join(format!(".skep-{}", uuid::Uuid::now_v7().simple()));
    std::fs::File::create_new(&probe).map_err(|e| told("cannot make a file in", e))?;
    std::fs::remove_file(&probe)
}

/// Forces a file, its name, and the names of its folders to the disk.
fn force(path: &FilePath, known: &Mutex<HashSet<PathBuf>>) -> std::io::Result<()> {
    std::fs::File::open(path)?.sync_all()?;
    let Some(parent) = path.parent() else { return Ok(()) };
    std::fs::File::open(parent)?.sync_all()?;
    let mut child = parent;
    while let Some(folder) = child.parent() {
        if known.lock().contains(child) {
            break;
        }
        match std::fs::File::open(folder).and_then(|folder| folder.sync_all()) {
            Ok(()) => {}
            // A folder that this user may not read is none that was made for the file.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => break,
            Err(e) => return Err(e),
        }
        let mut known = known.lock();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(child.to_path_buf());
        child = folder;
    }
    Ok(())
}

impl fmt::Display for DurableFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "files of this machine")
    }
}

/// An upload whose end is the end of its way to the disk.
#[derive(Debug)]
struct Upload {
    inner: Box<dyn MultipartUpload>,
    store: DurableFiles,
    location: Path,
    /// Where its bytes are first, if they must not replace a file.
    beside: Option<Path>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let mut result = self.inner.complete().await?;
        if let Some(beside) = &self.beside {
            // A link to the same bytes, which fails where a file is.
            let files = &self.store.files;
            if let Err(error) = files.rename_if_not_exists(beside, &self.location).await {
                let _ = files.delete(beside).await;
                return Err(error);
            }
            result.e_tag = files.head(&self.location).await?.e_tag;
        }
        self.store.force(&self.location).await?;
        Ok(result)
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.inner.abort().await
    }
}

#[async_trait]
impl ObjectStore for DurableFiles {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.prepare(location).await?;
        let result = self.files.put_opts(location, payload, options).await?;
        self.force(location).await?;
        Ok(result)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.prepare(location).await?;
        let beside = CreateExclusively::asked(&options).then(|| beside(location));
        let inner = self.files.put_multipart_opts(beside.as_ref().unwrap_or(location), options).await?;
        Ok(Box::new(Upload { inner, store: self.clone(), location: location.clone(), beside }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        self.files.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.files.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.files.copy_opts(from, to, options).await?;
        self.force(to).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> object_store::Result<()> {
        self.files.rename_opts(from, to, options).await?;
        self.force(to).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn folders_are_forced_once_and_files_always() {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableFiles::new(LocalFileSystem::new());
        let at = |name: &str| Path::from_absolute_path(folder.path().join(name)).unwrap();
        store.put(&at("a/b/one"), "1".into()).await.unwrap();
        let known = store.known.lock().clone();
        for made in ["a/b", "a"] {
            assert!(known.contains(&folder.path().join(made)), "{made} in {known:?}");
        }
        store.put(&at("a/b/two"), "2".into()).await.unwrap();
        assert_eq!(*store.known.lock(), known);
        // A folder that is there, and takes no files, is no reason to try for ever.
        let refused = store.put(&Path::from("proc/skep/x"), "1".into()).await;
        let refused = refused.expect_err("no files can be made in /proc").to_string();
        assert!(refused.contains("/proc/skep"), "{refused}");
        let refused = store.put_multipart(&Path::from("proc/x")).await.expect_err("nor here").to_string();
        assert!(refused.contains("cannot make a file in '/proc'"), "{refused}");
        assert!(std::fs::read_dir(folder.path()).unwrap().all(|entry| entry.unwrap().file_name() == "a"));
        let missing = store.force(&at("a/b/three")).await.unwrap_err();
        assert!(missing.to_string().contains("a/b/three"), "{missing}");
    }
}
