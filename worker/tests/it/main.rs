//! A worker as other nodes see it.

#![allow(missing_docs, clippy::unwrap_used)]

mod blocks;
