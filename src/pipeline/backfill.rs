//! `skep pipeline backfill`: asks for the intervals of a range.
//!
//! # Not here
//! Cutting it, and making its chunks: the coordinator does.

use std::process::ExitCode;

use skep_common::Result;
use skep_pipeline::event::{Backfill, Request};
use skep_pipeline::service::BACKFILL;

use super::screen::Screen;
use super::{body, call, requested, vars};
use crate::cli::PipelineBackfill;

pub(super) async fn run(args: PipelineBackfill) -> Result<ExitCode> {
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let request = match args.resume {
        Some(_) => Request::default(),
        None => Request {
            environment: args.env,
            select: args.project.select.clone(),
            exclude: args.project.exclude.clone(),
            start: args.start,
            end: args.end,
            vars: vars(&args.project),
            execution: args.execution,
            ..requested(&args.project.project)?
        },
    };
    let bundle = request.bundle.clone();
    let asked = Backfill {
        request,
        chunk: args.chunk,
        pause_ms: args.pause.map(millis),
        wait_ms: millis(args.wait),
        oldest_first: args.oldest_first,
        resume: args.resume,
    };
    let screen = Screen::new(args.json, bundle).interrupted(
        "interrupted: what is published stays; skep pipeline backfill --resume goes on with the rest",
    );
    call(&args.place, BACKFILL, body(&asked)?, screen).await
}
