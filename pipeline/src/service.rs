//! Pipelines as an extension of a coordinator: actions that check and run projects.
//!
//! ```text
//! skep.pipeline.check   Request -> Event, Event, ...
//! skep.pipeline.run     Request -> Event, Event, ...      as JSON, each event when it happens
//! skep.pipeline.deploy  Deploy -> Event, Event, ...
//! skep.pipeline.drop    {"run": 57} -> Over               what a run that failed staged is given up
//! skep.pipeline.pause   Pause -> Event
//! skep.pipeline.logs    Logs -> Line, Line, ...
//! skep.pipeline.backfill  Backfill -> Event, Event, ...
//! skep.pipeline.promote   Promote -> Event, Event, ...
//! ```
//!
//! # Not here
//! What a project is, and what a run does with it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use skep_common::clock::Clock;
use skep_common::{Error, Result, task};
use skep_coordinator::extension::{Answers, Extension, SystemTable};
use skep_coordinator::{Coordinator, Session};
use skep_metadb::MetaDb;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use crate::backfill::{Backfills, Driver};
use crate::deploy::{Deploy, Versions};
use crate::event::{Backfill, Dropped, Event, Promote, Request, State};
use crate::ledger::{Ledger, Of};
use crate::log::Logs;
use crate::project::{Project, near};
use crate::run::{PRODUCTION, Promotion, Runner, check, staged_key};
use crate::schedule::{Config, Parts, Scheduler, Scheduling, Ticks};
use crate::{schedule, tables};

/// The action that looks whether a project fits the catalog.
pub const CHECK: &str = "skep.pipeline.check";
/// The action that runs a project.
pub const RUN: &str = "skep.pipeline.run";
/// The action that makes a version of a project current.
pub const DEPLOY: &str = "skep.pipeline.deploy";
/// The action that gives up what a run staged.
pub const DROP: &str = "skep.pipeline.drop";
/// The action that pauses and resumes schedules.
pub const PAUSE: &str = "skep.pipeline.pause";
/// The action that tells what a run told.
pub const LOGS: &str = "skep.pipeline.logs";
/// The action that makes the intervals of a range again.
pub const BACKFILL: &str = "skep.pipeline.backfill";
/// The action that publishes an environment as production.
pub const PROMOTE: &str = "skep.pipeline.promote";
/// Events on their way; a run waits for a client that is slower.
const EVENTS: usize = 64;

/// Schedules that are to pause or to go on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Pause {
    /// `PIPELINE` for all of its schedules, or `PIPELINE/SCHEDULE`.
    pub name: String,
    /// The environment; absent: production.
    pub environment: Option<String>,
    /// Whether they pause.
    pub paused: bool,
}

/// Runs the projects of one coordinator.
pub struct Pipelines {
    coordinator: Coordinator,
    ledger: Ledger,
    versions: Versions,
    config: Config,
    identity: String,
    backfills: Backfills,
    clock: Arc<dyn Clock>,
    /// Told when schedules are to be looked at.
    wake: Arc<Notify>,
}

impl std::fmt::Debug for Pipelines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipelines").finish_non_exhaustive()
    }
}

impl Pipelines {
    /// Makes the tables of the ledger in a catalog's database, or brings them up to date: for whoever copies one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn prepare(db: &MetaDb) -> Result<()> {
        Ledger::prepare(db).await?;
        Backfills::prepare(db).await?;
        schedule::prepare(db).await
    }

    /// Opens the ledger of `coordinator`'s catalog, and adds pipelines to it. Runs that `identity` left behind when it ended
    /// are lost.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for settings out of range; those of the database.
    pub async fn add_to(
        coordinator: &Coordinator,
        identity: &str,
        config: Config,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>> {
        config.validate()?;
        let db = coordinator.open_session("pipeline").catalog().db().clone();
        Self::prepare(&db).await?;
        let backfills = Backfills::open(db.clone(), identity, clock.now()).await?;
        let ledger = Ledger::open(db.clone(), identity, config.logs_kept, clock.now()).await?;
        let pipelines = Arc::new(Self {
            coordinator: coordinator.clone(),
            ledger,
            versions: Versions::new(db),
            backfills,
            config,
            identity: identity.to_owned(),
            clock,
            wake: Arc::default(),
        });
        let extension: Arc<dyn Extension> = Arc::<Self>::clone(&pipelines);
        coordinator.extend(extension);
        Ok(pipelines)
    }

    /// Runs the schedules of the catalog, while no other coordinator of it does: for processes that stay.
    ///
    /// # Errors
    /// [`Kind::Internal`](skep_common::Kind::Internal) if the system has no certificates for webhooks.
    pub fn schedule(&self) -> Result<Scheduling> {
        Ok(Scheduling::start(self.scheduler()?))
    }

    pub(crate) fn scheduler(&self) -> Result<Arc<Scheduler>> {
        Scheduler::new(Parts {
            coordinator: self.coordinator.clone(),
            ledger: self.ledger.clone(),
            config: self.config.clone(),
            clock: Arc::clone(&self.clock),
            identity: self.identity.clone(),
            wake: Arc::clone(&self.wake),
        })
    }
}

