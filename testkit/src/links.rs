//! Connections between the processes of a cluster, which tests cut and heal.
//!
//! ```text
//! node 1  --from 127.0.1.1-->  127.0.2.2:P (relay)  -->  127.0.3.2:P  node 2 listens, and says that it is 127.0.2.2
//! ```
//!
//! Each node listens where nobody is told, and is reached through a relay of its own. One relay serves the coordinator and all
//! other workers; it tells them apart by the address that they connect from, which each has for itself
//! (`[cluster.channel] source`). So every pair can be cut alone, without looking into what is sent or into tables of the
//! system, and a connection is never taken for that of another node.
//!
//! # Invariants
//! - A link that is silent carries no byte in either direction and closes nothing; what was held back arrives when it is healed.
//! - A link that is broken closes its connections, and each that is made anew.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Nodes that a cluster with links can have.
const NODES_MAX: usize = 16;
/// Bytes that a relay reads at a time.
const CHUNK: usize = 64 << 10;

/// A process of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// The coordinator.
    Coordinator,
    /// A worker, counted from 0.
    Worker(usize),
}

impl Node {
    fn index(self) -> usize {
        match self {
            Node::Coordinator => 0,
            Node::Worker(number) => number + 1,
        }
    }

    fn address(self, role: u8) -> Ipv4Addr {
        let index = u8::try_from(self.index() + 1).expect("there are few nodes");
        Ipv4Addr::new(127, 0, role, index)
    }

    /// Where its own connections come from.
    pub fn source(self) -> Ipv4Addr {
        self.address(1)
    }

    /// Where others reach it.
    pub fn advertise(self) -> Ipv4Addr {
        self.address(2)
    }
}

/// How a link is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nothing arrives and nothing is closed, as when packets are dropped.
    Silent,
    /// Connections are closed, and each that is made anew.
    Broken,
}

/// `None`: whole.
type State = Option<Cut>;

/// The links of one cluster. Dropping it closes all.
#[derive(Debug)]
pub struct Links {
    runtime: Option<Runtime>,
    states: Arc<Vec<watch::Sender<State>>>,
    /// Connections that each link has carried bytes for.
    carried: Arc<Vec<AtomicU64>>,
}

impl Default for Links {
    fn default() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Self {
            runtime: Some(runtime.expect("a runtime can be started")),
            states: Arc::new((0..NODES_MAX * NODES_MAX).map(|_| watch::Sender::new(None)).collect()),
            carried: Arc::new((0..NODES_MAX * NODES_MAX).map(|_| AtomicU64::new(0)).collect()),
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn link(from: usize, to: usize) -> usize {
    from * NODES_MAX + to
}

impl Links {
    /// Relays connections to `node`, and gives the address where it is to listen.
    ///
    /// # Errors
    /// Those of the system.
    pub fn lead_to(&self, node: Node) -> io::Result<SocketAddr> {
        let runtime = self.runtime.as_ref().expect("there is a runtime until the end");
        let listener = std::net::TcpListener::bind((node.advertise(), 0))?;
        listener.set_nonblocking(true)?;
        let to = SocketAddr::new(node.address(3).into(), listener.local_addr()?.port());
        let (states, carried) = (Arc::clone(&self.states), Arc::clone(&self.carried));
        let accept = async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((near, peer)) = listener.accept().await {
                let Some(from) = index_of(peer.ip()) else { continue };
                let link = link(from, node.index());
                let (state, carried) = (states[link].subscribe(), Arc::clone(&carried));
                let relay = async move {
                    // However it ends, both sides are closed then.
                    let _ = relay(near, to, state, &carried[link]).await;
                };
                skep_common::task::spawn("relay", relay).detach();
            }
        };
        drop(runtime.spawn(accept));
        Ok(to)
    }

    /// Cuts what `a` and `b` say to each other, whoever connected.
    pub fn cut(&self, a: Node, b: Node, how: Cut) {
        self.cut_calls(a, b, how);
        self.cut_calls(b, a, how);
    }

    /// Cuts the connections that `from` made to `to`, and no others.
    pub fn cut_calls(&self, from: Node, to: Node, how: Cut) {
        self.states[link(from.index(), to.index())].send_replace(Some(how));
    }

    /// Makes every link whole.
    pub fn heal(&self) {
        for state in self.states.iter() {
            state.send_replace(None);
        }
    }

    /// How often bytes that `from` sent to `to`, or the answer, have passed.
    pub fn carried(&self, from: Node, to: Node) -> u64 {
        self.carried[link(from.index(), to.index())].load(Ordering::Relaxed)
    }
}

fn index_of(source: IpAddr) -> Option<usize> {
    match source {
        IpAddr::V4(address) => match address.octets() {
            [127, 0, 1, index] => usize::from(index).checked_sub(1).filter(|index| *index < NODES_MAX),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

async fn relay(
    near: TcpStream,
    to: SocketAddr,
    mut state: watch::Receiver<State>,
    carried: &AtomicU64,
) -> io::Result<()> {
    let passing = {
        let state = state.clone();
        async {
            let mut opening = state.clone();
            whole(&mut opening).await?;
            let far = TcpStream::connect(to).await?;
            far.set_nodelay(true)?;
            near.set_nodelay(true)?;
            let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
                (near.into_split(), far.into_split());
            let (there, back) = (state.clone(), state);
            tokio::try_join!(
                pass(&mut near_in, &mut far_out, there, carried),
                pass(&mut far_in, &mut near_out, back, carried)
            )?;
            Ok(())
        }
    };
    tokio::select! {
        passed = passing => passed,
        _ = state.wait_for(|state| *state == Some(Cut::Broken)) => Ok(()),
    }
}

async fn whole(state: &mut watch::Receiver<State>) -> io::Result<()> {
    state.wait_for(Option::is_none).await.map(drop).map_err(|_| io::ErrorKind::ConnectionAborted.into())
}

async fn pass(
    from: &mut tokio::net::tcp::OwnedReadHalf,
    to: &mut tokio::net::tcp::OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    carried: &AtomicU64,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = from.read(&mut chunk).await?;
        // The end of a connection does not cross a silent link either.
        whole(&mut state).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        carried.fetch_add(1, Ordering::Relaxed);
        to.write_all(&chunk[..count]).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpSocket;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    /// Long enough for bytes that pass to pass.
    const MOMENT: Duration = Duration::from_millis(100);

    /// Gives back what it is sent.
    async fn echo(listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let echo = async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            };
            skep_common::task::spawn("echo", echo).detach();
        }
    }

    async fn connect(from: Node, to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from.source(), 0).into()).unwrap();
        let to = SocketAddr::new(Node::Worker(0).advertise().into(), to.port());
        socket.connect(to).await.unwrap()
    }

