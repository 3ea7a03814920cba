//! `hdfs://`: files that appear whole, and once, through the NameNode's renames.
//!
//! ```text
//! put     .skep-ID.tmp, written and closed --rename2, without or with overwrite--> the file
//! upload  the same, its parts one after the other
//! copy    the same
//! ```
//!
//! The client below writes to temporary files too. It leaves those of writers that lost a race, lists them, and lets an upload
//! overwrite; so each file is written here under a name that nobody else knows, and moved to its place.
//!
//! # Invariants
//! - A rename that had no answer is looked up, never guessed: either the file has our time and size and the temporary one is gone,
//!   or it was not ours.
//! - What is unfinished is in no listing, and does not stay for ever.
//!
//! # Not here
//! Trying other replicas of a block, and other NameNodes of a name service: the client does.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use hdfs_native_object_store::{HdfsObjectStore, HdfsObjectStoreBuilder};
use object_store::path::{Path, PathPart};
use object_store::{
    CopyMode, CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    RenameOptions, RenameTargetMode, UploadPart,
};
use skep_common::clock::{self, Clock};
use skep_common::{Error, Result, task};
use url::Url;
use uuid::Uuid;

use super::told::{Kind, Names};
use super::{config, hadoop};
use crate::skep::CreateExclusively;

/// The first wait before a call is made again; it doubles.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// What begins the names of our temporary files.
const OURS: &str = ".skep-";
/// What ends them.
const UNFINISHED: &str = ".tmp";

