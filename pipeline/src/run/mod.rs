//! One run of a project: every model in one transaction, tests on what is staged, one commit.
//!
//! ```text
//! ledger: a line for the run -> BEGIN -> models, each after those that it reads, several at a time
//!                                          decide   what it has to do, by ledger, text and sources
//!                                          stage    its table, then its rows
//!                                          test     what is staged
//!                               COMMIT with the lines of the ledger, or nothing: what is staged is written down
//! ```
//!
//! # Invariants
//! - A model runs when every model that it reads has ended well. One that fails ends the run when those that go on have ended.
//! - Names are made by one model at a time, rows by several.
//! - Whatever the run does is told as an event when it is done, and not before.
//!
//! # Not here
//! The SQL around a query (`statements`); schedules and backfills: whoever calls.

mod check;
mod decide;
mod late;
mod promote;
mod rows;
mod stage;
mod staged;
mod test;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use serde::{Deserialize, Serialize};
use skep_common::clock::Clock;
use skep_common::{Error, Kind as ErrorKind, Result, task};
use skep_coordinator::Session;
use tokio::sync::{Mutex, mpsc};
use uuid::Uuid;

use crate::backfill::{Backfills, Chunk, Made};
use crate::event::{Event, Request, State};
use crate::interval::{self, Span};
use crate::ledger::{Ledger, ModelLine, Of, Publish, RunLine, Seen, TestLine};
use crate::log::Log;
use crate::project::{Kind, Model, Name, Problem, Project};
use crate::rewrite::{Reads, Rewritten};
use crate::schedule::Begin;
use crate::select;

pub(crate) use check::check;
pub(crate) use promote::Promotion;
pub(crate) use stage::seed;
pub(crate) use staged::key as staged_key;

/// The environment without a name.
pub(crate) const PRODUCTION: &str = "prod";
/// How often a run says that it goes on.
const BEAT: Duration = Duration::from_secs(5);
/// Models at a time, unless the project says otherwise.
const THREADS: u8 = 4;
const THREADS_MAX: u8 = 32;
/// The lane of a run, unless the project says otherwise.
const EXECUTION: &str = "durable";

/// What a run knows from its start to its end.
pub(crate) struct Runner {
    pub(crate) session: Session,
    pub(crate) ledger: Ledger,
    pub(crate) project: Project,
    pub(crate) request: Request,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Only what went wrong is told.
    pub(crate) quiet: bool,
    /// The chunk of a backfill that is made by it.
    pub(crate) chunk: Option<(Chunk, Backfills)>,
    /// What is published instead of what models would make.
    pub(crate) promotes: Option<Box<Promotion>>,
    of: Of,
    suffix: String,
    chosen: BTreeSet<usize>,
    /// Names of models that the environment has of its own.
    own: BTreeSet<Name>,
    seen: BTreeMap<String, Seen>,
    intervals: BTreeMap<String, BTreeSet<NaiveDateTime>>,
    pub(crate) range: Option<Span>,
    begun: DateTime<Utc>,
    /// Held while names are made.
    names: Mutex<()>,
    run: i64,
    /// The tick of a schedule that it is the run of.
    tick: Option<Begin>,
    log: Option<Log>,
    /// Of its commit, and of what is written down of it before.
    key: Uuid,
    base: i64,
}

/// How a model ended.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Outcome {
    rows: Option<u64>,
    /// Whether its table has other rows or columns than before.
    changed: bool,
    /// Intervals that were made.
    made: Vec<(NaiveDateTime, NaiveDateTime)>,
    /// Earlier ones no longer stand.
    reset: bool,
    note: Option<String>,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct RunEnd {
    /// Its number; absent if it was not begun.
    pub(crate) run: Option<i64>,
    pub(crate) state: State,
    /// What it published.
    snapshot: Option<i64>,
    took: Duration,
    pub(crate) message: String,
    /// What was wrong.
    pub(crate) error: Option<Error>,
}

