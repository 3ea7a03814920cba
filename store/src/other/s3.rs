//! `s3://`: any service that speaks the protocol of Amazon S3 and honours `If-None-Match`.
//!
//! # Invariants
//! - Creating a file and copying to a new one are exclusive where the service's conditional writes are, which
//!   [`crate::probe`] proves before managed tables are kept there.
//!
//! # Not here
//! Uploads that ask to be exclusive end with the same condition, and not every service looks at it there: see
//! `docs/decisions/0022`. Retries and timeouts are those of the client below.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, CopyMode, CopyOptions, GetOptions, GetResult, HeaderMap, HeaderValue,
    ListResult, MultipartId, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RetryConfig, UploadPart,
};
use parking_lot::Mutex;
use skep_common::{Error, Result};

use super::config;
use super::told::{Kind, Names};
use crate::skep::CreateExclusively;

/// Largest file that is copied only if the new one is not there: its bytes pass through this process.
const COPY_MAX: u64 = 256 << 20;

/// The store of `bucket`, and how it is called.
///
/// # Errors
/// `Invalid` for settings that cannot be right.
pub(super) fn open(bucket: &str, config: &config::S3) -> Result<(Arc<dyn ObjectStore>, Names)> {
    let config = config.of(bucket);
    let plain = build(bucket, &config, HeaderMap::new())?;
    let mut once = HeaderMap::new();
    once.insert("if-none-match", HeaderValue::from_static("*"));
    let creating = build(bucket, &config, once)?;
    let place = config.endpoint.as_ref().map_or_else(
        || "Amazon S3".to_owned(),
        |endpoint| format!("'{}'", endpoint.as_str().trim_end_matches('/')),
    );
    let name = match &config.endpoint {
        Some(endpoint) => format!("s3://{bucket} at {}", endpoint.as_str().trim_end_matches('/')),
        None => format!("s3://{bucket}"),
    };
    let store = S3Files { plain: Arc::new(plain), creating: Arc::new(creating), name: name.clone() };
    Ok((Arc::new(store), Names { kind: Kind::S3, name, place, bucket: bucket.to_owned() }))
}

fn build(bucket: &str, config: &config::S3, headers: HeaderMap) -> Result<AmazonS3> {
    let wrong = |e: object_store::Error| {
        Error::invalid(format!("'s3://{bucket}' cannot be reached as it is configured"))
            .hint("see [store.s3] of the config file and AWS_* of the environment")
            .source(e)
    };
    let client = ClientOptions::new()
        .with_connect_timeout(config.connect_timeout)
        .with_timeout(config.request_timeout)
        .with_default_headers(headers);
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: config.retries as usize,
        retry_timeout: config.retry_timeout,
    };
    let own = config.access_key_id.is_some();
    // The environment first: what is configured counts more, and credentials go together.
    let mut builder = AmazonS3Builder::new();
    for (name, value) in std::env::vars_os() {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
        let Some(key) = name.strip_prefix("AWS_").and_then(|_| name.to_ascii_lowercase().parse().ok()) else {
            continue;
        };
        use AmazonS3ConfigKey::{AccessKeyId, SecretAccessKey, Token};
        if !(own && matches!(key, AccessKeyId | SecretAccessKey | Token)) {
            builder = builder.with_config(key, value);
        }
    }
    builder = builder
        .with_bucket_name(bucket)
        .with_client_options(client.with_allow_http(plain_http(config)))
        .with_retry(retry)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_virtual_hosted_style_request(config.virtual_hosted)
        .with_skip_signature(config.anonymous);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/'));
    }
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    if let (Some(id), Some(secret)) = (&config.access_key_id, &config.secret_access_key) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret.reveal());
        if let Some(token) = &config.session_token {
            builder = builder.with_token(token.reveal());
        }
    }
    builder.build().map_err(wrong)
}

/// Whether the service is reached without TLS, because its address says so.
fn plain_http(config: &config::S3) -> bool {
    match &config.endpoint {
        Some(endpoint) => endpoint.scheme() == "http",
        None => ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
            .iter()
            .any(|name| std::env::var(name).is_ok_and(|endpoint| endpoint.starts_with("http://"))),
    }
}

