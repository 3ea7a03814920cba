//! The doors: Flight SQL and HTTP, and who may come in.
//!
//! ```text
//! auth     who the caller is, and whether they may run a statement: one trait, one place
//! flight   Flight SQL over gRPC: sessions, statements, prepared statements, metadata
//! http     liveness, readiness, a page that says where the other door is
//! ```
//!
//! # Not here
//! Deciding what a statement means: everything runs through `skep_coordinator::Session`.

pub mod auth;
pub mod flight;
pub mod http;
