//! Which session a call belongs to.
//!
//! ```text
//! authorization: Bearer <token of a handshake>  -> the session of that handshake
//! cookie: arrow_flight_session_id=<token>       -> the session that set the cookie
//! neither                                       -> the session of the TCP connection
//! ```
//!
//! The last is what drivers do that neither shake hands nor keep cookies: each of their connections is a session of
//! its own, which ends with the connection. Other sessions end when closed or idle.
//!
//! # Invariants
//! - A session belongs to one user; no token, cookie, connection or handle gives it to another.
//! - A session with a call or a stream open is not idle.
//! - What a session keeps for its client, statements, parameters, transactions, ends with it at the latest.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion::scalar::ScalarValue;
use http::Extensions;
use parking_lot::Mutex;
use skep_common::clock::Clock;
use skep_common::{Error, Result};
use skep_coordinator::{Beside, Coordinator, Session, StatementKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use uuid::Uuid;

use super::config::Config;
use super::connection::{ConnectionId, Peer};
use super::handle::{Body, Handle};
use super::poll::Started;
use crate::auth::{Authenticator, Credentials, User};

/// The cookie that the Flight protocol suggests.
const COOKIE: &str = "arrow_flight_session_id";
/// Tells our session tokens from the tokens of an identity provider.
const TOKEN_PREFIX: &str = "skep-session-";

/// Values for the parameters of one execution, in order.
pub(crate) type Parameters = Vec<ScalarValue>;

/// All sessions of one door.
pub(crate) struct Sessions {
    coordinator: Coordinator,
    authenticator: Arc<dyn Authenticator>,
    config: Config,
    clock: Arc<dyn Clock>,
    table: Mutex<Table>,
    /// Statements that run while their clients poll, over all sessions.
    polled: Arc<Semaphore>,
}

#[derive(Default)]
struct Table {
    by_id: HashMap<Uuid, Arc<Entry>>,
    by_token: HashMap<String, Uuid>,
    by_connection: HashMap<ConnectionId, Vec<Uuid>>,
}

/// One session and what it holds for its client.
pub(crate) struct Entry {
    pub(crate) id: Uuid,
    pub(crate) session: Session,
    pub(crate) user: User,
    token: String,
    /// Whether the client showed the token, and so finds the session again from another connection.
    portable: AtomicBool,
    cancel: CancellationToken,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    last_used: Instant,
    leases: usize,
    prepared: HashMap<Uuid, Arc<Prepared>>,
    bound: HashMap<Uuid, Bound>,
    results: HashMap<Uuid, Kept>,
    running: HashMap<Uuid, CancellationToken>,
    /// Those that clients hold by themselves, oldest first.
    transactions: BTreeMap<Uuid, Beside>,
    /// Statements that run while their clients poll.
    started: HashMap<Uuid, Arc<Started>>,
}

struct Bound {
    until: Instant,
    rows: Arc<Vec<Parameters>>,
}

/// Rows that an update gave, for whoever redeems its ticket.
struct Kept {
    until: Instant,
    rows: RecordBatch,
}

/// A prepared statement.
pub(crate) struct Prepared {
    pub(crate) sql: String,
    pub(crate) kind: StatementKind,
    /// Of its rows, in plain types.
    pub(crate) schema: SchemaRef,
    pub(crate) parameters: SchemaRef,
    /// The transaction that it was made in.
    pub(crate) transaction: Option<Uuid>,
    /// The rows bound last.
    pub(crate) bound: Mutex<Option<Arc<Vec<Parameters>>>>,
}

/// Keeps a session from going idle.
pub(crate) struct Lease(Arc<Entry>);

impl Deref for Lease {
    type Target = Entry;
    fn deref(&self) -> &Entry {
        &self.0
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Lease {
    fn new(entry: &Arc<Entry>) -> Self {
        entry.state.lock().leases += 1;
        Self(Arc::clone(entry))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let now = self.0.clock.instant();
        let mut state = self.0.state.lock();
        state.leases -= 1;
        state.last_used = now;
    }
}

/// Where a statement runs: in its session, or in one of the session's transactions.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) lease: Lease,
    pub(crate) session: Session,
    pub(crate) transaction: Option<Uuid>,
}

/// A call's session, and the cookie to answer with.
pub(crate) struct Caller {
    pub(crate) lease: Lease,
    pub(crate) cookie: Option<String>,
}

/// One execution that can be cancelled by its handle. Dropping it takes it off the list.
pub(crate) struct Running {
    lease: Lease,
    id: Uuid,
    pub(crate) cancel: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.lease.state.lock().running.remove(&self.id);
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sessions({})", self.table.lock().by_id.len())
    }
}

impl Sessions {
    pub(crate) fn new(
        coordinator: Coordinator,
        authenticator: Arc<dyn Authenticator>,
        config: Config,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let polled = Arc::new(Semaphore::new(config.polled_max.min(Semaphore::MAX_PERMITS)));
        Self { coordinator, authenticator, config, clock, table: Mutex::default(), polled }
    }

    /// Who runs the statements.
    pub(crate) fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    /// The session of a call; opens one when it has none.
    ///
    /// # Errors
    /// [`Kind::Denied`](skep_common::Kind::Denied) for credentials that are not accepted and for the token of a session
    /// that ended; [`Kind::Exhausted`](skep_common::Kind::Exhausted) when too many are open.
    pub(crate) async fn resolve(&self, metadata: &MetadataMap, extensions: &Extensions) -> Result<Caller> {
        let credentials = credentials(metadata)?;
        if let Credentials::Bearer(token) = &credentials
            && token.starts_with(TOKEN_PREFIX)
        {
            let entry = self.by_token(token).ok_or_else(ended)?;
            return Ok(Caller { lease: Lease::new(&entry), cookie: None });
        }
        let user = self.authenticator.authenticate(&credentials).await?;
        if let Some(entry) = cookie(metadata).and_then(|token| self.by_token(token))
            && entry.user == user
        {
            entry.portable.store(true, Ordering::Relaxed);
            return Ok(Caller { lease: Lease::new(&entry), cookie: None });
        }
        let connection = extensions.get::<Peer>().map(|peer| peer.connection);
        let lease = self.open(user, connection)?;
        let cookie = format!("{COOKIE}={}", lease.token);
        Ok(Caller { lease, cookie: Some(cookie) })
    }

    /// A session of its own for a handshake, and its token.
    ///
    /// # Errors
    /// As [`Sessions::resolve`].
    pub(crate) async fn handshake(&self, credentials: &Credentials) -> Result<String> {
        if let Credentials::Bearer(token) = credentials
            && token.starts_with(TOKEN_PREFIX)
        {
            return self.by_token(token).map(|entry| entry.token.clone()).ok_or_else(ended);
        }
        let user = self.authenticator.authenticate(credentials).await?;
        let lease = self.open(user, None)?;
        lease.portable.store(true, Ordering::Relaxed);
        Ok(lease.token.clone())
    }

    /// The one place where a statement is allowed or refused.
    ///
    /// # Errors
    /// [`Kind::Denied`](skep_common::Kind::Denied).
    pub(crate) fn authorise(&self, entry: &Entry, sql: &str) -> Result<()> {
        self.authenticator.authorise(&entry.user, sql)
    }

    /// The session that `handle` names, if `caller` may use it.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for foreign or expired handles,
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) if the session ended, [`Kind::Denied`](skep_common::Kind::Denied)
    /// if it is another user's.
    pub(crate) fn redeem(&self, caller: &Caller, handle: &[u8]) -> Result<(Lease, Handle)> {
        let handle = Handle::decode(handle)?;
        if !handle.body.lasts() && handle.expires_ms < self.clock.now().timestamp_millis() {
            return Err(Error::invalid("the ticket has expired").hint("run the statement again"));
        }
        let entry = self.table.lock().by_id.get(&handle.session).cloned();
        let entry = entry.ok_or_else(|| {
            Error::not_found("the session of this handle has ended").hint("run the statement again")
        })?;
        if entry.user != caller.lease.user {
            return Err(Error::denied("the handle belongs to another user"));
        }
        Ok((Lease::new(&entry), handle))
    }

    /// Closes the session of a call that asks for it; nothing happens when it ended before.
    pub(crate) async fn close(&self, metadata: &MetadataMap, extensions: &Extensions) -> Result<()> {
        if let Credentials::Bearer(token) = credentials(metadata)?
            && token.starts_with(TOKEN_PREFIX)
            && self.by_token(&token).is_none()
        {
            return Ok(());
        }
        let caller = self.resolve(metadata, extensions).await?;
        self.remove(caller.lease.id);
        Ok(())
    }

    /// Ends the sessions that only `connection` can reach.
    pub(crate) fn connection_closed(&self, connection: ConnectionId) {
        let ids = self.table.lock().by_connection.remove(&connection).unwrap_or_default();
        for id in ids {
            let entry = self.table.lock().by_id.get(&id).cloned();
            if entry.is_some_and(|entry| !entry.portable.load(Ordering::Relaxed)) {
                self.remove(id);
            }
        }
    }

    /// Ends idle sessions, and forgets parameters whose ticket expired.
    pub(crate) fn sweep(&self) {
        let now = self.clock.instant();
        let entries: Vec<Arc<Entry>> = self.table.lock().by_id.values().cloned().collect();
        for entry in entries {
            let (idle, _late) = {
                let mut state = entry.state.lock();
                state.bound.retain(|_, bound| bound.until > now);
                state.results.retain(|_, kept| kept.until > now);
                let late = |(id, started): (&Uuid, &Arc<Started>)| (started.until <= now).then_some(*id);
                let late: Vec<Uuid> = state.started.iter().filter_map(late).collect();
                // Dropped after the lock, which their end takes.
                let late: Vec<_> = late.iter().filter_map(|id| state.started.remove(id)).collect();
                let idle = state.leases == 0
                    && now.saturating_duration_since(state.last_used) > self.config.session_ttl;
                (idle, late)
            };
            if idle {
                tracing::debug!(session = %entry.id, user = entry.user.name(), "idle session ended");
                self.remove(entry.id);
            }
        }
    }

    /// Ends all sessions.
    pub(crate) fn end_all(&self) {
        let ids: Vec<Uuid> = self.table.lock().by_id.keys().copied().collect();
        ids.into_iter().for_each(|id| self.remove(id));
    }

    /// How often to sweep.
    pub(crate) fn sweep_interval(&self) -> Duration {
        (self.config.session_ttl / 4).clamp(Duration::from_millis(50), Duration::from_secs(60))
    }

    /// A handle of `lease`'s session.
    pub(crate) fn handle(&self, lease: &Lease, id: Uuid, body: Body) -> Handle {
        let ttl = i64::try_from(self.config.ticket_ttl.as_millis()).unwrap_or(i64::MAX);
        let expires_ms = self.clock.now().timestamp_millis().saturating_add(ttl);
        Handle { session: lease.id, id, expires_ms, body }
    }

    /// Keeps `rows` for the execution `id` until its ticket expires.
    pub(crate) fn bind(&self, lease: &Lease, id: Uuid, rows: Arc<Vec<Parameters>>) {
        let until = self.clock.instant() + self.config.ticket_ttl;
        lease.state.lock().bound.insert(id, Bound { until, rows });
    }

    /// Keeps `rows`, which the update `id` gave, until its ticket expires.
    pub(crate) fn keep(&self, lease: &Lease, id: Uuid, rows: RecordBatch) {
        let until = self.clock.instant() + self.config.ticket_ttl;
        lease.state.lock().results.insert(id, Kept { until, rows });
    }

    /// Keeps a prepared statement in its session.
    ///
    /// # Errors
    /// [`Kind::Exhausted`](skep_common::Kind::Exhausted) if the session has too many.
    pub(crate) fn prepare(&self, lease: &Lease, prepared: Prepared) -> Result<Uuid> {
        let mut state = lease.state.lock();
        if state.prepared.len() >= self.config.prepared_max {
            return Err(Error::exhausted(format!(
                "the session holds {} prepared statements",
                state.prepared.len()
            ))
            .hint("close some, or raise flight.prepared_max"));
        }
        let id = Uuid::now_v7();
        state.prepared.insert(id, Arc::new(prepared));
        Ok(id)
    }

    /// Begins a transaction that the session's clients hold by its handle.
    ///
    /// # Errors
    /// [`Kind::Exhausted`](skep_common::Kind::Exhausted) if the session has too many; those of reading the catalog.
    pub(crate) async fn begin(&self, lease: &Lease) -> Result<Handle> {
        let open = lease.state.lock().transactions.len();
        if open >= self.config.transactions_max {
            return Err(Error::exhausted(format!("the session has {open} transactions open"))
                .hint("end some, or raise flight.transactions_max"));
        }
        let (id, beside) = (Uuid::now_v7(), lease.session.begin().await?);
        lease.state.lock().transactions.insert(id, beside);
        Ok(self.handle(lease, id, Body::Transaction))
    }

    /// Where a statement runs that comes with the transaction `id`, in the form clients have it, or with none.
    ///
    /// # Errors
    /// As [`Sessions::redeem`], and [`Entry::transaction`].
    pub(crate) fn place(&self, caller: &Caller, id: Option<&Bytes>) -> Result<Place> {
        let Some(id) = id.filter(|id| !id.is_empty()) else { return Ok(caller.lease.place()) };
        let (lease, handle) = self.redeem(caller, id)?;
        if handle.body != Body::Transaction {
            return Err(Error::invalid("the handle is not one of a transaction"));
        }
        lease.place_in(handle.id)
    }

    /// Keeps a statement that runs while its client polls.
    pub(crate) fn keep_started(&self, lease: &Lease, id: Uuid, started: Arc<Started>) {
        lease.state.lock().started.insert(id, started);
    }

    /// A place among the statements that run while their clients poll, until it is dropped.
    ///
    /// # Errors
    /// [`Kind::Exhausted`](skep_common::Kind::Exhausted) if there are too many.
    pub(crate) fn poll_slot(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.polled).try_acquire_owned().map_err(|_| {
            Error::exhausted(format!(
                "{} statements are polled or wait to be fetched",
                self.config.polled_max
            ))
            .hint("fetch or cancel some, or raise flight.polled_max")
        })
    }

    /// When a ticket that is made at this moment ends.
    pub(crate) fn ticket_end(&self) -> Instant {
        self.clock.instant() + self.config.ticket_ttl
    }

    /// The settings of the door.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    fn by_token(&self, token: &str) -> Option<Arc<Entry>> {
        let table = self.table.lock();
        table.by_token.get(token).and_then(|id| table.by_id.get(id)).cloned()
    }

    fn open(&self, user: User, connection: Option<ConnectionId>) -> Result<Lease> {
        let mut table = self.table.lock();
        if let Some(ids) = connection.and_then(|connection| table.by_connection.get(&connection)) {
            let of_user = |id: &&Uuid| table.by_id.get(*id).is_some_and(|entry| entry.user == user);
            if let Some(entry) = ids.iter().find(of_user).and_then(|id| table.by_id.get(id)) {
                return Ok(Lease::new(entry));
            }
        }
        if table.by_id.len() >= self.config.sessions_max {
            return Err(Error::exhausted(format!("{} sessions are open", table.by_id.len()))
                .hint("close some, or raise flight.sessions_max"));
        }
        let session = self.coordinator.open_session(user.name());
        let entry = Arc::new(Entry {
            id: session.id().as_uuid(),
            session,
            user,
            token: format!("{TOKEN_PREFIX}{}", Uuid::new_v4().simple()),
            portable: AtomicBool::new(false),
            cancel: CancellationToken::new(),
            clock: Arc::clone(&self.clock),
            state: Mutex::new(State {
                last_used: self.clock.instant(),
                leases: 0,
                prepared: HashMap::new(),
                bound: HashMap::new(),
                results: HashMap::new(),
                running: HashMap::new(),
                transactions: BTreeMap::new(),
                started: HashMap::new(),
            }),
        });
        table.by_token.insert(entry.token.clone(), entry.id);
        table.by_id.insert(entry.id, Arc::clone(&entry));
        if let Some(connection) = connection {
            table.by_connection.entry(connection).or_default().push(entry.id);
        }
        Ok(Lease::new(&entry))
    }

    fn remove(&self, id: Uuid) {
        let mut table = self.table.lock();
        let Some(entry) = table.by_id.remove(&id) else { return };
        table.by_token.remove(&entry.token);
        table.by_connection.retain(|_, ids| {
            ids.retain(|other| *other != id);
            !ids.is_empty()
        });
        drop(table);
        entry.cancel.cancel();
        // What they hold leads back to the session, and their end takes its lock.
        let started = std::mem::take(&mut entry.state.lock().started);
        drop(started);
        let transactions = std::mem::take(&mut entry.state.lock().transactions);
        drop(transactions);
    }
}

