//! What every Skep crate shares: the error type, ids, units, the clock, task spawning.
//!
//! ```text
//! error   one error with a kind, a place, a hint and a cause; crosses the wire without loss
//! id      NodeId, QueryId, SessionId
//! unit    ByteSize, and the text form of durations ("30s")
//! near    the name that was meant, for hints
//! clock   the only place that asks what time it is
//! task    named background tasks that end with their owner
//! ```
//!
//! # Not here
//! Anything that knows SQL, Arrow, a database or a protocol.

pub mod clock;
pub mod error;
pub mod id;
pub mod near;
pub mod task;
pub mod unit;

pub use error::{Error, Kind, Note, Position, Result, Span};
pub use id::{NodeId, QueryId, SessionId};
pub use near::nearest;
pub use unit::ByteSize;
