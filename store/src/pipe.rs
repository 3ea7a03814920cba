//! A bounded queue of a block's bytes whose end is explicit: a sender that is dropped is an error to the receiver,
//! never the end of the block.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use skep_common::{Error, Result};
use tokio::sync::mpsc;

use crate::remote::BlockStream;

/// Messages that wait for the receiver.
const QUEUE: usize = 4;

/// The end that takes bytes.
#[derive(Debug)]
pub(crate) struct Sender {
    queue: mpsc::Sender<Bytes>,
    whole: Arc<AtomicBool>,
}

/// Why bytes were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotSent {
    /// The receiver is gone; its own result says why.
    Closed,
    /// The receiver took nothing for as long as one was ready to wait.
    Silent,
}

pub(crate) fn pipe() -> (Sender, BlockStream) {
    let (queue, receiver) = mpsc::channel(QUEUE);
    let whole = Arc::new(AtomicBool::new(false));
    let sender = Sender { queue, whole: Arc::clone(&whole) };
    let bytes = stream::unfold(Some(receiver), move |receiver| {
        let whole = Arc::clone(&whole);
        async move {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Some(bytes) => Some((Ok(bytes), Some(receiver))),
                None if whole.load(Ordering::Acquire) => None,
                None => Some((Err(Error::cancelled("the writer of the block gave up")), None)),
            }
        }
    });
    (sender, bytes.boxed())
}

impl Sender {
    /// Waits up to `patience` for room.
    pub(crate) async fn send(&self, bytes: Bytes, patience: Duration) -> Result<(), NotSent> {
        match tokio::time::timeout(patience, self.queue.send(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(NotSent::Closed),
            Err(_) => Err(NotSent::Silent),
        }
    }

    /// The block is complete.
    pub(crate) fn finish(self) {
        self.whole.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_common::Kind;

    #[tokio::test]
    async fn only_a_finished_sender_ends_the_block() {
        let patience = Duration::from_secs(5);
        let (sender, bytes) = pipe();
        sender.send(Bytes::from_static(b"ab"), patience).await.unwrap();
        sender.finish();
        assert_eq!(bytes.map(Result::unwrap).collect::<Vec<_>>().await, [Bytes::from_static(b"ab")]);

        let (sender, bytes) = pipe();
        sender.send(Bytes::from_static(b"ab"), patience).await.unwrap();
        drop(sender);
        let items: Vec<_> = bytes.collect().await;
        assert_eq!(items[1].as_ref().unwrap_err().kind(), Kind::Cancelled);

        let (sender, bytes) = pipe();
        drop(bytes);
        assert_eq!(sender.send(Bytes::new(), patience).await, Err(NotSent::Closed));
    }
}