/// The store of `url`, and how it is called.
///
/// # Errors
/// `Invalid` for a name service that nothing is known of, and settings that cannot be read.
pub(super) fn open(url: &Url, config: &config::Hdfs) -> Result<(Arc<dyn ObjectStore>, Names)> {
    let name = format!("{}://{}", url.scheme(), authority(url));
    let mut options = match &config.conf {
        Some(folder) => hadoop::read(folder)?,
        None => Default::default(),
    };
    for (service, nodes) in &config.nameservices {
        let ids: Vec<String> = (1..=nodes.len()).map(|id| format!("nn{id}")).collect();
        for (id, node) in ids.iter().zip(nodes) {
            options.insert(format!("dfs.namenode.rpc-address.{service}.{id}"), node.clone());
        }
        options.insert(format!("dfs.ha.namenodes.{service}"), ids.join(","));
    }
    options.extend(config.options.clone());
    let inner = HdfsObjectStoreBuilder::new().with_url(&name).with_config(options).build().map_err(|e| {
        Error::invalid(format!("'{name}' cannot be reached as it is configured"))
            .hint(
                "name a port (hdfs://HOST:8020/), or say in [store.hdfs] which NameNodes a name service has: \
                 nameservices.NAME = [\"HOST:PORT\", \"HOST:PORT\"], or conf = the folder of hdfs-site.xml",
            )
            .source(e)
    })?;
    let store = HdfsFiles {
        inner: Arc::new(inner),
        name: name.clone(),
        timeout: config.timeout,
        retries: config.retries,
        unfinished_age: config.unfinished_age,
        clock: clock::system(),
    };
    let place = "the NameNode".to_owned();
    Ok((Arc::new(store), Names { kind: Kind::Hdfs, name: name.clone(), place, bucket: name }))
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Files of one name service. Cheap to clone.
#[derive(Debug, Clone)]
struct HdfsFiles {
    inner: Arc<HdfsObjectStore>,
    name: String,
    timeout: Duration,
    retries: u32,
    unfinished_age: Duration,
    clock: Arc<dyn Clock>,
}

/// What a failed call means for the next one.
fn passes(error: &object_store::Error) -> bool {
    let object_store::Error::Generic { source, .. } = error else { return false };
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(source.as_ref());
    while let Some(cause) = next {
        if cause.is::<std::io::Error>() || cause.is::<tokio::time::error::Elapsed>() {
            return true;
        }
        let text = cause.to_string();
        if ["StandbyException", "RetriableException", "SafeModeException", "ServerTooBusy"]
            .iter()
            .any(|exception| text.contains(exception))
        {
            return true;
        }
        next = cause.source();
    }
    false
}

fn late(timeout: Duration) -> impl Fn(tokio::time::error::Elapsed) -> object_store::Error {
    move |elapsed| object_store::Error::Generic {
        store: "hdfs",
        source: Box::new(
            Error::unavailable(format!("there was no answer for {timeout:?}"))
                .hint("[store.hdfs] timeout says how long to wait")
                .source(elapsed),
        ),
    }
}

impl HdfsFiles {
    /// The outcome of a call, unless it takes too long.
    async fn within<T>(
        &self,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        tokio::time::timeout(self.timeout, call).await.map_err(late(self.timeout))?
    }

    /// The outcome of a call that may be made again.
    async fn insist<T, F>(&self, call: impl Fn() -> F) -> object_store::Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let mut pause = PAUSE;
        let mut left = self.retries;
        loop {
            match self.within(call()).await {
                Err(error) if left > 0 && passes(&error) => {
                    tracing::debug!(store = self.name, %error, "a call is made again");
                    left -= 1;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                outcome => return outcome,
            }
        }
    }

    async fn head(&self, location: &Path) -> object_store::Result<ObjectMeta> {
        self.insist(|| self.inner.head(location)).await
    }

    /// Moves a finished file to its place.
    async fn settle(&self, temporary: &Path, to: &Path, overwrite: bool) -> object_store::Result<PutResult> {
        let ours = self.head(temporary).await?.e_tag;
        let settled = PutResult { e_tag: ours.clone(), version: None };
        let target_mode = if overwrite { RenameTargetMode::Overwrite } else { RenameTargetMode::Create };
        let options = RenameOptions { target_mode, ..RenameOptions::default() };
        let mut pause = PAUSE;
        let mut left = self.retries;
        loop {
            let error = match self.within(self.inner.rename_opts(temporary, to, options.clone())).await {
                Ok(()) => return Ok(settled),
                Err(error @ object_store::Error::AlreadyExists { .. }) => return Err(error),
                Err(error) => error,
            };
            // The rename may have happened although nobody heard of it.
            let gone = matches!(self.head(temporary).await, Err(object_store::Error::NotFound { .. }));
            if gone && self.head(to).await.is_ok_and(|meta| meta.e_tag == ours) {
                return Ok(settled);
            }
            if gone || left == 0 || !passes(&error) {
                return Err(error);
            }
            left -= 1;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Settles, and leaves no temporary file behind where that fails.
    async fn settle_or_forget(
        &self,
        temporary: &Path,
        to: &Path,
        overwrite: bool,
    ) -> object_store::Result<PutResult> {
        let settled = self.settle(temporary, to, overwrite).await;
        if settled.is_err() {
            self.forget(temporary).await;
        }
        settled
    }

    /// Deletes a temporary file, and the one that the client below wrote it to.
    async fn forget(&self, temporary: &Path) {
        for path in [temporary.clone(), below(temporary)] {
            if let Err(error) = self.within(self.inner.delete(&path)).await {
                tracing::debug!(store = self.name, %path, %error, "an unfinished file stays for a while");
            }
        }
    }

    /// Refuses before anything is written what is there already.
    async fn vacant(&self, location: &Path) -> object_store::Result<()> {
        match self.head(location).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(object_store::Error::AlreadyExists {
                path: location.to_string(),
                source: "the file is there".into(),
            }),
        }
    }

    /// Takes what is unfinished out of a listing, and away if it is old.
    fn finished(&self, listed: object_store::Result<ObjectMeta>) -> Option<object_store::Result<ObjectMeta>> {
        let meta = match listed {
            Ok(meta) => meta,
            error => return Some(error),
        };
        let name = meta.location.filename().unwrap_or_default();
        if !unfinished(name) {
            return Some(Ok(meta));
        }
        let age = self.clock.now().signed_duration_since(meta.last_modified).to_std().unwrap_or_default();
        if begun_by_us(name) && age >= self.unfinished_age {
            let (store, path) = (Arc::clone(&self.inner), meta.location);
            let sweep = async move {
                match store.delete(&path).await {
                    Ok(()) => tracing::info!(%path, "a file that was never finished is deleted"),
                    Err(error) => tracing::debug!(%path, %error, "a file that was never finished stays"),
                }
            };
            task::spawn("sweep unfinished files", sweep).detach();
        }
        None
    }
}

/// A name beside `location` that nobody else has.
fn temporary(location: &Path) -> Path {
    beside(location, &format!("{OURS}{}{UNFINISHED}", Uuid::now_v7()))
}

/// Where the client below writes a file first. Names of ours are its own, so that it never has to count further.
fn below(location: &Path) -> Path {
    beside(location, &format!(".{}.tmp.1", location.filename().unwrap_or_default()))
}

fn beside(location: &Path, name: &str) -> Path {
    let mut parts: Vec<PathPart<'_>> = location.parts().collect();
    parts.pop();
    // Parts of a path are encoded already, and are not encoded again.
    parts.into_iter().chain([PathPart::from(name)]).collect()
}

/// Whether a file of this name is one that somebody has not finished: ours, or one of the client below.
fn unfinished(name: &str) -> bool {
    let Some(hidden) = name.strip_prefix('.') else { return false };
    let numbered = hidden
        .rsplit_once(".tmp.")
        .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()));
    numbered || (name.starts_with(OURS) && name.ends_with(UNFINISHED))
}

