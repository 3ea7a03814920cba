//! What ends a statement before its time: `skep.statement_timeout`, which planning, running and reading its rows share,
//! KILL QUERY, and a client that does not want it any more.
//!
//! ```text
//! within: work --in time--> rows --> Limited --in time--> rows --> reader
//!           \--over--> error          ^  \--over--> error, then the end
//!                                   watch: drops the query's stream when it is over, also when nobody reads
//! ```
//!
//! # Invariants
//! - After that nothing of the query runs, whether or not its reader asks for rows.
//! - A stream that was cut ends with an error, never as if it were complete.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::{RecordBatchStream, SendableRecordBatchStream};
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use skep_common::task::{Task, spawn};
use skep_common::{Error, Result};
use skep_engine::error::to_datafusion;
use tokio::sync::Mutex;
use tokio::time::{sleep, sleep_until};

use crate::queries::Watch;
use crate::session::{Outcome, Rows};

/// Waits until a statement has to end, and says why. Called for each that waits.
pub(crate) type Over = Arc<dyn Fn() -> BoxFuture<'static, Error> + Send + Sync>;

/// After `limit`, counted from here, if there is one; and when `watch` says so.
pub(crate) fn over(limit: Option<Duration>, watch: &Arc<Watch>) -> Over {
    let watch = Arc::clone(watch);
    let late = late(limit);
    Arc::new(move || {
        let (watch, late) = (Arc::clone(&watch), late());
        async move {
            tokio::select! {
                error = watch.stopped() => error,
                error = late => error,
            }
        }
        .boxed()
    })
}

/// After `limit`, counted from here.
fn late(limit: Option<Duration>) -> Over {
    let Some(limit) = limit else { return Arc::new(|| std::future::pending().boxed()) };
    let deadline = sleep(limit).deadline();
    Arc::new(move || {
        async move {
            sleep_until(deadline).await;
            Error::deadline(format!("the statement took longer than {limit:?}"))
                .hint("raise skep.statement_timeout, or SET it to none")
        }
        .boxed()
    })
}

/// Does `work`, and lets its rows be read, until it is `over`.
///
/// # Errors
/// Those of `work`, and the one that `over` gives, from here or in the stream of rows.
pub(crate) async fn within(over: &Over, work: impl Future<Output = Result<Outcome>>) -> Result<Outcome> {
    let outcome = tokio::select! {
        // What is done is done.
        biased;
        outcome = work => outcome?,
        error = over() => return Err(error),
    };
    Ok(match outcome {
        Outcome::Rows(rows) => {
            Outcome::Rows(Rows { stream: Box::pin(Limited::new(rows.stream, over)), ..rows })
        }
        done @ Outcome::Done(_) => done,
    })
}

/// The rows of a query, or why there are no more.
enum Slot {
    Rows(SendableRecordBatchStream),
    Over(Error),
    Ended,
}

/// Rows that can be read until they are over.
struct Limited {
    schema: SchemaRef,
    /// Wakes the reader.
    over: BoxFuture<'static, Error>,
    rows: Arc<Mutex<Slot>>,
    watch: Task<()>,
    ended: bool,
}

impl Limited {
    fn new(stream: SendableRecordBatchStream, over: &Over) -> Self {
        let schema = stream.schema();
        let rows = Arc::new(Mutex::new(Slot::Rows(stream)));
        let (watched, end) = (Arc::clone(&rows), over());
        let watch = spawn("end of a statement", async move {
            let error = end.await;
            let late = std::mem::replace(&mut *watched.lock().await, Slot::Over(error));
            drop(late);
        });
        Self { schema, over: over(), rows, watch, ended: false }
    }

