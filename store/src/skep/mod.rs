//! The replicated store as an [`ObjectStore`].
//!
//! ```text
//! get   path -> Reader (metadata cached) -> blocks -> own disk | same zone | any, next replica on failure
//! put   payload -> upload -> blocks of `block_size` -> chain of nodes -> commit_write
//! list, delete, copy, rename: the namespace alone
//! ```
//!
//! # Guarantees
//! - After a `put`, upload or `delete` returned, every later call through this store sees it; through another node's
//!   store, calls that begin more than `metadata_ttl` later. `head` and `list` always ask the namespace.
//! - `put` with `Create` and `Update` and a plain `put` take effect at one moment; a reader sees the old or the new
//!   bytes, never a mixture.
//! - `copy` copies no bytes: both files name the same blocks.
//!
//! # Not here
//! Attributes and tags of objects: refused, as by `LocalFileSystem`. Old versions of a file: there are none.

mod reader;
mod upload;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyMode, CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    RenameTargetMode,
};
use skep_common::clock::Clock;
use skep_common::{Error, Kind, NodeId, Result};

use crate::config::Config;
use crate::remote::{FileMeta, NamespaceClient, Peers, WriteMode};
use crate::server::BlockServer;
pub use reader::Reader;
use upload::{Progress, Upload, Writer};

/// Files listed or deleted in one call of the namespace.
const PAGE: u32 = 1000;
/// Bytes between two ranges that are read in one go rather than in two.
const COALESCE: u64 = 64 << 10;

/// Put it into [`PutMultipartOptions::extensions`] (or leave it out, to overwrite): the upload completes only if
/// nothing is at its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateExclusively;

impl CreateExclusively {
    /// The options of such an upload.
    pub fn options() -> PutMultipartOptions {
        let mut options = PutMultipartOptions::default();
        options.extensions.insert(Self);
        options
    }

    /// Whether the options ask for it.
    pub(crate) fn asked(options: &PutMultipartOptions) -> bool {
        options.extensions.get::<Self>().is_some()
    }
}

/// The replicated store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SkepStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    reader: Reader,
    writer: Writer,
}

/// What a store is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Paths and placement.
    pub namespace: Arc<dyn NamespaceClient>,
    /// The nodes' blocks.
    pub peers: Arc<dyn Peers>,
    /// The blocks of the node this store runs on, if it holds any: read and written without a network.
    pub own: Option<BlockServer>,
    /// The failure domain of the node this store runs on.
    pub zone: Option<String>,
    /// Settings.
    pub config: Config,
    /// For ages of what is cached.
    pub clock: Arc<dyn Clock>,
}

impl SkepStore {
    /// A store over its parts.
    ///
    /// # Errors
    /// `Invalid` for settings out of range.
    pub fn new(parts: Parts) -> Result<Self> {
        parts.config.validate()?;
        Ok(Self(Arc::new(Inner { reader: Reader::new(parts.clone()), writer: Writer::new(parts) })))
    }

    /// The nodes that hold each file whole, in the order of `paths`; where no node does, those that hold most of it.
    /// Empty for files that do not exist.
    ///
    /// # Errors
    /// Those of the namespace.
    pub async fn locations(&self, paths: &[Path]) -> Result<Vec<Vec<NodeId>>> {
        let mut all = Vec::with_capacity(paths.len());
        for page in paths.chunks(PAGE as usize) {
            let page: Vec<String> = page.iter().map(|path| path.as_ref().to_owned()).collect();
            let maps = self.0.writer.parts.namespace.lookup(&page).await?;
            all.extend(maps.iter().map(|map| map.as_ref().map(reader::holders).unwrap_or_default()));
        }
        Ok(all)
    }

    /// The namespace behind the store, for what `ObjectStore` has no words for.
    pub fn namespace(&self) -> &Arc<dyn NamespaceClient> {
        &self.0.writer.parts.namespace
    }

