//! Blocks and their namespace over gRPC: the two traits of `skep_store::remote` from both sides.
//!
//! ```text
//! SkepStore, Keeper --RemotePeers-----> worker:      BlocksService (skep_worker::blocks) -> BlockServer
//! SkepStore, worker --RemoteNamespace-> coordinator: NamespaceService                    -> Namespace
//! ```
//!
//! Bytes travel in pieces with a checksum each, and a write ends with a mark: a connection that breaks, or bytes that
//! change on the way, fail the call and are never taken for the end or the content of a block.
//!
//! # Not here
//! What the calls mean (`skep-store`).

mod convert;
mod namespace;
mod peers;
mod service;

pub use convert::{pieces_in, pieces_out, report_out};
pub use namespace::RemoteNamespace;
pub use peers::RemotePeers;
pub use service::NamespaceService;

/// Longest message of the namespace: a page of files with their blocks.
const NAMESPACE_MESSAGE_MAX: usize = 64 << 20;
/// Longest message with bytes of a block: the largest `message` setting and its frame.
pub const BLOCK_MESSAGE_MAX: usize = 8 << 20;