impl Entry {
    /// The prepared statement of `id`.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) if it was closed.
    pub(crate) fn prepared(&self, id: Uuid) -> Result<Arc<Prepared>> {
        let found = self.state.lock().prepared.get(&id).cloned();
        found.ok_or_else(|| Error::not_found("the prepared statement was closed").hint("prepare it again"))
    }

    /// Forgets a prepared statement.
    pub(crate) fn close_prepared(&self, id: Uuid) {
        self.state.lock().prepared.remove(&id);
    }

    /// The rows bound to the execution `id`.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) if they expired.
    pub(crate) fn bound(&self, id: Uuid) -> Result<Arc<Vec<Parameters>>> {
        let found = self.state.lock().bound.get(&id).map(|bound| Arc::clone(&bound.rows));
        found.ok_or_else(|| {
            Error::not_found("the parameters of this ticket have expired").hint("run the statement again")
        })
    }

    /// The rows that the update `id` gave, if it gave some.
    pub(crate) fn kept(&self, id: Uuid) -> Option<RecordBatch> {
        self.state.lock().results.get(&id).map(|kept| kept.rows.clone())
    }

    /// The statement `id` that runs while its client polls, if there is one.
    pub(crate) fn started(&self, id: Uuid) -> Option<Arc<Started>> {
        self.state.lock().started.get(&id).cloned()
    }

