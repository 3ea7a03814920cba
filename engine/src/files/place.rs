//! Where files are: a path, folder or pattern as people write it, as a store and a path in it.

use std::path::{Component, PathBuf};

use datafusion::execution::object_store::ObjectStoreUrl;
use object_store::path::Path;
use skep_common::{Error, Result};
use url::Url;

/// Characters that make a path a pattern.
const WILD: [char; 3] = ['*', '?', '['];

/// A file, a folder or a pattern.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The store.
    pub(crate) store: ObjectStoreUrl,
    /// The file or folder; for a pattern, the deepest folder without wildcards.
    pub(crate) path: Path,
    /// What whole paths must match.
    pub(crate) pattern: Option<glob::Pattern>,
    /// Whether it was written with a `/` at its end.
    pub(crate) folder: bool,
    /// As it was written.
    pub(crate) text: String,
}

impl Place {
    /// Reads `text`: a URL with a scheme, or a path on this machine that may start at `directory`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for what is neither.
    pub(crate) fn parse(text: &str, directory: Option<&str>) -> Result<Self> {
        if text.trim().is_empty() {
            return Err(Error::invalid("the path of a file is empty"));
        }
        let (store, path) = match text.split_once("://") {
            Some(("file", path)) => (ObjectStoreUrl::local_filesystem(), local(path, directory)?),
            Some((scheme, rest)) => remote(text, scheme, rest)?,
            None => (ObjectStoreUrl::local_filesystem(), local(text, directory)?),
        };
        let wrong = |reason: String| Error::invalid(format!("'{text}' is not a path: {reason}"));
        let (base, pattern) = match path.find(WILD) {
            Some(wild) => {
                let folder = path[..wild].rfind('/').map_or("", |at| &path[..at]);
                let pattern = glob::Pattern::new(&path).map_err(|e| wrong(e.msg.to_owned()))?;
                (folder, Some(pattern))
            }
            None => (path.as_str(), None),
        };
        let base = Path::parse(base.trim_end_matches('/')).map_err(|e| wrong(e.to_string()))?;
        Ok(Self { store, path: base, pattern, folder: text.ends_with('/'), text: text.to_owned() })
    }

    /// Whether the whole path `path` matches. True without a pattern.
    pub(crate) fn matches(&self, path: &Path) -> bool {
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: false,
        };
        self.pattern.as_ref().is_none_or(|pattern| pattern.matches_with(path.as_ref(), options))
    }
}

/// An absolute path on this machine without its first `/`, with `.` and `..` resolved by name.
fn local(text: &str, directory: Option<&str>) -> Result<String> {
    let written = PathBuf::from(text);
    let absolute = if written.is_absolute() {
        written
    } else {
        let base = match directory {
            Some(directory) => PathBuf::from(directory),
            None => PathBuf::new(),
        };
        let base = if base.is_absolute() {
            base
        } else {
            std::env::current_dir()
                .map_err(|e| Error::unavailable("the current folder cannot be read").source(e))?
                .join(base)
        };
        base.join(written)
    };
    let mut parts: Vec<String> = Vec::new();
    for component in absolute.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    Ok(parts.join("/"))
}

fn remote(text: &str, scheme: &str, rest: &str) -> Result<(ObjectStoreUrl, String)> {
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let store = Url::parse(&format!("{scheme}://{host}"))
        .ok()
        .and_then(|url| ObjectStoreUrl::parse(url.as_str().trim_end_matches('/')).ok())
        .ok_or_else(|| {
            Error::invalid(format!("'{text}' is not a URL of files")).hint("as in file:///data/x.csv")
        })?;
    Ok((store, path.to_owned()))
}

/// The file `path` of `store` as people write it.
pub(crate) fn shown(store: &ObjectStoreUrl, path: &Path) -> String {
    match store.as_str().strip_prefix("file://") {
        Some(_) => format!("/{path}"),
        None => format!("{}{path}", store.as_str()),
    }
}

/// The folder `path` of `store` as people write it, with a `/` at its end.
pub(crate) fn folder_shown(store: &ObjectStoreUrl, path: &Path) -> String {
    format!("{}/", shown(store, path).trim_end_matches('/'))
}

/// The store and folder of a catalog's data path: a URL, or an absolute path.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for anything else.
pub fn data_path(text: &str) -> Result<(ObjectStoreUrl, Path)> {
    folder(text, None)
}

/// The store and path of one folder that is written as people do.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for a pattern, and for what is no path.
pub(crate) fn folder(text: &str, directory: Option<&str>) -> Result<(ObjectStoreUrl, Path)> {
    let place = Place::parse(text, directory)?;
    match place.pattern {
        None => Ok((place.store, place.path)),
        Some(_) => Err(Error::invalid(format!("the folder '{text}' has a wildcard in its name"))
            .hint("name a folder without *, ? and [")),
    }
}

/// The path of a file of the catalog in `store`, whose data path is at `root` there.
///
/// # Errors
/// [`Kind::Corrupt`](skep_common::Kind::Corrupt) for what is no path,
/// [`Kind::Unsupported`](skep_common::Kind::Unsupported) for a file that is in another store.
pub(crate) fn below(store: &ObjectStoreUrl, root: &Path, absolute: bool, file: &str) -> Result<Path> {
    if absolute {
        let (other, path) = data_path(file)?;
        if other != *store {
            return Err(Error::unsupported(format!("file '{file}' is not in the store of the catalog")));
        }
        return Ok(path);
    }
    let below = Path::parse(file).map_err(|e| {
        Error::corrupt(format!("the catalog has the file '{file}', which is not a path")).source(e)
    })?;
    Ok(root.parts().chain(below.parts()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_urls_are_places() {
        let shown = |text: &str| {
            let place = Place::parse(text, Some("/base/dir")).unwrap();
            let pattern = place.pattern.map(|p| p.to_string()).unwrap_or_default();
            format!("{} {} {pattern}", place.store, place.path)
        };
        assert_eq!(shown("/a/b.csv"), "file:/// a/b.csv ");
        assert_eq!(shown("b.csv"), "file:/// base/dir/b.csv ");
        assert_eq!(shown("../x/./b.csv"), "file:/// base/x/b.csv ");
        assert_eq!(shown("file:///a/b c.csv"), "file:/// a/b c.csv ");
        assert_eq!(shown("/a/*/c.csv"), "file:/// a a/*/c.csv");
        assert_eq!(shown("/a/b?.csv"), "file:/// a a/b?.csv");
        assert_eq!(shown("skep://blocks/a/"), "skep://blocks/ a ");
        assert!(Place::parse("", None).is_err());
    }

    #[test]
    fn stars_stop_at_folders_and_two_do_not() {
        let matches = |pattern: &str, path: &str| {
            Place::parse(pattern, None).unwrap().matches(&Path::parse(path).unwrap())
        };
        assert!(matches("/d/*.csv", "d/a.csv") && !matches("/d/*.csv", "d/e/a.csv"));
        assert!(matches("/d/**/*.csv", "d/e/f/a.csv") && matches("/d/**/*.csv", "d/a.csv"));
        assert!(matches("/d/year=*/a.csv", "d/year=2024/a.csv"));
    }
}
