//! What the tables about pipelines say, for people.
//!
//! # Not here
//! The tables that are read: schema `system` of the coordinator.

use std::process::ExitCode;

use skep_common::{Error, Result};
use skep_repl::{Answer, Session};

use super::session;
use crate::cli::PipelinePlace;

/// The latest runs, and one of them whole.
pub(super) async fn status(place: &PipelinePlace, number: Option<i64>) -> Result<ExitCode> {
    let (mut session, own) = session(place).await?;
    let shown = show_status(&mut session, number).await;
    drop(session);
    if let Some(own) = own {
        own.stop().await;
    }
    shown.map(|()| ExitCode::SUCCESS)
}

async fn show_status(session: &mut Session, number: Option<i64>) -> Result<()> {
    let runs = "SELECT run_id, pipeline, environment, state, began_at, ended_at, snapshot_id, error \
                FROM system.pipeline_runs ORDER BY run_id DESC LIMIT 20";
    print_rows(session, runs).await?;
    let number = match number {
        Some(number) => number.to_string(),
        None => "(SELECT max(run_id) FROM system.pipeline_runs)".to_owned(),
    };
    let models = format!(
        "SELECT model, kind, state, row_count, took_ms, note FROM system.pipeline_models WHERE run_id = {number} ORDER BY position"
    );
    print_rows(session, &models).await?;
    let tests = format!(
        "SELECT model, test, state, failures, note FROM system.pipeline_tests WHERE run_id = {number} AND state <> 'done' ORDER BY 1, 2"
    );
    print_rows(session, &tests).await
}

/// Prints the rows of a query as a table; nothing if there are none.
pub(super) async fn print_rows(session: &mut Session, sql: &str) -> Result<()> {
    print_some(session, sql).await.map(drop)
}

/// As [`print_rows`]; whether there were some.
pub(super) async fn print_some(session: &mut Session, sql: &str) -> Result<bool> {
    let Answer::Rows(_, batches) = session.run(sql).await? else { return Ok(false) };
    let some = batches.iter().any(|batch| batch.num_rows() > 0);
    if some {
        let text = arrow::util::pretty::pretty_format_batches(&batches)
            .map_err(|e| Error::internal("rows cannot be shown").source(e))?;
        println!("{text}");
    }
    Ok(some)
}
