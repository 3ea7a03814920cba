//! The command line. Help text, and what later becomes man page and completions, come from here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use skep_metadb::Location;

use crate::config::{FLIGHT_PORT, HTTP_PORT, StoreKind};
use crate::drill::{CorruptWanted, Delay, KillWanted, PauseWanted};

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
    Drill(Drill),
    /// Look at the replicated store and the nodes that hold it; copy files in and out; take nodes away
    Store(Store),
    Pipeline(Pipeline),
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
    /// All that the process may allocate, what queries use beside --memory included; a third more than --memory, and at
    /// least 512MiB more, unless said
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory_limit: Option<skep_common::ByteSize>,
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
    #[arg(long, value_name = "URL", conflicts_with = "data", env = "SKEP_URL", hide_env_values = true)]
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
    /// The data folder; its `flights` is the project, written there if it is not
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

/// Run a script on a cluster whose workers die, and compare its answers with those of one node
///
/// Starts a coordinator and workers as processes of this program in a temporary folder, runs SCRIPT once on one node and
/// once on them under the faults, compares every answer, and prints each fault, each automatic action, and a line that
/// replays the drill. The seed draws what the options leave open, and without options the faults themselves. Ends with
/// exit code 0 only if every answer is equal; 5: all equal, but a fault that was asked for never happened.
#[derive(Debug, Args)]
pub(crate) struct Drill {
    /// The SQL script; it loads what it queries
    #[arg(value_name = "SCRIPT.sql")]
    pub(crate) script: PathBuf,
    /// What every draw begins with; a new one unless said
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Kill a worker as kill -9 does when stage K of a statement has begun: worker@stage:2, w3@stage:1@statement:5.
    /// `worker` is drawn; without a statement it happens in each that has the stage, with `@statement:5+` in the first from 5
    /// on. The worker starts again after the statement
    #[arg(long, value_name = "WORKER@stage:K[@statement:N[+]]")]
    pub(crate) kill: Vec<KillWanted>,
    /// Hold calls between nodes back: rpc:20% of them by up to 50 ms, rpc:20%:200 by up to 200
    #[arg(long, value_name = "rpc:P%[:MS]")]
    pub(crate) delay: Option<Delay>,
    /// Damage a block on the disk of a worker before a statement: block, block:w2, block@statement:4
    #[arg(long, value_name = "block[:WORKER][@statement:N]")]
    pub(crate) corrupt: Vec<CorruptWanted>,
    /// Stop a worker in the middle of a statement, for 5 seconds unless said: worker, w2:10, worker:3@statement:6
    #[arg(long, value_name = "WORKER[:SECONDS][@statement:N]")]
    pub(crate) pause: Vec<PauseWanted>,
    /// Where statements run. In the pipelined lane a statement may end with one retryable error, and is run again
    #[arg(long, value_enum, default_value_t = DrillLane::Durable)]
    pub(crate) lane: DrillLane,
    /// How many workers
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..=16))]
    pub(crate) workers: u16,
    /// How long one statement may take before it counts as hanging
    #[arg(long, value_name = "TIME", default_value = "2min", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Leave the folder with the data and the logs of the processes
    #[arg(long)]
    pub(crate) keep: bool,
}

/// A lane over workers
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DrillLane {
    /// Stage by stage, with outputs on disk
    Durable,
    /// All stages at once
    Pipelined,
}

fn duration(text: &str) -> Result<Duration, String> {
    skep_common::unit::parse_duration(text)
        .map_err(|error| format!("{}: {}", error.message(), error.hint_text().unwrap_or_default()))
}

#[derive(Debug, Args)]
pub(crate) struct Store {
    #[command(flatten)]
    pub(crate) place: StorePlace,
    #[command(subcommand)]
    pub(crate) command: StoreCommand,
}

