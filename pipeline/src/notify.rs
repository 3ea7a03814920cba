//! Tells people of scheduled runs: by a webhook, or a program of the coordinator's machine.
//!
//! ```text
//! a tick ends --same transaction--> waiting --sent--> sent
//!                                      |  ^ no answer, 5xx, 408, 429: again, later
//!                                      '--> failed: tried enough, or refused for good
//! ```
//!
//! # Guarantees
//! - Nothing that happens here harms a run: a run ends first.
//! - Each is sent once, or again if its answer was not heard of before the coordinator ended.
//!
//! # Not here
//! What is told of (`schedule::core`).

use std::process::Stdio;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use skep_common::{Error, Result};
use skep_metadb::{Lease, MetaDb, WriteTx, database_error};
use tokio::io::AsyncWriteExt;

use crate::schedule::{Key, Notify, On, Target, shown};

/// How often a notification is tried.
const ATTEMPTS_MAX: u32 = 6;
/// Before the second attempt; twice as long before each that follows.
const DELAY: Duration = Duration::from_secs(5);
/// How long a webhook may take to answer.
const WEBHOOK_TIME: Duration = Duration::from_secs(10);
/// How long a program may take.
const COMMAND_TIME: Duration = Duration::from_secs(60);
/// Letters of an error that are kept.
const ERROR_CHARS: usize = 500;
/// Sent at a time.
pub(crate) const SENDING_MAX: i64 = 8;

/// What is told.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) on: On,
    pub(crate) key: &'a Key,
    pub(crate) nominal: DateTime<Utc>,
    pub(crate) run: Option<i64>,
    pub(crate) attempt: u32,
    /// What was wrong, or how it ended.
    pub(crate) error: &'a str,
}

/// One that waits to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Notification {
    pub(crate) id: i64,
    target: Target,
    body: String,
    attempts: u32,
}

fn failed(error: sqlx::Error) -> Error {
    database_error("cannot write down who is told of a run", error)
}

impl Facts<'_> {
    fn text(&self) -> String {
        let Facts { key, .. } = self;
        let what = format!("{}/{} ({})", key.of.pipeline, key.schedule, key.of.environment);
        let at = format!("the run of {}", shown(self.nominal));
        match self.on {
            On::Failure => format!("{what}: {at} failed: {}", self.error),
            On::Recovery => format!("{what}: {at} ended well, after failures"),
            On::Late => format!("{what}: {at} is late: {}", self.error),
        }
    }

    /// As chat services read it, by `text`, and programs, by the rest.
    fn body(&self) -> String {
        json!({
            "text": self.text(),
            "event": self.on.name(),
            "pipeline": self.key.of.pipeline,
            "environment": self.key.of.environment,
            "schedule": self.key.schedule,
            "nominal_time": shown(self.nominal),
            "run": self.run,
            "attempt": self.attempt,
            "message": self.error,
        })
        .to_string()
    }
}

/// Writes down who is to be told, for those of `notify` that ask for it.
///
/// # Errors
/// Those of the database.
pub(crate) async fn add(
    tx: &mut WriteTx,
    facts: &Facts<'_>,
    notify: &[Notify],
    now: DateTime<Utc>,
) -> Result<()> {
    for notify in notify.iter().filter(|notify| notify.on.contains(&facts.on)) {
        let target = serde_json::to_string(&notify.target)
            .map_err(|e| Error::internal("who is told does not serialise").source(e))?;
        let last: (Option<i64>,) =
            sqlx::query_as("SELECT max(notification_id) FROM skep_pipeline_notification")
                .fetch_one(tx.conn())
                .await
                .map_err(failed)?;
        sqlx::query(
            "INSERT INTO skep_pipeline_notification (notification_id, pipeline, environment, schedule, nominal_us, run_id, \
             event, target, body, state, attempts, due_us, created_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'waiting', 0, ?, ?)",
        )
        .bind(last.0.unwrap_or(0) + 1)
        .bind(&facts.key.of.pipeline)
        .bind(&facts.key.of.environment)
        .bind(&facts.key.schedule)
        .bind(facts.nominal.timestamp_micros())
        .bind(facts.run)
        .bind(facts.on.name())
        .bind(target)
        .bind(facts.body())
        .bind(now.timestamp_micros())
        .bind(now.timestamp_micros())
        .execute(tx.conn())
        .await
        .map_err(failed)?;
    }
    Ok(())
}

/// Those that wait, the oldest first, and when the next of the others is due.
///
/// # Errors
/// Those of the database.
pub(crate) async fn due(
    db: &MetaDb,
    now: DateTime<Utc>,
) -> Result<(Vec<Notification>, Option<DateTime<Utc>>)> {
    let reading = |e| database_error("cannot read who is told of runs", e);
    let rows: Vec<(i64, String, String, i64)> = sqlx::query_as(
        "SELECT notification_id, target, body, attempts FROM skep_pipeline_notification \
         WHERE state = 'waiting' AND due_us <= ? ORDER BY due_us LIMIT ?",
    )
    .bind(now.timestamp_micros())
    .bind(SENDING_MAX)
    .fetch_all(db.reader())
    .await
    .map_err(reading)?;
    let (next,): (Option<i64>,) = sqlx::query_as(
        "SELECT min(due_us) FROM skep_pipeline_notification WHERE state = 'waiting' AND due_us > ?",
    )
    .bind(now.timestamp_micros())
    .fetch_one(db.reader())
    .await
    .map_err(reading)?;
    let mut all = Vec::new();
    for (id, target, body, attempts) in rows {
        let target = serde_json::from_str(&target)
            .map_err(|e| Error::corrupt(format!("notification {id} does not read")).source(e))?;
        all.push(Notification { id, target, body, attempts: u32::try_from(attempts).unwrap_or(0) });
    }
    Ok((all, next.and_then(DateTime::from_timestamp_micros)))
}

