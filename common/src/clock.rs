//! The only place that asks what time it is.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};

/// Tells the time. Handed to components, so that tests hand them another.
pub trait Clock: Debug + Send + Sync {
    /// The date and time, for people and for the catalog.
    fn now(&self) -> DateTime<Utc>;
    /// A point on a line that only goes forward, for timeouts.
    fn instant(&self) -> Instant;
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    fn instant(&self) -> Instant {
        Instant::now()
    }
}

/// The clock of the machine, shared.
pub fn system() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}
