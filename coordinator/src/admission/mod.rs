//! Admission: resource groups, in which statements wait for their turn, and the memory that one of them may take.
//!
//! ```text
//! plan --ask--> turn --> run            full: wait in line, or be refused
//!                 \--> end: the next has its turn
//! ```
//!
//! # Guarantees
//! - Of a group at most `concurrency` statements run and `queue` wait. Statements that only look (SHOW, SET, `system.*`,
//!   KILL, BEGIN, COMMIT) are never held up.
//! - A statement that would scan too much is refused before it runs.
//!
//! # Not guaranteed
//! Fairness between groups: each has its own line.
//!
//! # Not here
//! Keeping statements to their share of memory ([`skep_engine::memory`]).

mod config;
mod state;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skep_common::{Error, QueryId, Result, clock};
use tokio::sync::oneshot;

pub use config::{DEFAULT, Group, Groups};

pub(crate) use state::Line;

use state::{Answer, State};

/// The groups of one coordinator.
#[derive(Debug)]
pub(crate) struct Admission(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    state: State,
    /// Those that wait for their turn.
    waiting: HashMap<QueryId, oneshot::Sender<()>>,
}

/// A place in a group: in line, or at work. Dropping it leaves.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    group: String,
    id: QueryId,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut inner = self.admission.0.lock();
        inner.waiting.remove(&self.id);
        for next in inner.state.leave(&self.group, self.id) {
            if let Some(turn) = inner.waiting.remove(&next) {
                // One that stopped waiting has a permit of its own to drop.
                let _ = turn.send(());
            }
        }
    }
}

impl Admission {
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for settings out of range.
    pub(crate) fn new(groups: Groups) -> Result<Self> {
        let state = State::new(config::validated(groups)?);
        Ok(Self(Mutex::new(Inner { state, waiting: HashMap::new() })))
    }

    /// What a group may.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound), with the names there are.
    pub(crate) fn group(&self, name: &str) -> Result<Group> {
        self.0.lock().state.group(name).cloned()
    }

    /// Every group, by name.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.0.lock().state.lines()
    }

    /// Waits for the turn of `id` in `group`; `queues` is called if that takes time.
    ///
    /// # Errors
    /// [`Kind::Exhausted`](skep_common::Kind::Exhausted) if too many wait or it waited too long, those of `queues`.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        group: &str,
        id: QueryId,
        queues: impl FnOnce() -> Result<()>,
    ) -> Result<Permit> {
        let now = clock::system().instant();
        let (send, turn) = oneshot::channel();
        let answer = {
            let mut inner = self.0.lock();
            let answer = inner.state.ask(group, id, now)?;
            if answer != Answer::Run {
                inner.waiting.insert(id, send);
            }
            answer
        };
        let permit = Permit { admission: Arc::clone(self), group: group.to_owned(), id };
        let Answer::Wait(until) = answer else { return Ok(permit) };
        queues()?;
        match tokio::time::timeout_at(until.into(), turn).await {
            Ok(_) => Ok(permit),
            Err(_) => Err(late(group, until - now)),
        }
    }
}

fn late(group: &str, waited: Duration) -> Error {
    Error::exhausted(format!("the statement waited {waited:?} for its turn in group '{group}'")).hint(format!(
        "try again later, SET skep.group to another, or raise queue_timeout or concurrency of [coordinator.groups.{group}]"
    ))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use skep_common::{Kind, task};

    use super::*;

    fn one_at_a_time(queue_timeout: Duration) -> Arc<Admission> {
        let group = Group { concurrency: NonZeroU32::MIN, queue: 1, queue_timeout, ..Group::default() };
        Arc::new(Admission::new([("etl".to_owned(), group)].into()).unwrap())
    }

    async fn ask(admission: &Arc<Admission>) -> Result<Permit> {
        admission.admit("etl", QueryId::generate(), || Ok(())).await
    }

    #[tokio::test]
    async fn the_next_has_its_turn_when_one_ends() {
        let admission = one_at_a_time(Duration::from_secs(600));
        let first = ask(&admission).await.unwrap();
        let (told, queued) = oneshot::channel();
        let other = Arc::clone(&admission);
        let second = task::spawn("second", async move {
            other
                .admit("etl", QueryId::generate(), || told.send(()).map_err(|()| Error::internal("gone")))
                .await
        });
        queued.await.unwrap();
        assert_eq!(ask(&admission).await.unwrap_err().kind(), Kind::Exhausted);
        drop(first);
        let second = second.join().await.unwrap().unwrap();
        assert_eq!(admission.lines().iter().map(|line| line.running + line.waiting).sum::<u64>(), 1);
        drop(second);
        ask(&admission).await.unwrap();
    }

    #[tokio::test]
    async fn who_waits_too_long_or_goes_away_leaves_the_line() {
        let admission = one_at_a_time(Duration::from_millis(1));
        let first = ask(&admission).await.unwrap();
        let error = ask(&admission).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Exhausted);
        assert!(error.hint_text().unwrap().contains("queue_timeout"), "{error:?}");
        let killed = admission.admit("etl", QueryId::generate(), || Err(Error::cancelled("killed"))).await;
        assert_eq!(killed.unwrap_err().kind(), Kind::Cancelled);
        assert_eq!(admission.lines().iter().map(|line| line.waiting).sum::<u64>(), 0);
        drop(first);
        ask(&admission).await.unwrap();
    }
}
