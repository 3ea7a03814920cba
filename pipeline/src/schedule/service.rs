//! The loop that runs schedules: one of the coordinators of a catalog has the lease, looks at what is known, and does what
//! `core` decides.
//!
//! ```text
//! turn: lease -> settle what ended elsewhere -> decide -> write down -> begin, stop, tell
//!   ^                                                                        |
//!   '---- the next time, a run that ended, something deployed, or 5 s -------'
//! ```
//!
//! # Invariants
//! - A tick begins in the database transaction that writes its run's line, fenced by the lease.
//! - All state is in the database: a process that ends at any place leaves nothing undone that the next does not find.
//!
//! # Not here
//! What is decided (`core`), what a run does (`crate::run`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt;
use parking_lot::Mutex;
use skep_common::clock::Clock;
use skep_common::task::{self, Task};
use skep_common::{Error, Kind, Result};
use skep_coordinator::Coordinator;
use skep_metadb::{Lease, MetaDb, Taken};
use tokio::sync::{Notify as Wake, mpsc, oneshot};

use super::core::{self, Ended, Key, Schedule, Step, Tick};
use super::ticks::{Begin, End, Known, Ticks};
use super::{Config, Spec};
use crate::deploy::{Versions, with_hint};
use crate::event::{Request, State};
use crate::ledger::{Ledger, RunLine};
use crate::notify;
use crate::project::Project;
use crate::run::{RunEnd, Runner};

/// What the lease is for.
const LEASE: &str = "pipelines";
/// How long a scheduler that fell silent keeps others out.
const LEASE_TIME: Duration = Duration::from_secs(15);
/// How often it says that it lives, and how often what others did is looked at.
const PULSE: Duration = Duration::from_secs(5);
/// Silence after which a run of a tick, whose coordinator is not this one, is lost.
const RUN_SILENT: Duration = Duration::from_secs(20);
/// Silence after which a run of somebody else does not count.
const OTHER_SILENT: Duration = Duration::from_secs(60);
/// Events of a run that nobody has read yet.
const EVENTS: usize = 64;

/// Which tick of which schedule.
type Which = (Key, DateTime<Utc>);

/// Runs schedules on one coordinator.
pub(crate) struct Scheduler {
    coordinator: Coordinator,
    db: MetaDb,
    ledger: Ledger,
    versions: Versions,
    ticks: Ticks,
    config: Config,
    clock: Arc<dyn Clock>,
    /// Who this coordinator is, in all its lives.
    identity: String,
    client: reqwest::Client,
    wake: Arc<Wake>,
    held: Mutex<Option<(Lease, DateTime<Utc>)>>,
    going: Mutex<BTreeMap<Which, Going>>,
    sending: Mutex<BTreeSet<i64>>,
}

/// An attempt of this process. Dropping it ends it.
struct Going {
    stop: Option<oneshot::Sender<String>>,
    _task: Task<()>,
}

/// What a scheduler is made of.
pub(crate) struct Parts {
    pub(crate) coordinator: Coordinator,
    pub(crate) ledger: Ledger,
    pub(crate) config: Config,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) identity: String,
    pub(crate) wake: Arc<Wake>,
}

impl Scheduler {
    /// # Errors
    /// [`Kind::Internal`] if the system has no certificates for webhooks.
    pub(crate) fn new(parts: Parts) -> Result<Arc<Self>> {
        let Parts { coordinator, ledger, config, clock, identity, wake } = parts;
        let db = ledger.db().clone();
        Ok(Arc::new(Self {
            coordinator,
            versions: Versions::new(db.clone()),
            ticks: Ticks::new(db.clone()),
            client: notify::client()?,
            db,
            ledger,
            config,
            clock,
            identity,
            wake,
            held: Mutex::default(),
            going: Mutex::default(),
            sending: Mutex::default(),
        }))
    }

