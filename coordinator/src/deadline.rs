//! The time a statement may take, `skep.statement_timeout`: planning, running and reading its rows together.
//!
//! ```text
//! within: work --in time--> rows --> Limited --in time--> rows --> reader
//!           \--too late--> error      ^  \--too late--> error, then the end
//!                                   watch: drops the query's stream at the deadline, also when nobody reads
//! ```
//!
//! # Invariants
//! - After the deadline nothing of the query runs, whether or not its reader asks for rows.
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
use futures::{Stream, StreamExt};
use skep_common::task::{Task, spawn};
use skep_common::{Error, Result};
use skep_engine::error::to_datafusion;
use tokio::sync::Mutex;
use tokio::time::{Sleep, sleep, sleep_until};

use crate::session::{Outcome, Rows};

/// Does `work`, and lets its rows be read, until `limit` is over. No limit: until it is done.
///
/// # Errors
/// Those of `work`; [`Kind::Deadline`](skep_common::Kind::Deadline), from here or in the stream of rows.
pub(crate) async fn within(
    limit: Option<Duration>,
    work: impl Future<Output = Result<Outcome>>,
) -> Result<Outcome> {
    let Some(limit) = limit else { return work.await };
    let mut end = Box::pin(sleep(limit));
    let outcome = tokio::select! {
        outcome = work => outcome?,
        () = &mut end => return Err(passed(limit)),
    };
    Ok(match outcome {
        Outcome::Rows(rows) => {
            Outcome::Rows(Rows { stream: Box::pin(Limited::new(rows.stream, end, limit)), ..rows })
        }
        done @ Outcome::Done(_) => done,
    })
}

fn passed(limit: Duration) -> Error {
    Error::deadline(format!("the statement took longer than {limit:?}"))
        .hint("raise skep.statement_timeout, or SET it to none")
}

/// Rows that can be read until the deadline.
struct Limited {
    schema: SchemaRef,
    limit: Duration,
    end: Pin<Box<Sleep>>,
    /// Empty once the deadline has passed or the rows have ended.
    rows: Arc<Mutex<Option<SendableRecordBatchStream>>>,
    watch: Task<()>,
    ended: bool,
}

impl Limited {
    fn new(stream: SendableRecordBatchStream, end: Pin<Box<Sleep>>, limit: Duration) -> Self {
        let schema = stream.schema();
        let rows = Arc::new(Mutex::new(Some(stream)));
        let (watched, deadline) = (Arc::clone(&rows), end.deadline());
        let watch = spawn("statement deadline", async move {
            sleep_until(deadline).await;
            let late = watched.lock().await.take();
            drop(late);
        });
        Self { schema, limit, end, rows, watch, ended: false }
    }

    fn read(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<RecordBatch, DataFusionError>>> {
        let late = || Poll::Ready(Some(Err(to_datafusion(passed(self.limit)))));
        if self.end.as_mut().poll(context).is_ready() {
            return late();
        }
        // Only the watch takes the lock beside us, and the rows away: the deadline passed this moment.
        let Ok(mut rows) = self.rows.try_lock() else { return late() };
        let Some(stream) = rows.as_mut() else { return late() };
        stream.poll_next_unpin(context)
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
            self.rows = Arc::default();
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
        match within(Some(limit), async { Ok(outcome) }).await.unwrap() {
            Outcome::Rows(rows) => rows.stream,
            Outcome::Done(_) => panic!("rows were given"),
        }
    }

    #[tokio::test]
    async fn work_that_takes_too_long_is_ended() {
        let error =
            within(Some(Duration::from_millis(1)), std::future::pending()).await.map(drop).unwrap_err();
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
