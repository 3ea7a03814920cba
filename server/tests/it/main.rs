//! The doors over a real coordinator on one node, through the network.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod abuse;
mod cancelling;
mod deadline;
mod http;
mod ingest;
mod metadata;
mod polling;
mod prepared;
mod sessions;
mod statements;
mod support;
mod transactions;
