//! The cluster secret: one token that every call between nodes carries.
//!
//! A worker runs any plan it is sent, so reaching its port must not be enough. Without a secret, nodes may only
//! listen on loopback; `src` refuses anything else.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use skep_common::{Error, Result};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// The token of a cluster, or none. `Debug` never shows it.
#[derive(Clone, Default)]
pub struct Secret(Option<Arc<MetadataValue<Ascii>>>);

const HEADER: &str = "x-skep-secret";
const LENGTH_MIN: usize = 16;

impl Secret {
    /// No token: calls are not checked. For loopback only.
    pub fn none() -> Self {
        Self(None)
    }

    /// A fresh random token, for a cluster that lives in one process.
    pub fn generate() -> Self {
        let text = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        Self(MetadataValue::try_from(text).ok().map(Arc::new))
    }

    /// The token in `path`: its text without surrounding white space.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) if the file cannot be read, or holds less than 16 printable
    /// ASCII characters.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::invalid(format!("cannot read the cluster secret from '{}'", path.display()))
                .hint("[cluster] secret_file names a file with one random token, the same on every node")
                .source(e)
        })?;
        let text = text.trim();
        let wrong = || {
            Error::invalid(format!("'{}' does not hold a usable secret", path.display())).hint(
                "write one line of at least 16 printable ASCII characters, for example 32 random hex digits",
            )
        };
        if text.len() < LENGTH_MIN || !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err(wrong());
        }
        let value = MetadataValue::try_from(text).map_err(|_| wrong())?;
        Ok(Self(Some(Arc::new(value))))
    }

    /// Writes the token to `path`, for this user alone, in place of what is there.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) if the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let Some(token) = self.0.as_deref() else { return Ok(()) };
        let write = || {
            // A file of before may be readable by others.
            match std::fs::remove_file(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(token.as_bytes())
        };
        write().map_err(|e| {
            Error::invalid(format!("cannot write the cluster secret to '{}'", path.display())).source(e)
        })
    }

    /// Whether calls are checked.
    pub fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// The header and its value, for clients that set headers by themselves.
    pub fn header(&self) -> Option<(&'static str, &MetadataValue<Ascii>)> {
        self.0.as_deref().map(|value| (HEADER, value))
    }

    /// The server's check, to put before every service between nodes:
    /// `Server::builder().layer(tonic::service::InterceptorLayer::new(secret.check()))`.
    pub fn check(&self) -> Check {
        Check(self.clone())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_set() { "Secret(set)" } else { "Secret(none)" })
    }
}

/// Refuses calls that do not carry the token.
#[derive(Debug, Clone)]
pub struct Check(Secret);

impl Interceptor for Check {
    fn call(&mut self, request: Request<()>) -> std::result::Result<Request<()>, Status> {
        let Some(expected) = &self.0.0 else { return Ok(request) };
        let given = request.metadata().get(HEADER);
        if given.is_some_and(|given| equal(given.as_bytes(), expected.as_bytes())) {
            return Ok(request);
        }
        let what = if given.is_some() {
            "the cluster secret is wrong"
        } else {
            "the call carries no cluster secret"
        };
        Err(Error::denied(what)
            .hint("[cluster] secret_file must hold the same token on every node")
            .to_status())
    }
}

/// Compares in a time that depends on the lengths only, so that a token cannot be guessed byte by byte.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_common::Kind;

    fn call(check: &Secret, token: Option<&str>) -> Result<()> {
        let mut request = Request::new(());
        if let Some(token) = token {
            request.metadata_mut().insert(HEADER, token.parse().unwrap());
        }
        check.check().call(request).map(drop).map_err(|s| Error::from_status(&s))
    }

    #[test]
    fn only_the_token_opens() {
        let dir = std::env::temp_dir().join(format!("skep-secret-{}", uuid::Uuid::new_v4()));
        std::fs::write(&dir, "0123456789abcdef\n").unwrap();
        let secret = Secret::read(&dir).unwrap();
        std::fs::remove_file(&dir).unwrap();
        assert!(call(&secret, Some("0123456789abcdef")).is_ok());
        for wrong in [None, Some("0123456789abcdeF"), Some("0123456789abcde"), Some("x")] {
            assert_eq!(call(&secret, wrong).unwrap_err().kind(), Kind::Denied);
        }
        assert!(call(&Secret::none(), None).is_ok());
        assert!(!format!("{secret:?}").contains("0123"));
    }

    #[test]
    fn a_missing_or_short_secret_is_refused() {
        assert_eq!(Secret::read(Path::new("/nonexistent/secret")).unwrap_err().kind(), Kind::Invalid);
    }
}