impl RunEnd {
    fn event(&self) -> Event {
        let Self { run, state, snapshot, took, message, .. } = self;
        let (took_ms, message) = (millis(*took), message.clone());
        Event::Over { run: *run, state: *state, snapshot: *snapshot, took_ms, message }
    }
}

impl Runner {
    /// Looks at the request before anything is begun.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) for an environment or a model that is not there,
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for times that are none; those of the catalog.
    pub(crate) async fn new(
        session: Session,
        ledger: Ledger,
        project: Project,
        request: Request,
        events: mpsc::Sender<Event>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let environment = request.environment.clone().unwrap_or_else(|| PRODUCTION.to_owned());
        let suffix = match project.config.env.get(&environment) {
            Some(env) => env.schema_suffix.clone(),
            None if environment == PRODUCTION => String::new(),
            None => {
                return Err(Error::not_found(format!("the project has no environment '{environment}'"))
                    .hint(format!(
                        "pipeline.toml has it as [env.{environment}] with schema_suffix = \"_{environment}\""
                    )));
            }
        };
        let of = Of { pipeline: project.name().to_owned(), environment };
        let (seen, intervals) = (ledger.seen(&of).await?, ledger.intervals(&of).await?);
        let begun = clock.now();
        let range = range(&request)?;
        let mut runner = Self {
            session,
            ledger,
            request,
            events,
            clock,
            quiet: false,
            chunk: None,
            promotes: None,
            of,
            suffix,
            chosen: BTreeSet::new(),
            own: BTreeSet::new(),
            seen,
            intervals,
            range,
            begun,
            names: Mutex::default(),
            run: 0,
            tick: None,
            log: None,
            key: Uuid::now_v7(),
            base: 0,
            project,
        };
        let modified: BTreeSet<usize> = (0..runner.project.models.len())
            .filter(|&at| {
                let model = &runner.project.models[at];
                let known = runner.seen.get(&model.name.to_string());
                known.is_none_or(|seen| seen.fingerprint != runner.fingerprint(model))
            })
            .collect();
        let request = &runner.request;
        runner.chosen = select::chosen(&runner.project, &request.select, &request.exclude, &modified)?;
        let models = runner.project.models.iter().enumerate();
        let own = models.filter(|(at, model)| {
            runner.chosen.contains(at) || runner.seen.contains_key(&model.name.to_string())
        });
        runner.own = own.map(|(_, model)| model.name.clone()).collect();
        let execution = runner.request.execution.as_deref();
        let execution = execution.or(runner.project.config.pipeline.execution.as_deref());
        runner.session.set("skep.execution", execution.unwrap_or(EXECUTION))?;
        let own = runner.project.config.pipeline.directory.as_deref();
        let directory = match (own, runner.request.directory.as_deref()) {
            // The project's is relative to its folder, unless it stands by itself.
            (Some(own), Some(folder)) if !skep_catalog::stands_alone(own) => Some(format!("{folder}/{own}")),
            (own, folder) => own.or(folder).map(str::to_owned),
        };
        if let Some(directory) = directory {
            runner.session.set("skep.directory", &directory)?;
        }
        Ok(runner)
    }

    /// Whose run it is.
    pub(crate) fn of(&self) -> &Of {
        &self.of
    }

    /// Makes it the run of a tick: it takes intervals that are over at that time, whenever it runs.
    pub(crate) fn of_tick(mut self, tick: Begin) -> Self {
        self.tick = Some(tick);
        self
    }

    /// Its number, once it began.
    pub(crate) fn number(&self) -> i64 {
        self.run
    }

    pub(crate) fn chosen_models(&self) -> impl Iterator<Item = &Model> {
        self.chosen.iter().map(|&at| &self.project.models[at])
    }

    /// A chosen model that was published last with another text.
    pub(crate) fn published_otherwise(&self) -> Option<&Name> {
        let other = |model: &&Model| {
            let seen = self.seen.get(&model.name.to_string());
            seen.is_some_and(|seen| seen.fingerprint != self.fingerprint(model))
        };
        self.chosen_models().find(other).map(|model| &model.name)
    }

