//! The Flight SQL door.
//!
//! ```text
//! service      the Flight calls, dispatched by command
//!   sessions     which session a call belongs to: token, cookie or connection
//!   run          statements: plan, run once, stream
//!   poll         statements that run while their clients poll
//!   put          bound parameters, updates with parameters, rows to ingest
//!     guard      what the messages of rows may claim
//!   actions      prepared statements, transactions, session options, cancelling
//!   metadata     catalogs, schemas, tables, keys, types; sql_info, types
//! handle       what tickets and prepared statements carry
//! ```
//!
//! # Invariants
//! - A statement runs in the session of its caller, and an update runs exactly once whichever call brings it.
//! - Rows are never collected: they are made as the client reads, and dropping the stream cancels the query.
//! - The schema of the FlightInfo, of the prepared statement and of the stream is the same.

mod actions;
mod config;
mod connection;
mod guard;
mod handle;
mod metadata;
mod parameters;
mod poll;
mod proto;
mod put;
mod run;
mod service;
mod sessions;
mod sql_info;
mod types;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use arrow_flight::flight_service_server::FlightServiceServer;
pub use config::Config;
use futures::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use skep_common::clock::{self, Clock};
use skep_common::task::{Task, spawn};
use skep_common::{Error, Result};
use skep_coordinator::Coordinator;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Server};

use self::connection::Connection;
use self::service::Service;
use self::sessions::Sessions;
use crate::auth::{Authenticator, Open};

/// Bytes in flight per stream and per connection, for clients that send rows.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Longest headers: drivers copy unknown options of their URL into them.
const HEADERS_MAX: u32 = 64 << 10;
/// Calls of one connection at a time; more wait.
const CALLS_MAX: u32 = 256;
/// Longest message that is sent. Rows are cut well below; only a single huge value comes near.
const ENCODED_MAX: usize = i32::MAX as usize;

/// The door of one coordinator, before it opens.
#[derive(Debug, Clone)]
pub struct Door {
    coordinator: Coordinator,
    config: Config,
    authenticator: Arc<dyn Authenticator>,
    clock: Arc<dyn Clock>,
}

impl Door {
    /// With default settings, open to everybody.
    pub fn new(coordinator: Coordinator) -> Self {
        Self { coordinator, config: Config::default(), authenticator: Arc::new(Open), clock: clock::system() }
    }

    /// With other settings.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// With another decision on who comes in.
    #[must_use]
    pub fn authenticator(mut self, authenticator: Arc<dyn Authenticator>) -> Self {
        self.authenticator = authenticator;
        self
    }

    /// With another clock, which says when sessions and tickets end.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Serves on `listener` until `shutdown` resolves; open calls then get
    /// [`Config::drain_timeout`] to finish.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](skep_common::Kind::Unavailable) if the listener fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<()> {
        let incoming = TcpListenerStream::new(listener).map(|accepted| {
            accepted.map(|stream: TcpStream| {
                // Rows are small and waited for; a failure only makes them slower.
                let _ = stream.set_nodelay(true);
                let address = stream.peer_addr().ok();
                (stream, address)
            })
        });
        self.serve_incoming(incoming, shutdown).await
    }

    /// Serves inside the process: a client handed the channel speaks to the coordinator without a socket.
    ///
    /// # Errors
    /// Those of building the channel.
    pub fn in_memory(self) -> Result<(Channel, InMemory)> {
        let (connect, accept) = mpsc::channel::<DuplexStream>(1);
        let incoming = ReceiverStream::new(accept).map(|stream| Ok::<_, std::io::Error>((stream, None)));
        let server = spawn("flight in memory", self.serve_incoming(incoming, std::future::pending()));
        let connector = tower::service_fn(move |_: http::Uri| {
            let connect = connect.clone();
            async move {
                let (client, server) = tokio::io::duplex(PIPE_BYTES);
                let sent = connect.send(server).await;
                sent.map_err(|_| {
                    std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "the door closed")
                })?;
                Ok::<_, std::io::Error>(TokioIo::new(client))
            }
        });
        let endpoint = Endpoint::from_static("http://in-memory")
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        Ok((endpoint.connect_with_connector_lazy(connector), InMemory { _server: server }))
    }

    async fn serve_incoming<IO>(
        self,
        incoming: impl Stream<Item = std::io::Result<(IO, Option<SocketAddr>)>> + Send + 'static,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<()>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { coordinator, config, authenticator, clock } = self;
        let config = Arc::new(config);
        let sessions = Arc::new(Sessions::new(coordinator, authenticator, Config::clone(&config), clock));
        let _sweeper = spawn("flight session sweep", sweep(Arc::clone(&sessions)));
        let weak = Arc::downgrade(&sessions);
        let free = Arc::new(Semaphore::new(config.connections_max.min(Semaphore::MAX_PERMITS)));
        let patience = config.greeting_timeout;
        let incoming = incoming.filter_map(move |accepted| {
            let connected = match (accepted, Arc::clone(&free).try_acquire_owned()) {
                (Err(error), _) => Some(Err(error)),
                (Ok((io, address)), Ok(permit)) => {
                    let weak = std::sync::Weak::clone(&weak);
                    Some(Ok(Connection::new(io, address, weak, patience, permit)))
                }
                (Ok((_, address)), Err(_)) => {
                    tracing::warn!(?address, "closed, for flight.connections_max are open");
                    None
                }
            };
            std::future::ready(connected)
        });
        let _ended = Ended(Arc::clone(&sessions));
        let service = FlightServiceServer::new(Service { sessions, config: Arc::clone(&config) })
            .max_decoding_message_size(config.message_max.as_usize())
            .max_encoding_message_size(ENCODED_MAX);
        let closing = CancellationToken::new();
        let signal = closing.clone();
        let server = Server::builder()
            .http2_keepalive_interval(Some(config.keepalive_interval))
            .http2_keepalive_timeout(Some(config.keepalive_timeout))
            .http2_max_header_list_size(HEADERS_MAX)
            .max_concurrent_streams(Some(CALLS_MAX))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, async move {
                shutdown.await;
                signal.cancel();
            });
        tokio::select! {
            served = server => served.map_err(|e| Error::unavailable("the Flight SQL listener failed").source(e)),
            () = async {
                closing.cancelled().await;
                tokio::time::sleep(config.drain_timeout).await;
            } => {
                tracing::warn!("calls were still open when the Flight SQL door closed");
                Ok(())
            }
        }
    }
}

/// Bytes that an in-memory connection holds before its writer waits.
const PIPE_BYTES: usize = 1 << 20;

/// A door inside the process. Dropping it closes it.
#[derive(Debug)]
#[must_use = "dropping it closes the door"]
pub struct InMemory {
    _server: Task<Result<()>>,
}

/// Ends all sessions when the door has closed: what they keep leads back to them.
struct Ended(Arc<Sessions>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end_all();
    }
}

async fn sweep(sessions: Arc<Sessions>) {
    loop {
        tokio::time::sleep(sessions.sweep_interval()).await;
        sessions.sweep();
    }
}

/// Serves Flight SQL on `listener` with default settings, open to everybody, until `shutdown` resolves.
///
/// # Errors
/// As [`Door::serve`].
pub async fn serve(
    coordinator: Coordinator,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    Door::new(coordinator).serve(listener, shutdown).await
}

/// Serves Flight SQL inside the process, with default settings.
///
/// # Errors
/// As [`Door::in_memory`].
pub fn in_memory(coordinator: Coordinator) -> Result<(Channel, InMemory)> {
    Door::new(coordinator).in_memory()
}
