//! `skep pipeline promote`: asks for an environment to be published as production.
//!
//! # Not here
//! Whether it may be: the coordinator looks.

use std::process::ExitCode;

use skep_common::Result;
use skep_pipeline::event::{Promote, Request};
use skep_pipeline::service::PROMOTE;

use super::screen::Screen;
use super::{body, call, requested, vars};
use crate::cli::PipelinePromote;

pub(super) async fn run(args: PipelinePromote) -> Result<ExitCode> {
    let request = Request {
        environment: Some(args.env),
        select: args.project.select.clone(),
        exclude: args.project.exclude.clone(),
        vars: vars(&args.project),
        execution: args.execution,
        ..requested(&args.project.project)?
    };
    let screen = Screen::new(args.json, request.bundle.clone())
        .interrupted("interrupted: nothing is promoted, unless the commit was made already");
    call(&args.place, PROMOTE, body(&Promote { request, force: args.force })?, screen).await
}
