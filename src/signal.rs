//! Waiting for the request to stop.
//!
//! # Guarantees
//! - A request that comes between [`Stop::listen`] and [`Stop::requested`] is not lost, and does not end the process by itself.

use skep_common::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears ctrl-c, SIGTERM and SIGHUP.
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Stop {
    /// Listens from now on. Call it before anything is printed that tells others that they may send signals.
    ///
    /// # Errors
    /// If the process may not listen to signals.
    pub(crate) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|e| Error::internal("cannot listen to signals").source(e));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Ends at the first of them.
    pub(crate) async fn requested(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