    pub(crate) async fn tell(&self, event: Event) {
        if let Some(log) = &self.log {
            log.line(self.clock.now(), &event).await;
        }
        if self.quiet && event.went_well() {
            return;
        }
        // Whoever does not listen any more misses it.
        let _ = self.events.send(event).await;
    }

    /// What tells the text of a model, with its variables, from all others.
    fn fingerprint(&self, model: &Model) -> String {
        let used = model.reads.parameters.iter().filter_map(|(name, _)| self.project.vars.get(name));
        let used: Vec<&str> = used.map(String::as_str).collect();
        crate::bundle::fingerprint([model.fingerprint.as_str()].into_iter().chain(used))
    }

    /// Where the table of a model is in the environment.
    fn table(&self, name: &Name) -> Name {
        if self.own.contains(name) && !self.suffix.is_empty() {
            return Name { schema: format!("{}{}", name.schema, self.suffix), name: name.name.clone() };
        }
        name.clone()
    }

    /// A query with the names of the environment and the values of the run.
    fn bound(&self, sql: &str, reads: &Reads, span: Span) -> Rewritten {
        let mut edits = Vec::new();
        for table in &reads.tables {
            let name = Name::of(table);
            let there = self.table(&name);
            if there != name {
                edits.push((table.span, crate::statements::table(&there)));
            }
        }
        for (name, place) in &reads.parameters {
            let value = match name.as_str() {
                "start" => crate::statements::time(span.start),
                "end" => crate::statements::time(span.end),
                "run_time" => crate::statements::moment(self.begun),
                name => self.project.vars.get(name).cloned().unwrap_or_else(|| "NULL".to_owned()),
            };
            edits.push((*place, value));
        }
        let text = sql.trim_end().trim_end_matches(';');
        Rewritten::new(text, edits)
    }

    /// The values of `$start` and `$end` where a query is only planned.
    fn any_span(&self, model: &Model) -> Span {
        let start = model.start.unwrap_or_else(|| self.begun.naive_utc());
        Span { start, end: start }
    }

    /// The first moment of which nothing is known yet.
    pub(crate) fn until(&self) -> Result<NaiveDateTime> {
        let now = self.tick.as_ref().map_or(self.begun, |tick| tick.nominal).naive_utc();
        match &self.project.config.pipeline.end {
            // A run of an earlier time takes no more than there was then.
            Some(end) if self.tick.is_some() => Ok(interval::parse(end)?.min(now)),
            Some(end) => interval::parse(end),
            None => Ok(now),
        }
    }

    /// Runs all of it. Whatever happens is told as events; the last one says how it ended.
    pub(crate) async fn run(self) {
        self.run_until(std::future::pending()).boxed().await;
    }

    /// As [`Runner::run`], until `stopped` says why it is to end.
    pub(crate) async fn run_until(mut self, stopped: impl Future<Output = String>) -> RunEnd {
        let end = self.run_quietly(stopped).await;
        self.tell(end.event()).await;
        end
    }