    /// The transaction `id`.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) if it has ended.
    pub(crate) fn transaction(&self, id: Uuid) -> Result<Beside> {
        let found = self.state.lock().transactions.get(&id).cloned();
        found.ok_or_else(|| {
            Error::not_found("the transaction has ended").hint("begin another and run the statement in it")
        })
    }

    /// The one transaction that a client holds, unless it holds none or several.
    fn only_transaction(&self) -> Option<Uuid> {
        let state = self.state.lock();
        let mut ids = state.transactions.keys().copied();
        ids.next().filter(|_| ids.next().is_none())
    }

    /// The transaction that was begun last and is open.
    fn latest_transaction(&self) -> Option<Uuid> {
        self.state.lock().transactions.keys().next_back().copied()
    }

    /// Ends the transaction `id`. If a statement of it is running it goes on.
    ///
    /// # Errors
    /// As [`Entry::transaction`] and [`Beside::commit`].
    pub(crate) async fn end(&self, id: Uuid, commit: bool) -> Result<()> {
        let beside = self.transaction(id)?;
        let ended = if commit { beside.commit().await } else { beside.rollback().await };
        if !beside.is_open() {
            self.state.lock().transactions.remove(&id);
        }
        ended
    }

    /// Cancels the execution `id`; false if it is not running.
    pub(crate) fn cancel(&self, id: Uuid) -> bool {
        if self.started(id).is_some_and(|started| started.is_over()) {
            return false;
        }
        let token = self.state.lock().running.get(&id).cloned();
        token.is_some_and(|token| {
            token.cancel();
            true
        })
    }
}

