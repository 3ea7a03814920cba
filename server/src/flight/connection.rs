//! Connections, each with an id that its calls carry.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Weak;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
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
}

impl<IO> Connection<IO> {
    pub(crate) fn new(io: IO, address: Option<SocketAddr>, sessions: Weak<Sessions>) -> Self {
        Self { io, peer: Peer { connection: ConnectionId::generate(), address }, sessions }
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
        Pin::new(&mut self.io).poll_read(cx, buf)
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
