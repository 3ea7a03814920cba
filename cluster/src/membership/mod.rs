//! Which workers are alive.
//!
//! ```text
//! worker: announce::run --Join--> coordinator: service --> state (pure) <-- Members (the live view)
//!                       --Heartbeat every `heartbeat`-->
//!                       --Leave when it stops-->
//! ```
//!
//! A worker that is silent for `dead_after` is dead: it gets no new tasks or blocks until it joins again. The
//! coordinator forgets members when it restarts; workers then find out by their next heartbeat and join again.

mod announce;
mod service;
mod state;

/// Names the machine, and which boot of it: two processes that read the same name see the same disks, unless they are
/// in containers of their own.
fn host() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

pub use crate::proto::membership::Work;
pub use announce::{Announcement, announce};
pub use service::{Members, MembershipService, Workshop};
pub use state::{Config, State};
