//! Background tasks that have a name and end with their owner.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::{JoinError, JoinHandle};
use tracing::Instrument;

/// A running task. Dropping it stops the task at its next `.await`.
#[derive(Debug)]
#[must_use = "dropping a task stops it"]
pub struct Task<T> {
    handle: JoinHandle<T>,
    name: &'static str,
    detached: bool,
}

/// Starts `work` on the current runtime under `name`, which appears in logs.
#[expect(clippy::disallowed_methods, reason = "the one place that may")]
pub fn spawn<T: Send + 'static>(
    name: &'static str,
    work: impl Future<Output = T> + Send + 'static,
) -> Task<T> {
    let span = tracing::debug_span!("task", name);
    Task { handle: tokio::spawn(work.instrument(span)), name, detached: false }
}

impl<T> Task<T> {
    /// Waits for the result.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) if the task panicked, with the text of the panic;
    /// [`Kind::Cancelled`](crate::Kind::Cancelled) if its runtime shut down.
    pub async fn join(mut self) -> crate::Result<T> {
        (&mut self).await
    }

    /// Whether the task ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Lets the task run to its end by itself: for work that cleans up after an owner that is gone.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// Stops the task at its next `.await`.
    pub fn abort(&self) {
        self.handle.abort();
    }
}

/// Waits for the result without giving the task up, as [`Task::join`] does.
impl<T> Future for Task<T> {
    type Output = crate::Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let name = self.name;
        Pin::new(&mut self.handle).poll(cx).map(|ended| ended.map_err(|error| failure(name, error)))
    }
}

fn failure(name: &str, error: JoinError) -> crate::Error {
    if error.is_panic() {
        let text = panic_text(error.into_panic().as_ref());
        crate::Error::internal(format!("task '{name}' panicked: {text}"))
    } else {
        crate::Error::cancelled(format!("task '{name}' was stopped"))
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if !self.detached {
            self.handle.abort();
        }
    }
}

/// What a panic said, as far as it said it in text.
pub fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a value that is not text".to_owned()
    }
}
