//! The skep binary: subcommands, and the wiring of roles. Nothing else.
//!
//! ```text
//! skep up            cluster::Cluster: coordinator and workers of one folder in one process
//! skep coordinator   node::CoordinatorNode                     skep worker   node::WorkerNode
//! skep sql           repl over a URL, or over a Cluster of its own
//! skep store         the files of the replicated store, and the nodes that hold them
//! skep pipeline      projects of SQL models: check, run, look at them
//! skep admin         the catalog of a folder: backup, restore, check
//! skep demo          a Cluster, and the SQL of demo/flights run through it
//! skep drill         processes of this program under faults, and a script run on them
//! ```

mod admin;
mod cli;
mod cluster;
mod config;
mod demo;
mod drill;
mod folder;
mod memory;
mod node;
mod pipeline;
mod signal;
mod sql;
mod standby;
mod store;

use std::process::ExitCode;

use clap::Parser;
use skep_common::{Error, Kind};

use crate::cli::{Cli, Command};

/// Plans of many joins recurse deeply. Only what is used of it takes memory.
const STACK_BYTES: usize = 64 << 20;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = init_log(&cli.log) {
        return fail(&error);
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK_BYTES).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => return fail(&Error::internal("cannot start the async runtime").source(e)),
    };
    let code = match runtime.block_on(run(cli.command)) {
        Ok(code) => code,
        Err(error) => fail(&error),
    };
    // A thread that waits for a terminal must not hold up the end.
    runtime.shutdown_background();
    code
}

async fn run(command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Up(args) => cluster::up(args).await,
        Command::Coordinator(args) => node::coordinator(args).await,
        Command::Worker(args) => node::worker(args).await,
        Command::Sql(args) => sql::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Drill(args) => drill::run(args).await,
        Command::Store(args) => store::run(args).await,
        Command::Pipeline(args) => pipeline::run(args).await,
        Command::Admin(args) => admin::run(args.command).await,
    }
}

const QUIET: &str = "ballista_scheduler=off,ballista_core=error";

fn init_log(filter: &str) -> Result<(), Error> {
    // Ballista warns of what is usual with workers that fetch their tasks; its own levels can be named.
    let filter = if filter.contains("ballista") { filter.to_owned() } else { format!("{filter},{QUIET}") };
    let filter = tracing_subscriber::EnvFilter::try_new(&filter).map_err(|e| {
        Error::invalid(format!("'{filter}' is not a log filter"))
            .hint("write a level (error, warn, info, debug) or a filter such as warn,skep_coordinator=debug")
            .source(e)
    })?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    Ok(())
}

/// Prints an error that ends the program, and gives the exit code for its kind.
fn fail(error: &Error) -> ExitCode {
    eprintln!("error: {}", error.report());
    if let Some(hint) = error.hint_text() {
        eprintln!("hint: {hint}");
    }
    exit_code(error.kind())
}

fn exit_code(kind: Kind) -> ExitCode {
    ExitCode::from(match kind {
        Kind::Invalid | Kind::NotFound | Kind::AlreadyExists | Kind::Unsupported | Kind::Corrupt => 2,
        Kind::Denied | Kind::Unavailable | Kind::Deadline => 3,
        Kind::Cancelled => 4,
        Kind::Conflict | Kind::Exhausted | Kind::NoSpace | Kind::Internal => 1,
    })
}
