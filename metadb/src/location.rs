//! Where the database is: a file, or a server.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use skep_common::{Error, Result};
use url::Url;

use crate::Options;

/// The file or server that holds the metadata.
///
/// Reads from text: `postgres://user@host:5432/database` and `postgresql://...` are a server, `sqlite:/path` and every
/// text without a scheme are a file. Shown without the password.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// An SQLite file.
    File(PathBuf),
    /// A database of a PostgreSQL server. The parameters are those of libpq's URLs: `sslmode`, `sslrootcert`, `options`.
    /// `options=-csearch_path%3Dlake` keeps the tables in the schema `lake`, which is created if it is not there.
    Postgres(Url),
}

impl Location {
    /// The file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Postgres(_) => None,
        }
    }

    /// The same place, for whoever must not know the password.
    pub fn without_password(&self) -> Self {
        let mut place = self.clone();
        if let Self::Postgres(url) = &mut place {
            // Fails for URLs without a host only, which have no password either.
            let _ = url.set_password(None);
        }
        place
    }

    /// What the driver connects to.
    pub(crate) fn driver_url(&self, options: &Options) -> Result<Url> {
        let path = match self {
            Self::Postgres(url) => return Ok(url.clone()),
            Self::File(path) => path,
        };
        let unusable =
            || Error::invalid(format!("the path '{}' of the database is not usable", path.display()));
        let path = std::path::absolute(path).map_err(|e| unusable().source(e))?;
        let text = path.to_str().ok_or_else(|| unusable().hint("name it in UTF-8"))?;
        let mode = match (options.immutable, options.create) {
            (true, _) => "ro&immutable=true",
            (false, true) => "rwc",
            (false, false) => "rw",
        };
        let text = format!("sqlite://{}?mode={mode}", utf8_percent_encode(text, OF_PATH));
        text.parse().map_err(|e| unusable().source(e))
    }
}

/// What a path must not carry into a URL.
const OF_PATH: &AsciiSet =
    &CONTROLS.add(b'%').add(b'?').add(b'#').add(b' ').add(b'\\').add(b'"').add(b'<').add(b'>');

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some(("postgres" | "postgresql", _)) => {
                let invalid = |why: String| {
                    Error::invalid(format!("the catalog's address does not read: {why}"))
                        .hint("write it as postgres://user:password@host:5432/database")
                };
                let url: Url = text.parse().map_err(|e| invalid(format!("{e}")))?;
                if url.path().trim_matches('/').is_empty() {
                    return Err(invalid("it names no database".to_owned()));
                }
                Ok(Self::Postgres(url))
            }
            Some(("sqlite", path)) => Ok(Self::File(path.strip_prefix("//").unwrap_or(path).into())),
            Some((scheme, rest)) if rest.starts_with("//") => {
                Err(Error::unsupported(format!("a catalog cannot be kept in '{scheme}'"))
                    .hint("give a path for SQLite, or a postgres:// URL"))
            }
            _ => Ok(Self::File(text.into())),
        }
    }
}

impl From<&Path> for Location {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl From<&PathBuf> for Location {
    fn from(path: &PathBuf) -> Self {
        Self::File(path.clone())
    }
}

impl From<PathBuf> for Location {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Postgres(url) => {
                let mut shown = url.clone();
                if shown.password().is_some() {
                    // Fails for URLs without a host only, which have no password either.
                    let _ = shown.set_password(Some("***"));
                }
                shown.fmt(f)
            }
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use skep_common::Kind;

    use super::*;

    #[test]
    fn a_text_without_a_scheme_is_a_file() {
        assert_eq!("data/c.sqlite".parse::<Location>().unwrap(), Location::File("data/c.sqlite".into()));
        assert_eq!("sqlite:///x/c".parse::<Location>().unwrap(), Location::File("/x/c".into()));
        assert_eq!("sqlite:c".parse::<Location>().unwrap(), Location::File("c".into()));
    }

    #[test]
    fn a_password_is_not_shown() {
        let location: Location = "postgres://me:secret@db.example/lake?sslmode=require".parse().unwrap();
        assert_eq!(location.to_string(), "postgres://me:***@db.example/lake?sslmode=require");
        assert!(!format!("{location:?}").contains("secret"));
    }

    #[test]
    fn addresses_that_cannot_be_meant_are_refused() {
        let kind = |text: &str| text.parse::<Location>().unwrap_err().kind();
        assert_eq!(kind("postgres://host"), Kind::Invalid);
        assert_eq!(kind("postgres://host:port/db"), Kind::Invalid);
        assert_eq!(kind("mysql://host/db"), Kind::Unsupported);
    }

    #[test]
    fn odd_names_of_files_stay_whole() {
        let location = Location::from(Path::new("/a b/50%?#x.sqlite"));
        assert_eq!(
            location.driver_url(&Options::default()).unwrap().as_str(),
            "sqlite:///a%20b/50%25%3F%23x.sqlite?mode=rwc"
        );
    }
}
