//! Proves at start-up that a store creates exclusively, because commits rely on it.

use std::sync::Arc;

use futures::future::join_all;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use skep_common::{Error, Result};

use crate::block::WriteId;

/// How hard to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Race {
    /// Writers at the same time for each key.
    pub writers: usize,
    /// Keys, a few at a time.
    pub keys: usize,
}

impl Default for Race {
    fn default() -> Self {
        Self { writers: 16, keys: 20 }
    }
}

impl Race {
    /// Whether who passed this one need not run `other`.
    pub(crate) fn covers(self, other: Self) -> bool {
        self.writers >= other.writers && self.keys >= other.keys
    }
}

/// Keys that are raced for at the same time.
const KEYS_AT_ONCE: usize = 4;

/// Lets many writers create the same path under `prefix` at once: exactly one must win, the others must be told
/// that it exists, and what is there must be the winner's bytes. Leaves nothing behind.
///
/// # Errors
/// `Unsupported` if the store fails: it must not hold managed tables. Its own errors if it cannot be used at all.
pub async fn conditional_create(store: &Arc<dyn ObjectStore>, prefix: &Path, race: Race) -> Result<()> {
    if race.keys == 0 || race.writers == 0 {
        return Ok(());
    }
    // One writer alone first: a store that cannot be used, or knows no such condition, is asked no more.
    one_key(store, prefix, 1).await?;
    let keys = (0..race.keys).map(|_| one_key(store, prefix, race.writers));
    stream::iter(keys).buffer_unordered(KEYS_AT_ONCE).try_collect().await
}

async fn one_key(store: &Arc<dyn ObjectStore>, prefix: &Path, writers: usize) -> Result<()> {
    let refused = |what: String| {
        Error::unsupported(format!("the store '{store}' cannot hold managed tables: {what}"))
            .hint("use a store with conditional writes; on S3, one that honours If-None-Match")
    };
    let path = prefix.clone().join(format!(".skep-probe-{}", WriteId::generate()));
    let attempts = (0..writers).map(|writer| {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let payload = PutPayload::from(writer.to_string().into_bytes());
        let (store, path) = (Arc::clone(store), path.clone());
        async move { store.put_opts(&path, payload, options).await }
    });
    let mut results = join_all(attempts).await;
    if results.iter().all(Result::is_err)
        && let Some(at) = results.iter().position(|result| !lost_or_unsupported(result))
        && let Err(error) = results.swap_remove(at)
    {
        return Err(unusable(store, error));
    }
    let outcome = judge(store, &path, &results).await;
    let deleted = store.delete(&path).await;
    match outcome {
        Ok(None) => {}
        Ok(Some(what)) => return Err(refused(what)),
        Err(error) => return Err(unusable(store, error)),
    }
    match deleted {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(unusable(store, error)),
    }
}

fn lost_or_unsupported(result: &object_store::Result<object_store::PutResult>) -> bool {
    matches!(
        result,
        Err(object_store::Error::AlreadyExists { .. }
            | object_store::Error::Precondition { .. }
            | object_store::Error::NotImplemented { .. }
            | object_store::Error::NotSupported { .. })
    )
}

type Results = [object_store::Result<object_store::PutResult>];

/// What is wrong with the outcome of one race, if anything.
async fn judge(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    results: &Results,
) -> object_store::Result<Option<String>> {
    let winners: Vec<usize> = (0..results.len()).filter(|i| results[*i].is_ok()).collect();
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        match error {
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {}
            object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
                return Ok(Some("it does not support creating a file only if it is absent".to_owned()));
            }
            _ => {}
        }
    }
    let [winner] = winners.as_slice() else {
        return Ok(Some(format!("{} of {} writers created the same file", winners.len(), results.len())));
    };
    let bytes = store.get(path).await?.bytes().await?;
    if bytes != winner.to_string().into_bytes() {
        return Ok(Some("the bytes of a writer that was told it had lost are there".to_owned()));
    }
    Ok(None)
}

fn unusable(store: &Arc<dyn ObjectStore>, error: object_store::Error) -> Error {
    match crate::skep::skep_error(&error) {
        Some(inner) => inner.clone().context(format!("the store '{store}' cannot be used")),
        None => Error::unavailable(format!("the store '{store}' cannot be used")).source(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::local::LocalFileSystem;
    use object_store::memory::InMemory;
    use skep_common::Kind;

    /// A store that forgets that the path must be absent.
    #[derive(Debug)]
    struct Careless(InMemory);

    impl std::fmt::Display for Careless {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("careless")
        }
    }

    #[async_trait::async_trait]
    impl ObjectStore for Careless {
        async fn put_opts(
            &self,
            location: &Path,
            payload: PutPayload,
            _: PutOptions,
        ) -> object_store::Result<object_store::PutResult> {
            self.0.put_opts(location, payload, PutOptions::default()).await
        }
        async fn put_multipart_opts(
            &self,
            location: &Path,
            options: object_store::PutMultipartOptions,
        ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
            self.0.put_multipart_opts(location, options).await
        }
        async fn get_opts(
            &self,
            location: &Path,
            options: object_store::GetOptions,
        ) -> object_store::Result<object_store::GetResult> {
            self.0.get_opts(location, options).await
        }
        fn delete_stream(
            &self,
            locations: futures::stream::BoxStream<'static, object_store::Result<Path>>,
        ) -> futures::stream::BoxStream<'static, object_store::Result<Path>> {
            self.0.delete_stream(locations)
        }
        fn list(
            &self,
            prefix: Option<&Path>,
        ) -> futures::stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>> {
            self.0.list(prefix)
        }
        async fn list_with_delimiter(
            &self,
            prefix: Option<&Path>,
        ) -> object_store::Result<object_store::ListResult> {
            self.0.list_with_delimiter(prefix).await
        }
        async fn copy_opts(
            &self,
            from: &Path,
            to: &Path,
            options: object_store::CopyOptions,
        ) -> object_store::Result<()> {
            self.0.copy_opts(from, to, options).await
        }
    }

    #[tokio::test]
    async fn honest_stores_pass_and_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let local = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
        for store in [Arc::new(InMemory::new()) as Arc<dyn ObjectStore>, Arc::new(local)] {
            conditional_create(&store, &Path::from("a/b"), Race::default()).await.unwrap();
            assert!(store.list_with_delimiter(Some(&Path::from("a/b"))).await.unwrap().objects.is_empty());
        }
    }

    #[tokio::test]
    async fn a_store_that_lets_two_win_is_refused() {
        let store: Arc<dyn ObjectStore> = Arc::new(Careless(InMemory::new()));
        let error = conditional_create(&store, &Path::default(), Race::default()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.message().contains("16 of 16"), "{error:?}");
    }
}