impl Entry {
    /// Cancels all that runs; whether something did.
    pub(crate) fn cancel_all(&self) -> bool {
        let running: Vec<CancellationToken> = self.state.lock().running.values().cloned().collect();
        running.iter().for_each(CancellationToken::cancel);
        !running.is_empty()
    }
}

impl Lease {
    /// The session, outside of the transactions that its clients hold.
    pub(crate) fn place(&self) -> Place {
        Place { lease: self.clone(), session: self.session.clone(), transaction: None }
    }

    /// Where a call goes that drivers send without the id of the transaction it belongs to: into the only one there is.
    pub(crate) fn place_without_id(&self) -> Place {
        let only = self.only_transaction();
        only.and_then(|id| self.place_in(id).ok()).unwrap_or_else(|| self.place())
    }

    /// The transaction `id` of the session.
    ///
    /// # Errors
    /// As [`Entry::transaction`].
    pub(crate) fn place_in(&self, id: Uuid) -> Result<Place> {
        let session = self.transaction(id)?.session().clone();
        Ok(Place { lease: self.clone(), session, transaction: Some(id) })
    }

    /// Where `prepared` runs: outside of transactions, or in the one it was made in. Drivers keep statements over the end of
    /// a transaction, so after that in the one that the session began last.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) if it was made in a transaction and none is open.
    pub(crate) fn place_of(&self, prepared: &Prepared) -> Result<Place> {
        let Some(made_in) = prepared.transaction else { return Ok(self.place()) };
        self.place_in(made_in).or_else(|ended| match self.latest_transaction() {
            Some(latest) => self.place_in(latest),
            None => Err(ended),
        })
    }