    async fn says(stream: &mut TcpStream, word: &[u8]) {
        stream.write_all(word).await.unwrap();
        hears(stream, word).await;
    }

    async fn hears(stream: &mut TcpStream, word: &[u8]) {
        let mut heard = vec![0; word.len()];
        timeout(PATIENCE, stream.read_exact(&mut heard)).await.expect("nothing came").unwrap();
        assert_eq!(heard, word);
    }

    #[test]
    fn links_are_cut_one_by_one_and_healed() {
        let links = Links::default();
        let to = links.lead_to(Node::Worker(0)).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.unwrap().block_on(async {
            let listener = TcpListener::bind(to).await.unwrap();
            let _echo = skep_common::task::spawn("listen", echo(listener));
            let mut one = connect(Node::Worker(1), to).await;
            let mut other = connect(Node::Coordinator, to).await;
            says(&mut one, b"hello").await;
            says(&mut other, b"hello").await;

            links.cut(Node::Worker(1), Node::Worker(0), Cut::Silent);
            one.write_all(b"late").await.unwrap();
            let mut byte = [0];
            assert!(timeout(MOMENT, one.read(&mut byte)).await.is_err(), "a silent link carried a byte");
            says(&mut other, b"another").await;
            let mut fresh = connect(Node::Worker(1), to).await;
            fresh.write_all(b"fresh").await.unwrap();
            assert!(timeout(MOMENT, fresh.read(&mut byte)).await.is_err());
            links.heal();
            hears(&mut one, b"late").await;
            hears(&mut fresh, b"fresh").await;

            links.cut(Node::Worker(1), Node::Worker(0), Cut::Broken);
            let closed = |read: io::Result<usize>| read.is_err() || read.is_ok_and(|count| count == 0);
            assert!(closed(timeout(PATIENCE, one.read(&mut byte)).await.unwrap()));
            let mut fresh = connect(Node::Worker(1), to).await;
            assert!(closed(timeout(PATIENCE, fresh.read(&mut byte)).await.unwrap()));
            says(&mut other, b"still here").await;
            links.heal();
            says(&mut connect(Node::Worker(1), to).await, b"back").await;
            assert!(links.carried(Node::Worker(1), Node::Worker(0)) > 0);
            assert_eq!(links.carried(Node::Worker(2), Node::Worker(0)), 0);
        });
    }
}