/// Files of one bucket. Cheap to clone.
#[derive(Debug, Clone)]
struct S3Files {
    plain: Arc<AmazonS3>,
    /// Sends `If-None-Match: *` with all it asks for; used to end uploads alone.
    creating: Arc<AmazonS3>,
    name: String,
}

impl fmt::Display for S3Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// An upload that does not replace a file.
#[derive(Debug)]
struct Upload {
    store: S3Files,
    location: Path,
    id: MultipartId,
    /// Those that are there, by their places.
    parts: Arc<Mutex<Vec<Option<PartId>>>>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let at = {
            let mut parts = self.parts.lock();
            parts.push(None);
            parts.len() - 1
        };
        let (store, location, id) = (self.store.clone(), self.location.clone(), self.id.clone());
        let parts = Arc::clone(&self.parts);
        Box::pin(async move {
            let part = store.plain.put_part(&location, &id, at, data).await?;
            if let Some(place) = parts.lock().get_mut(at) {
                *place = Some(part);
            }
            Ok(())
        })
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let parts: Option<Vec<PartId>> = self.parts.lock().iter().cloned().collect();
        let mut parts = parts.ok_or_else(|| object_store::Error::Generic {
            store: "s3",
            source: "an upload was ended before all its parts had arrived".into(),
        })?;
        if parts.is_empty() {
            // An upload has at least one part.
            parts.push(self.store.plain.put_part(&self.location, &self.id, 0, PutPayload::new()).await?);
        }
        match self.store.creating.complete_multipart(&self.location, &self.id, parts).await {
            Err(error) if refused(&error) => {
                if let Err(error) = self.abort().await {
                    tracing::warn!(store = self.store.name, path = %self.location, %error, "an upload stays open");
                }
                Err(object_store::Error::AlreadyExists {
                    path: self.location.to_string(),
                    source: Box::new(error),
                })
            }
            outcome => outcome,
        }
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.store.plain.abort_multipart(&self.location, &self.id).await
    }
}

/// Whether an end of an upload was refused because its file is there.
fn refused(error: &object_store::Error) -> bool {
    if matches!(error, object_store::Error::Precondition { .. } | object_store::Error::AlreadyExists { .. }) {
        return true;
    }
    // The client below has no variant for the status of this call; only its text tells.
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if text.contains("412 Precondition Failed") || text.contains("PreconditionFailed") {
            return true;
        }
        next = cause.source();
    }
    false
}

#[async_trait]
impl ObjectStore for S3Files {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.plain.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        if !CreateExclusively::asked(&options) {
            return self.plain.put_multipart_opts(location, options).await;
        }
        // Services that look at the condition too late, or never, are told apart by the probe alone; this tells them early.
        if self.plain.head(location).await.is_ok() {
            let source = "the file is there".into();
            return Err(object_store::Error::AlreadyExists { path: location.to_string(), source });
        }
        let id = self.plain.create_multipart(location).await?;
        Ok(Box::new(Upload { store: self.clone(), location: location.clone(), id, parts: Arc::default() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.plain.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        self.plain.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.plain.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.plain.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.plain.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.plain.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        if matches!(options.mode, CopyMode::Overwrite) {
            return self.plain.copy_opts(from, to, options).await;
        }
        // The protocol's own copy has no condition that services agree on; a put has.
        let found = self.plain.get(from).await?;
        if found.meta.size > COPY_MAX {
            let (size, most) = (found.meta.size, COPY_MAX);
            return Err(object_store::Error::NotSupported {
                source: format!(
                    "a file of {size} bytes is copied only if it may replace one: {most} is the most"
                )
                .into(),
            });
        }
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.plain.put_opts(to, found.bytes().await?.into(), options).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_looked_at_before_anything_is_sent() {
        let config = config::S3 {
            endpoint: Some("http://127.0.0.1:9/".parse().unwrap()),
            access_key_id: Some("me".to_owned()),
            secret_access_key: Some("geheim".to_owned().into()),
            ..config::S3::default()
        };
        let (store, names) = open("b", &config).unwrap();
        assert_eq!(
            (store.to_string().as_str(), names.place.as_str()),
            ("s3://b at http://127.0.0.1:9", "'http://127.0.0.1:9'")
        );
        let shown = format!("{store:?} {config:?}");
        assert!(!shown.contains("geheim"), "{shown}");
    }
}
