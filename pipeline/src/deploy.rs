//! Versions of projects: what schedules run. They are never changed; which of them is current in an environment is.
//!
//! ```text
//! deploy PROJECT      -> check -> a version, unless it is one already -> current in the environment, with its schedules
//! deploy --version N  ----------------------------------------------> current again
//! ```
//!
//! # Not here
//! When schedules run (`schedule`).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use skep_common::{Error, Kind, Result};
use skep_metadb::{MetaDb, WriteTx, database_error};

use crate::bundle::Bundle;
use crate::event::{Event, Request, State};
use crate::ledger::Of;
use crate::project::Project;
use crate::run::{PRODUCTION, Runner};
use crate::schedule::{Notify, Spec, Target, Times};

/// What is to be current.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Deploy {
    /// The project, its folder and the environment; without files if `version` names what is current.
    pub request: Request,
    /// The pipeline that `version` is of, without files.
    pub pipeline: Option<String>,
    /// The version that becomes current again; absent: that of the files.
    pub version: Option<i64>,
}

/// A version and where it is current.
#[derive(Debug, Clone)]
pub(crate) struct VersionLine {
    pub(crate) pipeline: String,
    pub(crate) number: i64,
    /// What tells its texts from others.
    pub(crate) version: String,
    pub(crate) directory: String,
    pub(crate) author: String,
    pub(crate) created: DateTime<Utc>,
    /// The environments that it is current in.
    pub(crate) environments: Vec<String>,
}

/// A version, to be run.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) number: i64,
    pub(crate) bundle: Bundle,
    pub(crate) directory: String,
    /// Who deployed it to the environment: its runs are theirs.
    pub(crate) author: String,
}

/// The tables of versions. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Versions {
    db: MetaDb,
}

/// How a deployment ended.
struct Deployed {
    number: i64,
    /// It was a version already.
    known: bool,
    /// The one that was current before.
    before: Option<i64>,
}

fn failed(error: sqlx::Error) -> Error {
    database_error("cannot deploy the pipeline", error)
}

fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal("a project does not serialise").source(e))
}

/// Reads the files of a version.
fn bundle(of: &str, number: i64, text: &str) -> Result<Bundle> {
    serde_json::from_str(text)
        .map_err(|e| Error::corrupt(format!("version {number} of '{of}' does not read")).source(e))
}

/// Checks a project, stores it and makes it current. Whatever happens is told as events; the last one says how it ended.
pub(crate) async fn deploy(runner: Runner, versions: Versions, commands: bool) {
    let started = runner.clock.instant();
    let ended = checked(&runner, &versions, commands).await;
    let (state, message) = ended.unwrap_or_else(|error| (State::Failed, with_hint(&error)));
    let took_ms = u64::try_from((runner.clock.instant() - started).as_millis()).unwrap_or(u64::MAX);
    runner.tell(Event::Over { run: None, state, snapshot: None, took_ms, message }).await;
}

pub(crate) fn with_hint(error: &Error) -> String {
    let hint = error.hint_text().map(|hint| format!("; hint: {hint}")).unwrap_or_default();
    format!("{}{hint}", error.report())
}

async fn checked(runner: &Runner, versions: &Versions, commands: bool) -> Result<(State, String)> {
    let problems = runner.problems().await?;
    let count = problems.len();
    for finding in problems {
        runner.tell(Event::Wrong(finding)).await;
    }
    if count > 0 {
        let word = if count == 1 { "problem" } else { "problems" };
        return Ok((State::Failed, format!("{count} {word}: nothing is deployed")));
    }
    let project = &runner.project;
    if !commands && project.notify.iter().any(|notify| matches!(notify.target, Target::Command(_))) {
        let message = "pipeline.toml notifies by a command, which this coordinator does not run: its config file \
                       has not [pipelines] commands = true";
        runner.tell(Event::Warning { message: message.to_owned() }).await;
    }
    let (of, now) = (runner.of(), runner.clock.now());
    let done = versions.store(of, project, &runner.request, runner.session.user(), now).await?;
    Ok(told(of, &done, &project.schedules, now))
}

