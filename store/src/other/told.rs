//! Errors of a store as people need them: which store, what is wrong with it, and which setting changes that.
//!
//! # Not here
//! Deciding whether a statement runs again: that is by kind, and the coordinator's.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, UploadPart,
};
use skep_common::Error;

use crate::skep::skep_error;

/// Which protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    S3,
    Hdfs,
}

/// How a store is called.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) kind: Kind,
    /// The store.
    pub(super) name: String,
    /// Who answers for it.
    pub(super) place: String,
    /// The bucket, or the name service.
    pub(super) bucket: String,
}

impl Names {
    /// An error that says what to do, where one is known to be of the store and not of the file.
    fn tell(&self, error: object_store::Error) -> object_store::Error {
        if skep_error(&error).is_some() {
            return error;
        }
        let text = chain(&error);
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let ours = match self.kind {
            Kind::S3 if has(&["NoSuchBucket", "specified bucket does not exist"]) => {
                Error::not_found(format!("bucket '{}' does not exist at {}", self.bucket, self.place))
                    .hint("create it, or see whether [store.s3] endpoint names the service that has it")
            }
            Kind::S3
                if has(&[
                    "InvalidAccessKeyId",
                    "SignatureDoesNotMatch",
                    "401 Unauthorized",
                    "InvalidClientTokenId",
                ]) =>
            {
                Error::denied(format!("{} does not know who asks for '{}'", self.place, self.name)).hint(
                    "see access_key_id and secret_access_key in [store.s3], or AWS_ACCESS_KEY_ID and \
                     AWS_SECRET_ACCESS_KEY in the environment",
                )
            }
            Kind::S3 if has(&["AccessDenied", "403 Forbidden"]) => {
                Error::denied(format!("{} does not let this user into '{}'", self.place, self.name))
                    .hint("grant it the bucket, or see [store.s3] access_key_id")
            }
            Kind::S3 if has(&["PermanentRedirect", "AuthorizationHeaderMalformed"]) => {
                Error::invalid(format!("bucket '{}' is in another region", self.bucket))
                    .hint("set [store.s3] region")
            }
            Kind::S3 if has(&["error sending request", "Connect", "dns error", "169.254.169.254"]) => {
                let hint = match has(&["169.254.169.254"]) {
                    true => {
                        "there are no credentials: set access_key_id and secret_access_key in [store.s3], or \
                         AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
                    }
                    false => "see whether the service runs, and [store.s3] endpoint",
                };
                Error::unavailable(format!("{} cannot be reached for '{}'", self.place, self.name)).hint(hint)
            }
            Kind::Hdfs if has(&["AccessControlException", "Permission denied"]) => {
                Error::denied(format!("this user may not do that in '{}'", self.name))
                    .hint("HADOOP_USER_NAME in the environment says who asks; see the owner of the folder")
            }
            Kind::Hdfs if has(&["SafeModeException"]) => {
                Error::unavailable(format!("the NameNode of '{}' is in safe mode", self.name)).hint(
                    "it has not heard of enough DataNodes yet; wait, or see 'hdfs dfsadmin -safemode get'",
                )
            }
            Kind::Hdfs if has(&["StandbyException"]) => {
                Error::unavailable(format!("no NameNode of '{}' is active", self.name))
                    .hint("see 'hdfs haadmin -getAllServiceState'")
            }
            Kind::Hdfs if has(&["NSQuotaExceeded", "DSQuotaExceeded"]) => {
                Error::no_space(format!("a quota of '{}' is used up", self.name))
                    .hint("raise it, or VACUUM tables there")
            }
            Kind::Hdfs
                if has(&[
                    "could only be written to 0",
                    "could only be replicated to 0",
                    "not enough nodes",
                ]) =>
            {
                Error::no_space(format!("no DataNode of '{}' takes another block", self.name))
                    .hint("see the room on the DataNodes, and whether they run")
            }
            Kind::Hdfs if has(&["IO error", "disconnected", "data transfer error", "No SASL"]) => {
                Error::unavailable(format!("'{}' cannot be reached", self.name)).hint(
                    "see whether its NameNodes and DataNodes run, and the host and port of the location",
                )
            }
            _ => return error,
        };
        object_store::Error::Generic { store: "remote", source: Box::new(ours.source(error)) }
    }
}

/// The messages of an error and its causes.
fn chain(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// A store whose errors are told. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Told {
    inner: Arc<dyn ObjectStore>,
    names: Arc<Names>,
}

impl Told {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, names: Names) -> Self {
        Self { inner, names: Arc::new(names) }
    }

    fn tell(&self) -> impl Fn(object_store::Error) -> object_store::Error + Send + Sync + 'static {
        let names = Arc::clone(&self.names);
        move |error| names.tell(error)
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names.name)
    }
}

#[derive(Debug)]
struct Upload {
    inner: Box<dyn MultipartUpload>,
    store: Told,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        Box::pin(self.inner.put_part(data).map_err(self.store.tell()))
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        self.inner.complete().await.map_err(self.store.tell())
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.inner.abort().await.map_err(self.store.tell())
    }
}

#[async_trait]
impl ObjectStore for Told {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.inner.put_opts(location, payload, options).await.map_err(self.tell())
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, options).await.map_err(self.tell())?;
        Ok(Box::new(Upload { inner, store: self.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let mut result = self.inner.get_opts(location, options).await.map_err(self.tell())?;
        result.payload = match result.payload {
            GetResultPayload::Stream(bytes) => GetResultPayload::Stream(bytes.map_err(self.tell()).boxed()),
            other => other,
        };
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await.map_err(self.tell())
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations).map_err(self.tell()).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix).map_err(self.tell()).boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset).map_err(self.tell()).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await.map_err(self.tell())
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await.map_err(self.tell())
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> object_store::Result<()> {
        self.inner.rename_opts(from, to, options).await.map_err(self.tell())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_store_say_what_to_do() {
        let names = |kind| Names {
            kind,
            name: "s3://b".to_owned(),
            place: "'http://x'".to_owned(),
            bucket: "b".to_owned(),
        };
        let told = |kind, text: &str| {
            let error = object_store::Error::Generic { store: "x", source: text.to_owned().into() };
            let error = names(kind).tell(error);
            skep_error(&error).map(|error| (error.kind(), error.hint_text().map(str::to_owned)))
        };
        use skep_common::Kind as Why;
        for (kind, text, why) in [
            (Kind::S3, "<Code>NoSuchBucket</Code>", Why::NotFound),
            (Kind::S3, "<Code>SignatureDoesNotMatch</Code>", Why::Denied),
            (Kind::S3, "403 Forbidden: AccessDenied", Why::Denied),
            (Kind::S3, "error sending request for url", Why::Unavailable),
            (Kind::Hdfs, "RPC error: org.apache.hadoop.security.AccessControlException x", Why::Denied),
            (Kind::Hdfs, "IO error occurred while communicating with HDFS: refused", Why::Unavailable),
        ] {
            let (found, hint) = told(kind, text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(found, why, "{text}");
            assert!(hint.is_some(), "{text}");
        }
        assert!(told(Kind::S3, "something else").is_none());
        let missing = object_store::Error::NotFound { path: "x".to_owned(), source: "NoSuchKey".into() };
        assert!(matches!(names(Kind::S3).tell(missing), object_store::Error::NotFound { .. }));
    }
}