/// Build tables by projects of SQL: models, tests, one commit for all
///
/// A project is a folder: `pipeline.toml`, `models/SCHEMA/NAME.sql` (one SELECT each), `tests/NAME.sql`, `seeds/NAME.csv`. docs/pipelines.md
/// says what they hold.
#[derive(Debug, Args)]
pub(crate) struct Pipeline {
    #[command(subcommand)]
    pub(crate) command: PipelineCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PipelineCommand {
    /// Write a small project that works
    Init {
        /// Its folder, which must not be there or be empty
        folder: PathBuf,
    },
    /// Say what is wrong with a project, without running anything but its unit tests
    Check(PipelineRun),
    /// Run the unit tests of models, over rows of their own: no server, no data
    Test {
        #[command(flatten)]
        project: PipelineProject,
    },
    /// Run what is to be done, test it, and publish all of it in one commit, or nothing
    Run(PipelineRun),
    /// Go on with a failed run from the model that failed
    Retry {
        #[command(flatten)]
        run: PipelineRun,
        /// Its number; the latest of the project unless said
        #[arg(long = "run", value_name = "NUMBER", default_value_t = 0)]
        number: i64,
    },
    /// Store a version of a project in the catalog, and have its schedules run it from now on
    ///
    /// The project is checked first. A version is never changed: the same files again are the same version. Loads and file reads
    /// start at the project's folder, which must be there when the schedules run.
    Deploy {
        /// The folder of the project; with --version also the name of the pipeline
        #[arg(default_value = ".")]
        project: PathBuf,
        #[command(flatten)]
        place: PipelinePlace,
        /// The environment, as pipeline.toml names it; production unless said
        #[arg(long, value_name = "NAME")]
        env: Option<String>,
        /// Go back to this version instead
        #[arg(long, value_name = "NUMBER")]
        version: Option<i64>,
        /// Events as lines of JSON on stdout
        #[arg(long)]
        json: bool,
    },
    /// Make the intervals of a range again, chunk by chunk, the newest first: each chunk is a run and a commit of its own
    Backfill(PipelineBackfill),
    /// Publish what an environment has, and was tested there, as production: in one commit
    Promote(PipelinePromote),
    /// Give up what a failed run staged: nobody reads it or goes on with it any more
    Drop {
        /// The run
        run: i64,
        #[command(flatten)]
        place: PipelinePlace,
    },
    /// List schedules: what they do, when they came last and when they come next
    Schedules {
        #[command(flatten)]
        place: PipelinePlace,
    },
    /// Keep schedules from beginning runs; what goes on goes on
    Pause(PipelineSchedule),
    /// Have paused schedules go on; what came meanwhile is caught up as their catch_up says
    Resume(PipelineSchedule),
    /// Print what a run told, line by line, with the time
    Logs {
        /// Its number; the latest unless said
        run: Option<i64>,
        #[command(flatten)]
        place: PipelinePlace,
        /// Go on until the run is over
        #[arg(long, short)]
        follow: bool,
        /// Lines of JSON
        #[arg(long)]
        json: bool,
    },
    /// List models with their kinds, files and tags
    Ls {
        #[command(flatten)]
        project: PipelineProject,
    },
    /// Draw which models read which
    Graph {
        #[command(flatten)]
        project: PipelineProject,
        /// text, mermaid or json
        #[arg(long, value_name = "FORM", default_value = "text")]
        format: String,
    },
    /// Show the latest runs, and the models and tests of the last one
    Status {
        #[command(flatten)]
        place: PipelinePlace,
        /// The models and tests of this run
        #[arg(long = "run", value_name = "NUMBER")]
        number: Option<i64>,
    },
}

/// Which schedules
#[derive(Debug, Args)]
pub(crate) struct PipelineSchedule {
    /// NAME of a pipeline for all of its schedules, or NAME/SCHEDULE
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) place: PipelinePlace,
    /// The environment; production unless said
    #[arg(long, value_name = "NAME")]
    pub(crate) env: Option<String>,
}

