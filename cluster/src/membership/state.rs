//! The pure part: who joined, who was heard of last, who is alive.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use skep_common::{Error, NodeId, Result};
use skep_store::NodeInfo;
use uuid::Uuid;

/// Table `[cluster.membership]` of the config file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How often a worker says that it is alive. 100 ms to 1 min.
    #[serde(with = "skep_common::unit::duration")]
    pub heartbeat: Duration,
    /// Silence after which a worker counts as dead. At least three heartbeats.
    #[serde(with = "skep_common::unit::duration")]
    pub dead_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(2), dead_after: Duration::from_secs(10) }
    }
}

#[derive(Debug, Clone)]
struct Member {
    info: NodeInfo,
    incarnation: Uuid,
    heard: Instant,
}

/// Every worker that joined and did not leave.
#[derive(Debug, Default)]
pub struct State {
    members: BTreeMap<NodeId, Member>,
}

impl State {
    /// A worker joins as `incarnation`, in place of an earlier one of the same id at the same address or a dead one.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`](skep_common::Kind::AlreadyExists) if a live process at another address has the id.
    pub fn join(&mut self, info: NodeInfo, incarnation: Uuid, now: Instant, config: &Config) -> Result<()> {
        if let Some(member) = self.members.get(&info.id)
            && member.info.url != info.url
            && now.duration_since(member.heard) < config.dead_after
        {
            let (id, url) = (&info.id, &member.info.url);
            return Err(Error::already_exists(format!("worker '{id}' is already served at {url}"))
                .hint("two workers must not share a data directory; stop one, or give this one its own"));
        }
        self.members.insert(info.id.clone(), Member { info, incarnation, heard: now });
        Ok(())
    }

    /// A worker is alive. One that was silent for so long that it counted as dead joins again, since others have gone on
    /// without it.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) if it has to join again.
    pub fn heartbeat(
        &mut self,
        id: &NodeId,
        incarnation: Uuid,
        free: u64,
        now: Instant,
        config: &Config,
    ) -> Result<()> {
        match self.members.get_mut(id) {
            Some(member)
                if member.incarnation == incarnation
                    && now.duration_since(member.heard) < config.dead_after =>
            {
                member.heard = now;
                member.info.free = free;
                Ok(())
            }
            _ => Err(Error::not_found(format!("worker '{id}' has not joined"))),
        }
    }

    /// A worker stops. Returns whether it was known.
    pub fn leave(&mut self, id: &NodeId, incarnation: Uuid) -> bool {
        let known = self.members.get(id).is_some_and(|member| member.incarnation == incarnation);
        if known {
            self.members.remove(id);
        }
        known
    }

    /// The workers heard of within `dead_after`, by id.
    pub fn live(&self, now: Instant, config: &Config) -> Vec<NodeInfo> {
        let alive = |member: &&Member| now.duration_since(member.heard) < config.dead_after;
        self.members.values().filter(alive).map(|member| member.info.clone()).collect()
    }

    /// Every known worker with the time since it was heard of, by id.
    pub fn all(&self, now: Instant) -> Vec<(NodeInfo, Duration)> {
        self.members.values().map(|m| (m.info.clone(), now.duration_since(m.heard))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_common::Kind;

    fn node(id: &str, port: u16) -> NodeInfo {
        let url = format!("http://127.0.0.1:{port}").parse().unwrap();
        NodeInfo { id: NodeId::new(id).unwrap(), zone: None, url, free: 1 }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a start for a made-up time line")]
    fn silence_is_death_and_joining_again_is_life() {
        let (config, start) = (Config::default(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut state = State::default();
        let a = NodeId::new("a").unwrap();

        assert_eq!(state.heartbeat(&a, first, 9, at(0), &config).unwrap_err().kind(), Kind::NotFound);
        state.join(node("a", 1), first, at(0), &config).unwrap();
        state.join(node("b", 2), second, at(0), &config).unwrap();
        state.heartbeat(&a, first, 9, at(8), &config).unwrap();
        let live = state.live(at(11), &config);
        assert_eq!(live.iter().map(|n| (n.id.as_str(), n.free)).collect::<Vec<_>>(), [("a", 9)]);

        let refused = state.join(node("a", 3), second, at(12), &config).unwrap_err();
        assert_eq!(refused.kind(), Kind::AlreadyExists);
        state.join(node("a", 1), second, at(12), &config).unwrap();
        assert!(state.heartbeat(&a, first, 9, at(13), &config).is_err(), "the former process is fenced out");
        assert!(!state.leave(&a, first) && state.leave(&a, second));
        state.join(node("b", 7), first, at(30), &config).unwrap();
        assert_eq!(state.live(at(31), &config), [node("b", 7)]);
        assert!(state.heartbeat(&node("b", 7).id, first, 1, at(39), &config).is_ok());
        let late = state.heartbeat(&node("b", 7).id, first, 1, at(49), &config).unwrap_err();
        assert_eq!(late.kind(), Kind::NotFound, "it was dead, and joins again");
    }
}
