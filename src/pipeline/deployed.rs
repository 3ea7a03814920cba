//! What is deployed, and the schedules that run it.

use std::path::Path;
use std::process::ExitCode;

use skep_common::Result;
use skep_pipeline::bundle::SETTINGS;
use skep_pipeline::deploy::Deploy;
use skep_pipeline::event::Request;
use skep_pipeline::service::DEPLOY;
use skep_pipeline::{Bundle, Project};

use super::screen::{Screen, wrong};
use super::{body, call, requested};
use crate::cli::PipelinePlace;

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
