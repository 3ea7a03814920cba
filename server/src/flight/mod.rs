//! The Flight SQL door.

mod boundary;
mod handle;
mod proto;

use std::future::Future;

use skep_common::{Error, Result};
use skep_coordinator::session::Coordinator;
use tokio::net::TcpListener;
use tonic::transport::Channel;

/// Serves Flight SQL on `listener` until `shutdown` resolves.
///
/// # Errors
/// [`Kind::Unavailable`](skep_common::Kind::Unavailable) if the listener fails.
pub async fn serve(
    coordinator: Coordinator,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let _ = (coordinator, listener, shutdown);
    Err(Error::unsupported("Flight SQL is not served yet"))
}

/// Serves Flight SQL inside the process: a client handed the channel speaks to `coordinator` without a socket.
///
/// # Errors
/// Those of building the channel.
pub fn in_memory(coordinator: Coordinator) -> Result<(Channel, InMemory)> {
    let _ = coordinator;
    Err(Error::unsupported("Flight SQL is not served yet"))
}

/// A door inside the process. Dropping it closes it.
#[derive(Debug)]
#[must_use = "dropping it closes the door"]
pub struct InMemory {
    _server: skep_common::task::Task<Result<()>>,
}
