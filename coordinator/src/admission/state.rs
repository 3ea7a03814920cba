//! Who runs and who waits in each group: data, and rules for changing it. No I/O, no clock of its own.
//!
//! # Invariants
//! - At most `concurrency` run, at most `queue` wait, and nobody waits while there is room.
//! - Turns come in the order of asking.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use skep_common::{Error, QueryId, Result};

use super::config::{Group, Groups};

/// What a query is told that asks for its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has it.
    Run,
    /// It waits, at most until then.
    Wait(Instant),
}

#[derive(Debug)]
struct Place {
    group: Group,
    running: BTreeSet<QueryId>,
    waiting: VecDeque<QueryId>,
}

/// The groups of one coordinator.
#[derive(Debug)]
pub(super) struct State(BTreeMap<String, Place>);

/// One line of `system.groups`.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) group: Group,
    pub(crate) running: u64,
    pub(crate) waiting: u64,
}

impl State {
    pub(super) fn new(groups: Groups) -> Self {
        let place = |group| Place { group, running: BTreeSet::new(), waiting: VecDeque::new() };
        Self(groups.into_iter().map(|(name, group)| (name, place(group))).collect())
    }

    /// A query asks for its turn.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for a group that is not there,
    /// [`Kind::Exhausted`](skep_common::Kind::Exhausted) if too many wait already.
    pub(super) fn ask(&mut self, name: &str, id: QueryId, now: Instant) -> Result<Answer> {
        let Some(place) = self.0.get_mut(name) else { return Err(self.missing(name)) };
        let Place { group, running, waiting } = place;
        if running.len() < group.concurrency.get() as usize && waiting.is_empty() {
            running.insert(id);
            return Ok(Answer::Run);
        }
        if waiting.len() >= group.queue as usize {
            return Err(Error::exhausted(format!(
                "in group '{name}' {} statements run and {} wait, and no more may",
                running.len(),
                waiting.len()
            ))
            .hint(format!(
                "try again later, SET skep.group to another, or raise queue or concurrency of [coordinator.groups.{name}]"
            )));
        }
        waiting.push_back(id);
        Ok(Answer::Wait(now + group.queue_timeout))
    }

    /// A query has ended, or waits no more. Those whose turn it is by that.
    pub(super) fn leave(&mut self, name: &str, id: QueryId) -> Vec<QueryId> {
        let Some(Place { group, running, waiting }) = self.0.get_mut(name) else { return Vec::new() };
        if !running.remove(&id) {
            waiting.retain(|other| *other != id);
        }
        let mut turn = Vec::new();
        while running.len() < group.concurrency.get() as usize
            && let Some(next) = waiting.pop_front()
        {
            running.insert(next);
            turn.push(next);
        }
        turn
    }

    /// What a group may.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound), with the names there are.
    pub(super) fn group(&self, name: &str) -> Result<&Group> {
        self.0.get(name).map(|place| &place.group).ok_or_else(|| self.missing(name))
    }

    pub(super) fn lines(&self) -> Vec<Line> {
        let line = |(name, place): (&String, &Place)| Line {
            name: name.clone(),
            group: place.group.clone(),
            running: place.running.len() as u64,
            waiting: place.waiting.len() as u64,
        };
        self.0.iter().map(line).collect()
    }

    fn missing(&self, name: &str) -> Error {
        let names: Vec<String> = self.0.keys().map(|name| format!("'{name}'")).collect();
        Error::not_found(format!("there is no resource group '{name}'")).hint(format!(
            "there is {}; the config file makes others: [coordinator.groups.NAME]",
            names.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use skep_common::{Kind, clock};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(7);

    fn state(concurrency: u32, queue: u32) -> State {
        let group = Group {
            concurrency: NonZeroU32::new(concurrency).unwrap(),
            queue,
            queue_timeout: PATIENCE,
            ..Group::default()
        };
        State::new(super::super::config::validated([("etl".to_owned(), group)].into()).unwrap())
    }

    fn ids<const N: usize>() -> [QueryId; N] {
        std::array::from_fn(|_| QueryId::generate())
    }

    #[test]
    fn turns_come_in_the_order_of_asking() {
        let mut state = state(2, 2);
        let now = clock::system().instant();
        let [a, b, c, d, e] = ids();
        assert_eq!(state.ask("etl", a, now).unwrap(), Answer::Run);
        assert_eq!(state.ask("etl", b, now).unwrap(), Answer::Run);
        assert_eq!(state.ask("etl", c, now).unwrap(), Answer::Wait(now + PATIENCE));
        assert_eq!(state.ask("etl", d, now).unwrap(), Answer::Wait(now + PATIENCE));
        let full = state.ask("etl", e, now).unwrap_err();
        assert_eq!(full.kind(), Kind::Exhausted);
        assert!(full.hint_text().unwrap().contains("[coordinator.groups.etl]"), "{full:?}");
        assert_eq!(state.leave("etl", b), [c]);
        assert_eq!(state.leave("etl", a), [d]);
        assert!(state.leave("etl", c).is_empty() && state.leave("etl", d).is_empty());
        assert_eq!(state.ask("etl", e, now).unwrap(), Answer::Run);
    }

    #[test]
    fn who_gives_up_makes_room_in_the_queue_only() {
        let mut state = state(1, 2);
        let now = clock::system().instant();
        let [a, b, c] = ids();
        for id in [a, b, c] {
            state.ask("etl", id, now).unwrap();
        }
        assert!(state.leave("etl", b).is_empty());
        let line = state.lines().into_iter().find(|line| line.name == "etl").unwrap();
        assert_eq!((line.running, line.waiting), (1, 1));
        assert_eq!(state.leave("etl", a), [c]);
        // Leaving twice is leaving once.
        assert!(state.leave("etl", a).is_empty());
    }

    #[test]
    fn groups_do_not_wait_for_each_other() {
        let mut state = state(1, 0);
        let now = clock::system().instant();
        let [a, b, c] = ids();
        assert_eq!(state.ask("etl", a, now).unwrap(), Answer::Run);
        assert_eq!(state.ask("default", b, now).unwrap(), Answer::Run);
        assert_eq!(state.ask("etl", c, now).unwrap_err().kind(), Kind::Exhausted);
        let missing = state.ask("nosuch", c, now).unwrap_err();
        assert_eq!(missing.kind(), Kind::NotFound);
        assert!(missing.hint_text().unwrap().contains("'default', 'etl'"), "{missing:?}");
    }
}