impl Pipelines {
    /// A run that is not begun yet, or what is wrong with its files.
    async fn runner(&self, session: &Session, request: Request) -> Result<Result<(Runner, Heard), Answers>> {
        let project = match Project::read(&request.bundle, &request.vars) {
            Ok(project) => project,
            Err(problems) => {
                let message = match problems.len() {
                    1 => "1 problem".to_owned(),
                    count => format!("{count} problems"),
                };
                let mut all: Vec<Event> = problems.iter().map(|p| Event::Wrong(p.finding())).collect();
                all.push(over(State::Failed, message));
                return Ok(Err(answers(all)));
            }
        };
        let (events, heard) = mpsc::channel(EVENTS);
        // A session of its own: its transaction and settings are nobody else's.
        let own = self.coordinator.open_session(session.user());
        let clock = Arc::clone(&self.clock);
        let runner = Runner::new(own, self.ledger.clone(), project, request, events, clock).await?;
        Ok(Ok((runner, heard)))
    }

    async fn check_or_run(&self, session: &Session, action: &str, request: Request) -> Result<Answers> {
        let (runner, heard) = match self.runner(session, request).await? {
            Ok(begun) => begun,
            Err(problems) => return Ok(problems),
        };
        // They see for themselves that nobody listens any more.
        match action {
            CHECK => task::spawn("pipeline check", check(runner)).detach(),
            _ => task::spawn("pipeline run", runner.run()).detach(),
        }
        Ok(stream(heard))
    }

    async fn deploy(&self, session: &Session, deploy: Deploy) -> Result<Answers> {
        if let Some(number) = deploy.version {
            let now = self.clock.now();
            let (state, message) = self.versions.go_to(&deploy, number, session.user(), now).await?;
            self.wake.notify_one();
            return Ok(answers(vec![over(state, message)]));
        }
        let (runner, heard) = match self.runner(session, deploy.request).await? {
            Ok(begun) => begun,
            Err(problems) => return Ok(problems),
        };
        let deploying = crate::deploy::deploy(runner, self.versions.clone(), self.config.commands);
        let wake = Arc::clone(&self.wake);
        let deploying = async move {
            deploying.await;
            wake.notify_one();
        };
        task::spawn("pipeline deploy", deploying).detach();
        Ok(stream(heard))
    }

    async fn pause(&self, pause: Pause) -> Result<Answers> {
        let (pipeline, schedule) = match pause.name.split_once('/') {
            Some((pipeline, schedule)) => (pipeline, Some(schedule)),
            None => (pause.name.as_str(), None),
        };
        let environment = pause.environment.unwrap_or_else(|| PRODUCTION.to_owned());
        let of = Of { pipeline: pipeline.to_owned(), environment };
        let (changed, found) =
            Ticks::new(self.ledger.db().clone()).pause(&of, schedule, pause.paused).await?;
        if found == 0 {
            let error = Error::not_found(format!("'{}' has no schedule in '{}'", pause.name, of.environment))
                .hint("skep pipeline schedules lists them: NAME, or NAME/SCHEDULE");
            let all = Ticks::new(self.ledger.db().clone()).known().await?.schedules;
            let all = all.iter().filter(|schedule| schedule.key.of.environment == of.environment);
            let names = all.flat_map(|schedule| {
                let pipeline = &schedule.key.of.pipeline;
                [pipeline.clone(), format!("{pipeline}/{}", schedule.key.schedule)]
            });
            let names: Vec<String> = names.collect();
            return Err(near(error, &pause.name, names.iter().map(String::as_str)));
        }
        self.wake.notify_one();
        let word = if pause.paused { "paused" } else { "resumed" };
        let (state, message) = match changed.as_slice() {
            [] => (State::Unchanged, format!("{} was {word} already", pause.name)),
            names => (State::Done, format!("{word} {} of {pipeline}", names.join(", "))),
        };
        Ok(answers(vec![over(state, message)]))
    }

    fn logs(&self, wanted: Logs) -> Answers {
        let (lines, heard) = mpsc::channel(EVENTS);
        // It sees for itself that nobody listens any more.
        task::spawn("pipeline logs", crate::log::send(self.ledger.db().clone(), wanted, lines)).detach();
        ReceiverStream::new(heard).map(|line| line.and_then(|line| as_json(&line))).boxed()
    }
}

/// Events on their way to whoever listens.
type Heard = mpsc::Receiver<Event>;