fn told(of: &Of, done: &Deployed, schedules: &[Spec], now: DateTime<Utc>) -> (State, String) {
    let Deployed { number, known, before } = *done;
    let Of { pipeline, environment } = of;
    let what = format!("version {number} of {pipeline}");
    let (state, mut message) = match before {
        Some(before) if before == number => {
            (State::Unchanged, format!("{what} is current in {environment} already"))
        }
        Some(before) => (State::Done, format!("{what} is current in {environment}, after version {before}")),
        None => (State::Done, format!("{what} is current in {environment}")),
    };
    if known && state == State::Done {
        message += "; it was deployed before";
    }
    let next = |spec: &Spec| {
        let next = Times::new(&spec.cron, &spec.time_zone).ok()?.after(now)?;
        Some(format!("{} next at {}", spec.name, next.format("%Y-%m-%dT%H:%M:%SZ")))
    };
    let next: Vec<String> = schedules.iter().filter_map(next).collect();
    if next.is_empty() {
        message += "; it has no schedule";
    } else {
        message += &format!("; {}", next.join(", "));
    }
    (state, message)
}

impl Versions {
    pub(crate) fn new(db: MetaDb) -> Self {
        Self { db }
    }

    /// Stores the files of `request` as a version, unless one has them already, and makes it current.
    async fn store(
        &self,
        of: &Of,
        project: &Project,
        request: &Request,
        author: &str,
        now: DateTime<Utc>,
    ) -> Result<Deployed> {
        let directory = absolute(request)?;
        let mut tx = self.db.begin().await?;
        let known: Option<(i64,)> = sqlx::query_as(
            "SELECT number FROM skep_pipeline_version WHERE pipeline = ? AND version = ? AND directory = ?",
        )
        .bind(&of.pipeline)
        .bind(&project.version)
        .bind(directory)
        .fetch_optional(tx.conn())
        .await
        .map_err(failed)?;
        let number = match known {
            Some((number,)) => number,
            None => {
                let last: (Option<i64>,) =
                    sqlx::query_as("SELECT max(number) FROM skep_pipeline_version WHERE pipeline = ?")
                        .bind(&of.pipeline)
                        .fetch_one(tx.conn())
                        .await
                        .map_err(failed)?;
                let number = last.0.unwrap_or(0) + 1;
                sqlx::query(
                    "INSERT INTO skep_pipeline_version (pipeline, number, version, directory, author, created_us, bundle) \
                     VALUES (?, ?, ?, ?, ?, ?, ?)",
                )
                .bind(&of.pipeline)
                .bind(number)
                .bind(&project.version)
                .bind(directory)
                .bind(author)
                .bind(now.timestamp_micros())
                .bind(json(&request.bundle)?)
                .execute(tx.conn())
                .await
                .map_err(failed)?;
                number
            }
        };
        let before = make_current(&mut tx, of, number, project, author, now).await?;
        tx.commit().await?;
        Ok(Deployed { number, known: known.is_some(), before })
    }

    /// Makes an earlier version current again. It is not checked anew.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for a version or an environment that is not there; those of the database.
    pub(crate) async fn go_to(
        &self,
        deploy: &Deploy,
        number: i64,
        author: &str,
        now: DateTime<Utc>,
    ) -> Result<(State, String)> {
        let pipeline = deploy.pipeline.clone().unwrap_or_default();
        let environment = deploy.request.environment.clone().unwrap_or_else(|| PRODUCTION.to_owned());
        let of = Of { pipeline, environment };
        let mut tx = self.db.begin().await?;
        let row: Option<(String,)> =
            sqlx::query_as("SELECT bundle FROM skep_pipeline_version WHERE pipeline = ? AND number = ?")
                .bind(&of.pipeline)
                .bind(number)
                .fetch_optional(tx.conn())
                .await
                .map_err(failed)?;
        let Some((text,)) = row else {
            return Err(Error::not_found(format!("'{}' has no version {number}", of.pipeline))
                .hint("SELECT * FROM system.pipeline_versions lists them"));
        };
        let files = bundle(&of.pipeline, number, &text)?;
        let project = Project::read(&files, &Default::default()).map_err(|problems| {
            let first = problems.into_iter().next().map(|problem| problem.error);
            let error =
                Error::invalid(format!("version {number} of '{}' does not read any more", of.pipeline));
            first.map_or(error.clone(), |first| error.source(first))
        })?;
        if of.environment != PRODUCTION && !project.config.env.contains_key(&of.environment) {
            return Err(Error::not_found(format!(
                "version {number} of '{}' has no environment '{}'",
                of.pipeline, of.environment
            )));
        }
        let before = make_current(&mut tx, &of, number, &project, author, now).await?;
        tx.commit().await?;
        Ok(told(&of, &Deployed { number, known: true, before }, &project.schedules, now))
    }