    /// As [`Runner::run_until`], but does not tell that it is over. Whatever happens is written down.
    pub(crate) async fn run_quietly(&mut self, stopped: impl Future<Output = String>) -> RunEnd {
        let started = self.clock.instant();
        let (events, promotes) = (self.events.clone(), self.promotes.is_some());
        let ended = tokio::select! {
            ended = self.begin_and_end() => ended,
            // What runs ends with its future; a commit that was begun is made all the same.
            () = events.closed() => Err(Error::new(ErrorKind::Cancelled, "whoever asked for the run went away")),
            reason = stopped => Err(Error::new(ErrorKind::Cancelled, reason)),
        };
        if ended.is_err() && !promotes {
            self.keep_staged().await;
        }
        let now = self.clock.now();
        if let Err(error) = &ended
            && self.run > 0
            && let Err(e) = self.ledger.end(self.run, State::Failed, Some(&error.report()), now).await
        {
            tracing::warn!(run = self.run, error = e.report(), "the end of a run was not written down");
        }
        if ended.is_err() && promotes && self.run > 0 {
            self.drop_promotion().await;
        }
        let run = (self.run > 0).then_some(self.run);
        let took = self.clock.instant() - started;
        let end = match ended {
            Ok((state, snapshot, message)) => RunEnd { run, state, snapshot, took, message, error: None },
            Err(error) => {
                let hint = error.hint_text().map(|hint| format!("; hint: {hint}")).unwrap_or_default();
                let message = format!("{}{hint}", error.report());
                RunEnd { run, state: State::Failed, snapshot: None, took, message, error: Some(error) }
            }
        };
        if let Some(log) = self.log.take() {
            // Whoever hears of the end finds every line.
            log.line(now, &end.event()).await;
            log.finish().await;
        }
        end
    }

    async fn begin_and_end(&mut self) -> Result<(State, Option<i64>, String)> {
        match self.promotes.take() {
            Some(promotion) => self.begin_and_promote(*promotion).await,
            None => self.begin_and_run().await,
        }
    }

    /// Writes down that it goes on, from here to the end of what is returned.
    async fn begin(&mut self) -> Result<task::Task<()>> {
        let user = self.session.user().to_owned();
        let (version, tick) = (&self.project.version, self.tick.as_ref());
        self.run = self.ledger.begin(&self.of, version, self.key, &user, tick, self.begun).await?;
        self.log = Some(Log::begin(self.ledger.db(), &self.of, self.run, self.ledger.logs_kept));
        Ok(self.beat())
    }

    async fn begin_and_run(&mut self) -> Result<(State, Option<i64>, String)> {
        let before = self.taken_up().await?;
        if let Some((line, _)) = &before {
            self.key = line.key;
        }
        let key = self.key;
        let beating = self.begin().await?;
        let message = format!("pipeline {} run {}", self.of.pipeline, self.run);
        let resumed = match before {
            Some((line, done)) => self.resumed(line.run).await?.then_some(done),
            None => {
                self.forget_old().await?;
                None
            }
        };
        let done = match resumed {
            Some(done) => done,
            None => {
                self.session.begin_under(key, &message).await?;
                BTreeMap::new()
            }
        };
        // The one that is open was begun on it, whoever begins it again.
        self.base = self.session.sees().await?.id;
        self.tell(Event::Begun {
            run: self.run,
            pipeline: self.of.pipeline.clone(),
            environment: self.of.environment.clone(),
            models: self.chosen.iter().map(|&at| self.project.models[at].name.to_string()).collect(),
        })
        .await;
        let staged = self.stage_all(&done).await;
        let ended = match staged {
            Ok(outcomes) => self.publish(outcomes).await,
            Err(error) => Err(error),
        };
        drop(beating);
        ended
    }

