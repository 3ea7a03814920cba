//! What a run tells while it goes on, and what others ask of it: the bodies of actions, as JSON.
//!
//! # Not here
//! Showing them to people: whoever listens.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use skep_common::Span;

use crate::bundle::Bundle;

/// A project to be checked or run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// Its files.
    pub bundle: Bundle,
    /// The folder that relative paths of files start at.
    pub directory: Option<String>,
    /// The environment that is written to; absent: production.
    pub environment: Option<String>,
    /// Only these models; none: all.
    pub select: Vec<String>,
    /// Without these.
    pub exclude: Vec<String>,
    /// First interval that is run, whatever the ledger says.
    pub start: Option<String>,
    /// Where the intervals end.
    pub end: Option<String>,
    /// Every model from nothing.
    pub full_refresh: bool,
    /// Values for variables of the project.
    pub vars: BTreeMap<String, String>,
    /// The lane; absent: that of the project.
    pub execution: Option<String>,
    /// The failed run that is gone on with.
    pub retry: Option<i64>,
}

/// A run whose staged tables are given up.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Dropped {
    /// Its number.
    pub run: i64,
}

/// A range whose intervals are made again, chunk by chunk.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Backfill {
    /// The project, its models and the range.
    pub request: Request,
    /// Intervals of a chunk, by the coarsest grain of the models.
    pub chunk: u32,
    /// Between two chunks; of one that is gone on with: another than before.
    pub pause_ms: Option<u64>,
    /// How long other runs are waited for.
    pub wait_ms: u64,
    /// The oldest chunk first, and not the newest.
    pub oldest_first: bool,
    /// One that is gone on with, by its number; 0: the latest that did not end. Only the pause and the wait count then.
    pub resume: Option<i64>,
}

/// An environment that is published as production.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Promote {
    /// The project, the environment and its models.
    pub request: Request,
    /// Also where production loses something.
    pub force: bool,
}

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It goes on.
    Running,
    /// It did what it should.
    Done,
    /// It had nothing to do.
    Unchanged,
    /// It did not fulfil what a test asks, which only warns.
    Warned,
    /// It failed.
    Failed,
    /// Something before it failed.
    Skipped,
}

impl State {
    /// As tables show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Unchanged => "unchanged",
            Self::Warned => "warned",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// What is wrong with a file of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The file, by its path in the project.
    pub file: String,
    /// Where in it.
    pub span: Option<Span>,
    /// The kind of error.
    pub kind: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// One line of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// It begins.
    Begun {
        /// Its number.
        run: i64,
        /// The project.
        pipeline: String,
        /// What it writes to.
        environment: String,
        /// Its models, in order.
        models: Vec<String>,
    },
    /// A model begins.
    Model {
        /// Which.
        model: String,
        /// Its kind.
        kind: String,
        /// The intervals that it is run for, as text.
        range: Option<String>,
    },
    /// A model ended.
    Ended {
        /// Which.
        model: String,
        /// How.
        state: State,
        /// Rows that it wrote.
        rows: Option<u64>,
        /// How long it took.
        took_ms: u64,
        /// Why it did nothing, or what was wrong.
        note: Option<String>,
    },
    /// A test ended.
    Tested {
        /// The model; for tests with a file of their own, that.
        model: String,
        /// What it asks.
        test: String,
        /// How it ended.
        state: State,
        /// Rows that do not fulfil it.
        failures: u64,
        /// What was wrong, with examples.
        note: Option<String>,
    },
    /// A backfill begins, or is gone on with.
    Backfill {
        /// Its number.
        backfill: i64,
        /// Its chunks.
        chunks: i64,
        /// Those that are made already.
        done: i64,
        /// Where it starts.
        start: Option<String>,
        /// Where it ends.
        end: Option<String>,
    },
    /// A chunk of a backfill is made.
    Chunk {
        /// The backfill.
        backfill: i64,
        /// Which, counted from 1.
        chunk: i64,
        /// Of how many.
        chunks: i64,
        /// Its intervals, as text.
        range: String,
        /// Its run.
        run: i64,
        /// How long it took.
        took_ms: u64,
        /// About how long the others will take.
        left_ms: u64,
        /// What its run published.
        message: String,
    },
    /// Something in a file is wrong.
    Wrong(Finding),
    /// People should know this.
    Warning {
        /// What.
        message: String,
    },
    /// All is over.
    Over {
        /// The run; absent for checks.
        run: Option<i64>,
        /// How it ended.
        state: State,
        /// The snapshot that shows its tables.
        snapshot: Option<i64>,
        /// How long it took.
        took_ms: u64,
        /// A line for people.
        message: String,
    },
}

impl Event {
    /// Whether it is nothing that people must know.
    pub(crate) fn went_well(&self) -> bool {
        match self {
            Self::Begun { .. } | Self::Model { .. } => true,
            Self::Ended { state, .. } => *state != State::Failed,
            Self::Tested { state, .. } => *state == State::Done,
            _ => false,
        }
    }
}
