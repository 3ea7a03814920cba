//! Names of blocks and of writes in progress.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use skep_common::{Error, Result};
use uuid::Uuid;

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh one.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The bits.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// From its bits.
            ///
            /// # Errors
            /// [`Kind::Invalid`](skep_common::Kind::Invalid) unless there are 16.
            pub fn from_slice(bytes: &[u8]) -> Result<Self> {
                Uuid::from_slice(bytes)
                    .map(Self)
                    .map_err(|e| Error::invalid(concat!("not the bytes of a ", $what)).source(e))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.simple().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                let wrong = || Error::invalid(format!(concat!("'{}' is not a ", $what), text));
                if text.len() != 32 {
                    return Err(wrong());
                }
                Uuid::parse_str(text).map(Self).map_err(|e| wrong().source(e))
            }
        }
    };
}

hex_id!(
    /// One block. Text form: 32 hexadecimal digits, also the name of its file on a disk.
    BlockId,
    "block id"
);
impl BlockId {
    /// When it was generated, in microseconds since 1970 and to the millisecond.
    pub(crate) fn made_us(&self) -> Option<i64> {
        let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
        i64::try_from(seconds).ok()?.checked_mul(1_000_000)?.checked_add(i64::from(nanos / 1000))
    }
}

hex_id!(
    /// One write of one file, from its first block to its appearance; then the version (`e_tag`) of the file.
    WriteId,
    "write id"
);