    /// Takes up what run `before` staged. Whether there is something.
    async fn resumed(&self, before: i64) -> Result<bool> {
        match self.session.resume_under(self.key).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let message =
                    format!("run {before} left nothing that is staged: it begins again from nothing");
                self.tell(Event::Warning { message }).await;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes down what is staged, so that it can be gone on with.
    async fn keep_staged(&self) {
        if self.session.changed().unwrap_or(false)
            && let Err(error) = self.session.save().await
        {
            tracing::warn!(run = self.run, error = error.report(), "what a run staged was not written down");
        }
        self.session.leave();
    }

    /// The failed run that this one goes on with, and the models that it staged.
    async fn taken_up(&self) -> Result<Option<(RunLine, BTreeMap<String, Outcome>)>> {
        let Some(wanted) = self.request.retry else { return Ok(None) };
        let line = match wanted {
            0 => self.ledger.runs(i64::MAX).await?.into_iter().find(|line| line.of == self.of),
            run => self.ledger.run(run).await?,
        };
        let Some(line) = line else {
            return Err(Error::not_found(format!("there is no run {wanted} of '{}'", self.of.pipeline))
                .hint("skep pipeline status lists the runs"));
        };
        if !["failed", "lost"].contains(&line.state.as_str()) {
            return Err(Error::invalid(format!("run {} did not fail: it is {}", line.run, line.state))
                .hint("a new run does what is left to do: skep pipeline run"));
        }
        if line.of != self.of {
            return Err(Error::invalid(format!(
                "run {} is of '{}' in '{}'",
                line.run, line.of.pipeline, line.of.environment
            )));
        }
        let models = self.ledger.models(Some(line.run)).await?;
        // Which files were loaded is not written down with what is staged: rows of theirs would be loaded again.
        let untouched =
            |name: &str| models.iter().any(|line| line.model == name && line.state == State::Unchanged);
        let loads = self.chosen.iter().map(|&at| &self.project.models[at]);
        let mut loads = loads.filter(|model| model.kind == Kind::Load);
        if let Some(model) = loads.find(|model| !untouched(&model.name.to_string())) {
            let message = format!(
                "run {} was loading files into '{}': it begins again from nothing",
                line.run, model.name
            );
            self.tell(Event::Warning { message }).await;
            return Ok(None);
        }
        let mut done = BTreeMap::new();
        for model in models.into_iter().filter(|model| matches!(model.state, State::Done | State::Unchanged))
        {
            let outcome = model.outcome.as_deref().unwrap_or_default();
            let outcome = serde_json::from_str(outcome).map_err(|e| {
                Error::corrupt(format!("what run {} did for '{}' does not read", line.run, model.model))
                    .hint("begin a new run: skep pipeline run")
                    .source(e)
            })?;
            done.insert(model.model, outcome);
        }
        Ok(Some((line, done)))
    }

    /// What failed runs of before staged is given up when another one begins.
    async fn forget_old(&self) -> Result<()> {
        let saved: Vec<Uuid> = self.session.catalog().saved().await?.iter().map(|saved| saved.key).collect();
        for key in self.ledger.ended(&self.of, &saved).await? {
            self.session.give_up(key).await?;
        }
        Ok(())
    }

    /// Says that the run goes on, until it is dropped.
    fn beat(&self) -> task::Task<()> {
        let (ledger, clock, run) = (self.ledger.clone(), Arc::clone(&self.clock), self.run);
        task::spawn("pipeline heartbeat", async move {
            loop {
                tokio::time::sleep(BEAT).await;
                if let Err(error) = ledger.beat(run, clock.now()).await {
                    tracing::warn!(run, error = error.report(), "a run could not say that it goes on");
                }
            }
        })
    }

    /// Stages every model, each after those that it reads.
    async fn stage_all(&self, done: &BTreeMap<String, Outcome>) -> Result<BTreeMap<usize, Outcome>> {
        self.source_tests().await?;
        self.make_schemas().await?;
        let threads = self.project.config.pipeline.threads.unwrap_or(THREADS).clamp(1, THREADS_MAX);
        let mut waiting: BTreeSet<usize> = self.chosen.clone();
        let mut outcomes: BTreeMap<usize, Outcome> = BTreeMap::new();
        let mut failed: Option<Error> = None;
        let mut going = FuturesUnordered::new();
        loop {
            let ready = |at: &usize| {
                let above = self.project.graph.above(*at);
                above.iter().all(|other| !self.chosen.contains(other) || outcomes.contains_key(other))
            };
            while failed.is_none() && going.len() < usize::from(threads) {
                let Some(at) = waiting.iter().copied().find(ready) else { break };
                waiting.remove(&at);
                let changed: BTreeSet<Name> = outcomes
                    .iter()
                    .filter(|(_, outcome)| outcome.changed)
                    .map(|(&at, _)| self.project.models[at].name.clone())
                    .collect();
                let before = done.get(&self.project.models[at].name.to_string()).cloned();
                going.push(async move { (at, self.one(at, &changed, before).await) });
            }
            let Some((at, ended)) = going.next().await else { break };
            match ended {
                Ok(outcome) => {
                    outcomes.insert(at, outcome);
                }
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        let Some(error) = failed else {
            self.custom_tests().await?;
            return Ok(outcomes);
        };
        for at in waiting {
            let name = self.project.models[at].name.to_string();
            let note = Some("a model before it failed".to_owned());
            self.record(at, State::Skipped, None, &Outcome { note: note.clone(), ..Outcome::default() })
                .await?;
            self.tell(Event::Ended { model: name, state: State::Skipped, rows: None, took_ms: 0, note })
                .await;
        }
        Err(error)
    }

    async fn make_schemas(&self) -> Result<()> {
        let schemas: BTreeSet<String> =
            self.chosen.iter().map(|&at| self.table(&self.project.models[at].name).schema).collect();
        for schema in schemas {
            let sql = format!("CREATE SCHEMA IF NOT EXISTS {}", skep_engine::names::quote(&schema));
            rows::run(&self.session, &sql).await?;
        }
        Ok(())
    }

    /// One model: what it has to do, its rows, its tests.
    async fn one(&self, at: usize, changed: &BTreeSet<Name>, before: Option<Outcome>) -> Result<Outcome> {
        let model = &self.project.models[at];
        let (name, started) = (model.name.to_string(), self.clock.instant());
        if let Some(mut outcome) = before {
            // The run that is gone on with did it, and its tables are staged.
            let state = if outcome.changed { State::Done } else { State::Unchanged };
            outcome.note = Some("staged by the run that this one goes on with".to_owned());
            self.record(at, state, None, &outcome).await?;
            let (rows, note) = (outcome.rows, outcome.note.clone());
            self.tell(Event::Ended { model: name, state, rows, took_ms: 0, note }).await;
            return Ok(outcome);
        }
        let ended = self.stage_and_test(model, changed).await;
        let took = self.clock.instant() - started;
        let (state, outcome) = match &ended {
            Ok(outcome) if outcome.changed => (State::Done, outcome.clone()),
            Ok(outcome) => (State::Unchanged, outcome.clone()),
            Err(error) => (State::Failed, Outcome { note: Some(error.report()), ..Outcome::default() }),
        };
        self.record(at, state, Some(took), &outcome).await?;
        let (rows, note) = (outcome.rows, outcome.note);
        if let Err(error) = &ended
            && error.span().is_some()
        {
            self.tell(Event::Wrong(Problem::new(&model.file, error.clone()).finding())).await;
        }
        let hint = ended.as_ref().err().and_then(|e| e.hint_text()).map(|hint| format!("; hint: {hint}"));
        let note = note.map(|note| note + &hint.unwrap_or_default());
        self.tell(Event::Ended { model: name, state, rows, took_ms: millis(took), note }).await;
        ended.map_err(|e| e.context(format!("model '{}'", model.name)))
    }

    async fn record(&self, at: usize, state: State, took: Option<Duration>, outcome: &Outcome) -> Result<()> {
        let model = &self.project.models[at];
        let kept = serde_json::to_string(outcome)
            .map_err(|e| Error::internal("what a model did does not serialise").source(e))?;
        self.ledger
            .model(&ModelLine {
                run: self.run,
                model: model.name.to_string(),
                position: i64::try_from(at).unwrap_or(i64::MAX),
                kind: model.kind.name().to_owned(),
                state,
                rows: outcome.rows,
                took,
                note: outcome.note.clone(),
                outcome: Some(kept),
            })
            .await
    }

    async fn record_test(
        &self,
        model: &str,
        test: &str,
        state: State,
        failures: u64,
        note: Option<String>,
    ) -> Result<()> {
        let line = TestLine {
            run: self.run,
            model: model.to_owned(),
            test: test.to_owned(),
            state,
            failures,
            note: note.clone(),
        };
        self.ledger.test(&line).await?;
        let (model, test) = (line.model, line.test);
        self.tell(Event::Tested { model, test, state, failures, note }).await;
        Ok(())
    }

    /// One commit for all tables and the ledger; nothing if nothing changed.
    async fn publish(&self, outcomes: BTreeMap<usize, Outcome>) -> Result<(State, Option<i64>, String)> {
        let now = self.clock.now();
        let model = |at: &usize| &self.project.models[*at];
        if !outcomes.values().any(|outcome| outcome.changed || !outcome.made.is_empty() || outcome.reset) {
            rows::run(&self.session, "ROLLBACK").await?;
            if let Some((chunk, backfills)) = &self.chunk {
                backfills.made(&Made { chunk: *chunk, run: self.run, now }).await?;
            }
            self.ledger.end(self.run, State::Unchanged, None, now).await?;
            return Ok((State::Unchanged, None, "nothing to do".to_owned()));
        }
        let mut intervals = Vec::new();
        for (at, outcome) in &outcomes {
            let (name, fingerprint) = (model(at).name.to_string(), self.fingerprint(model(at)));
            let made = outcome.made.iter();
            intervals.extend(made.map(|(start, end)| (name.clone(), fingerprint.clone(), *start, *end)));
        }
        let reset = outcomes.iter().filter(|(_, outcome)| outcome.reset);
        let publish = Publish {
            run: self.run,
            of: self.of.clone(),
            seen: outcomes
                .keys()
                .map(|at| (model(at).name.to_string(), self.fingerprint(model(at)), self.base))
                .collect(),
            intervals,
            reset: reset.map(|(at, _)| model(at).name.to_string()).collect(),
            now,
        };
        let snapshot = self.commit(publish).await?;
        let changed = outcomes.values().filter(|outcome| outcome.changed).count();
        let shown = snapshot.map(|snapshot| format!(" in snapshot {snapshot}")).unwrap_or_default();
        let tables = if changed == 1 { "table" } else { "tables" };
        Ok((State::Done, snapshot, format!("published {changed} {tables}{shown}")))
    }

    /// Commits what is staged, with these lines of the ledger. The snapshot that shows it.
    async fn commit(&self, publish: Publish) -> Result<Option<i64>> {
        // Written down first: if the process ends in the commit, whoever comes next knows how it ended.
        self.session.save().await?;
        if let Some((chunk, _)) = &self.chunk {
            self.session.add(Made { chunk: *chunk, run: self.run, now: publish.now })?;
        }
        self.session.add(publish)?;
        if let Err(error) = rows::run(&self.session, "COMMIT").await {
            if skep_coordinator::refused(&error) {
                // Its files are gone by now: nobody may go on with it.
                self.session.catalog().forget(self.key).await?;
            }
            return Err(error.hint("begin a new run: skep pipeline run"));
        }
        let line = self.ledger.run(self.run).await?;
        Ok(line.and_then(|line| line.snapshot))
    }
}

fn range(request: &Request) -> Result<Option<Span>> {
    let parse = |name: &str, text: &Option<String>| {
        text.as_deref().map(interval::parse).transpose().map_err(|e| e.context(format!("--{name}")))
    };
    match (parse("start", &request.start)?, parse("end", &request.end)?) {
        (None, None) => Ok(None),
        (Some(start), Some(end)) if start < end => Ok(Some(Span { start, end })),
        (Some(_), Some(_)) => Err(Error::invalid("--end is not after --start")),
        _ => Err(Error::invalid("--start and --end belong together")
            .hint("they name the intervals that are made again, as --start 2024-02-01 --end 2024-02-03")),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// An error of a statement around a model's query, which begins on its second line, with places in the model's file.
pub(crate) fn placed(error: Error, sql: &Rewritten, around: u64) -> Error {
    let Some(mut span) = error.span() else { return error };
    for place in [&mut span.start, &mut span.end] {
        if place.line <= around {
            return Error::new(error.kind(), error.message().to_owned()).source(error);
        }
        place.line -= around;
    }
    sql.placed(error.at(span))
}
