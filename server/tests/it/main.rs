//! The doors over a real coordinator on one node, through the network.

mod cancelling;
mod http;
mod ingest;
mod metadata;
mod prepared;
mod sessions;
mod statements;
mod support;
