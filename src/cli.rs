//! The command line. Help text, and what later becomes man page and completions, come from here.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use skep_metadb::Location;

use crate::config::{FLIGHT_PORT, HTTP_PORT, StoreKind};

/// A SQL warehouse in one program: lake, warehouse and mart over replicated Parquet
///
/// Start with `skep demo`, which builds a small warehouse from real flight records and shows it. `skep up` serves a
/// whole cluster from one folder; `skep sql` is the shell.
#[derive(Debug, Parser)]
#[command(name = "skep", version, max_term_width = 110, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// What to log on stderr: error, warn, info, debug, or a filter such as `warn,skep_coordinator=debug`
    #[arg(long, global = true, env = "SKEP_LOG", default_value = "warn", value_name = "FILTER")]
    pub(crate) log: String,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 a statement failed, 2 wrong usage or configuration, 3 cannot connect \
                          or not allowed, 4 cancelled, 5 partly failed.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Up(Up),
    /// Serve the coordinator of a cluster of processes
    Coordinator(Role),
    /// Serve one worker of a cluster of processes
    Worker(Role),
    Sql(Sql),
    Demo(Demo),
    /// Back the catalog up, restore it, check it
    Admin(Admin),
}

/// Serve a whole cluster from this process: coordinator, workers, replicated store
///
/// Prints one line when it serves, `ready flight=grpc://HOST:PORT http=http://HOST:PORT`, and stops at ctrl-c or
/// SIGTERM. Everything lies under the data folder; starting again on it finds everything again.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The data folder; created if missing, locked while served
    #[arg(long, value_name = "DIR", default_value = "skep-data")]
    pub(crate) data: PathBuf,
    /// How many workers, each with a folder of blocks of its own; at least as many as the folder already has
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) workers: Option<u16>,
    /// Where Flight SQL listens; port 0 picks a free one
    #[arg(long, value_name = "HOST:PORT", default_value_t = SocketAddr::from(([127, 0, 0, 1], FLIGHT_PORT)))]
    pub(crate) flight: SocketAddr,
    /// Where HTTP listens (/livez, /readyz); port 0 picks a free one
    #[arg(long, value_name = "HOST:PORT", default_value_t = SocketAddr::from(([127, 0, 0, 1], HTTP_PORT)))]
    pub(crate) http: SocketAddr,
    /// Where tables keep their files, chosen when the folder is created
    #[arg(long, value_enum)]
    pub(crate) store: Option<StoreKind>,
    /// The catalog's database: a PostgreSQL server, postgres://USER@HOST/DATABASE, whose password PGPASSWORD or
    /// ~/.pgpass may hold, or an SQLite file. A new folder remembers a server; unless said, a folder holds its catalog
    #[arg(long, value_name = "LOCATION", env = "SKEP_CATALOG", hide_env_values = true)]
    pub(crate) catalog: Option<Location>,
    /// Memory for queries, such as 4GiB; 60 % of the machine's unless said
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<skep_common::ByteSize>,
}

/// Serve one role of a cluster of processes
///
/// Prints one line when it serves: `ready ...`. docs/operations.md lists the keys of the config file; each can be
/// overridden by an environment variable, SKEP__SECTION__KEY.
#[derive(Debug, Args)]
pub(crate) struct Role {
    /// The config file (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

/// Run SQL, or open the shell
///
/// Without --url and --data it connects to the default address, grpc://127.0.0.1:8815. With --data it connects to the
/// server of that folder, or, when nobody serves it, opens the folder itself for as long as it runs.
#[derive(Debug, Args)]
pub(crate) struct Sql {
    /// The server, grpc://HOST:PORT
    #[arg(long, value_name = "URL", conflicts_with = "data", env = "SKEP_URL")]
    pub(crate) url: Option<String>,
    /// A data folder
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The catalog's database: a PostgreSQL server, postgres://USER@HOST/DATABASE, whose password PGPASSWORD or
    /// ~/.pgpass may hold, or an SQLite file. A new folder remembers a server; unless said, a folder holds its catalog
    #[arg(long, requires = "data", value_name = "LOCATION", env = "SKEP_CATALOG", hide_env_values = true)]
    pub(crate) catalog: Option<Location>,
    #[command(flatten)]
    pub(crate) shell: skep_repl::Args,
}

/// Build lake, warehouse and mart from real flight records, and show them
///
/// Writes the raw files (CSV, JSON lines, gzip) into the data folder, starts a cluster of three workers on it, loads
/// the files into `lake`, builds `warehouse` and `mart` by SQL that the workers run, and prints what came out.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// The data folder; the demo's tables in it are built anew
    #[arg(long, value_name = "DIR", default_value = "skep-data")]
    pub(crate) data: PathBuf,
    /// Keep serving when done, until ctrl-c
    #[arg(long)]
    pub(crate) stay: bool,
    /// Where tables keep their files, chosen when the folder is created
    #[arg(long, value_enum)]
    pub(crate) store: Option<StoreKind>,
    /// Where Flight SQL listens; port 0 picks a free one
    #[arg(long, value_name = "HOST:PORT", default_value_t = SocketAddr::from(([127, 0, 0, 1], 0)))]
    pub(crate) flight: SocketAddr,
    /// Where HTTP listens; port 0 picks a free one
    #[arg(long, value_name = "HOST:PORT", default_value_t = SocketAddr::from(([127, 0, 0, 1], 0)))]
    pub(crate) http: SocketAddr,
}

#[derive(Debug, Args)]
pub(crate) struct Admin {
    #[command(subcommand)]
    pub(crate) command: AdminCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AdminCommand {
    Backup(Backup),
    Restore(Restore),
    Check(Check),
}

/// Which catalog
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The data folder
    #[arg(long, value_name = "DIR", default_value = "skep-data")]
    pub(crate) data: PathBuf,
    /// The catalog's database, if it is not the one that the folder holds or remembers: postgres://... or a file
    #[arg(long, value_name = "LOCATION", env = "SKEP_CATALOG", hide_env_values = true)]
    pub(crate) catalog: Option<Location>,
}

/// Copy the catalog, and the map of blocks, into a new folder, as of one moment
///
/// Works while the folder is served. The tables' files are not copied: blocks are replicated, and nothing that the copy
/// names is deleted before VACUUM.
#[derive(Debug, Args)]
pub(crate) struct Backup {
    #[command(flatten)]
    pub(crate) place: Place,
    /// The folder of the copy; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
}

/// Bring the catalog of a backup into a folder, or a database, that nobody serves
///
/// A copy taken from SQLite can be brought to PostgreSQL, and the other way round: this is how a catalog moves.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    pub(crate) place: Place,
    /// The folder of the copy
    #[arg(long, value_name = "DIR")]
    pub(crate) from: PathBuf,
    /// Replace a catalog file that is there; it is kept beside the new one, with .replaced at the end of its name
    #[arg(long)]
    pub(crate) force: bool,
}

/// Look for broken invariants of the catalog, and say each in a line
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) place: Place,
}