    /// Turns until it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let next = self.turn().await.unwrap_or_else(|error| {
                tracing::warn!(error = error.report(), "schedules could not be looked at, trying again");
                None
            });
            let wait = next.map(|next| (next - self.clock.now()).to_std().unwrap_or(Duration::ZERO));
            tokio::select! {
                () = tokio::time::sleep(wait.unwrap_or(PULSE).min(PULSE)) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Gives the lease back, so that another may take over at once, and ends the runs of this process.
    pub(crate) async fn stop(&self) {
        self.going.lock().clear();
        if let Err(error) = self.ticks.leave(&self.identity, self.clock.now()).await {
            tracing::warn!(error = error.report(), "runs of schedules count as lost only later");
        }
        let held = self.held.lock().take();
        if let Some((lease, _)) = held
            && let Err(error) = self.db.release_lease(&lease).await
        {
            tracing::warn!(error = error.report(), "the lease of schedules runs out by itself");
        }
    }

    /// Does what is to be done now, and says when something is to be done again.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn turn(self: &Arc<Self>) -> Result<Option<DateTime<Utc>>> {
        if !self.ticks.any().await? {
            return Ok(None);
        }
        let Some(lease) = self.lease().await? else { return Ok(None) };
        let known = self.settle(&lease).await?;
        let now = self.clock.now();
        let mut busy = self.ticks.busy(now - OTHER_SILENT).await?;
        let free = {
            let going = self.going.lock();
            busy.extend(going.keys().map(|(key, _)| key.of.clone()));
            usize::from(self.config.runs_max).saturating_sub(going.len())
        };
        let steps = core::decide(&known.schedules, &busy, free, now);
        self.ticks.write(&lease, &steps, &known, now).await?;
        for step in &steps {
            match step {
                Step::Begin { key, nominal } => self.begin(&lease, &known, key, *nominal),
                Step::Stop { key, nominal, after } => self.stop_attempt(key, *nominal, *after),
                Step::Wait { .. } | Step::Skip { .. } | Step::Late { .. } => {}
            }
        }
        let due = self.tell(&lease).await?;
        let next = core::wake(&known.schedules, now);
        Ok([due, next].into_iter().flatten().min())
    }

    /// The lease of schedules, unless another coordinator has it.
    async fn lease(&self) -> Result<Option<Lease>> {
        let now = self.clock.now();
        let held = self.held.lock().clone();
        if let Some((lease, renewed)) = held {
            if now - renewed < chrono::TimeDelta::from_std(PULSE).unwrap_or_default() {
                return Ok(Some(lease));
            }
            match self.db.renew_lease(&lease, now, LEASE_TIME).await {
                Ok(()) => {
                    *self.held.lock() = Some((lease.clone(), now));
                    return Ok(Some(lease));
                }
                Err(error) if error.kind() == Kind::Conflict => {
                    tracing::warn!(error = error.report(), "another coordinator runs the schedules");
                    *self.held.lock() = None;
                }
                Err(error) => return Err(error),
            }
        }
        match self.db.take_lease(LEASE, &self.identity, now, LEASE_TIME).await? {
            Taken::Yes(lease) => {
                tracing::info!(epoch = lease.epoch, "runs the schedules of pipelines");
                *self.held.lock() = Some((lease.clone(), now));
                Ok(Some(lease))
            }
            Taken::No { .. } => Ok(None),
        }
    }

    /// What is known, after what ended without this process writing it down.
    async fn settle(&self, lease: &Lease) -> Result<Known> {
        let known = self.ticks.known().await?;
        let of_schedules = known.schedules.iter().flat_map(|schedule| {
            schedule.open.iter().map(move |tick| (schedule.key.clone(), Some(schedule), tick))
        });
        let orphans = known.orphans.iter().map(|(key, tick)| (key.clone(), None, tick));
        let open: Vec<(Key, Option<&Schedule>, &Tick)> = of_schedules.chain(orphans).collect();
        let mut settled = false;
        for (key, schedule, tick) in open {
            let (Some(began), Some(run)) = (tick.began, tick.run) else { continue };
            if self.going.lock().contains_key(&(key.clone(), tick.nominal)) {
                continue;
            }
            let now = self.clock.now();
            let Some((ended, note)) = self.ended(run, began, now).await? else { continue };
            tracing::info!(run, note, "a scheduled run ended without its coordinator");
            self.write_end(lease, &known, (&key, schedule), tick, ended, note).await?;
            settled = true;
        }
        if settled { self.ticks.known().await } else { Ok(known) }
    }

    /// How a run of a tick ended that is not of this process; none: it goes on.
    async fn ended(
        &self,
        run: i64,
        began: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Option<(Ended, String)>> {
        let Some(line) = self.ticks.run(run).await? else {
            return Ok(Some((Ended::Lost, format!("run {run} is not known"))));
        };
        let error = line.error.unwrap_or_else(|| line.state.clone());
        Ok(match line.state.as_str() {
            "running" => {
                if now - line.heard.max(began) > chrono::TimeDelta::from_std(RUN_SILENT).unwrap_or_default() {
                    self.ticks.lose(run, line.heard, now).await?;
                }
                // What it is by now is looked at in the next turn: it may have ended just before.
                None
            }
            "lost" => Some((Ended::Lost, error)),
            "failed" => Some((Ended::Failed, error)),
            state => Some((Ended::Well, state.to_owned())),
        })
    }

    async fn write_end(
        &self,
        lease: &Lease,
        known: &Known,
        (key, schedule): (&Key, Option<&Schedule>),
        tick: &Tick,
        ended: Ended,
        note: String,
    ) -> Result<()> {
        let now = self.clock.now();
        let next = match (schedule, ended) {
            (Some(schedule), _) => schedule.next(tick, ended, now),
            // Its schedule is no longer deployed: nothing comes after it.
            (None, Ended::Well) => core::Next::Done { recovered: false },
            (None, _) => core::Next::Failed,
        };
        let end = End { key: key.clone(), tick: tick.clone(), next, lost: ended == Ended::Lost, note };
        let notify = known.notify.get(&key.of).map_or(&[][..], Vec::as_slice);
        self.ticks.end(lease, &end, notify, now).await
    }

    fn begin(self: &Arc<Self>, lease: &Lease, known: &Known, key: &Key, nominal: DateTime<Utc>) {
        let Some(schedule) = known.schedules.iter().find(|schedule| schedule.key == *key) else { return };
        let tick = schedule.open.iter().find(|tick| tick.nominal == nominal).cloned();
        let tick = tick.unwrap_or_else(|| Tick::new(nominal));
        let (stop, stopped) = oneshot::channel();
        let attempt = Attempt { lease: lease.clone(), spec: schedule.spec.clone(), key: key.clone(), tick };
        let which = (key.clone(), nominal);
        let (scheduler, of_task) = (Arc::clone(self), which.clone());
        // Held while it is put there, so that an attempt that ends at once finds itself.
        let mut going = self.going.lock();
        let task = task::spawn("scheduled run", async move {
            scheduler.attempt(attempt, stopped).await;
            // It is its own task that is dropped here: nothing follows.
            let ended = scheduler.going.lock().remove(&of_task);
            scheduler.wake.notify_one();
            drop(ended);
        });
        going.insert(which, Going { stop: Some(stop), _task: task });
    }

    fn stop_attempt(&self, key: &Key, nominal: DateTime<Utc>, after: Duration) {
        let mut going = self.going.lock();
        let stop = going.get_mut(&(key.clone(), nominal)).and_then(|going| going.stop.take());
        if let Some(stop) = stop {
            // It may have ended by itself.
            let _ = stop.send(format!("it took longer than {after:?}, the timeout of its schedule"));
        }
    }

    /// One attempt, from its version to how it ended.
    async fn attempt(&self, attempt: Attempt, stopped: oneshot::Receiver<String>) {
        let ended = self.run_once(&attempt, stopped).await;
        let mut tick = attempt.tick.clone();
        tick.attempt += 1;
        let (ended, note) = match ended {
            Ok(end) if end.run.is_some() => {
                tick.run = end.run;
                let well = matches!(end.state, State::Done | State::Unchanged | State::Warned)
                    || self.published(end.run).await;
                (if well { Ended::Well } else { Ended::Failed }, end.message)
            }
            // Nothing was begun: another run came first, or the database is away. It still waits.
            Ok(RunEnd { error: Some(error), message, .. }) if waits(error.kind()) => {
                tracing::info!(schedule = attempt.key.schedule, message, "a run waits");
                return tokio::time::sleep(PULSE).await;
            }
            Err(error) if waits(error.kind()) => {
                tracing::info!(schedule = attempt.key.schedule, error = error.report(), "a run waits");
                return tokio::time::sleep(PULSE).await;
            }
            Ok(end) => (Ended::Failed, end.message),
            Err(error) => (Ended::Failed, with_hint(&error)),
        };
        if let Err(error) = self.write_attempt(&attempt, &tick, ended, note).await {
            // Whoever has the lease finds the run's line.
            tracing::warn!(error = error.report(), "the end of a scheduled run was not written down");
            tokio::time::sleep(PULSE).await;
        }
    }

    /// Whether a run that was stopped had been committed by then.
    async fn published(&self, run: Option<i64>) -> bool {
        let Some(run) = run else { return false };
        let line = self.ticks.run(run).await;
        line.is_ok_and(|line| line.is_some_and(|line| line.state == State::Done.name()))
    }

    async fn write_attempt(&self, attempt: &Attempt, tick: &Tick, ended: Ended, note: String) -> Result<()> {
        // As it is by now: it may have been paused, failed or deployed anew meanwhile.
        let known = self.ticks.known().await?;
        let schedule = known.schedules.iter().find(|schedule| schedule.key == attempt.key);
        let open = schedule.and_then(|s| s.open.iter().find(|open| open.nominal == tick.nominal));
        let tick = Tick { late: open.is_some_and(|open| open.late), ..tick.clone() };
        // The lease of today, if it is still this coordinator's: it may have been lost and taken again.
        let lease = self.held.lock().clone().map_or(attempt.lease.clone(), |(lease, _)| lease);
        self.write_end(&lease, &known, (&attempt.key, schedule), &tick, ended, note).await
    }

    async fn run_once(&self, attempt: &Attempt, stopped: oneshot::Receiver<String>) -> Result<RunEnd> {
        let Attempt { key, spec, tick, lease } = attempt;
        let version = self.versions.current(&key.of).await?;
        let project = Project::read(&version.bundle, &BTreeMap::new()).map_err(|problems| {
            let all: Vec<String> = problems
                .iter()
                .map(|problem| format!("{}: {}", problem.file, problem.error.report()))
                .collect();
            Error::invalid(format!("version {} does not read any more: {}", version.number, all.join("; ")))
        })?;
        if project.needs_folder() && !Path::new(&version.directory).is_dir() {
            // Patterns of files that match nothing would look like nothing new.
            return Err(Error::not_found(format!(
                "the folder '{}', which version {} was deployed from, is not there",
                version.directory, version.number
            ))
            .hint("its files are read from there; deploy it again from where they are"));
        }
        let session = self.coordinator.open_session(&version.author);
        let mut request = Request {
            bundle: version.bundle,
            directory: Some(version.directory),
            environment: Some(key.of.environment.clone()),
            select: spec.select.clone(),
            exclude: spec.exclude.clone(),
            ..Request::default()
        };
        if let Some(run) = tick.run {
            // What an earlier attempt staged is gone on with, if it is of the same files and was written down.
            let same = |line: &RunLine| {
                line.version == project.version && ["failed", "lost"].contains(&line.state.as_str())
            };
            if let Some(line) = self.ledger.run(run).await?.filter(same)
                && session.catalog().resume(line.key).await.is_ok()
            {
                request.retry = Some(run);
            }
        }
        let (events, mut heard) = mpsc::channel(EVENTS);
        let clock = Arc::clone(&self.clock);
        let runner = Runner::new(session, self.ledger.clone(), project, request, events, clock).await?;
        let (lease, key) = (lease.clone(), key.clone());
        let runner = runner.of_tick(Begin { lease, key, nominal: tick.nominal, number: version.number });
        // Its lines are logged; nobody listens here.
        let listen = async { while heard.recv().await.is_some() {} };
        let stopped = async {
            match stopped.await {
                Ok(reason) => reason,
                Err(_) => std::future::pending().await,
            }
        };
        let (end, ()) = futures::join!(runner.run_until(stopped).boxed(), listen);
        Ok(end)
    }

    /// Sends what is due, and says when the next of the others is.
    async fn tell(self: &Arc<Self>, lease: &Lease) -> Result<Option<DateTime<Utc>>> {
        // Before the rows are read: one whose sending ends in between is read as it was, and would be sent twice.
        let sending = self.sending.lock().clone();
        let (due, next) = notify::due(&self.db, self.clock.now()).await?;
        for notification in due.into_iter().filter(|notification| !sending.contains(&notification.id)) {
            self.sending.lock().insert(notification.id);
            let (scheduler, lease) = (Arc::clone(self), lease.clone());
            task::spawn("tell of a run", async move {
                let sent = notification.send(&scheduler.client, scheduler.config.commands).await;
                let now = scheduler.clock.now();
                if let Err(error) = notification.end(&scheduler.db, &lease, &sent, now).await {
                    tracing::warn!(error = error.report(), "a notification may be sent again");
                }
                scheduler.sending.lock().remove(&notification.id);
                scheduler.wake.notify_one();
            })
            .detach();
        }
        Ok(next)
    }

    /// Whether nothing of this process goes on.
    #[cfg(test)]
    pub(super) fn idle(&self) -> bool {
        self.going.lock().is_empty() && self.sending.lock().is_empty()
    }
}

/// Whether what kept a run from beginning goes away by itself.
fn waits(kind: Kind) -> bool {
    matches!(kind, Kind::Conflict | Kind::Unavailable | Kind::Exhausted)
}

/// A tick that is to be run.
#[derive(Debug, Clone)]
struct Attempt {
    lease: Lease,
    spec: Spec,
    key: Key,
    tick: Tick,
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