/// Which project, and what of it
#[derive(Debug, Args)]
pub(crate) struct PipelineProject {
    /// The folder of the project
    #[arg(default_value = ".")]
    pub(crate) project: PathBuf,
    /// Models: names, `+name` with all that it reads, `name+` with all that reads it, `tag:x`, `path:models/mart`, `state:modified`; a comma for both
    #[arg(long, short, value_name = "MODELS", num_args = 1..)]
    pub(crate) select: Vec<String>,
    /// Without these
    #[arg(long, value_name = "MODELS", num_args = 1..)]
    pub(crate) exclude: Vec<String>,
    /// Another value for a variable of the project
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) vars: Vec<(String, String)>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// The server, or a data folder that is opened for as long as the command runs
#[derive(Debug, Args)]
pub(crate) struct PipelinePlace {
    /// The server, grpc://HOST:PORT
    #[arg(long, value_name = "URL", conflicts_with = "data", env = "SKEP_URL")]
    pub(crate) url: Option<String>,
    /// A data folder, served or not
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

/// What to run where
#[derive(Debug, Args)]
pub(crate) struct PipelineRun {
    #[command(flatten)]
    pub(crate) project: PipelineProject,
    #[command(flatten)]
    pub(crate) place: PipelinePlace,
    /// The environment that is written to, as pipeline.toml names it; production unless said
    #[arg(long, value_name = "NAME")]
    pub(crate) env: Option<String>,
    /// Make the intervals from here on again, whatever was made; with --end
    #[arg(long, value_name = "TIME", requires = "end")]
    pub(crate) start: Option<String>,
    /// Up to here
    #[arg(long, value_name = "TIME", requires = "start")]
    pub(crate) end: Option<String>,
    /// Make every model from nothing
    #[arg(long)]
    pub(crate) full_refresh: bool,
    /// The lane: durable, pipelined, local or auto; what pipeline.toml says, or durable, unless said
    #[arg(long, value_name = "LANE")]
    pub(crate) execution: Option<String>,
    /// Events as lines of JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which environment
#[derive(Debug, Args)]
pub(crate) struct PipelinePromote {
    #[command(flatten)]
    pub(crate) project: PipelineProject,
    #[command(flatten)]
    pub(crate) place: PipelinePlace,
    /// The environment, as pipeline.toml names it
    #[arg(long, value_name = "NAME")]
    pub(crate) env: String,
    /// Also where production has changes or intervals that the environment does not know of
    #[arg(long)]
    pub(crate) force: bool,
    /// The lane: durable, pipelined, local or auto; what pipeline.toml says, or durable, unless said
    #[arg(long, value_name = "LANE")]
    pub(crate) execution: Option<String>,
    /// Events as lines of JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which range
#[derive(Debug, Args)]
pub(crate) struct PipelineBackfill {
    #[command(flatten)]
    pub(crate) project: PipelineProject,
    #[command(flatten)]
    pub(crate) place: PipelinePlace,
    /// The environment that is written to, as pipeline.toml names it; production unless said
    #[arg(long, value_name = "NAME")]
    pub(crate) env: Option<String>,
    /// The first interval
    #[arg(long, value_name = "TIME", required_unless_present = "resume", conflicts_with = "resume")]
    pub(crate) start: Option<String>,
    /// Where the range ends
    #[arg(long, value_name = "TIME", required_unless_present = "resume", conflicts_with = "resume")]
    pub(crate) end: Option<String>,
    /// Intervals of a chunk, of the coarsest grain of the models
    #[arg(long, value_name = "INTERVALS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) chunk: u32,
    /// Wait between two chunks, such as 10s; with --resume another time than before
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) pause: Option<Duration>,
    /// How long a chunk waits for another run, or for commits that come in its way
    #[arg(long, value_name = "TIME", default_value = "10min", value_parser = duration)]
    pub(crate) wait: Duration,
    /// The oldest chunk first
    #[arg(long)]
    pub(crate) oldest_first: bool,
    /// Go on with one that failed or was interrupted, as it was begun; the latest unless a number is given
    #[arg(long, value_name = "NUMBER", num_args = 0..=1, default_missing_value = "0")]
    pub(crate) resume: Option<i64>,
    /// The lane: durable, pipelined, local or auto; what pipeline.toml says, or durable, unless said
    #[arg(long, value_name = "LANE")]
    pub(crate) execution: Option<String>,
    /// Events as lines of JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which store
#[derive(Debug, Args)]
pub(crate) struct StorePlace {
    /// The data folder of a cluster in one process, served or not
    #[arg(long, value_name = "DIR", default_value = "skep-data", global = true)]
    pub(crate) data: PathBuf,
    /// The config file of a node of a cluster of processes: says where the coordinator is, and the cluster's secret
    #[arg(long, value_name = "FILE", conflicts_with = "data", global = true)]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    #[command(flatten)]
    Files(Files),
    /// List blocks that are not healthy; ends with exit code 1 if there are any
    Fsck {
        /// A file or folder; all unless said
        path: Option<String>,
        /// Healthy blocks too
        #[arg(long)]
        all: bool,
    },
    /// Count files, blocks, replicas, and what is being done about them
    Report,
    /// List the nodes that hold blocks
    Nodes,
    /// Move blocks until every node is about as full as the others; goes on until the coordinator ends
    Balance {
        /// How far a node's fullness may be from that of all, in percent; `[store] balance_percent` unless said
        #[arg(long, value_name = "N")]
        percent: Option<u32>,
    },
    /// Have every block of a node copied elsewhere, so that it can be taken away; `nodes` says when it is drained
    Drain {
        /// The node
        node: String,
    },
    /// A node that was being drained is to stay
    Undrain {
        /// The node
        node: String,
    },
    /// A node may be away for a while without its blocks being copied elsewhere
    Maintain {
        /// The node
        node: String,
        /// For how long, such as 2h
        time: String,
    },
    /// The maintenance of a node is over
    Resume {
        /// The node
        node: String,
    },
    /// A node never comes back: forget it. Refused while a block is on it alone
    Remove {
        /// The node
        node: String,
    },
}

/// Files of the store. Paths are as in skep://blocks/PATH
#[derive(Debug, Subcommand)]
pub(crate) enum Files {
    /// List a folder, or a file
    Ls {
        /// The folder; the root unless said
        path: Option<String>,
        /// Every file below it
        #[arg(short, long)]
        recursive: bool,
    },
    /// Write a file to stdout
    Cat {
        /// The file
        path: String,
    },
    /// Copy a file of this machine into the store
    Put {
        /// The file of this machine
        from: PathBuf,
        /// Its path in the store
        path: String,
        /// Replace what is there
        #[arg(long)]
        replace: bool,
    },
    /// Copy a file out of the store; a file that is there is not replaced
    Get {
        /// The file
        path: String,
        /// Where to: a file or a folder of this machine
        #[arg(default_value = ".")]
        to: PathBuf,
    },
    /// Remove files. Tables keep theirs under their schema: removing those loses rows
    Rm {
        /// The files
        #[arg(required = true)]
        paths: Vec<String>,
        /// Folders with everything below them
        #[arg(short, long)]
        recursive: bool,
    },
    /// Give a file another path; what is there is not replaced
    Mv {
        /// The file
        from: String,
        /// Its new path
        to: String,
    },
    /// Copy a file; the copy shares its blocks. What is there is not replaced
    Cp {
        /// The file
        from: String,
        /// The path of the copy
        to: String,
    },
    /// Add up bytes and files below a folder
    Du {
        /// The folder; the root unless said
        path: Option<String>,
    },
    /// Show a file, its blocks, and who holds them
    Stat {
        /// The file
        path: String,
    },
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
