//! What nodes say to each other: protocols, channels, secret tokens, lane codecs, settings that travel.
//!
//! ```text
//! secret       one shared token, on every call between nodes
//! channel      connections with timeouts and keepalives, token attached
//! blocks       replicated blocks between nodes, and their namespace on the coordinator
//! durable      tasks fetched from the coordinator, outputs read from disk: the durable lane
//! exchange     rows between tasks, with credit and end marks
//! settings     what a session set, put back on the workers
//! failure      errors of DataFusion and of ours
//! membership   join, heartbeat, leave; the coordinator's view of live workers
//! ```
//!
//! # Not here
//! Deciding anything about queries (`skep-coordinator`) or running them (`skep-worker`).

pub mod blocks;
pub mod channel;
pub mod delay;
pub mod durable;
pub mod exchange;
pub mod failure;
pub mod membership;
pub mod secret;
pub mod settings;

pub use channel::{AuthChannel, ChannelConfig, connect, serve};
pub use exchange::Channels;
pub use secret::Secret;

/// Generated from `proto/`.
#[allow(missing_docs, clippy::all, clippy::disallowed_methods, unreachable_pub)]
pub mod proto {
    /// `blocks.proto`
    pub mod blocks {
        tonic::include_proto!("skep.blocks.v1");
    }
    /// `durable.proto`
    pub mod durable {
        tonic::include_proto!("skep.durable.v1");
    }
    /// `exchange.proto`
    pub mod exchange {
        tonic::include_proto!("skep.exchange.v1");
    }
    /// `membership.proto`
    pub mod membership {
        tonic::include_proto!("skep.membership.v1");
    }
}

/// Version of the protocols between nodes. Nodes of different versions refuse each other.
pub const PROTOCOL_VERSION: u32 = 1;