/// Whether it is one of ours. Those of others are left alone.
fn begun_by_us(name: &str) -> bool {
    let name = name.strip_prefix('.').filter(|rest| rest.starts_with(OURS)).unwrap_or(name);
    let id = name.strip_prefix(OURS).and_then(|rest| rest.split('.').next());
    id.is_some_and(|id| Uuid::parse_str(id).is_ok())
}

impl fmt::Display for HdfsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// An upload whose end is a rename.
#[derive(Debug)]
struct Upload {
    inner: Box<dyn MultipartUpload>,
    store: HdfsFiles,
    temporary: Path,
    location: Path,
    exclusive: bool,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, store) = (self.inner.put_part(data), self.store.clone());
        Box::pin(async move { store.within(part).await })
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let store = self.store.clone();
        if let Err(error) = store.within(self.inner.complete()).await {
            store.forget(&self.temporary).await;
            return Err(error);
        }
        store.settle_or_forget(&self.temporary, &self.location, !self.exclusive).await
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        let store = self.store.clone();
        store.within(self.inner.abort()).await
    }
}

#[async_trait]
impl ObjectStore for HdfsFiles {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let overwrite = match options.mode {
            PutMode::Overwrite => true,
            PutMode::Create => {
                self.vacant(location).await?;
                false
            }
            PutMode::Update(_) => {
                return Err(object_store::Error::NotImplemented {
                    operation: "replacing one version of a file".to_owned(),
                    implementer: self.name.clone(),
                });
            }
        };
        let temporary = temporary(location);
        let begin = || self.inner.put_opts(&temporary, payload.clone(), PutOptions::default());
        if let Err(error) = self.insist(begin).await {
            self.forget(&temporary).await;
            return Err(error);
        }
        self.settle_or_forget(&temporary, location, overwrite).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        let exclusive = CreateExclusively::asked(&options);
        if exclusive {
            self.vacant(location).await?;
        }
        let temporary = temporary(location);
        let inner =
            self.insist(|| self.inner.put_multipart_opts(&temporary, PutMultipartOptions::default())).await?;
        Ok(Box::new(Upload { inner, store: self.clone(), temporary, location: location.clone(), exclusive }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let mut result = self.insist(|| self.inner.get_opts(location, options.clone())).await?;
        let timeout = self.timeout;
        if let GetResultPayload::Stream(stream) = result.payload {
            let stream = futures::stream::unfold(Some(stream), move |stream| async move {
                let mut stream = stream?;
                match tokio::time::timeout(timeout, stream.next()).await {
                    Ok(next) => next.map(|bytes| (bytes, Some(stream))),
                    Err(elapsed) => Some((Err(late(timeout)(elapsed)), None)),
                }
            });
            result.payload = GetResultPayload::Stream(stream.fuse().boxed());
        }
        Ok(result)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let store = self.clone();
        let delete = move |location: Path| {
            let store = store.clone();
            async move {
                store.insist(|| store.inner.delete(&location)).await?;
                Ok(location)
            }
        };
        locations.map_ok(delete).try_buffered(10).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let store = self.clone();
        self.inner.list(prefix).filter_map(move |listed| std::future::ready(store.finished(listed))).boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let offset = offset.clone();
        self.list(prefix).try_filter(move |meta| std::future::ready(meta.location > offset)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        let mut listed = self.insist(|| self.inner.list_with_delimiter(prefix)).await?;
        listed.objects = listed
            .objects
            .into_iter()
            .filter_map(|meta| self.finished(Ok(meta)))
            .collect::<object_store::Result<_>>()?;
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        let overwrite = match options.mode {
            CopyMode::Overwrite => true,
            CopyMode::Create => {
                self.vacant(to).await?;
                false
            }
        };
        // The client below does not tell a file that is missing from one that cannot be read.
        self.head(from).await?;
        let temporary = temporary(to);
        // No limit to the time of all its bytes.
        if let Err(error) = self.inner.copy_opts(from, &temporary, CopyOptions::default()).await {
            self.forget(&temporary).await;
            return Err(error);
        }
        self.settle_or_forget(&temporary, to, overwrite).await.map(drop)
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> object_store::Result<()> {
        let overwrite = matches!(options.target_mode, RenameTargetMode::Overwrite);
        self.settle(from, to, overwrite).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unfinished_is_told_by_its_name() {
        let ours = temporary(&Path::from("a/b c/x.parquet"));
        assert_eq!(ours.parts().count(), 3);
        assert!(ours.as_ref().starts_with("a/b c/.skep-"), "{ours}");
        let theirs = below(&ours);
        for path in [&ours, &theirs] {
            let name = path.filename().unwrap();
            assert!(unfinished(name) && begun_by_us(name), "{name}");
        }
        assert!(unfinished(".part.tmp.12") && !begun_by_us(".part.tmp.12"));
        for name in ["x.parquet", ".hidden", "a.tmp.1", ".a.tmp.", ".a.tmp.x", ".tmp", "skep-1.tmp"] {
            assert!(!unfinished(name), "{name}");
        }
        let encoded = Path::parse("a%20b/c").unwrap();
        assert!(temporary(&encoded).as_ref().starts_with("a%20b/"), "what is encoded is not encoded again");
    }

    #[test]
    fn name_services_have_to_be_known() {
        let open = |url: &str, config: &config::Hdfs| {
            open(&url.parse().unwrap(), config).map(|(_, names)| names.name)
        };
        assert_eq!(
            open("hdfs://127.0.0.1:9000/x", &config::Hdfs::default()).unwrap(),
            "hdfs://127.0.0.1:9000"
        );
        let mut config = config::Hdfs::default();
        let error = open("hdfs://ns1/x", &config).unwrap_err();
        assert!(error.hint_text().unwrap().contains("nameservices"), "{error:?}");
        config
            .nameservices
            .insert("ns1".to_owned(), vec!["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()]);
        assert_eq!(open("hdfs://ns1/x", &config).unwrap(), "hdfs://ns1");
    }
}
