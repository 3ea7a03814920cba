//! What the queries of one coordinator are doing: data, and rules for changing it. No I/O, no clock.
//!
//! ```text
//! planning --> queued --> running --> finishing --> finished
//!     \____________\__________\___________\______> failed
//!      \____________\__________\_________________> cancelled
//! ```
//!
//! # Invariants
//! - A query ends once, and nothing about it changes after.
//! - A query that was killed never begins its commit, and one that began its commit is never killed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use skep_common::{Error, Kind, QueryId, Result, SessionId};
use tokio_util::sync::CancellationToken;

use super::meter::Meter;

/// Characters of a statement that are kept.
const TEXT_CHARS_MAX: usize = 4_000;

/// Progress from which on the rest can be estimated.
const PROGRESS_MIN: f64 = 0.01;

/// What a query is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Read, resolved and planned.
    Planning,
    /// Waiting for its turn in its resource group.
    Queued,
    /// At work, or its rows are being read.
    Running,
    /// Making its commit, from which nothing calls it back.
    Finishing,
    /// Done.
    Finished,
    /// Ended by an error.
    Failed,
    /// Ended by somebody.
    Cancelled,
}

impl State {
    const ALL: [State; 7] = [
        State::Planning,
        State::Queued,
        State::Running,
        State::Finishing,
        State::Finished,
        State::Failed,
        State::Cancelled,
    ];

    /// As `system.queries` shows it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Planning => "planning",
            State::Queued => "queued",
            State::Running => "running",
            State::Finishing => "finishing",
            State::Finished => "finished",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }

    /// The state of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether nothing comes after it.
    pub(crate) fn ended(self) -> bool {
        matches!(self, State::Finished | State::Failed | State::Cancelled)
    }
}

/// One execution of one statement.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Query {
    pub(crate) id: QueryId,
    /// Who runs it; absent: this coordinator, which keeps no history.
    pub(crate) coordinator: Option<Arc<str>>,
    pub(crate) session: String,
    pub(crate) user: String,
    /// The statement, its end left out where it is long.
    pub(crate) text: String,
    pub(crate) state: State,
    /// The resource group; absent while it needed none.
    pub(crate) group: Option<String>,
    /// The lane of the plan that ran last; absent while none did.
    pub(crate) lane: Option<String>,
    /// How often the plan was made that was made most often: more than once where workers were lost.
    pub(crate) attempts: Option<u64>,
    pub(crate) created: DateTime<Utc>,
    /// When it had its turn; absent: it did not get that far, or had nothing to run.
    pub(crate) started: Option<DateTime<Utc>>,
    pub(crate) ended: Option<DateTime<Utc>>,
    /// Rows returned or written.
    pub(crate) rows: Option<u64>,
    /// Bytes of the rows returned, as they are in memory.
    pub(crate) bytes: Option<u64>,
    /// Most memory that its operators in the coordinator held at a time.
    pub(crate) memory: Option<u64>,
    /// The share of the work that is done, 0 to 1; absent where nobody knows.
    pub(crate) progress: Option<f64>,
    pub(crate) error: Option<(String, String)>,
}

impl Query {
    /// The milliseconds that it still needs if it goes on as it did. `None` where nobody knows.
    pub(crate) fn remaining_ms(&self, now: DateTime<Utc>) -> Option<i64> {
        if self.state.ended() {
            return None;
        }
        let (done, started) = (self.progress?, self.started?);
        // Of the first moments nothing follows, and when all is read something else is left to do.
        if !(PROGRESS_MIN..1.0).contains(&done) {
            return None;
        }
        let spent = (now - started).num_milliseconds().max(0) as f64;
        Some((spent * (1.0 - done) / done).round() as i64)
    }

    pub(crate) fn new(id: QueryId, session: SessionId, user: &str, text: &str, now: DateTime<Utc>) -> Self {
        Self {
            id,
            coordinator: None,
            session: session.to_string(),
            user: user.to_owned(),
            text: shorten(text),
            state: State::Planning,
            group: None,
            lane: None,
            attempts: None,
            created: now,
            started: None,
            ended: None,
            rows: None,
            bytes: None,
            memory: None,
            progress: None,
            error: None,
        }
    }
}

/// The beginning of a text. Databases take no NUL.
fn shorten(text: &str) -> String {
    let text = text.trim().replace('\0', "\u{fffd}");
    if text.chars().count() <= TEXT_CHARS_MAX {
        return text;
    }
    text.chars().take(TEXT_CHARS_MAX).chain("...".chars()).collect()
}

