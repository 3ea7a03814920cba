//! Which files a place holds.

use std::sync::Arc;

use datafusion::execution::runtime_env::RuntimeEnv;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use skep_common::{Error, Result};

use super::place::Place;
use crate::{error, names};

/// Files that a scan may have before it is refused.
const FILES_MAX: usize = 100_000;

/// The store of `place`.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for a scheme that is not known, or a host that is not configured.
pub(crate) fn store(runtime: &RuntimeEnv, place: &Place) -> Result<Arc<dyn ObjectStore>> {
    runtime.object_store(&place.store).map_err(error::from_datafusion)
}

/// The files of `place` by path. Hidden ones (`.x`, `_x`) are left out of folders and patterns.
///
/// # Errors
/// [`Kind::NotFound`](skep_common::Kind::NotFound) if there is none, naming what was looked for.
pub(crate) async fn files(store: &Arc<dyn ObjectStore>, place: &Place) -> Result<Vec<ObjectMeta>> {
    if place.pattern.is_none() && !place.folder {
        match store.head(&place.path).await {
            Ok(meta) => return Ok(vec![meta]),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(e) => {
                return Err(error::from_datafusion(e.into()).context(format!("cannot read '{}'", place.text)));
            }
        }
    }
    let mut files = Vec::new();
    let mut listing = store.list(Some(&place.path));
    loop {
        match listing.try_next().await {
            Ok(Some(meta)) => {
                if place.matches(&meta.location) && !hidden(&meta.location, &place.path) {
                    files.push(meta);
                }
                if files.len() > FILES_MAX {
                    return Err(Error::exhausted(format!(
                        "'{}' holds more than {FILES_MAX} files",
                        place.text
                    ))
                    .hint("read it in parts, with a pattern for each"));
                }
            }
            Ok(None) => break,
            Err(object_store::Error::NotFound { .. }) => break,
            Err(e) => {
                return Err(error::from_datafusion(e.into()).context(format!("cannot list '{}'", place.text)));
            }
        }
    }
    if files.is_empty() {
        return Err(missing(store, place).await);
    }
    files.sort_by(|a, b| a.location.cmp(&b.location));
    Ok(files)
}

fn hidden(path: &Path, base: &Path) -> bool {
    let below = path.prefix_match(base).map(|parts| {
        parts
            .map(|part| part.as_ref().to_owned())
            .any(|part| part.starts_with('.') || (part.starts_with('_') && !part.contains('=')))
    });
    below.unwrap_or(false)
}

async fn missing(store: &Arc<dyn ObjectStore>, place: &Place) -> Error {
    if place.pattern.is_some() {
        return Error::not_found(format!("no file matches '{}'", place.text))
            .hint("'*' stands for any part of one name, '**' for any folders");
    }
    if place.folder {
        return Error::not_found(format!("folder '{}' does not exist or is empty", place.text));
    }
    let missing = Error::not_found(format!("file '{}' does not exist", place.text));
    let (Some(name), parent) = (place.path.filename(), parent(&place.path)) else { return missing };
    let Ok(siblings) = store.list_with_delimiter(Some(&parent)).await else { return missing };
    let names: Vec<&str> = siblings.objects.iter().filter_map(|meta| meta.location.filename()).collect();
    match names::nearest(name, names) {
        Some(near) => missing.hint(format!("did you mean '{near}'?")),
        None => missing,
    }
}

fn parent(path: &Path) -> Path {
    let mut parts: Vec<_> = path.parts().collect();
    parts.pop();
    parts.into_iter().collect()
}
