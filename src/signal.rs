//! Waiting for the request to stop.

use skep_common::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Ends at the first ctrl-c, SIGTERM or SIGHUP.
///
/// # Errors
/// If the process may not listen to signals.
pub(crate) async fn stop() -> Result<()> {
    let listen = |kind| signal(kind).map_err(|e| Error::internal("cannot listen to signals").source(e));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}