/// How a query ended.
#[derive(Debug, Clone)]
pub(crate) enum End {
    /// Well. The rows it wrote, for statements that write.
    Finished(Option<u64>),
    /// With an error; one of [`Kind::Cancelled`] means that somebody ended it.
    Error(Error),
    /// Whoever waited for it stopped waiting.
    Left,
}

/// A query, and what it has measured so far.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) query: Query,
    pub(crate) meter: Arc<Meter>,
}

impl Entry {
    /// The query as it is at this moment.
    pub(crate) fn seen(&self) -> Query {
        let mut query = self.query.clone();
        if !query.state.ended() {
            self.meter.read(&mut query);
        }
        query
    }
}

#[derive(Debug)]
struct Live {
    entry: Entry,
    /// Who killed it, as a sentence.
    killed: Option<String>,
    stop: CancellationToken,
}

/// The queries that live, and those that ended last.
#[derive(Debug)]
pub(crate) struct Registry {
    live: BTreeMap<QueryId, Live>,
    ended: VecDeque<Entry>,
    ended_max: usize,
}

impl Registry {
    /// Keeps `ended_max` queries after their end.
    pub(crate) fn new(ended_max: usize) -> Self {
        Self { live: BTreeMap::new(), ended: VecDeque::new(), ended_max }
    }

    /// A query came. `stop` is told when it is killed.
    pub(crate) fn begin(&mut self, query: Query, meter: Arc<Meter>, stop: CancellationToken) {
        self.live.insert(query.id, Live { entry: Entry { query, meter }, killed: None, stop });
    }

    /// A query goes on to `state`, which is none of the last three.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] if it was killed: then it stays where it was.
    pub(crate) fn advance(&mut self, id: QueryId, state: State, now: DateTime<Utc>) -> Result<()> {
        let Some(live) = self.live.get_mut(&id) else { return Ok(()) };
        if let Some(by) = &live.killed {
            return Err(killed(by));
        }
        let query = &mut live.entry.query;
        query.state = state;
        if matches!(state, State::Running | State::Finishing) {
            query.started.get_or_insert(now);
        }
        Ok(())
    }

    /// A query needs a turn in `group`.
    pub(crate) fn enters(&mut self, id: QueryId, group: &str) {
        if let Some(live) = self.live.get_mut(&id) {
            live.entry.query.group = Some(group.to_owned());
        }
    }

    /// Ends a query from outside; `by` says who did, as a sentence. Killing twice is killing once.
    ///
    /// # Errors
    /// [`Kind::Invalid`] if its commit has begun or it has ended; [`Kind::NotFound`] if it is not known.
    pub(crate) fn kill(&mut self, id: QueryId, by: &str) -> Result<()> {
        let Some(live) = self.live.get_mut(&id) else {
            return Err(match self.ended.iter().find(|entry| entry.query.id == id) {
                Some(entry) => over(id, entry.query.state),
                None => unknown(id),
            });
        };
        if live.entry.query.state == State::Finishing {
            return Err(Error::invalid(format!(
                "query '{id}' is making its commit, which nothing calls back"
            ))
            .hint("wait until it ends; RESTORE TABLE brings a table back as it was"));
        }
        live.killed.get_or_insert_with(|| by.to_owned());
        live.stop.cancel();
        Ok(())
    }

    /// The error of a query that was killed.
    pub(crate) fn killed(&self, id: QueryId) -> Option<Error> {
        self.live.get(&id).and_then(|live| live.killed.as_deref()).map(killed)
    }

