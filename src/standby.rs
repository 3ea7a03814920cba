//! One coordinator at a time keeps the blocks of a store; others on the same database stand by until it is gone.
//!
//! ```text
//! take the lease --held by another: say so, wait, try again--> hold it, renew it --lost--> stop serving
//! ```
//!
//! Time decides who serves, the epoch of the lease what is written: a coordinator that slept through the end of its
//! lease writes nothing more ([`skep_metadb::WriteTx::fence`]).

use std::sync::Arc;
use std::time::Duration;

use skep_common::clock::Clock;
use skep_common::task::{self, Task};
use skep_common::{Error, Kind, Result};
use skep_metadb::{Lease, Location, MetaDb, Options, Taken};
use tokio_util::sync::CancellationToken;

/// What the lease is for.
const NAME: &str = "coordinator";
/// How long a coordinator that fell silent keeps others out.
const TIME: Duration = Duration::from_secs(15);
/// How often it says that it lives, and how often others look.
const PULSE: Duration = Duration::from_secs(5);

/// The lease of this process. [`Held::release`] lets another take over at once.
pub(crate) struct Held {
    db: MetaDb,
    lease: Lease,
    lost: CancellationToken,
    renewing: Task<()>,
}

impl Held {
    /// Waits until nobody else has the lease, and says on stderr whom it waits for.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn take(location: &Location, holder: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        let db = MetaDb::open(location.clone(), Options { readers: 1, ..Options::default() }).await?;
        let mut waits_for = None;
        let lease = loop {
            match db.take_lease(NAME, holder, clock.now(), TIME).await? {
                Taken::Yes(lease) => break lease,
                Taken::No { holder, until } => {
                    if waits_for.as_ref() != Some(&holder) {
                        eprintln!(
                            "standing by: {holder} serves this catalog, and takes over is tried every {PULSE:?}"
                        );
                        tracing::info!(%holder, %until, "standing by");
                        waits_for = Some(holder);
                    }
                    tokio::time::sleep(PULSE).await;
                }
            }
        };
        tracing::info!(epoch = lease.epoch, "holds the lease of the coordinator");
        let lost = CancellationToken::new();
        let renewing = task::spawn("renew the lease", renew(db.clone(), lease.clone(), clock, lost.clone()));
        Ok(Self { db, lease, lost, renewing })
    }

    /// What writes are fenced by.
    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Cancelled when another took over.
    pub(crate) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Gives the lease back.
    pub(crate) async fn release(self) {
        self.renewing.abort();
        if let Err(error) = self.db.release_lease(&self.lease).await {
            tracing::warn!(error = error.report(), "the lease runs out by itself");
        }
        self.db.close().await;
    }
}

/// What a coordinator that lost its lease ends with.
pub(crate) fn taken_over() -> Error {
    Error::new(Kind::Unavailable, "another coordinator took over")
        .hint("this one was silent for too long; start it again to stand by")
}

async fn renew(db: MetaDb, lease: Lease, clock: Arc<dyn Clock>, lost: CancellationToken) {
    loop {
        tokio::time::sleep(PULSE).await;
        match db.renew_lease(&lease, clock.now(), TIME).await {
            Ok(()) => {}
            Err(error) if error.kind() == Kind::Conflict => {
                tracing::error!(error = error.report(), "the lease is lost");
                lost.cancel();
                return;
            }
            Err(error) => tracing::warn!(error = error.report(), "cannot renew the lease, trying again"),
        }
    }
}