/// How sending ended.
#[derive(Debug)]
pub(crate) enum Sent {
    Yes,
    /// It may go better later.
    NotYet(String),
    /// It never will.
    Never(String),
}

impl Notification {
    /// Sends it. Programs are run only if `commands` says so.
    pub(crate) async fn send(&self, client: &reqwest::Client, commands: bool) -> Sent {
        match &self.target {
            Target::Webhook(url) => post(client, url, &self.body).await,
            Target::Command(_) if !commands => Sent::Never(
                "the coordinator's config file does not allow commands: [pipelines] commands = true"
                    .to_owned(),
            ),
            Target::Command(words) => run(words, &self.body).await,
        }
    }

    /// Writes down how it went.
    ///
    /// # Errors
    /// [`Kind::Conflict`](skep_common::Kind::Conflict) if the lease is another's; those of the database.
    pub(crate) async fn end(
        &self,
        db: &MetaDb,
        lease: &Lease,
        sent: &Sent,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let attempts = self.attempts + 1;
        let (state, error) = match sent {
            Sent::Yes => ("sent", None),
            Sent::NotYet(error) if attempts < ATTEMPTS_MAX => ("waiting", Some(error)),
            Sent::NotYet(error) | Sent::Never(error) => ("failed", Some(error)),
        };
        let error = error.map(|error| error.chars().take(ERROR_CHARS).collect::<String>());
        if let Some(error) = &error {
            tracing::warn!(
                notification = self.id,
                attempts,
                error,
                to = self.target.shown(),
                "nobody was told"
            );
        }
        let due = now + DELAY * 2_u32.pow(attempts.min(ATTEMPTS_MAX) - 1);
        let mut tx = db.begin().await?;
        tx.fence(lease).await?;
        sqlx::query(
            "UPDATE skep_pipeline_notification SET state = ?, attempts = ?, error = ?, due_us = ?, ended_us = ? \
             WHERE notification_id = ? AND state = 'waiting'",
        )
        .bind(state)
        .bind(i64::from(attempts))
        .bind(error)
        .bind(due.timestamp_micros())
        .bind((state != "waiting").then_some(now.timestamp_micros()))
        .bind(self.id)
        .execute(tx.conn())
        .await
        .map_err(failed)?;
        tx.commit().await
    }
}

/// The client of webhooks. It follows no redirects: whoever deploys names where it goes.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) without certificates of the system.
pub(crate) fn client() -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .timeout(WEBHOOK_TIME)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("skep/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| Error::internal("cannot make a client for webhooks").source(e))
}

async fn post(client: &reqwest::Client, url: &url::Url, body: &str) -> Sent {
    let request = client.post(url.clone()).header("content-type", "application/json").body(body.to_owned());
    let answer = match request.send().await {
        Ok(answer) => answer.status(),
        // Its address may hold a secret.
        Err(error) => return Sent::NotYet(chain(&error.without_url())),
    };
    let said = || format!("the webhook answered {answer}");
    match answer.as_u16() {
        200..=299 => Sent::Yes,
        408 | 429 | 500..=599 => Sent::NotYet(said()),
        _ => Sent::Never(said()),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text += &format!(": {inner}");
        source = inner.source();
    }
    text
}

/// Runs a program with the facts in its environment, and all of the body on its stdin.
async fn run(words: &[String], body: &str) -> Sent {
    let Some((program, arguments)) = words.split_first() else {
        return Sent::Never("the command is empty".to_owned());
    };
    let facts: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let fact = |(name, value): (&String, &serde_json::Value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (format!("SKEP_{}", name.to_ascii_uppercase()), text)
    };
    let variables = facts.as_object().into_iter().flatten().map(fact);
    let spawned = tokio::process::Command::new(program)
        .args(arguments)
        .envs(variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return Sent::Never(format!("'{program}' cannot be run: {error}")),
    };
    let ended = async {
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read is none the worse for it.
            let _ = stdin.write_all(body.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    match tokio::time::timeout(COMMAND_TIME, ended).await {
        Err(_) => Sent::NotYet(format!("'{program}' did not end within {COMMAND_TIME:?}")),
        Ok(Err(error)) => Sent::NotYet(format!("'{program}' was lost: {error}")),
        Ok(Ok(output)) if output.status.success() => Sent::Yes,
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Sent::NotYet(format!("'{program}' ended with {}: {}", output.status, said.trim()))
        }
    }
}
