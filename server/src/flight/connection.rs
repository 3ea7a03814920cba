//! Connections, each with an id that its calls carry.
//!
//! Keepalives find out about connections that died, once they speak HTTP/2. One that does not say so in time is closed here.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Weak;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;
use uuid::Uuid;

use super::sessions::Sessions;

/// One connection, for as long as it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionId(Uuid);

impl ConnectionId {
    pub(crate) fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

/// What a call knows about its connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) connection: ConnectionId,
    /// Absent inside the process.
    #[expect(dead_code, reason = "shown in Debug output of requests")]
    pub(crate) address: Option<SocketAddr>,
}

/// An accepted byte stream. Dropping it ends the sessions that only it can reach.
pub(crate) struct Connection<IO> {
    io: IO,
    peer: Peer,
    sessions: Weak<Sessions>,
    /// Until it has said as much as every client says first.
    greeting: Option<Greeting>,
    _permit: OwnedSemaphorePermit,
}

struct Greeting {
    missing: usize,
    late: Pin<Box<Sleep>>,
}

/// Bytes of the preface with which an HTTP/2 connection begins.
const PREFACE_BYTES: usize = 24;

impl<IO> Connection<IO> {
    /// Has `patience` until it speaks.
    pub(crate) fn new(
        io: IO,
        address: Option<SocketAddr>,
        sessions: Weak<Sessions>,
        patience: Duration,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let peer = Peer { connection: ConnectionId::generate(), address };
        let greeting = Greeting { missing: PREFACE_BYTES, late: Box::pin(sleep(patience)) };
        Self { io, peer, sessions, greeting: Some(greeting), _permit: permit }
    }
}

impl<IO> Drop for Connection<IO> {
    fn drop(&mut self) {
        if let Some(sessions) = self.sessions.upgrade() {
            sessions.connection_closed(self.peer.connection);
        }
    }
}

impl<IO> Connected for Connection<IO> {
    type ConnectInfo = Peer;
    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Connection<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        let Some(greeting) = &mut self.greeting else { return read };
        greeting.missing = greeting.missing.saturating_sub(buf.filled().len() - before);
        if greeting.missing == 0 {
            self.greeting = None;
        } else if read.is_pending() && greeting.late.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Connection<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
