//! Statements that run while their clients poll.
//!
//! ```text
//! PollFlightInfo: start --> Running --polls: how far it is--> Full, its rows wait for a reader --> DoGet
//!                                                        \--> Done, all rows are here          --> DoGet
//!                                                        \--> Failed
//! ```
//!
//! The ticket is in the first answer already: whoever redeems it early gets the rows as they are made, and whoever never polls
//! has GetFlightInfo.
//!
//! # Invariants
//! - A statement keeps at most [`polled_bytes`](super::Config::polled_bytes) of rows, and one batch more, for its reader.
//! - Whatever is not fetched ends with the ticket, and with the session.
//!
//! # Not here
//! Statements whose client waits for the rows at once.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::{FlightDescriptor, FlightInfo, PollInfo};
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use skep_common::task::{Task, spawn};
use skep_common::{Error, Result};
use skep_coordinator::{Progress, StatementKind};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::handle::{Body, Handle};
use super::run::{self, Batches, Planned};
use super::sessions::{Lease, Running, Sessions};

/// What a statement has come to.
#[derive(Debug, Clone)]
enum Stage {
    /// It runs.
    Running,
    /// It goes on when its rows are read.
    Full,
    /// It ran to its end.
    Done,
    Failed(Error),
}

impl Stage {
    fn runs(&self) -> bool {
        matches!(self, Stage::Running)
    }
}

/// What a statement keeps for its reader.
enum Slot {
    Nothing,
    /// Of a query, for one reader.
    Rows(SchemaRef, Batches),
    /// Of an update, for every reader.
    Batch(RecordBatch),
}

/// One statement that was started by a poll.
pub(crate) struct Started {
    /// When its ticket ends.
    pub(crate) until: Instant,
    info: FlightInfo,
    stage: watch::Receiver<Stage>,
    slot: Arc<Mutex<Slot>>,
    /// Absent where several executions follow one another.
    progress: Arc<Mutex<Option<Progress>>>,
    /// Cancelled when a reader has come, who takes what there is.
    wanted: CancellationToken,
    _running: Running,
    _task: Task<()>,
    _permit: OwnedSemaphorePermit,
}

/// What a reader gets of a statement.
pub(crate) enum Fetched {
    /// The rows of a query.
    Rows(SchemaRef, Batches),
    /// Another reader has them.
    Taken,
}

impl Started {
    /// Whether it ran to its end, well or not.
    pub(crate) fn is_over(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Done | Stage::Failed(_))
    }

    /// How far it is, after its end or a short time.
    ///
    /// # Errors
    /// Those of the statement.
    pub(crate) async fn poll(&self, sessions: &Sessions, again: FlightDescriptor) -> Result<PollInfo> {
        let mut stage = self.stage.clone();
        // Late is no error: the answer says how far it is.
        let _ =
            tokio::time::timeout(sessions.config().poll_wait, stage.wait_for(|stage| !stage.runs())).await;
        let stage = stage.borrow().clone();
        let share = || self.progress.lock().as_ref().and_then(Progress::share);
        let (flight_descriptor, progress) = match stage {
            Stage::Running => (Some(again), share()),
            Stage::Full => (None, share()),
            Stage::Done => (None, Some(1.0)),
            Stage::Failed(error) => return Err(error),
        };
        let expiration_time = self.info.endpoint.first().and_then(|endpoint| endpoint.expiration_time);
        Ok(PollInfo { info: Some(self.info.clone()), flight_descriptor, progress, expiration_time })
    }

    /// Its rows, as soon as there are some.
    ///
    /// # Errors
    /// Those of the statement as far as it got.
    pub(crate) async fn fetch(&self) -> Result<Fetched> {
        self.wanted.cancel();
        let mut stage = self.stage.clone();
        let gone = |_| Error::cancelled("the statement was ended");
        if let Stage::Failed(error) = &*stage.wait_for(|stage| !stage.runs()).await.map_err(gone)? {
            return Err(error.clone());
        }
        let mut slot = self.slot.lock();
        Ok(match std::mem::replace(&mut *slot, Slot::Nothing) {
            Slot::Nothing => Fetched::Taken,
            Slot::Rows(schema, batches) => Fetched::Rows(schema, batches),
            Slot::Batch(batch) => {
                *slot = Slot::Batch(batch.clone());
                Fetched::Rows(batch.schema(), stream::iter([Ok(batch)]).boxed())
            }
        })
    }
}

