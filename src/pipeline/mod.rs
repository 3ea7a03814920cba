//! `skep pipeline`: a client of the actions that check and run projects, and what needs no server.
//!
//! ```text
//! screen       events and lists for people
//! status       what the tables say
//! deployed     deploy and what it leads to
//! drop_staged  what failed runs staged
//! backfill     a range of intervals, chunk by chunk
//! promote      an environment as production
//! unit         unit tests, in this process
//! ```
//!
//! # Not here
//! What runs mean: the coordinator does them, also when it is of this process.

mod backfill;
mod deployed;
mod drop_staged;
mod promote;
mod screen;
mod status;
mod unit;

use std::path::Path;
use std::process::ExitCode;

use futures::StreamExt;
use include_dir::{Dir, include_dir};
use skep_common::{Error, Kind, Result};
use skep_pipeline::event::{Event, Request, State};
use skep_pipeline::service::{CHECK, DEPLOY, RUN};
use skep_pipeline::{Bundle, Project};
use skep_repl::{Session, Target};

use crate::cli::{Pipeline, PipelineCommand, PipelinePlace, PipelineProject, PipelineRun};
use crate::cluster::Cluster;
use crate::sql::{Found, open};

use screen::{Screen, columns, wrong};
use status::status;

/// What `init` writes.
static FIRST: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/examples/first");

pub(crate) async fn run(args: Pipeline) -> Result<ExitCode> {
    match args.command {
        PipelineCommand::Init { folder } => init(&folder),
        PipelineCommand::Check(run) => act(CHECK, run, None).await,
        PipelineCommand::Test { project } => unit::run(&project).await,
        PipelineCommand::Run(run) => act(RUN, run, None).await,
        PipelineCommand::Retry { run, number } => act(RUN, run, Some(number)).await,
        PipelineCommand::Deploy { project, place, env, version, json } => {
            deployed::deploy(&project, &place, env, version, json).await
        }
        PipelineCommand::Schedules { place } => deployed::schedules(&place).await,
        PipelineCommand::Pause(which) => deployed::pause(which, true).await,
        PipelineCommand::Resume(which) => deployed::pause(which, false).await,
        PipelineCommand::Logs { run, place, follow, json } => deployed::logs(&place, run, follow, json).await,
        PipelineCommand::Ls { project } => {
            let Some((read, _)) = read(&project)? else { return Ok(ExitCode::from(2)) };
            let mut lines = vec![["MODEL", "KIND", "FILE", "TAGS", "TESTS"].map(str::to_owned)];
            lines.extend(read.listed(&project.select, &project.exclude)?);
            print!("{}", columns(&lines));
            Ok(ExitCode::SUCCESS)
        }
        PipelineCommand::Graph { project, format } => {
            let Some((read, _)) = read(&project)? else { return Ok(ExitCode::from(2)) };
            print!("{}", read.drawn(&format)?);
            Ok(ExitCode::SUCCESS)
        }
        PipelineCommand::Backfill(args) => backfill::run(args).await,
        PipelineCommand::Promote(args) => promote::run(args).await,
        PipelineCommand::Drop { run, place } => drop_staged::run(run, &place).await,
        PipelineCommand::Status { place, number } => status(&place, number).await,
    }
}

fn init(folder: &Path) -> Result<ExitCode> {
    let failed = |e: std::io::Error| {
        Error::invalid(format!("cannot write a project to '{}'", folder.display())).source(e)
    };
    let taken = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if taken {
        return Err(Error::already_exists(format!("'{}' is not empty", folder.display()))
            .hint("name a folder that is not there"));
    }
    std::fs::create_dir_all(folder).and_then(|()| FIRST.extract(folder)).map_err(failed)?;
    println!("A project is in '{0}'. Try: skep pipeline run {0} --data skep-data", folder.display());
    Ok(ExitCode::SUCCESS)
}

fn vars(project: &PipelineProject) -> std::collections::BTreeMap<String, String> {
    project.vars.iter().cloned().collect()
}

/// Reads a project, and prints what is wrong with it.
fn read(args: &PipelineProject) -> Result<Option<(Project, Bundle)>> {
    let bundle = Bundle::read(&args.project)?;
    match Project::read(&bundle, &vars(args)) {
        Ok(project) => Ok(Some((project, bundle))),
        Err(problems) => {
            problems.iter().for_each(|problem| wrong(&problem.finding(), &bundle));
            Ok(None)
        }
    }
}

