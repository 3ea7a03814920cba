//! Who the caller is, and what they may do.
//!
//! Every door asks one [`Authenticator`], and asks it in two places only: when a session opens, and before a
//! statement is planned or run.

use std::fmt;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use skep_common::{Error, Result};

/// What a caller showed.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing.
    None,
    /// A name and a password.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A token that is not a session's.
    Bearer(String),
}

impl fmt::Debug for Credentials {
    /// Never prints a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::None => f.write_str("None"),
            Credentials::Basic { user, .. } => write!(f, "Basic {{ user: {user:?} }}"),
            Credentials::Bearer(_) => f.write_str("Bearer"),
        }
    }
}

/// Go's drivers leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Credentials {
    /// Reads the value of an `authorization` header.
    ///
    /// # Errors
    /// [`Kind::Denied`](skep_common::Kind::Denied) for a scheme other than Basic and Bearer, or bad base64.
    pub fn from_header(value: &str) -> Result<Self> {
        let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            let token = rest.trim();
            return Ok(if token.is_empty() {
                Credentials::None
            } else {
                Credentials::Bearer(token.to_owned())
            });
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(Error::denied("authorization scheme is neither Basic nor Bearer"));
        }
        let wrong = || Error::denied("authorization header is not base64 of 'user:password'");
        let bytes = BASE64.decode(rest.trim()).map_err(|_| wrong())?;
        let text = String::from_utf8(bytes).map_err(|_| wrong())?;
        let (user, password) = text.split_once(':').ok_or_else(wrong)?;
        Ok(Credentials::Basic { user: user.to_owned(), password: password.to_owned() })
    }
}

/// A caller whose credentials were accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct User(String);

impl User {
    /// The user of that name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// Decides who comes in and what they may run.
#[async_trait::async_trait]
pub trait Authenticator: fmt::Debug + Send + Sync {
    /// The user who showed `credentials`.
    ///
    /// # Errors
    /// [`Kind::Denied`](skep_common::Kind::Denied) if nobody is let in with them.
    async fn authenticate(&self, credentials: &Credentials) -> Result<User>;

    /// Whether `user` may plan and run `sql`.
    ///
    /// # Errors
    /// [`Kind::Denied`](skep_common::Kind::Denied) if not.
    fn authorise(&self, user: &User, sql: &str) -> Result<()>;
}

/// Lets everybody in under the name they give, and allows everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Open;

/// The name of a caller who gives none.
pub const ANONYMOUS: &str = "anonymous";

#[async_trait::async_trait]
impl Authenticator for Open {
    async fn authenticate(&self, credentials: &Credentials) -> Result<User> {
        Ok(match credentials {
            Credentials::Basic { user, .. } if !user.is_empty() => User::new(user),
            _ => User::new(ANONYMOUS),
        })
    }

    fn authorise(&self, _user: &User, _sql: &str) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_every_client_are_read() {
        let basic = Credentials::Basic { user: "ada".into(), password: "a:b".into() };
        assert_eq!(Credentials::from_header("Basic YWRhOmE6Yg==").unwrap(), basic);
        assert_eq!(Credentials::from_header("Basic YWRhOmE6Yg").unwrap(), basic);
        assert_eq!(Credentials::from_header("basic YWRhOmE6Yg==").unwrap(), basic);
        assert_eq!(Credentials::from_header("Bearer t").unwrap(), Credentials::Bearer("t".into()));
        assert_eq!(Credentials::from_header("Bearer ").unwrap(), Credentials::None);
        for bad in ["Digest x", "Basic ???", "Basic bm9jb2xvbg=="] {
            assert!(Credentials::from_header(bad).is_err(), "{bad}");
        }
        assert!(!format!("{basic:?}").contains("a:b"));
    }
}
