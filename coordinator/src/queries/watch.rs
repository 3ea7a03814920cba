//! A statement's place in the registry, from its first word to its last row.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::{RecordBatchStream, SendableRecordBatchStream};
use futures::{Stream, StreamExt};
use skep_common::{Error, QueryId, Result};
use skep_engine::error::from_ref;
use tokio_util::sync::CancellationToken;

use super::Queries;
use super::meter::Meter;
use super::state::{End, State};
use crate::lanes::Ran;
use crate::session::{Outcome, Rows};

/// One statement that is watched. When the last clone is dropped before its end, nobody waits for it any more, and it
/// counts as cancelled.
#[derive(Debug)]
pub(crate) struct Watch {
    id: QueryId,
    queries: Arc<Queries>,
    meter: Arc<Meter>,
    /// Cancelled when it is killed.
    stop: CancellationToken,
    /// Cancelled when its own client does not want it any more.
    outer: CancellationToken,
}

impl Watch {
    pub(super) fn new(
        id: QueryId,
        queries: Arc<Queries>,
        meter: Arc<Meter>,
        stop: CancellationToken,
        outer: CancellationToken,
    ) -> Self {
        Self { id, queries, meter, stop, outer }
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
    pub(crate) fn ran(&self, ran: &Ran) {
        self.meter.ran(ran);
    }

    /// Waits until it has to stop, and says why. A commit that has begun is waited for instead.
    pub(crate) async fn stopped(&self) -> Error {
        tokio::select! {
            () = self.stop.cancelled() => {}
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
                self.queries.end(self.id, &End::Finished(done.rows));
                Ok(Outcome::Done(done))
            }
            Err(error) => {
                self.fail(&error);
                Err(error)
            }
        }
    }

    pub(crate) fn fail(&self, error: &Error) {
        self.queries.end(self.id, &End::Error(error.clone()));
    }

    /// It was looked at only, and is nothing to tell of.
    pub(crate) fn forget(&self) {
        self.queries.forget(self.id);
    }

    fn killed(&self) -> Error {
        self.queries.killed(self.id).unwrap_or_else(|| Error::cancelled(CANCELLED))
    }
}

/// What the client is told that cancelled its own statement.
const CANCELLED: &str = "the statement was cancelled";

impl Drop for Watch {
    fn drop(&mut self) {
        self.queries.end(self.id, &End::Left);
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
                    watch.queries.end(watch.id, &End::Finished(None));
                }
            }
        }
        read
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.queries.end(watch.id, &End::Left);
        }
    }
}

impl RecordBatchStream for Counted {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
