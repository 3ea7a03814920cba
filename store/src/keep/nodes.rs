//! What the keeper makes of a node: how long it has been silent, whether it has said what it holds, what the operator wants.
//!
//! # Invariants
//! - Pure: the time is an input.
//! - A node counts as live only after it reported its blocks since it was last away: one that comes back with an empty disk
//!   is never counted on.
//!
//! # Not here
//! What follows for blocks (`state`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use skep_common::NodeId;

/// A node that answers has so many times the delay of a silent one to say what it holds.
const REPORTING: u32 = 10;

/// How the keeper counts a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Takes blocks and gives them.
    Live,
    /// Not heard of for less than `repair_delay`, or not yet reported: its replicas still count.
    Away,
    /// Away with leave (`maintenance`): its replicas still count.
    Maintenance,
    /// The operator wants to take it away: its replicas are copied elsewhere, and do not count. `alive`: it answers, so that
    /// they can be copied from it.
    Draining {
        /// Whether it answers.
        alive: bool,
    },
    /// Not heard of for longer than `repair_delay`: its replicas are made anew elsewhere.
    Dead,
}

impl Status {
    /// Its replicas are where readers find them and where copies come from.
    pub fn gives(self) -> bool {
        matches!(self, Self::Live | Self::Draining { alive: true })
    }

    /// Its replicas are waited for.
    pub fn waited_for(self) -> bool {
        matches!(self, Self::Away | Self::Maintenance)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::Away => "away",
            Self::Maintenance => "maintenance",
            Self::Draining { .. } => "draining",
            Self::Dead => "dead",
        })
    }
}

/// A node that ever reported blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// The node.
    pub id: NodeId,
    /// Its failure domain, if it is known.
    pub zone: Option<String>,
    /// How it counts.
    pub status: Status,
    /// Whether it is in maintenance, and still answers: it gets no more blocks.
    pub closed: bool,
    /// Bytes free for blocks; of a node that does not answer, 0.
    pub free: u64,
    /// Bytes of its good replicas.
    pub used: u64,
}

impl NodeState {
    /// Whether blocks may be copied to it.
    pub fn takes(&self) -> bool {
        self.status == Status::Live && !self.closed
    }

    /// The share of its room that is full, 0 to 1.
    pub fn fullness(&self) -> f64 {
        let room = self.used.saturating_add(self.free).max(1);
        self.used as f64 / room as f64
    }
}

/// What the operator wants of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Orders {
    /// It is to be emptied.
    pub drain: bool,
    /// It may be away.
    pub maintenance: bool,
}

/// When nodes were heard of.
#[derive(Debug, Clone)]
pub struct Watch {
    /// How long a silent node is waited for.
    delay: Duration,
    observed: Instant,
    nodes: BTreeMap<NodeId, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    /// When it last answered.
    last: Instant,
    /// Whether it answered when it was last looked at, and since when it may have.
    alive_since: Option<Instant>,
    reported: Option<Instant>,
}

impl Watch {
    /// Every node in `known` counts as heard of `now`, so that a coordinator that restarts does not copy what is about to
    /// come back.
    pub fn new(known: impl IntoIterator<Item = NodeId>, delay: Duration, now: Instant) -> Self {
        let seen = Seen { last: now, alive_since: None, reported: None };
        Self { delay, observed: now, nodes: known.into_iter().map(|node| (node, seen)).collect() }
    }

    /// `node` said what it holds.
    pub fn reported(&mut self, node: &NodeId, now: Instant) {
        let seen =
            self.nodes.entry(node.clone()).or_insert(Seen { last: now, alive_since: None, reported: None });
        seen.reported = Some(now);
    }

    /// `node` is no longer known.
    pub fn forget(&mut self, node: &NodeId) {
        self.nodes.remove(node);
    }

    /// Those in `live` answer `now`, and no others.
    pub fn observe(&mut self, live: &BTreeSet<NodeId>, now: Instant) {
        for (id, seen) in &mut self.nodes {
            if live.contains(id) {
                seen.last = now;
                // It may have come back right after the last look.
                seen.alive_since = Some(seen.alive_since.unwrap_or(self.observed));
            } else {
                seen.alive_since = None;
            }
        }
        self.observed = now;
    }

    /// How `node` counts `now`.
    pub fn status(&self, node: &NodeId, orders: Orders, now: Instant) -> Status {
        let Some(seen) = self.nodes.get(node) else { return Status::Dead };
        let alive =
            seen.alive_since.is_some_and(|since| seen.reported.is_some_and(|reported| reported >= since));
        match alive {
            _ if orders.drain => Status::Draining { alive },
            true => Status::Live,
            _ if orders.maintenance => Status::Maintenance,
            // It answers, and will say in a moment what it holds; or its disk is such that it never will.
            false
                if seen.alive_since.is_some_and(|since| {
                    now.saturating_duration_since(since) <= self.delay.saturating_mul(REPORTING)
                }) =>
            {
                Status::Away
            }
            false if seen.alive_since.is_none() && now.saturating_duration_since(seen.last) <= self.delay => {
                Status::Away
            }
            false => Status::Dead,
        }
    }

    /// How long ago `node` last answered.
    pub fn silence(&self, node: &NodeId, now: Instant) -> Option<Duration> {
        self.nodes.get(node).map(|seen| now.saturating_duration_since(seen.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a start for a made-up time line")]
    fn a_node_counts_when_it_said_what_it_holds() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let a = NodeId::new("a").unwrap();
        let here = BTreeSet::from([a.clone()]);
        let mut watch = Watch::new([a.clone()], Duration::from_secs(30), start);
        let status = |watch: &Watch, secs| watch.status(&a, Orders::default(), at(secs));

        assert_eq!(status(&watch, 1), Status::Away);
        watch.observe(&here, at(2));
        assert_eq!(status(&watch, 2), Status::Away, "it answers and has not reported");
        watch.reported(&a, at(3));
        assert_eq!(status(&watch, 3), Status::Live);
        watch.observe(&BTreeSet::new(), at(10));
        assert_eq!(status(&watch, 32), Status::Away);
        assert_eq!(status(&watch, 33), Status::Dead);
        // Back, with a report from before it was gone.
        watch.observe(&here, at(50));
        assert_eq!(status(&watch, 50), Status::Away);
        assert_eq!(status(&watch, 310), Status::Away);
        assert_eq!(status(&watch, 311), Status::Dead, "it never says what it holds");
        watch.reported(&a, at(51));
        assert_eq!(status(&watch, 51), Status::Live);

        // It came back and reported between two looks.
        watch.observe(&BTreeSet::new(), at(60));
        watch.reported(&a, at(61));
        watch.observe(&here, at(62));
        assert_eq!(status(&watch, 62), Status::Live);

        let orders = |drain, maintenance| Orders { drain, maintenance };
        assert_eq!(watch.status(&a, orders(true, true), at(62)), Status::Draining { alive: true });
        assert_eq!(watch.status(&a, orders(false, true), at(62)), Status::Live);
        watch.observe(&BTreeSet::new(), at(63));
        assert_eq!(watch.status(&a, orders(false, true), at(900)), Status::Maintenance);
        assert_eq!(watch.status(&a, orders(true, false), at(900)), Status::Draining { alive: false });
        watch.forget(&a);
        assert_eq!(status(&watch, 64), Status::Dead);
    }
}
