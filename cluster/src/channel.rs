//! Connections between nodes: bounded waiting, keepalives, the secret on every call.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, Either, FutureExt};
use serde::{Deserialize, Serialize};
use skep_common::{Error, Result};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::{InterceptorLayer, RoutesBuilder};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tower::Service;
use url::Url;

use crate::Secret;
use crate::delay::{Delay, Late};

/// How nodes connect. Table `[cluster.channel]` of the config file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChannelConfig {
    /// Longest wait for a connection. 100 ms to 1 min. Less: a dead node is noticed sooner.
    #[serde(with = "skep_common::unit::duration")]
    pub connect_timeout: Duration,
    /// How often an idle connection is probed. 1 s to 10 min.
    #[serde(with = "skep_common::unit::duration")]
    pub keepalive_interval: Duration,
    /// Silence after a probe that ends a connection. 1 s to 1 min. A half-open peer is found after interval plus
    /// timeout.
    #[serde(with = "skep_common::unit::duration")]
    pub keepalive_timeout: Duration,
    /// Partitions of tasks that one node has open for other nodes at once, 1 to 1000000; more are refused. Each holds a few
    /// batches of rows.
    pub partitions_max: NonZeroUsize,
    /// Address of this machine that connections to other nodes come from. Absent: the system chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Holds calls back, for drills. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
}

impl Default for ChannelConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            partitions_max: PARTITIONS_MAX,
            source: None,
            delay: None,
        }
    }
}

/// Bytes in flight per stream and per connection, so that one hop can fill a fast network.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;
/// How long calls under way may go on when a node stops.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// Hundreds of queries.
const PARTITIONS_MAX: NonZeroUsize = match NonZeroUsize::new(1 << 16) {
    Some(max) => max,
    None => NonZeroUsize::MIN,
};

/// Calls on one connection at once. Every pair of tasks of every query holds one; hyper's own 200 would make queries wait for
/// each other. More than `partitions_max` and the plans under way need: a call beyond it would wait instead of failing.
const STREAMS_MAX: u32 = 1 << 20;

/// A connection that adds the cluster secret to every call. Connects when first used, and again when broken.
#[derive(Debug, Clone)]
pub struct AuthChannel {
    channel: Channel,
    secret: Secret,
    late: Option<Late>,
}

/// A channel to `url` (`http://host:port`; `grpc://` is the same).
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for a URL without a host. Connecting happens at the first call, whose
/// status is then [`Unavailable`](skep_common::Kind::Unavailable).
pub fn connect(url: &Url, secret: &Secret, config: &ChannelConfig) -> Result<AuthChannel> {
    let channel = endpoint(url, config)?.connect_lazy();
    Ok(AuthChannel { channel, secret: secret.clone(), late: config.delay.clone().map(Late::new) })
}

/// The endpoint of `url` with every timeout set.
///
/// # Errors
/// As [`connect`].
pub fn endpoint(url: &Url, config: &ChannelConfig) -> Result<Endpoint> {
    let wrong = || Error::invalid(format!("'{url}' is not an address")).hint("write http://HOST:PORT");
    let (host, port) = (url.host_str().ok_or_else(wrong)?, url.port().ok_or_else(wrong)?);
    let endpoint = Endpoint::from_shared(format!("http://{host}:{port}")).map_err(|e| wrong().source(e))?;
    Ok(endpoint
        .connect_timeout(config.connect_timeout)
        .local_address(config.source)
        .http2_keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .tcp_nodelay(true))
}

/// Serves calls between nodes on `listener` until `stop`: the secret is checked before every call, dead connections are
/// found by keepalives, calls under way are given a moment to end.
///
/// # Errors
/// [`Kind::Unavailable`](skep_common::Kind::Unavailable) if the listener fails.
pub async fn serve(
    listener: TcpListener,
    routes: RoutesBuilder,
    secret: Secret,
    config: ChannelConfig,
    stop: CancellationToken,
) -> Result<()> {
    let stopped = stop.clone();
    let serving = Server::builder()
        .http2_keepalive_interval(Some(config.keepalive_interval))
        .http2_keepalive_timeout(Some(config.keepalive_timeout))
        .max_concurrent_streams(Some(STREAMS_MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .tcp_nodelay(true)
        .layer(InterceptorLayer::new(secret.check()))
        .add_routes(routes.routes())
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            stop.cancelled_owned(),
        );
    let late = async {
        stopped.cancelled().await;
        tokio::time::sleep(STOP_PATIENCE).await;
    };
    tokio::select! {
        ended = serving => ended.map_err(|e| Error::unavailable("the listener between nodes failed").source(e)),
        () = late => Ok(()),
    }
}

impl Service<http::Request<Body>> for AuthChannel {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Either<
        <Channel as Service<http::Request<Body>>>::Future,
        BoxFuture<'static, std::result::Result<Self::Response, Self::Error>>,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        Service::poll_ready(&mut self.channel, cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Some((name, value)) = self.secret.header()
            && let Ok(value) = http::HeaderValue::from_bytes(value.as_bytes())
        {
            request.headers_mut().insert(name, value);
        }
        let Some(wait) = self.late.as_ref().and_then(Late::draw) else {
            return Either::Left(self.channel.call(request));
        };
        // The channel that said it is ready makes the call; its clone is asked before the next one.
        let next = self.channel.clone();
        let mut ready = std::mem::replace(&mut self.channel, next);
        let late = async move {
            tokio::time::sleep(wait).await;
            ready.call(request).await
        };
        Either::Right(late.boxed())
    }
}
