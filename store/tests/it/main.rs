//! The store as its callers see it.

#![allow(missing_docs, clippy::unwrap_used)]

mod cluster;
mod contract;
mod faults;
mod keep;
mod model;
mod other_stores;
