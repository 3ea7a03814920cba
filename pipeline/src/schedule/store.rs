//! What is known of schedules, in the catalog's database.
//!
//! # Invariants
//! - A nominal time is one line: it is written once, and begun only by who finds it waiting.
//! - Whatever a scheduler writes is fenced by its lease, in the same transaction.
//!
//! # Not here
//! Deciding (`core`).

use chrono::{DateTime, Utc};
use skep_common::{Error, Result};
use skep_metadb::{MetaDb, WriteTx, database_error};

use super::spec::Spec;
use crate::ledger::Of;

const MIGRATIONS: &[&str] = &["
    CREATE TABLE skep_pipeline_version (
        pipeline TEXT NOT NULL, number BIGINT NOT NULL, version TEXT NOT NULL, directory TEXT NOT NULL, author TEXT NOT NULL,
        created_us BIGINT NOT NULL, bundle TEXT NOT NULL, PRIMARY KEY (pipeline, number));
    CREATE TABLE skep_pipeline_current (
        pipeline TEXT NOT NULL, environment TEXT NOT NULL, number BIGINT NOT NULL, author TEXT NOT NULL,
        deployed_us BIGINT NOT NULL, notify TEXT NOT NULL, PRIMARY KEY (pipeline, environment));
    CREATE TABLE skep_pipeline_schedule (
        pipeline TEXT NOT NULL, environment TEXT NOT NULL, schedule TEXT NOT NULL, spec TEXT NOT NULL, paused BIGINT NOT NULL,
        cursor_us BIGINT NOT NULL, failing BIGINT NOT NULL, PRIMARY KEY (pipeline, environment, schedule));
    CREATE TABLE skep_pipeline_tick (
        pipeline TEXT NOT NULL, environment TEXT NOT NULL, schedule TEXT NOT NULL, nominal_us BIGINT NOT NULL,
        state TEXT NOT NULL, missed BIGINT NOT NULL, attempt BIGINT NOT NULL, lost BIGINT NOT NULL, due_us BIGINT NOT NULL,
        late BIGINT NOT NULL, number BIGINT, run_id BIGINT, began_us BIGINT, ended_us BIGINT, note TEXT,
        PRIMARY KEY (pipeline, environment, schedule, nominal_us));
    CREATE INDEX skep_pipeline_tick_state ON skep_pipeline_tick (state);
    CREATE TABLE skep_pipeline_notification (
        notification_id BIGINT PRIMARY KEY NOT NULL, pipeline TEXT NOT NULL, environment TEXT NOT NULL, schedule TEXT NOT NULL,
        nominal_us BIGINT NOT NULL, run_id BIGINT, event TEXT NOT NULL, target TEXT NOT NULL, body TEXT NOT NULL,
        state TEXT NOT NULL, attempts BIGINT NOT NULL, due_us BIGINT NOT NULL, created_us BIGINT NOT NULL, ended_us BIGINT,
        error TEXT);
    CREATE INDEX skep_pipeline_notification_state ON skep_pipeline_notification (state);
    CREATE TABLE skep_pipeline_log (
        run_id BIGINT NOT NULL, position BIGINT NOT NULL, at_us BIGINT NOT NULL, event TEXT NOT NULL,
        PRIMARY KEY (run_id, position));
"];

/// Makes the tables, or brings them up to date.
///
/// # Errors
/// Those of the database.
pub(crate) async fn prepare(db: &MetaDb) -> Result<()> {
    db.migrate("pipeline_schedule", MIGRATIONS).await
}

pub(super) fn failed(error: sqlx::Error) -> Error {
    database_error("cannot write down what schedules do", error)
}

pub(super) fn to_json(spec: &Spec) -> Result<String> {
    serde_json::to_string(spec).map_err(|e| Error::internal("a schedule does not serialise").source(e))
}

/// A schedule as it is stored.
pub(super) fn of_json(of: &Of, name: &str, text: &str) -> Result<Spec> {
    serde_json::from_str(text).map_err(|e| {
        Error::corrupt(format!("schedule '{name}' of '{}' does not read", of.pipeline))
            .hint("deploy it again: skep pipeline deploy PROJECT")
            .source(e)
    })
}

/// The schedules of a pipeline in an environment are `specs` from here on. Those that were there go on, but for ones that
/// come at other times: they begin at `now`. What still waits of those that are gone is left out.
///
/// # Errors
/// Those of the database.
pub(crate) async fn replace(tx: &mut WriteTx, of: &Of, specs: &[Spec], now: DateTime<Utc>) -> Result<()> {
    let there: Vec<(String, String)> = sqlx::query_as(
        "SELECT schedule, spec FROM skep_pipeline_schedule WHERE pipeline = ? AND environment = ?",
    )
    .bind(&of.pipeline)
    .bind(&of.environment)
    .fetch_all(tx.conn())
    .await
    .map_err(failed)?;
    for (name, _) in there.iter().filter(|(name, _)| !specs.iter().any(|spec| spec.name == *name)) {
        for sql in [
            "DELETE FROM skep_pipeline_schedule WHERE pipeline = ? AND environment = ? AND schedule = ?",
            "UPDATE skep_pipeline_tick SET state = 'skipped', note = 'its schedule is no longer deployed' \
             WHERE state = 'waiting' AND pipeline = ? AND environment = ? AND schedule = ?",
        ] {
            sqlx::query(sql)
                .bind(&of.pipeline)
                .bind(&of.environment)
                .bind(name)
                .execute(tx.conn())
                .await
                .map_err(failed)?;
        }
    }
    for spec in specs {
        let old = there.iter().find(|(name, _)| *name == spec.name);
        let old = old.and_then(|(name, text)| of_json(of, name, text).ok());
        let same = old.is_some_and(|old| old.cron == spec.cron && old.time_zone == spec.time_zone);
        let cursor = if same { "skep_pipeline_schedule.cursor_us" } else { "excluded.cursor_us" };
        let sql = format!(
            "INSERT INTO skep_pipeline_schedule (pipeline, environment, schedule, spec, paused, cursor_us, failing) \
             VALUES (?, ?, ?, ?, 0, ?, 0) ON CONFLICT (pipeline, environment, schedule) DO UPDATE SET \
             spec = excluded.spec, cursor_us = {cursor}"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(&of.pipeline)
            .bind(&of.environment)
            .bind(&spec.name)
            .bind(to_json(spec)?)
            .bind(now.timestamp_micros())
            .execute(tx.conn())
            .await
            .map_err(failed)?;
    }
    Ok(())
}
