//! Calls between nodes that come late on purpose, as drills want them. Without the setting no call is touched.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Which calls come late, and how late. Table `[cluster.channel.delay]` of the config file, for drills only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    /// Calls that come late, of a hundred. 1 to 100.
    pub percent: u8,
    /// Longest time that such a call is held back; each is held back for a drawn part of it.
    #[serde(with = "skep_common::unit::duration")]
    pub longest: Duration,
    /// What the draws begin with.
    #[serde(default)]
    pub seed: u64,
}

/// Draws the delays of one connection and its clones.
#[derive(Debug, Clone)]
pub(crate) struct Late {
    delay: Delay,
    calls: Arc<AtomicU64>,
}

impl Late {
    pub(crate) fn new(delay: Delay) -> Self {
        Self { delay, calls: Arc::default() }
    }

    /// How long the next call is held back. `None`: not at all.
    pub(crate) fn draw(&self) -> Option<Duration> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let drawn = mix(self.delay.seed.wrapping_add(mix(call)));
        let late = drawn % 100 < u64::from(self.delay.percent);
        let share = (drawn >> 32) as f64 / f64::from(u32::MAX);
        late.then(|| self.delay.longest.mul_f64(share.min(1.0)))
    }
}

/// The finalizer of splitmix64: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(percent: u8, seed: u64) -> Vec<Option<Duration>> {
        let late = Late::new(Delay { percent, longest: Duration::from_millis(50), seed });
        (0..1000).map(|_| late.draw()).collect()
    }

    #[test]
    fn as_many_calls_come_late_as_were_asked_for() {
        let late = drawn(20, 7).iter().flatten().count();
        assert!((150..250).contains(&late), "{late} of 1000");
        assert!(drawn(20, 7).iter().flatten().all(|wait| *wait <= Duration::from_millis(50)));
        assert_eq!(drawn(100, 7).iter().flatten().count(), 1000);
    }

    #[test]
    fn a_seed_draws_the_same_again() {
        assert_eq!(drawn(20, 7), drawn(20, 7));
        assert_ne!(drawn(20, 7), drawn(20, 8));
    }
}