    /// A query is over. `None` if it was before.
    pub(crate) fn end(&mut self, id: QueryId, end: &End, now: DateTime<Utc>) -> Option<Query> {
        let Live { mut entry, killed, .. } = self.live.remove(&id)?;
        let before = entry.query.state;
        entry.query = entry.seen();
        let query = &mut entry.query;
        query.ended = Some(now.max(query.created));
        let (state, error) = match end {
            End::Finished(rows) => {
                query.rows = rows.or(query.rows);
                (State::Finished, None)
            }
            End::Error(error) if error.kind() == Kind::Cancelled => (State::Cancelled, Some(error.report())),
            End::Error(error) => (State::Failed, Some(error.report())),
            End::Left if before == State::Finishing => {
                let text =
                    "the client went away during the commit, which goes on and may stand: SHOW SNAPSHOTS";
                (State::Cancelled, Some(text.to_owned()))
            }
            End::Left => {
                (State::Cancelled, Some(killed.unwrap_or_else(|| "the client went away".to_owned())))
            }
        };
        query.state = state;
        query.progress = (state == State::Finished).then_some(1.0);
        let kind = match end {
            End::Error(error) => error.kind().name(),
            _ => Kind::Cancelled.name(),
        };
        query.error = error.map(|text| (kind.to_owned(), shorten(&text)));
        let ended = query.clone();
        if self.ended.len() >= self.ended_max {
            self.ended.pop_front();
        }
        self.ended.push_back(entry);
        Some(ended)
    }

    /// Takes a query out that nobody needs to hear of.
    pub(crate) fn forget(&mut self, id: QueryId) {
        self.live.remove(&id);
    }

    /// Every query that lives, and those that ended last, oldest first.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let live = self.live.values().map(|live| &live.entry);
        let mut all: Vec<Entry> = self.ended.iter().chain(live).cloned().collect();
        all.sort_by_key(|entry| entry.query.id);
        all
    }

    /// The query that `session` began last.
    pub(crate) fn latest(&self, session: &str) -> Option<Entry> {
        let of = |entry: &&Entry| entry.query.session == session;
        let live = self.live.values().rev().map(|live| &live.entry).find(of);
        // They stand in the order in which they ended.
        live.or_else(|| self.ended.iter().filter(of).max_by_key(|entry| entry.query.id)).cloned()
    }

    /// A query that lives.
    pub(crate) fn one(&self, id: QueryId) -> Option<&Entry> {
        self.live.get(&id).map(|live| &live.entry)
    }

    /// The queries that live.
    pub(crate) fn live(&self) -> Vec<QueryId> {
        self.live.keys().copied().collect()
    }
}

fn killed(by: &str) -> Error {
    Error::cancelled(by)
}

/// The error of killing what has ended.
pub(crate) fn over(id: QueryId, state: State) -> Error {
    Error::invalid(format!("query '{id}' has ended: it is {}", state.name()))
        .hint("there is nothing to kill; system.queries shows what runs")
}