    /// How the store reads, for what `ObjectStore` has no words for.
    pub fn reader(&self) -> &Reader {
        &self.0.reader
    }

    async fn delete_page(&self, paths: Vec<Path>) -> Vec<object_store::Result<Path>> {
        let names: Vec<String> = paths.iter().map(|path| path.as_ref().to_owned()).collect();
        let deleted = self.namespace().delete(&names).await;
        for name in &names {
            self.0.reader.forget(name).await;
        }
        match deleted {
            Ok(found) => paths
                .into_iter()
                .zip(found)
                .map(|(path, found)| if found { Ok(path) } else { Err(absent(path.as_ref())) })
                .collect(),
            Err(error) => paths.iter().map(|path| Err(object_error(error.clone(), path.as_ref()))).collect(),
        }
    }
}

impl fmt::Display for SkepStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::SKEP_URL)
    }
}

#[async_trait]
impl ObjectStore for SkepStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        refuse_attributes(&options.attributes)?;
        let mode = match options.mode {
            PutMode::Overwrite => WriteMode::Overwrite,
            PutMode::Create => WriteMode::Create,
            PutMode::Update(version) => match version.e_tag {
                Some(tag) => WriteMode::Update(tag),
                None => {
                    return Err(object_store::Error::NotSupported {
                        source: "an update needs the e_tag of the version it replaces".into(),
                    });
                }
            },
        };
        let mut upload = Upload::new(self.clone(), location.as_ref().to_owned(), mode);
        let progress: Vec<Progress> = payload.into_iter().map(|bytes| upload.push(bytes)).collect();
        drop(progress);
        upload.complete().await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        refuse_attributes(&options.attributes)?;
        let mode = if CreateExclusively::asked(&options) { WriteMode::Create } else { WriteMode::Overwrite };
        Ok(Box::new(Upload::new(self.clone(), location.as_ref().to_owned(), mode)))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let name = location.as_ref();
        let wrong = |error: Error| object_error(error, name);
        if options.version.is_some() {
            return Err(object_store::Error::NotSupported { source: "files have no old versions".into() });
        }
        let file = if options.head {
            self.0.reader.file_now(name).await.map_err(wrong)?
        } else {
            self.0.reader.file(name).await.map_err(wrong)?
        };
        let meta = object_meta(&file.meta);
        options.check_preconditions(&meta)?;
        let range = match options.range {
            Some(range) => range
                .as_range(meta.size)
                .map_err(|source| object_store::Error::Generic { store: "skep", source: Box::new(source) })?,
            None => 0..meta.size,
        };
        let payload = if options.head {
            stream::empty().boxed()
        } else {
            let name = name.to_owned();
            self.0.reader.stream(file, range.clone()).map_err(move |e| object_error(e, &name)).boxed()
        };
        Ok(GetResult {
            payload: GetResultPayload::Stream(payload),
            meta,
            range,
            attributes: Attributes::default(),
        })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        let name = location.as_ref();
        let wrong = |error: Error| object_error(error, name);
        let file = self.0.reader.file(name).await.map_err(wrong)?;
        let fetch = |range: Range<u64>| self.0.reader.range(Arc::clone(&file), range);
        object_store::coalesce_ranges(ranges, fetch, COALESCE).await.map_err(wrong)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let store = self.clone();
        locations
            .ready_chunks(PAGE as usize)
            .then(move |page| {
                let store = store.clone();
                async move {
                    let (paths, errors): (Vec<_>, Vec<_>) = page.into_iter().partition(Result::is_ok);
                    let paths = paths.into_iter().flatten().collect();
                    let mut results = store.delete_page(paths).await;
                    results.extend(errors);
                    stream::iter(results)
                }
            })
            .flatten()
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        list(self.clone(), prefix, None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        list(self.clone(), prefix, Some(offset.as_ref().to_owned()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        let prefix = prefix.map_or("", |prefix| prefix.as_ref());
        let mut found = ListResult { common_prefixes: Vec::new(), objects: Vec::new() };
        let mut from: Option<String> = None;
        loop {
            let page = self.namespace().list_directory(prefix, from.as_deref(), PAGE).await;
            let page = page.map_err(|e| object_error(e, prefix))?;
            found.objects.extend(page.files.iter().map(object_meta));
            for folder in page.folders {
                found.common_prefixes.push(Path::parse(&folder)?);
            }
            match page.next {
                Some(next) => from = Some(next),
                None => return Ok(found),
            }
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        let create = options.mode == CopyMode::Create;
        let (from, to) = (from.as_ref(), to.as_ref());
        let copied = self.namespace().copy(from, to, create).await;
        self.0.reader.forget(to).await;
        copied.map_err(|error| moved_error(error, from, to))
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> object_store::Result<()> {
        let create = options.target_mode == RenameTargetMode::Create;
        let (from, to) = (from.as_ref(), to.as_ref());
        let renamed = self.namespace().rename(from, to, create).await;
        self.0.reader.forget(from).await;
        self.0.reader.forget(to).await;
        renamed.map_err(|error| moved_error(error, from, to))
    }
}

fn list(
    store: SkepStore,
    prefix: Option<&Path>,
    after: Option<String>,
) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
    let prefix = prefix.map_or_else(String::new, |prefix| prefix.as_ref().to_owned());
    let pages = stream::try_unfold(Some(after), move |after| {
        let (store, prefix) = (store.clone(), prefix.clone());
        async move {
            let Some(after) = after else { return Ok(None) };
            let page = store.namespace().list(&prefix, after.as_deref(), PAGE).await;
            let page = page.map_err(|e| object_error(e, &prefix))?;
            let next =
                page.last().filter(|_| page.len() == PAGE as usize).map(|last| Some(last.path.clone()));
            Ok::<_, object_store::Error>(Some((stream::iter(page).map(|file| Ok(object_meta(&file))), next)))
        }
    });
    pages.try_flatten().boxed()
}

fn refuse_attributes(attributes: &Attributes) -> object_store::Result<()> {
    if attributes.is_empty() {
        return Ok(());
    }
    Err(object_store::Error::NotImplemented {
        operation: "attributes of objects".to_owned(),
        implementer: crate::SKEP_URL.to_owned(),
    })
}

fn object_meta(file: &FileMeta) -> ObjectMeta {
    ObjectMeta {
        location: Path::parse(&file.path).unwrap_or_else(|_| Path::from(file.path.as_str())),
        last_modified: file.created,
        size: file.size,
        e_tag: Some(file.version.clone()),
        version: None,
    }
}

fn absent(path: &str) -> object_store::Error {
    object_error(Error::not_found(format!("no file '{path}' in the store")), path)
}

fn moved_error(error: Error, from: &str, to: &str) -> object_store::Error {
    let path = if error.kind() == Kind::AlreadyExists { to } else { from };
    object_error(error, path)
}

/// Our error as the one that callers of object stores look for; ours is its source, whole.
fn object_error(error: Error, path: &str) -> object_store::Error {
    let (path, kind) = (path.to_owned(), error.kind());
    let source = Box::new(error);
    match kind {
        Kind::NotFound => object_store::Error::NotFound { path, source },
        Kind::AlreadyExists => object_store::Error::AlreadyExists { path, source },
        Kind::Denied => object_store::Error::PermissionDenied { path, source },
        Kind::Conflict => object_store::Error::Precondition { path, source },
        _ => object_store::Error::Generic { store: "skep", source },
    }
}

/// The skep error inside an object store's, if one is there.
pub fn skep_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<Error>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// For uploads: what a finished write answers.
fn put_result(meta: &FileMeta) -> PutResult {
    PutResult { e_tag: Some(meta.version.clone()), version: None }
}
