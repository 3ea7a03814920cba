//! A statement's place in the registry, from its first word to its last row.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::{RecordBatchStream, SendableRecordBatchStream};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use skep_common::{Error, QueryId, Result};
use skep_engine::error::from_ref;
use skep_engine::memory::QueryPool;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Queries;
use super::meter::Meter;
use super::sight::Sight;
use super::state::{End, State};
use crate::admission::{Admission, Group, Permit};
use crate::lanes::Ran;
use crate::session::{Outcome, Rows};

/// One statement that is watched. When the last clone is dropped before its end, nobody waits for it any more, and it
/// counts as cancelled.
pub(crate) struct Watch {
    id: QueryId,
    queries: Arc<Queries>,
    meter: Arc<Meter>,
    /// Cancelled when it is killed.
    stop: CancellationToken,
    /// Cancelled when its own client does not want it any more.
    outer: CancellationToken,
    /// Held while it waits for its turn.
    admitting: tokio::sync::Mutex<()>,
    /// Its place in its group, from its turn to its end.
    permit: Mutex<Option<Permit>>,
    /// When it has run for too long, and why; known from its turn on.
    limit: OnceLock<(Instant, Error)>,
    limited: Notify,
}

impl Watch {
    pub(super) fn new(
        id: QueryId,
        queries: Arc<Queries>,
        meter: Arc<Meter>,
        stop: CancellationToken,
        outer: CancellationToken,
    ) -> Self {
        Self {
            id,
            queries,
            meter,
            stop,
            outer,
            admitting: tokio::sync::Mutex::default(),
            permit: Mutex::default(),
            limit: OnceLock::new(),
            limited: Notify::new(),
        }
    }

    pub(crate) fn id(&self) -> QueryId {
        self.id
    }

    /// It goes on to `state`.
    ///
    /// # Errors
    /// [`Kind::Cancelled`](skep_common::Kind::Cancelled) if it was killed: it must not go on.
    pub(crate) fn advance(&self, state: State) -> Result<()> {
        if self.outer.is_cancelled() && self.queries.kill_now(self.id, CANCELLED).is_ok() {
            return Err(self.killed());
        }
        self.queries.advance(self.id, state)
    }

    /// A plan of it starts.
    pub(crate) fn ran(&self, ran: &Ran, sight: &Arc<Sight>) {
        self.meter.ran(ran, sight);
    }

    /// It runs several plans one after the other.
    pub(crate) fn several(&self) {
        self.meter.several();
    }

    /// Waits for its turn in the group `name`, once for all its plans.
    ///
    /// # Errors
    /// As [`Admission::admit`], and as [`Watch::advance`].
    pub(crate) async fn turn(&self, admission: &Arc<Admission>, name: &str, group: &Group) -> Result<()> {
        let _one = self.admitting.lock().await;
        if self.permit.lock().is_some() {
            return Ok(());
        }
        self.queries.enters(self.id, name);
        let permit = admission.admit(name, self.id, || self.advance(State::Queued)).await?;
        *self.permit.lock() = Some(permit);
        if let Some(limit) = group.run_timeout {
            let error = Error::deadline(format!("the statement ran longer than {limit:?}")).hint(format!(
                "raise run_timeout of [coordinator.groups.{name}], or SET skep.group to another"
            ));
            let _ = self.limit.set((tokio::time::sleep(limit).deadline(), error));
            self.limited.notify_waiters();
        }
        Ok(())
    }

    /// The memory of its plans in the coordinator.
    pub(crate) fn memory(&self, pool: &Arc<QueryPool>) {
        self.meter.memory(pool);
        self.limited.notify_waiters();
    }

    /// Waits until the process had no memory left for it. A commit that has begun is waited for instead.
    async fn starved(&self) -> Error {
        let pool = loop {
            let limited = self.limited.notified();
            if let Some(pool) = self.meter.pool() {
                break pool;
            }
            limited.await;
        };
        let error = pool.ended().await;
        if self.queries.commits(self.id) {
            std::future::pending().await
        }
        error
    }

    /// Waits until it has run for too long. A commit that has begun is waited for instead.
    async fn overran(&self) -> Error {
        let (deadline, error) = loop {
            let limited = self.limited.notified();
            if let Some(limit) = self.limit.get() {
                break limit;
            }
            limited.await;
        };
        tokio::time::sleep_until(*deadline).await;
        if self.queries.commits(self.id) {
            std::future::pending().await
        }
        error.clone()
    }

    fn end(&self, end: &End) {
        self.queries.end(self.id, end);
        drop(self.permit.lock().take());
    }

    /// Waits until it has to stop, and says why. A commit that has begun is waited for instead.
    pub(crate) async fn stopped(&self) -> Error {
        tokio::select! {
            () = self.stop.cancelled() => {}
            error = self.overran() => return error,
            error = self.starved() => return error,
            () = self.outer.cancelled() => {
                if self.queries.kill_now(self.id, CANCELLED).is_err() {
                    self.stop.cancelled().await;
                }
            }
        }
        self.killed()
    }

    /// Notes how it ended, or goes on to watch its rows.
    pub(crate) fn settle(self: Arc<Self>, outcome: Result<Outcome>) -> Result<Outcome> {
        match outcome {
            Ok(Outcome::Rows(rows)) => {
                self.meter.open();
                let Rows { query, schema, stream } = rows;
                let stream = Box::pin(Counted { schema: stream.schema(), stream, watch: Some(self) });
                Ok(Outcome::Rows(Rows { query, schema, stream }))
            }
            Ok(Outcome::Done(done)) => {
                self.end(&End::Finished(done.rows));
                Ok(Outcome::Done(done))
            }
            Err(error) => {
                self.fail(&error);
                Err(error)
            }
        }
    }

    pub(crate) fn fail(&self, error: &Error) {
        self.end(&End::Error(error.clone()));
    }

    /// It was looked at only, and is nothing to tell of.
    pub(crate) fn forget(&self) {
        self.queries.forget(self.id);
    }

    fn killed(&self) -> Error {
        self.queries.killed(self.id).unwrap_or_else(|| Error::cancelled(CANCELLED))
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What the client is told that cancelled its own statement.
const CANCELLED: &str = "the statement was cancelled";

impl Drop for Watch {
    fn drop(&mut self) {
        self.end(&End::Left);
    }
}

/// The rows of a watched query.
struct Counted {
    schema: SchemaRef,
    stream: SendableRecordBatchStream,
    /// Until the end.
    watch: Option<Arc<Watch>>,
}

impl Stream for Counted {
    type Item = Result<RecordBatch, DataFusionError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let read = self.stream.poll_next_unpin(context);
        match &read {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(batch))) => {
                if let Some(watch) = &self.watch {
                    watch.meter.count(batch.num_rows(), batch.get_array_memory_size());
                }
            }
            Poll::Ready(Some(Err(error))) => {
                if let Some(watch) = self.watch.take() {
                    watch.fail(&from_ref(error));
                }
            }
            Poll::Ready(None) => {
                if let Some(watch) = self.watch.take() {
                    watch.end(&End::Finished(None));
                }
            }
        }
        read
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.end(&End::Left);
        }
    }
}

impl RecordBatchStream for Counted {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