    fn read(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<RecordBatch, DataFusionError>>> {
        if let Poll::Ready(error) = self.over.poll_unpin(context) {
            return Poll::Ready(Some(Err(to_datafusion(error))));
        }
        let Ok(mut rows) = self.rows.try_lock() else {
            // Only the watch takes the lock beside us, for a moment.
            context.waker().wake_by_ref();
            return Poll::Pending;
        };
        match &mut *rows {
            Slot::Rows(stream) => stream.poll_next_unpin(context),
            Slot::Over(error) => Poll::Ready(Some(Err(to_datafusion(error.clone())))),
            Slot::Ended => Poll::Ready(None),
        }
    }
}

impl Stream for Limited {
    type Item = Result<RecordBatch, DataFusionError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let read = self.read(context);
        if !matches!(read, Poll::Pending | Poll::Ready(Some(Ok(_)))) {
            self.ended = true;
            self.watch.abort();
            self.rows = Arc::new(Mutex::new(Slot::Ended));
        }
        read
    }
}

impl RecordBatchStream for Limited {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use arrow::datatypes::Schema;
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
    use skep_common::{Kind, QueryId};
    use skep_engine::error::from_datafusion;
    use tokio::sync::oneshot;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);
    const PATIENCE: Duration = Duration::from_secs(60);

    fn outcome(batches: impl Stream<Item = RecordBatch> + Send + 'static) -> Outcome {
        let schema = Arc::new(Schema::empty());
        let stream = Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), batches.map(Ok)));
        Outcome::Rows(Rows { query: QueryId::generate(), schema, stream })
    }

    fn empty() -> RecordBatch {
        RecordBatch::new_empty(Arc::new(Schema::empty()))
    }

    async fn rows(limit: Duration, outcome: Outcome) -> SendableRecordBatchStream {
        match within(&late(Some(limit)), async { Ok(outcome) }).await.unwrap() {
            Outcome::Rows(rows) => rows.stream,
            Outcome::Done(_) => panic!("rows were given"),
        }
    }

    #[tokio::test]
    async fn work_that_takes_too_long_is_ended() {
        let error = within(&late(Some(Duration::from_millis(1))), std::future::pending())
            .await
            .map(drop)
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Deadline);
        assert!(error.hint_text().unwrap().contains("skep.statement_timeout"));
    }

    #[tokio::test]
    async fn rows_in_time_are_all_there() {
        let mut stream = rows(LONG, outcome(futures::stream::iter(vec![empty(); 5]))).await;
        let mut count = 0;
        while let Some(batch) = stream.next().await {
            batch.unwrap();
            count += 1;
        }
        assert_eq!(count, 5);
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_told_at_the_deadline() {
        let one = futures::stream::iter([empty()]).chain(futures::stream::pending());
        let mut stream = rows(Duration::from_millis(50), outcome(one)).await;
        stream.next().await.unwrap().unwrap();
        let error = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap_err();
        assert_eq!(from_datafusion(error).kind(), Kind::Deadline);
        assert!(stream.next().await.is_none(), "an error is the end");
    }

    /// Dropped with the query.
    struct Held(#[expect(dead_code, reason = "held for its drop")] oneshot::Sender<()>);

    #[tokio::test]
    async fn a_query_that_nobody_reads_ends_at_its_deadline() {
        let (held, dropped) = oneshot::channel();
        let (held, made) = (Held(held), Arc::new(AtomicUsize::new(0)));
        let counter = Arc::clone(&made);
        let endless = futures::stream::repeat_with(move || {
            let _held = &held;
            counter.fetch_add(1, Ordering::Relaxed);
            empty()
        });
        let mut stream = rows(Duration::from_millis(50), outcome(endless)).await;
        stream.next().await.unwrap().unwrap();
        // Nobody reads; the query goes away all the same.
        tokio::time::timeout(PATIENCE, dropped).await.unwrap().unwrap_err();
        let before = made.load(Ordering::Relaxed);
        let error = stream.next().await.unwrap().unwrap_err();
        assert_eq!(from_datafusion(error).kind(), Kind::Deadline);
        assert!(stream.next().await.is_none());
        assert_eq!(made.load(Ordering::Relaxed), before);
    }
}
