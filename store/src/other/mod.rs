//! Stores that are not ours: S3 and HDFS, made to keep the same promises as the replicated store.
//!
//! ```text
//! engine --> Told     errors that say what to do, timeouts, calls made again
//!              |
//!            Cached   blocks of immutable files, in memory and on this machine's disk
//!              |
//!            S3Files  copies exclusively             HdfsFiles  appears whole, exclusively; hides what is unfinished
//!              |                                        |
//!            object_store's AmazonS3                 hdfs-native
//! ```
//!
//! # Invariants
//! - What needs to be known to reach a store comes from configuration and environment, never from a URL.
//! - A file appears whole, or not at all, whoever dies while it is written.
//!
//! # Not here
//! The proof that a store creates exclusively ([`crate::probe`]); who asks for it ([`crate::stores`]).

pub mod cache;
pub mod config;
mod hadoop;
mod hdfs;
mod s3;
mod told;

use std::sync::Arc;

use object_store::ObjectStore;
use skep_common::{Error, Result};
use url::Url;

pub use cache::{Cache, CacheStats};

/// The store of `url`, if its scheme is one of ours to know.
///
/// # Errors
/// `Invalid` for a URL or settings that cannot be right, before anything is sent.
pub(crate) fn open(url: &Url, config: &crate::Config, cache: &Cache) -> Result<Option<Arc<dyn ObjectStore>>> {
    let opened: Arc<dyn ObjectStore> = match url.scheme() {
        "s3" | "s3a" => {
            let bucket = host(url, "s3://BUCKET/FOLDER/")?;
            let (store, told) = s3::open(bucket, &config.s3)?;
            Arc::new(told::Told::new(cache.over(&told.name, store), told))
        }
        "hdfs" => {
            host(url, "hdfs://HOST:PORT/FOLDER/ or hdfs://NAMESERVICE/FOLDER/")?;
            let (store, told) = hdfs::open(url, &config.hdfs)?;
            Arc::new(told::Told::new(cache.over(&told.name, store), told))
        }
        _ => return Ok(None),
    };
    Ok(Some(opened))
}

/// Refuses a URL that says more than where something is.
///
/// # Errors
/// `Invalid` for a user, a password or a query.
pub(crate) fn refuse_secrets(url: &Url) -> Result<()> {
    if url.username().is_empty() && url.password().is_none() && url.query().is_none() {
        return Ok(());
    }
    // Not quoted: it may hold a password.
    Err(Error::invalid(format!("a location of '{}' has more than a host and a path", url.scheme())).hint(
        "credentials and settings come from [store.s3] and [store.hdfs] of the config file, or the environment",
    ))
}

fn host<'a>(url: &'a Url, shape: &str) -> Result<&'a str> {
    match url.host_str() {
        Some(host) if !host.is_empty() => Ok(host),
        _ => Err(Error::invalid(format!("'{url}' names no host")).hint(format!("as in {shape}"))),
    }
}