    /// The version that is current.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if none is; those of the database.
    pub(crate) async fn current(&self, of: &Of) -> Result<Version> {
        let row: Option<(i64, String, String, String)> = sqlx::query_as(
            "SELECT v.number, v.bundle, v.directory, c.author FROM skep_pipeline_current AS c \
             JOIN skep_pipeline_version AS v ON v.pipeline = c.pipeline AND v.number = c.number \
             WHERE c.pipeline = ? AND c.environment = ?",
        )
        .bind(&of.pipeline)
        .bind(&of.environment)
        .fetch_optional(self.db.reader())
        .await
        .map_err(|e| database_error("cannot read what is deployed", e))?;
        let Some((number, text, directory, author)) = row else {
            return Err(Error::new(
                Kind::NotFound,
                format!("'{}' is not deployed in '{}'", of.pipeline, of.environment),
            )
            .hint("skep pipeline deploy PROJECT"));
        };
        Ok(Version { number, bundle: bundle(&of.pipeline, number, &text)?, directory, author })
    }

    /// All versions.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn all(&self) -> Result<Vec<VersionLine>> {
        let failed = |e| database_error("cannot list what is deployed", e);
        let current: Vec<(String, String, i64)> = sqlx::query_as(
            "SELECT pipeline, environment, number FROM skep_pipeline_current ORDER BY environment",
        )
        .fetch_all(self.db.reader())
        .await
        .map_err(failed)?;
        let rows: Vec<(String, i64, String, String, String, i64)> = sqlx::query_as(
            "SELECT pipeline, number, version, directory, author, created_us FROM skep_pipeline_version \
             ORDER BY pipeline, number",
        )
        .fetch_all(self.db.reader())
        .await
        .map_err(failed)?;
        let line = |(pipeline, number, version, directory, author, created): (String, i64, _, _, _, i64)| {
            let there = current.iter().filter(|line| line.0 == pipeline && line.2 == number);
            VersionLine {
                environments: there.map(|line| line.1.clone()).collect(),
                pipeline,
                number,
                version,
                directory,
                author,
                created: DateTime::from_timestamp_micros(created).unwrap_or_default(),
            }
        };
        Ok(rows.into_iter().map(line).collect())
    }
}

/// The folder that paths start at whoever runs the version, and wherever.
fn absolute(request: &Request) -> Result<&str> {
    let directory = request.directory.as_deref().unwrap_or_default();
    if std::path::Path::new(directory).is_absolute() {
        return Ok(directory);
    }
    Err(Error::invalid(format!("the folder of the project, '{directory}', is not an absolute path"))
        .hint("its loads are run later and elsewhere: say where its files are"))
}

/// What schedules and notifications there are follows from the version that is current. Returns the one that was.
async fn make_current(
    tx: &mut WriteTx,
    of: &Of,
    number: i64,
    project: &Project,
    author: &str,
    now: DateTime<Utc>,
) -> Result<Option<i64>> {
    let before: Option<(i64,)> =
        sqlx::query_as("SELECT number FROM skep_pipeline_current WHERE pipeline = ? AND environment = ?")
            .bind(&of.pipeline)
            .bind(&of.environment)
            .fetch_optional(tx.conn())
            .await
            .map_err(failed)?;
    let notify: &[Notify] = &project.notify;
    sqlx::query(
        "INSERT INTO skep_pipeline_current (pipeline, environment, number, author, deployed_us, notify) \
         VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (pipeline, environment) DO UPDATE SET number = excluded.number, \
         author = excluded.author, deployed_us = excluded.deployed_us, notify = excluded.notify",
    )
    .bind(&of.pipeline)
    .bind(&of.environment)
    .bind(number)
    .bind(author)
    .bind(now.timestamp_micros())
    .bind(json(&notify)?)
    .execute(tx.conn())
    .await
    .map_err(failed)?;
    crate::schedule::replace(tx, of, &project.schedules, now).await?;
    Ok(before.map(|(number,)| number))
}
