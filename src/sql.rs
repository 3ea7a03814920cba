//! `skep sql`: finds the server, or becomes one for as long as it runs.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use skep_common::{Result, clock};
use skep_metadb::Location;
use skep_repl::Target;

use crate::cli::Sql;
use crate::cluster::{Cluster, Options};
use crate::folder::{self, Endpoint};

/// How long to wait for a server that starts or stops, and how often to look.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// Runs the shell against `--url`, the server of `--data`, a cluster of its own on `--data`, or the default address.
pub(crate) async fn run(args: Sql) -> Result<ExitCode> {
    let Some(data) = args.data else {
        return Ok(code(skep_repl::run(args.shell, args.url.map(Target::Url)).await));
    };
    let cluster = match open(&data, args.catalog).await? {
        Found::Own(cluster) => cluster,
        Found::Served(endpoint) => {
            return Ok(code(skep_repl::run(args.shell, Some(Target::Url(endpoint.flight))).await));
        }
    };
    let (channel, door) = skep_server::flight::in_memory(cluster.coordinator().clone())?;
    let exit = skep_repl::run(args.shell, Some(Target::Channel(channel))).await;
    drop(door);
    cluster.stop().await;
    Ok(code(exit))
}

pub(crate) enum Found {
    /// A cluster of this process.
    Own(Box<Cluster>),
    /// Where the folder's server listens.
    Served(Endpoint),
}

/// Opens the folder, or finds its server. A server that starts or stops holds the folder while its door is closed: that
/// passes.
pub(crate) async fn open(data: &Path, catalog: Option<Location>) -> Result<Found> {
    let clock = clock::system();
    let start = clock.instant();
    loop {
        let error = match Cluster::start(Options::embedded(data, catalog.clone())).await {
            Ok(cluster) => return Ok(Found::Own(Box::new(cluster))),
            Err(error) if folder::is_in_use(&error) => error,
            Err(error) => return Err(error),
        };
        if let Some(endpoint) = folder::endpoint(data) {
            let address = endpoint.flight.rsplit('/').next().unwrap_or_default();
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return Ok(Found::Served(endpoint));
            }
        }
        if clock.instant() - start > PATIENCE {
            return Err(error);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn code(exit: skep_repl::Exit) -> ExitCode {
    ExitCode::from(exit as u8)
}