/// Starts what a client asked for, and answers as [`Started::poll`].
///
/// # Errors
/// [`Kind::Exhausted`](skep_common::Kind::Exhausted) if too many statements are polled; those of the statement, if it ends at
/// once.
pub(crate) async fn start(
    sessions: &Arc<Sessions>,
    planned: Planned,
    asked: FlightDescriptor,
) -> Result<PollInfo> {
    let permit = sessions.poll_slot()?;
    let (id, lease) = (Uuid::now_v7(), planned.place.lease.clone());
    let body = match planned.kind {
        StatementKind::Query => planned.body(sessions, id),
        StatementKind::Update => Body::Started,
    };
    let handle = sessions.handle(&lease, id, body);
    let told = planned.told();
    let info = run::query_info(&handle, told.as_ref())?.with_descriptor(asked);
    let running = lease.run(id);
    let (tell, stage) = watch::channel(Stage::Running);
    let (slot, progress, wanted) =
        (Arc::new(Mutex::new(Slot::Nothing)), Arc::new(Mutex::new(None)), CancellationToken::new());
    let work = Work {
        sessions: Arc::clone(sessions),
        planned,
        cancel: running.cancel.clone(),
        wanted: wanted.clone(),
        slot: Arc::clone(&slot),
        progress: Arc::clone(&progress),
    };
    let task = spawn("polled statement", async move {
        let stage = work.run().await.unwrap_or_else(Stage::Failed);
        // Nobody is left to be told if this fails.
        let _ = tell.send(stage);
    });
    let started = Arc::new(Started {
        until: sessions.ticket_end(),
        info,
        stage,
        slot,
        progress,
        wanted,
        _running: running,
        _task: task,
        _permit: permit,
    });
    sessions.keep_started(&lease, id, Arc::clone(&started));
    started.poll(sessions, run::again(&handle)).await
}

/// Answers a later poll, by the descriptor that the one before gave.
///
/// # Errors
/// [`Kind::NotFound`](skep_common::Kind::NotFound) if the statement is forgotten; those of the statement.
pub(crate) async fn again(sessions: &Sessions, lease: &Lease, handle: &Handle) -> Result<PollInfo> {
    let started = lease.started(handle.id).ok_or_else(forgotten)?;
    started.poll(sessions, run::again(handle)).await
}

pub(crate) fn forgotten() -> Error {
    Error::not_found("the statement that was polled is over").hint("run it again")
}

/// What the task of a statement works with.
struct Work {
    sessions: Arc<Sessions>,
    planned: Planned,
    cancel: CancellationToken,
    wanted: CancellationToken,
    slot: Arc<Mutex<Slot>>,
    progress: Arc<Mutex<Option<Progress>>>,
}

impl Work {
    async fn run(self) -> Result<Stage> {
        match self.planned.kind {
            StatementKind::Query => self.query().await,
            StatementKind::Update => {
                let done = run::updates(&self.sessions, &self.planned, self.cancel, &self.progress).await?;
                *self.slot.lock() = Slot::Batch(run::done_rows(&done)?);
                Ok(Stage::Done)
            }
        }
    }

    async fn query(self) -> Result<Stage> {
        let Planned { place, sql, rows, .. } = self.planned;
        let (schema, mut batches) = run::rows(place, self.cancel, sql, rows, Some(&self.progress)).await?;
        let bytes_max = self.sessions.config().polled_bytes.as_usize();
        let (mut made, mut bytes) = (Vec::new(), 0);
        let full = loop {
            let next = tokio::select! {
                biased;
                () = self.wanted.cancelled() => break true,
                next = batches.next() => next,
            };
            match next {
                None => break false,
                Some(batch) => {
                    let batch = batch?;
                    bytes += batch.get_array_memory_size();
                    made.push(Ok(batch));
                }
            }
            if bytes >= bytes_max {
                break true;
            }
        };
        let made = stream::iter(made);
        let (stage, all) =
            if full { (Stage::Full, made.chain(batches).boxed()) } else { (Stage::Done, made.boxed()) };
        *self.slot.lock() = Slot::Rows(schema, all);
        Ok(stage)
    }
}
