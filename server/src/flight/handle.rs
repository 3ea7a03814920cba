//! The handles that clients carry between calls: of a statement to run, of one that ran or runs, of a prepared statement, of a
//! transaction.
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
        /// The transaction that it is part of.
        transaction: Option<Uuid>,
    },
    /// An update that ran already: its row count.
    Done { rows: i64 },
    /// An update that runs while its client polls, kept by the session under the handle's id.
    Started,
    /// A prepared statement, kept by the session under the handle's id.
    Prepared,
    /// A transaction, kept by the session under the handle's id.
    Transaction,
}

impl Body {
    /// Whether the handle names what its session keeps until it is ended or closed, rather than for a time.
    pub(crate) fn lasts(&self) -> bool {
        matches!(self, Body::Prepared | Body::Transaction)
    }
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
    #[prost(bytes = "bytes", optional, tag = "9")]
    within: Option<Bytes>,
    #[prost(bool, tag = "10")]
    started: bool,
    #[prost(bool, tag = "11")]
    transaction: bool,
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
            Body::Query { sql, fingerprint, bound, transaction } => {
                wire.sql = Some(sql.clone());
                wire.fingerprint = *fingerprint;
                wire.bound = *bound;
                wire.within = transaction.map(|id| Bytes::copy_from_slice(id.as_bytes()));
            }
            Body::Done { rows } => wire.rows = Some(*rows),
            Body::Started => wire.started = true,
            Body::Prepared => wire.prepared = true,
            Body::Transaction => wire.transaction = true,
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
        let id = |bytes: &Bytes| Uuid::from_slice(bytes).map_err(|_| wrong());
        let body = match (wire.sql, wire.rows, wire.started, wire.prepared, wire.transaction) {
            (Some(sql), None, false, false, false) => Body::Query {
                sql,
                fingerprint: wire.fingerprint,
                bound: wire.bound,
                transaction: wire.within.as_ref().map(id).transpose()?,
            },
            (None, Some(rows), false, false, false) => Body::Done { rows },
            (None, None, true, false, false) => Body::Started,
            (None, None, false, true, false) => Body::Prepared,
            (None, None, false, false, true) => Body::Transaction,
            _ => return Err(wrong()),
        };
        Ok(Self { session: id(&wire.session)?, id: id(&wire.id)?, expires_ms: wire.expires_ms, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_body_comes_back() {
        let bodies = [
            Body::Query {
                sql: "SELECT 1".into(),
                fingerprint: Some(u64::MAX),
                bound: true,
                transaction: Some(Uuid::new_v4()),
            },
            Body::Query { sql: String::new(), fingerprint: None, bound: false, transaction: None },
            Body::Done { rows: -1 },
            Body::Started,
            Body::Prepared,
            Body::Transaction,
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