/// A session with the server of `place`, and the cluster behind it if that is this process's own.
async fn session(place: &PipelinePlace) -> Result<(Session, Option<Own>)> {
    let Some(data) = &place.data else {
        let url = place.url.clone().unwrap_or_else(|| skep_repl::DEFAULT_URL.to_owned());
        return Ok((Session::connect(&url).await?, None));
    };
    match open(data, None).await? {
        Found::Served(endpoint) => Ok((Session::connect(&endpoint.flight).await?, None)),
        Found::Own(cluster) => {
            let (channel, door) = skep_server::flight::in_memory(cluster.coordinator().clone())?;
            let session = Session::open(&Target::Channel(channel)).await?;
            Ok((session, Some(Own { cluster, door: Box::new(door) })))
        }
    }
}

/// A cluster of this process, with its door.
struct Own {
    cluster: Box<Cluster>,
    door: Box<dyn std::any::Any + Send>,
}

impl Own {
    async fn stop(self) {
        drop(self.door);
        self.cluster.stop().await;
    }
}

/// The absolute path of a project.
fn folder(project: &Path) -> Result<String> {
    let folder = std::path::absolute(project)
        .map_err(|e| Error::invalid("the folder of the project has no path").source(e))?;
    Ok(folder.display().to_string())
}

/// The request for the project in `project` as it is.
fn requested(project: &Path) -> Result<Request> {
    Ok(Request { directory: Some(folder(project)?), bundle: Bundle::read(project)?, ..Request::default() })
}

/// Runs a project, and shows what a person sees of it.
pub(crate) async fn run_in(session: &mut Session, project: &Path) -> Result<ExitCode> {
    let request = requested(project)?;
    let body = body(&request)?;
    watch(session, RUN, body, &mut Screen::new(false, request.bundle)).await
}

async fn act(action: &str, args: PipelineRun, retry: Option<i64>) -> Result<ExitCode> {
    let request = Request {
        environment: args.env,
        select: args.project.select.clone(),
        exclude: args.project.exclude.clone(),
        start: args.start,
        end: args.end,
        full_refresh: args.full_refresh,
        vars: vars(&args.project),
        execution: args.execution,
        retry,
        ..requested(&args.project.project)?
    };
    call(&args.place, action, body(&request)?, Screen::new(args.json, request.bundle)).await
}

/// What an action is called with.
fn body(request: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(request).map_err(|e| Error::internal("a project does not serialise").source(e))
}

/// Calls an action and shows its events.
async fn call(place: &PipelinePlace, action: &str, body: Vec<u8>, mut screen: Screen) -> Result<ExitCode> {
    let (mut session, own) = session(place).await?;
    let ended = watch(&mut session, action, body, &mut screen).await;
    drop(session);
    if let Some(own) = own {
        own.stop().await;
        if action == DEPLOY && ended.as_ref().is_ok_and(|code| *code == ExitCode::SUCCESS) {
            eprintln!("{NOBODY_SERVES}");
        }
    }
    ended
}

/// What a folder without a server means for schedules.
const NOBODY_SERVES: &str = "nobody serves the folder: its schedules run while it is served, by skep up";

async fn watch(session: &mut Session, action: &str, body: Vec<u8>, screen: &mut Screen) -> Result<ExitCode> {
    let mut answers = session.action(action, body).await?;
    let mut end = None;
    loop {
        let answer = tokio::select! {
            answer = answers.next() => answer,
            _ = tokio::signal::ctrl_c() => {
                eprintln!("{}", screen.when_interrupted());
                return Ok(ExitCode::from(4));
            }
        };
        let Some(answer) = answer else { break };
        let answer = answer?;
        let event: Event = serde_json::from_slice(&answer)
            .map_err(|e| Error::internal("the server told something else than an event").source(e))?;
        if let Event::Over { state, .. } = &event {
            end = Some(*state);
        }
        screen.show(&event, &answer)?;
    }
    match end {
        Some(State::Done | State::Unchanged | State::Warned) => Ok(ExitCode::SUCCESS),
        Some(_) => Ok(ExitCode::from(1)),
        None => Err(Error::new(Kind::Unavailable, "the server ended the run without saying how it ended")
            .hint("skep pipeline status says what is known of it")),
    }
}