    /// Lists the execution `id`, so that it can be cancelled until the result is dropped.
    pub(crate) fn run(&self, id: Uuid) -> Running {
        let cancel = self.cancel.child_token();
        self.state.lock().running.insert(id, cancel.clone());
        Running { lease: self.clone(), id, cancel }
    }
}

fn ended() -> Error {
    Error::denied("the session has ended").hint("connect again")
}

/// The credentials of a call.
///
/// # Errors
/// As [`Credentials::from_header`].
pub(crate) fn credentials(metadata: &MetadataMap) -> Result<Credentials> {
    let Some(value) = metadata.get("authorization") else { return Ok(Credentials::None) };
    let text = value.to_str().map_err(|_| Error::denied("authorization header is not text"))?;
    Credentials::from_header(text)
}

fn cookie(metadata: &MetadataMap) -> Option<&str> {
    let headers = metadata.get_all("cookie").into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs =
        headers.flat_map(|header| header.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_cookie_is_found_among_others() {
        let mut metadata = MetadataMap::new();
        assert_eq!(cookie(&metadata), None);
        metadata.append("cookie", "a=b; x=y".parse().unwrap());
        assert_eq!(cookie(&metadata), None);
        metadata.append("cookie", "k=v; arrow_flight_session_id=\"skep-session-1\"; z=1".parse().unwrap());
        assert_eq!(cookie(&metadata), Some("skep-session-1"));
    }
}
