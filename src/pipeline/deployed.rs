//! What is deployed, and the schedules that run it.
//!
//! # Not here
//! When versions run: the coordinator's schedules.

use std::path::Path;
use std::process::ExitCode;

use futures::StreamExt;
use skep_common::{Error, Result};
use skep_pipeline::bundle::SETTINGS;
use skep_pipeline::deploy::Deploy;
use skep_pipeline::event::Request;
use skep_pipeline::log::{Line, Logs};
use skep_pipeline::service::{DEPLOY, LOGS, PAUSE, Pause};
use skep_pipeline::{Bundle, Project};
use skep_repl::Session;

use super::screen::{Screen, wrong};
use super::status::print_some;
use super::{NOBODY_SERVES, body, call, requested, session};
use crate::cli::{PipelinePlace, PipelineSchedule};

/// `skep pipeline deploy`
pub(super) async fn deploy(
    project: &Path,
    place: &PipelinePlace,
    environment: Option<String>,
    version: Option<i64>,
    json: bool,
) -> Result<ExitCode> {
    let mut deploy = Deploy { version, ..Deploy::default() };
    deploy.request.environment = environment;
    if version.is_some() {
        let Some(name) = name(project)? else { return Ok(ExitCode::from(1)) };
        deploy.pipeline = Some(name);
    } else {
        deploy.request = Request { environment: deploy.request.environment, ..requested(project)? };
    }
    call(place, DEPLOY, body(&deploy)?, Screen::new(json, deploy.request.bundle)).await
}

/// `skep pipeline pause`, and `resume`
pub(super) async fn pause(which: PipelineSchedule, paused: bool) -> Result<ExitCode> {
    let pause = Pause { name: which.name, environment: which.env, paused };
    call(&which.place, PAUSE, body(&pause)?, Screen::new(false, Bundle::default())).await
}

/// `skep pipeline schedules`
pub(super) async fn schedules(place: &PipelinePlace) -> Result<ExitCode> {
    let (mut session, own) = session(place).await?;
    let sql = "SELECT pipeline, schedule, environment, version, state, cron, time_zone, last_at, last_state, next_at \
               FROM system.pipeline_schedules ORDER BY 1, 2, 3";
    let shown = print_some(&mut session, sql).await;
    drop(session);
    if matches!(shown, Ok(false)) {
        eprintln!("no schedule is deployed: skep pipeline deploy PROJECT");
    }
    if let Some(own) = own {
        own.stop().await;
        eprintln!("{NOBODY_SERVES}");
    }
    shown.map(|_| ExitCode::SUCCESS)
}

/// `skep pipeline logs`
pub(super) async fn logs(
    place: &PipelinePlace,
    run: Option<i64>,
    follow: bool,
    json: bool,
) -> Result<ExitCode> {
    let body = body(&Logs { run, follow })?;
    let (mut session, own) = session(place).await?;
    let mut screen = Screen::new(json, Bundle::default());
    let shown = print_lines(&mut session, body, &mut screen).await;
    drop(session);
    if let Some(own) = own {
        own.stop().await;
    }
    shown
}

async fn print_lines(session: &mut Session, body: Vec<u8>, screen: &mut Screen) -> Result<ExitCode> {
    let mut answers = session.action(LOGS, body).await?;
    loop {
        let answer = tokio::select! {
            answer = answers.next() => answer,
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(4)),
        };
        let Some(answer) = answer else { return Ok(ExitCode::SUCCESS) };
        let answer = answer?;
        let line: Line = serde_json::from_slice(&answer)
            .map_err(|e| Error::internal("the server told something else than a line").source(e))?;
        screen.show_line(&line, &answer)?;
    }
}

/// The name of a project, or of a pipeline whose folder is not here. None if the project is wrong, which is told.
fn name(project: &Path) -> Result<Option<String>> {
    if !project.join(SETTINGS).is_file() && project != Path::new(".") {
        return Ok(Some(project.display().to_string()));
    }
    let bundle = Bundle::read(project)?;
    match Project::read(&bundle, &Default::default()) {
        Ok(project) => Ok(Some(project.name().to_owned())),
        Err(problems) => {
            problems.iter().for_each(|problem| wrong(&problem.finding(), &bundle));
            Ok(None)
        }
    }
}
