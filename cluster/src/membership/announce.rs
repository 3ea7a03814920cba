//! The worker's side: join, stay known, leave.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skep_common::{Error, Kind, Result};
use skep_store::{CacheStats, NodeInfo};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::proto::membership::membership_client::MembershipClient;
use crate::proto::membership::{CacheUse, HeartbeatRequest, JoinRequest, LeaveRequest, Work};
use crate::{AuthChannel, ChannelConfig, PROTOCOL_VERSION, Secret, connect};

/// What a worker says of itself.
pub struct Announcement {
    /// The coordinator's `listen` address.
    pub coordinator: Url,
    /// Id, zone and address as other nodes reach it.
    pub node: NodeInfo,
    /// Its folder of blocks, for readers on the same machine.
    pub folder: PathBuf,
    /// Bytes free for blocks, asked at each heartbeat.
    pub free: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// What statements do there, asked at each heartbeat.
    pub work: Arc<dyn Fn() -> Vec<Work> + Send + Sync>,
    /// What its cache of other stores did, asked at each heartbeat.
    pub cache: Arc<dyn Fn() -> CacheStats + Send + Sync>,
    /// The cluster secret.
    pub secret: Secret,
    /// How to connect.
    pub channel: ChannelConfig,
}

/// Longest pause between two tries to reach the coordinator.
const RETRY_MAX: Duration = Duration::from_secs(5);
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Pause between heartbeats while there is work to tell of.
const BUSY: Duration = Duration::from_millis(500);

/// Joins, then runs `joined` after every join (block reports), then sends heartbeats; joins again when the coordinator
/// forgot this worker. Ends when `stop` is cancelled, after leaving.
///
/// # Errors
/// A refusal that waiting cannot cure, of the coordinator or of `joined`: a wrong secret, another protocol, an id in
/// use, blocks of another store; and whatever the first join gave when `first_wait` is over. Later on a coordinator that
/// cannot be reached is tried for ever.
pub async fn announce<F, Fut>(
    announcement: Announcement,
    first_wait: Duration,
    joined: F,
    stop: CancellationToken,
) -> Result<()>
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Result<()>> + Send,
{
    let channel = connect(&announcement.coordinator, &announcement.secret, &announcement.channel)?;
    let mut client = MembershipClient::new(channel);
    let mut patience = Some(first_wait);
    loop {
        let joining = join_with_retry(&mut client, &announcement, patience.take(), &stop);
        let Some((incarnation, heartbeat)) = joining.await? else { return Ok(()) };
        if let Err(error) = joined().await {
            // Such as a folder that belongs to another store: waiting does not cure it.
            if matches!(error.kind(), Kind::Invalid | Kind::Denied) {
                return Err(error);
            }
            tracing::warn!(error = error.report(), "joined, but the follow-up failed; joining again");
            if pause(RETRY_MAX, &stop).await {
                return Ok(());
            }
            continue;
        }
        if stay(&mut client, &announcement, &incarnation, heartbeat, &stop).await {
            let node = announcement.node.id.to_string();
            let leaving = client.leave(LeaveRequest { node, incarnation });
            // A coordinator that is gone already is no reason to hold up the end.
            let _ = tokio::time::timeout(Duration::from_secs(1), leaving).await;
            return Ok(());
        }
    }
}

/// Whether `stop` came before the end of the pause.
async fn pause(time: Duration, stop: &CancellationToken) -> bool {
    tokio::time::timeout(time, stop.cancelled()).await.is_ok()
}

async fn join_with_retry(
    client: &mut MembershipClient<AuthChannel>,
    announcement: &Announcement,
    patience: Option<Duration>,
    stop: &CancellationToken,
) -> Result<Option<(String, Duration)>> {
    let (mut waited, mut delay) = (Duration::ZERO, RETRY_MIN);
    loop {
        let request = JoinRequest {
            node: announcement.node.id.to_string(),
            url: announcement.node.url.to_string(),
            zone: announcement.node.zone.clone(),
            free_bytes: (announcement.free)(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL_VERSION,
            host: super::host(),
            folder: announcement.folder.display().to_string(),
        };
        let error = match client.join(request).await {
            Ok(reply) => {
                let reply = reply.into_inner();
                return Ok(Some((reply.incarnation, Duration::from_millis(reply.heartbeat_ms.max(1)))));
            }
            Err(status) => Error::from_status(&status),
        };
        let error = error.context(format!("cannot join the coordinator at {}", announcement.coordinator));
        let curable = matches!(error.kind(), Kind::Unavailable | Kind::Deadline | Kind::Cancelled);
        if !curable || patience.is_some_and(|limit| waited >= limit) {
            return Err(if error.hint_text().is_none() {
                error.hint("check [worker] coordinator, and that the coordinator is running")
            } else {
                error
            });
        }
        tracing::debug!(error = error.report(), "trying again");
        if pause(delay, stop).await {
            return Ok(None);
        }
        waited += delay;
        delay = (delay * 2).min(RETRY_MAX);
    }
}

/// Sends heartbeats until `stop` (true) or until the coordinator does not know this worker (false).
async fn stay(
    client: &mut MembershipClient<AuthChannel>,
    announcement: &Announcement,
    incarnation: &str,
    heartbeat: Duration,
    stop: &CancellationToken,
) -> bool {
    let mut busy = false;
    loop {
        if pause(if busy { heartbeat.min(BUSY) } else { heartbeat }, stop).await {
            return true;
        }
        let work = (announcement.work)();
        busy = !work.is_empty();
        let beat = client.heartbeat(HeartbeatRequest {
            node: announcement.node.id.to_string(),
            incarnation: incarnation.to_owned(),
            free_bytes: (announcement.free)(),
            work,
            cache: Some((announcement.cache)().into()).filter(|used| *used != CacheUse::default()),
        });
        match tokio::time::timeout(heartbeat.max(Duration::from_secs(1)), beat).await {
            Ok(Ok(_)) => {}
            Ok(Err(status)) if status.code() == tonic::Code::NotFound => return false,
            Ok(Err(status)) => tracing::debug!(error = status.message(), "heartbeat failed"),
            Err(_) => tracing::debug!("heartbeat timed out"),
        }
    }
}
