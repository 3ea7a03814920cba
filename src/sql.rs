//! `skep sql`: finds the server, or becomes one for as long as it runs.

use std::process::ExitCode;

use skep_common::Result;
use skep_repl::Target;

use crate::cli::Sql;
use crate::cluster::{Cluster, Options};
use crate::folder;

/// Runs the shell against `--url`, the server of `--data`, a cluster of its own on `--data`, or the default address.
pub(crate) async fn run(args: Sql) -> Result<ExitCode> {
    let Some(data) = args.data else {
        let url = args.url.unwrap_or_else(|| skep_repl::DEFAULT_URL.to_owned());
        return Ok(code(skep_repl::run(args.shell, Target::Url(url)).await));
    };
    let cluster = match Cluster::start(Options::embedded(&data)).await {
        Ok(cluster) => cluster,
        Err(error) => match folder::endpoint(&data) {
            // The folder is in use, and its server said where it listens.
            Some(endpoint) if folder::is_in_use(&error) => {
                return Ok(code(skep_repl::run(args.shell, Target::Url(endpoint.flight)).await));
            }
            _ => return Err(error),
        },
    };
    let (channel, door) = skep_server::flight::in_memory(cluster.coordinator().clone())?;
    let exit = skep_repl::run(args.shell, Target::Channel(channel)).await;
    drop(door);
    cluster.stop().await;
    Ok(code(exit))
}

fn code(exit: skep_repl::Exit) -> ExitCode {
    ExitCode::from(exit as u8)
}