/// The error of killing what nobody knows.
pub(crate) fn unknown(id: QueryId) -> Error {
    Error::not_found(format!("there is no query '{id}'"))
        .hint("SELECT query_id, statement FROM system.queries WHERE ended_at IS NULL shows what runs")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn begun(registry: &mut Registry, text: &str) -> (QueryId, CancellationToken) {
        let (id, stop) = (QueryId::generate(), CancellationToken::new());
        let query = Query::new(id, SessionId::generate(), "ada", text, at(1));
        registry.begin(query, Arc::default(), stop.clone());
        (id, stop)
    }

    fn seen(registry: &Registry, id: QueryId) -> Query {
        registry.entries().into_iter().find(|entry| entry.query.id == id).unwrap().seen()
    }

    #[test]
    fn a_query_goes_its_way_and_ends_once() {
        let mut registry = Registry::new(2);
        let (id, _) = begun(&mut registry, " SELECT 1 ");
        assert_eq!(seen(&registry, id).state, State::Planning);
        for (second, state) in [(2, State::Queued), (3, State::Running), (4, State::Finishing)] {
            registry.advance(id, state, at(second)).unwrap();
            assert_eq!(seen(&registry, id).state, state);
        }
        assert!(registry.end(id, &End::Finished(Some(7)), at(9)).is_some());
        assert!(registry.end(id, &End::Left, at(10)).is_none());
        let query = seen(&registry, id);
        assert_eq!((query.state, query.rows, query.text.as_str()), (State::Finished, Some(7), "SELECT 1"));
        assert_eq!((query.started, query.ended, query.error), (Some(at(3)), Some(at(9)), None));
    }

    #[test]
    fn a_killed_query_never_commits_and_a_commit_is_never_killed() {
        let mut registry = Registry::new(2);
        let (killed, stop) = begun(&mut registry, "INSERT");
        registry.kill(killed, "killed by 'bob'").unwrap();
        registry.kill(killed, "killed by 'eve'").unwrap();
        assert!(stop.is_cancelled());
        let refused = registry.advance(killed, State::Finishing, at(2)).unwrap_err();
        assert_eq!((refused.kind(), refused.message()), (Kind::Cancelled, "killed by 'bob'"));
        registry.end(killed, &End::Error(refused), at(3));
        assert_eq!(seen(&registry, killed).state, State::Cancelled);

        let (commits, stop) = begun(&mut registry, "INSERT");
        registry.advance(commits, State::Finishing, at(2)).unwrap();
        assert_eq!(registry.kill(commits, "bob").unwrap_err().kind(), Kind::Invalid);
        assert!(!stop.is_cancelled());
        // A conflict sent it back: now it can be.
        registry.advance(commits, State::Running, at(3)).unwrap();
        registry.kill(commits, "killed by 'bob'").unwrap();
        assert!(stop.is_cancelled());
    }

    #[test]
    fn killing_what_has_ended_or_never_was_says_so() {
        let mut registry = Registry::new(1);
        let (id, _) = begun(&mut registry, "SELECT 1");
        registry.end(id, &End::Error(Error::invalid("no")), at(2));
        let ended = registry.kill(id, "bob").unwrap_err();
        assert!(ended.kind() == Kind::Invalid && ended.message().contains("failed"), "{ended:?}");
        assert_eq!(registry.kill(QueryId::generate(), "bob").unwrap_err().kind(), Kind::NotFound);
        // Only so many are kept.
        let (other, _) = begun(&mut registry, "SELECT 2");
        registry.end(other, &End::Finished(None), at(3));
        assert_eq!(registry.kill(id, "bob").unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn who_stops_waiting_cancels() {
        let mut registry = Registry::new(4);
        let (id, _) = begun(&mut registry, "SELECT 1");
        registry.advance(id, State::Running, at(2)).unwrap();
        registry.end(id, &End::Left, at(5));
        let query = seen(&registry, id);
        assert_eq!(query.state, State::Cancelled);
        assert_eq!(query.error.unwrap().1, "the client went away");
        let (id, _) = begun(&mut registry, "INSERT");
        registry.advance(id, State::Finishing, at(2)).unwrap();
        registry.end(id, &End::Left, at(5));
        assert!(seen(&registry, id).error.unwrap().1.contains("may stand"));
    }

    #[test]
    fn the_rest_is_estimated_where_it_can_be() {
        let mut query = Query::new(QueryId::generate(), SessionId::generate(), "ada", "SELECT 1", at(1));
        assert_eq!(query.remaining_ms(at(5)), None);
        query.started = Some(at(10));
        for (progress, remaining) in [
            (None, None),
            (Some(0.0), None),
            (Some(0.25), Some(30_000)),
            (Some(0.8), Some(2_500)),
            (Some(1.0), None),
        ] {
            query.progress = progress;
            assert_eq!(query.remaining_ms(at(20)), remaining, "{progress:?}");
        }
        query.progress = Some(0.5);
        query.state = State::Failed;
        assert_eq!(query.remaining_ms(at(20)), None);
    }

    #[test]
    fn the_latest_of_a_session_lives_or_ended_last() {
        let mut registry = Registry::new(4);
        let begin = |registry: &mut Registry, session| {
            let (id, stop) = (QueryId::generate(), CancellationToken::new());
            registry.begin(Query::new(id, session, "ada", "SELECT 1", at(1)), Arc::default(), stop);
            id
        };
        let (mine, other) = (SessionId::generate(), SessionId::generate());
        assert!(registry.latest(&mine.to_string()).is_none());
        let first = begin(&mut registry, mine);
        let second = begin(&mut registry, mine);
        begin(&mut registry, other);
        let latest = |registry: &Registry| registry.latest(&mine.to_string()).map(|entry| entry.query.id);
        assert_eq!(latest(&registry), Some(second));
        registry.end(second, &End::Finished(None), at(2));
        assert_eq!(latest(&registry), Some(first));
        registry.end(first, &End::Finished(None), at(3));
        assert_eq!(latest(&registry), Some(second));
    }

    #[test]
    fn long_statements_are_cut() {
        let text = "x".repeat(TEXT_CHARS_MAX + 10);
        let query = Query::new(QueryId::generate(), SessionId::generate(), "ada", &text, at(1));
        assert_eq!(query.text.len(), TEXT_CHARS_MAX + 3);
    }

    #[test]
    fn states_are_found_by_their_names() {
        assert!(State::ALL.into_iter().all(|state| State::named(state.name()) == Some(state)));
    }
}
