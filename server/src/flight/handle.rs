//! The handles that clients carry between calls: of a statement to run, of one that ran, of a prepared statement.
//!
//! A handle says everything needed to redeem it, so that the server keeps nothing for a client that never comes
//! back. It names its session; only a caller who is that session's user may redeem it.

use bytes::Bytes;
use prost::Message;
use skep_common::{Error, Result};
use uuid::Uuid;

/// What a ticket stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handle {
    /// The session it belongs to.
    pub(crate) session: Uuid,
    /// One planned execution; what CancelFlightInfo names.
    pub(crate) id: Uuid,
    /// When it ends, in milliseconds since 1970.
    pub(crate) expires_ms: i64,
    pub(crate) body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// A query to run when the ticket is redeemed.
    Query {
        sql: String,
        /// Of the schema that the client was told; absent if it was told none.
        fingerprint: Option<u64>,
        /// Whether parameters wait for it in the session, under the handle's id.
        bound: bool,
    },
    /// An update that ran already: its row count.
    Done { rows: i64 },
    /// A prepared statement, kept by the session under the handle's id.
    Prepared,
}

#[derive(Clone, PartialEq, Message)]
struct Wire {
    #[prost(bytes = "bytes", tag = "1")]
    session: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    id: Bytes,
    #[prost(int64, tag = "3")]
    expires_ms: i64,
    #[prost(string, optional, tag = "4")]
    sql: Option<String>,
    #[prost(fixed64, optional, tag = "5")]
    fingerprint: Option<u64>,
    #[prost(bool, tag = "6")]
    bound: bool,
    #[prost(int64, optional, tag = "7")]
    rows: Option<i64>,
    #[prost(bool, tag = "8")]
    prepared: bool,
}

impl Handle {
    pub(crate) fn encode(&self) -> Bytes {
        let mut wire = Wire {
            session: Bytes::copy_from_slice(self.session.as_bytes()),
            id: Bytes::copy_from_slice(self.id.as_bytes()),
            expires_ms: self.expires_ms,
            ..Wire::default()
        };
        match &self.body {
            Body::Query { sql, fingerprint, bound } => {
                wire.sql = Some(sql.clone());
                wire.fingerprint = *fingerprint;
                wire.bound = *bound;
            }
            Body::Done { rows } => wire.rows = Some(*rows),
            Body::Prepared => wire.prepared = true,
        }
        wire.encode_to_vec().into()
    }

    /// Reads what [`Handle::encode`] wrote.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for any other bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let wrong =
            || Error::invalid("the handle was not made by this server").hint("run the statement again");
        let wire = Wire::decode(bytes).map_err(|e| wrong().source(e))?;
        let body = match (wire.sql, wire.rows, wire.prepared) {
            (Some(sql), None, false) => Body::Query { sql, fingerprint: wire.fingerprint, bound: wire.bound },
            (None, Some(rows), false) => Body::Done { rows },
            (None, None, true) => Body::Prepared,
            _ => return Err(wrong()),
        };
        Ok(Self {
            session: Uuid::from_slice(&wire.session).map_err(|_| wrong())?,
            id: Uuid::from_slice(&wire.id).map_err(|_| wrong())?,
            expires_ms: wire.expires_ms,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_body_comes_back() {
        let bodies = [
            Body::Query { sql: "SELECT 1".into(), fingerprint: Some(u64::MAX), bound: true },
            Body::Query { sql: String::new(), fingerprint: None, bound: false },
            Body::Done { rows: -1 },
            Body::Prepared,
        ];
        for body in bodies {
            let handle = Handle { session: Uuid::now_v7(), id: Uuid::new_v4(), expires_ms: 17, body };
            assert_eq!(Handle::decode(&handle.encode()).unwrap(), handle);
        }
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for bytes in [&b""[..], b"x", b"\x0a\x01a", &[0xff; 64]] {
            assert!(Handle::decode(bytes).is_err(), "{bytes:?}");
        }
    }
}