fn stream(heard: Heard) -> Answers {
    ReceiverStream::new(heard).map(|event| answer(&event)).boxed()
}

#[async_trait]
impl Extension for Pipelines {
    fn actions(&self) -> Vec<(&'static str, &'static str)> {
        vec![
            (CHECK, "a project as JSON -> events as JSON: what does not fit the catalog"),
            (
                RUN,
                "a project as JSON -> events as JSON: runs its models and publishes their tables in one commit",
            ),
            (PAUSE, "schedules as JSON -> events as JSON: they pause, or go on"),
            (LOGS, "the number of a run as JSON -> lines as JSON: what it told, with the time"),
            (
                DEPLOY,
                "a project as JSON -> events as JSON: a version of it becomes the one that schedules run",
            ),
            (
                BACKFILL,
                "a project and a range as JSON -> events as JSON: makes its intervals again, chunk by chunk",
            ),
            (
                PROMOTE,
                "a project and an environment as JSON -> events as JSON: publishes it as production in one commit",
            ),
            (DROP, "the number of a run as JSON -> an event as JSON: gives up what it staged"),
        ]
    }

    async fn call(&self, session: &Session, action: &str, body: Bytes) -> Result<Answers> {
        match action {
            DEPLOY => self.deploy(session, read(action, &body)?).await,
            DROP => self.drop_staged(session, read(action, &body)?).await,
            BACKFILL => Ok(self.backfill(session, read(action, &body)?)),
            PROMOTE => self.promote(session, read(action, &body)?).await,
            PAUSE => self.pause(read(action, &body)?).await,
            LOGS => Ok(self.logs(read(action, &body)?)),
            _ => self.check_or_run(session, action, read(action, &body)?).await,
        }
    }

    async fn staged(&self, name: &str) -> Result<Option<Uuid>> {
        staged_key(&self.ledger, name).await
    }

    fn tables(&self) -> Vec<SystemTable> {
        let mut all = tables::all(&self.ledger);
        all.push(tables::versions(&self.versions));
        all.extend(schedule::tables(self.ledger.db(), &self.clock));
        all.push(tables::backfills(&self.backfills));
        all
    }
}

impl Pipelines {
    /// A run of production that publishes what an environment has.
    async fn promote(&self, session: &Session, Promote { request, force }: Promote) -> Result<Answers> {
        let production = Request { environment: None, ..request.clone() };
        let from = match self.runner(session, request).await? {
            Ok((from, _)) => from,
            Err(problems) => return Ok(problems),
        };
        let (mut runner, heard) = match self.runner(session, production).await? {
            Ok(begun) => begun,
            Err(problems) => return Ok(problems),
        };
        if from.of() == runner.of() {
            return Err(
                Error::invalid("production is promoted to itself").hint("name the environment: --env dev")
            );
        }
        runner.promotes = Some(Box::new(Promotion { from, force }));
        task::spawn("pipeline promote", runner.run()).detach();
        Ok(stream(heard))
    }

    fn backfill(&self, session: &Session, asked: Backfill) -> Answers {
        let (events, heard) = mpsc::channel(EVENTS);
        let driver = Driver {
            coordinator: self.coordinator.clone(),
            ledger: self.ledger.clone(),
            backfills: self.backfills.clone(),
            clock: Arc::clone(&self.clock),
            user: session.user().to_owned(),
            events,
        };
        task::spawn("pipeline backfill", driver.run(asked)).detach();
        stream(heard)
    }

    async fn drop_staged(&self, session: &Session, Dropped { run }: Dropped) -> Result<Answers> {
        let key = self.ledger.drop_staged(run).await?;
        self.coordinator.open_session(session.user()).give_up(key).await?;
        let message = format!("what run {run} staged is given up");
        let over = Event::Over { run: Some(run), state: State::Done, snapshot: None, took_ms: 0, message };
        Ok(answers(vec![over]))
    }
}

/// The body of an action.
fn read<T: DeserializeOwned>(action: &str, body: &[u8]) -> Result<T> {
    serde_json::from_slice(body)
        .map_err(|e| Error::invalid(format!("the body of {action} is no request")).source(e))
}

/// Events that are all there.
fn answers(all: Vec<Event>) -> Answers {
    futures::stream::iter(all.into_iter().map(|event| answer(&event))).boxed()
}

/// The last event of what has no run.
fn over(state: State, message: String) -> Event {
    Event::Over { run: None, state, snapshot: None, took_ms: 0, message }
}

fn answer(event: &Event) -> Result<Bytes> {
    as_json(event)
}

fn as_json<T: Serialize>(value: &T) -> Result<Bytes> {
    let json =
        serde_json::to_vec(value).map_err(|e| Error::internal("an event does not serialise").source(e))?;
    Ok(json.into())
}
