//! ELT projects: a folder of SQL, read, checked, run and published as one.
//!
//! ```text
//! folder --bundle--> Project: models, tests, seeds, their graph      (project, graph, select)
//!                        |
//!                     Runner: one transaction for all models         (run)
//!                        |      model by model: decide, stage, test
//!                        |      one commit: tables and ledger
//!                     Ledger: intervals, runs, models, tests         (ledger)
//!
//! folder --deploy--> Versions --Scheduler--> Runner                  (deploy, schedule, notify)
//! ```
//!
//! # Invariants
//! - A run publishes all of its tables and its lines of the ledger in one commit, or nothing.
//! - What a model reads is what models before it staged, over one snapshot.
//! - A model's SQL is run as it is written, but for typed values in the place of `$name` and names of other environments.
//!
//! # Not here
//! SQL, transactions and lanes (`skep-coordinator`); the command line, which calls [`service`] as an action.

mod backfill;
pub mod bundle;
pub mod deploy;
pub mod event;
mod graph;
mod interval;
mod ledger;
pub mod log;
mod notify;
pub mod project;
mod rewrite;
mod run;
mod schedule;
mod select;
pub mod service;
mod statements;
mod tables;
#[cfg(test)]
mod testing;
pub mod unit;

pub use bundle::Bundle;
pub use project::{Problem, Project};
pub use schedule::{Config, Scheduling};
pub use service::Pipelines;
