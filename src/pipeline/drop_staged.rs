//! `skep pipeline drop`: gives up what a failed run staged.
//!
//! # Not here
//! What that is: the coordinator has it.

use std::process::ExitCode;

use skep_common::Result;
use skep_pipeline::Bundle;
use skep_pipeline::event::Dropped;
use skep_pipeline::service::DROP;

use super::screen::Screen;
use super::{body, call};
use crate::cli::PipelinePlace;

pub(super) async fn run(run: i64, place: &PipelinePlace) -> Result<ExitCode> {
    call(place, DROP, body(&Dropped { run })?, Screen::new(false, Bundle::default())).await
}
