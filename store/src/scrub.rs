//! Reads every block of a node again from time to time, so that damage is found while there are other replicas.
//!
//! ```text
//! disk: oldest check first --read at scrub_rate--> good: checked now
//!                                             \--> damaged: quarantine, and the namespace has it replaced
//! ```
//!
//! # Guarantees
//! - A block that is there is read as a whole every `scrub_interval`, as far as `scrub_rate` allows.
//! - A restart goes on where it stopped: when a block was checked is on the disk.
//!
//! # Not here
//! Making the replica anew (`keep`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use skep_common::Result;
use skep_common::clock::Clock;
use skep_common::task::{self, Task};

use crate::block::BlockId;
use crate::remote::{Fault, NamespaceClient};
use crate::server::{BlockServer, blocking, fault_of};

/// Bytes read at a time.
const PIECE: u64 = 1 << 20;
/// Longest pause between two looks at what is due.
const PAUSE_MAX: Duration = Duration::from_secs(600);
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// Checks the blocks of one node.
#[derive(Debug)]
pub struct Scrubber {
    server: BlockServer,
    namespace: Arc<dyn NamespaceClient>,
    clock: Arc<dyn Clock>,
}

/// What one pass found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Blocks that are as they were written.
    pub good: usize,
    /// Blocks that are not.
    pub bad: usize,
    /// Bytes read.
    pub bytes: u64,
}

impl Scrubber {
    /// Over the blocks of `server`; damage is told to `namespace`.
    pub fn new(server: BlockServer, namespace: Arc<dyn NamespaceClient>, clock: Arc<dyn Clock>) -> Self {
        Self { server, namespace, clock }
    }

    /// Runs until the task is dropped.
    pub fn start(self) -> Task<()> {
        task::spawn("scrub-blocks", async move {
            let pause = (self.server.config().scrub_interval / 20).clamp(PAUSE_MIN, PAUSE_MAX);
            loop {
                match self.pass().await {
                    Ok(found) if found != Scrubbed::default() => {
                        tracing::info!(node = %self.server.node(), ?found, "blocks checked");
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!(error = %error.report(), "could not check blocks"),
                }
                tokio::time::sleep(pause).await;
            }
        })
    }

    /// Reads every block that is due, the one first that was not checked for longest.
    ///
    /// # Errors
    /// Those of the disk and of the namespace; what is left is due the next time.
    pub async fn pass(&self) -> Result<Scrubbed> {
        let interval = self.server.config().scrub_interval;
        let disk = self.server.disk().clone();
        let mut found = Scrubbed::default();
        for (checked, block) in blocking(move || disk.by_last_check()).await? {
            let now = SystemTime::from(self.clock.now());
            if now.duration_since(checked).is_ok_and(|age| age < interval) {
                break;
            }
            match self.check(block, &mut found).await {
                Ok(()) => found.good += 1,
                Err(error) => match fault_of(&error) {
                    Some(Fault::Corrupt) => {
                        found.bad += 1;
                        self.damaged(block, &error).await?;
                    }
                    // Deleted meanwhile.
                    Some(Fault::Missing) => continue,
                    None => return Err(error),
                },
            }
            let disk = self.server.disk().clone();
            blocking(move || disk.checked(block, now)).await?;
        }
        Ok(found)
    }

    async fn check(&self, block: BlockId, found: &mut Scrubbed) -> Result<()> {
        let disk = self.server.disk().clone();
        let open = Arc::new(blocking(move || disk.open_for_read(block)).await?);
        let rate = self.server.config().scrub_rate.0.max(1) as f64;
        let (start, mut at) = (self.clock.instant(), 0);
        while at < open.length() {
            let piece = at..(at + PIECE).min(open.length());
            at = piece.end;
            let reading = Arc::clone(&open);
            found.bytes += blocking(move || reading.read(piece)).await?.len() as u64;
            let due = Duration::from_secs_f64(at as f64 / rate);
            let taken = self.clock.instant().saturating_duration_since(start);
            tokio::time::sleep(due.saturating_sub(taken)).await;
        }
        Ok(())
    }

    async fn damaged(&self, block: BlockId, error: &skep_common::Error) -> Result<()> {
        tracing::warn!(%block, node = %self.server.node(), error = %error.report(), "a block is damaged");
        let (disk, max) = (self.server.disk().clone(), self.server.config().quarantine_max.0);
        blocking(move || disk.quarantine(block, max)).await?;
        self.namespace.report_fault(block, self.server.node(), Fault::Corrupt).await
    }
}
