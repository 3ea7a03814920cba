//! `skep pipeline`: a client of the actions that check and run projects, and what needs no server.
//!
//! # Not here
//! What runs mean: the coordinator does them, also when it is of this process.

use std::io::{IsTerminal, Write as _};
use std::path::Path;
use std::process::ExitCode;

use futures::StreamExt;
use skep_common::{Error, Kind, Result};
use skep_pipeline::event::{Event, Finding, Request, State};
use skep_pipeline::service::{CHECK, RUN};
use skep_pipeline::{Bundle, Project};
use skep_repl::{Answer, Session, Target};

use crate::cli::{Pipeline, PipelineCommand, PipelinePlace, PipelineProject, PipelineRun};
use crate::cluster::Cluster;
use crate::sql::{Found, open};

/// What `init` writes.
const FIRST: [(&str, &str); 5] = [
    ("pipeline.toml", include_str!("../examples/first/pipeline.toml")),
    ("models/lake/orders.sql", include_str!("../examples/first/models/lake/orders.sql")),
    ("models/mart/daily_revenue.sql", include_str!("../examples/first/models/mart/daily_revenue.sql")),
    ("tests/revenue_is_of_orders.sql", include_str!("../examples/first/tests/revenue_is_of_orders.sql")),
    ("raw/orders.csv", include_str!("../examples/first/raw/orders.csv")),
];

pub(crate) async fn run(args: Pipeline) -> Result<ExitCode> {
    match args.command {
        PipelineCommand::Init { folder } => init(&folder),
        PipelineCommand::Check(run) => act(CHECK, run, None).await,
        PipelineCommand::Run(run) => act(RUN, run, None).await,
        PipelineCommand::Retry { run, number } => act(RUN, run, Some(number)).await,
        PipelineCommand::Ls { project } => {
            let Some(read) = read(&project)? else { return Ok(ExitCode::from(2)) };
            let mut lines = vec![["MODEL", "KIND", "FILE", "TAGS", "TESTS"].map(str::to_owned)];
            lines.extend(read.listed(&project.select, &project.exclude)?);
            print!("{}", columns(&lines));
            Ok(ExitCode::SUCCESS)
        }
        PipelineCommand::Graph { project, format } => {
            let Some(read) = read(&project)? else { return Ok(ExitCode::from(2)) };
            print!("{}", read.drawn(&format)?);
            Ok(ExitCode::SUCCESS)
        }
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
    for (name, text) in FIRST {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(folder)).map_err(failed)?;
        std::fs::write(path, text).map_err(failed)?;
    }
    println!("A project is in '{0}'. Try: skep pipeline run {0} --data skep-data", folder.display());
    Ok(ExitCode::SUCCESS)
}

fn vars(project: &PipelineProject) -> std::collections::BTreeMap<String, String> {
    project.vars.iter().cloned().collect()
}

/// Reads a project, and prints what is wrong with it.
fn read(args: &PipelineProject) -> Result<Option<Project>> {
    let bundle = Bundle::read(&args.project)?;
    match Project::read(&bundle, &vars(args)) {
        Ok(project) => Ok(Some(project)),
        Err(problems) => {
            problems.iter().for_each(|problem| wrong(&problem.finding(), &bundle));
            Ok(None)
        }
    }
}

fn wrong(finding: &Finding, bundle: &Bundle) {
    let mut error = Error::invalid(finding.message.clone());
    if let Some(hint) = &finding.hint {
        error = error.hint(hint.clone());
    }
    if let Some(span) = finding.span {
        error = error.at(span);
    }
    let text = bundle.files.get(&finding.file).map(String::as_str).unwrap_or_default();
    skep_repl::report_in(&error, &finding.file, text);
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

async fn act(action: &str, args: PipelineRun, retry: Option<i64>) -> Result<ExitCode> {
    let bundle = Bundle::read(&args.project.project)?;
    let folder = std::path::absolute(&args.project.project)
        .map_err(|e| Error::invalid("the folder of the project has no path").source(e))?;
    let request = Request {
        directory: Some(folder.display().to_string()),
        environment: args.env,
        select: args.project.select.clone(),
        exclude: args.project.exclude.clone(),
        start: args.start,
        end: args.end,
        full_refresh: args.full_refresh,
        vars: vars(&args.project),
        execution: args.execution,
        retry,
        bundle,
    };
    let body = serde_json::to_vec(&request)
        .map_err(|e| Error::internal("a project does not serialise").source(e))?;
    let (mut session, own) = session(&args.place).await?;
    let mut screen = Screen::new(args.json, request.bundle);
    let ended = watch(&mut session, action, body, &mut screen).await;
    drop(session);
    if let Some(own) = own {
        own.stop().await;
    }
    ended
}

async fn watch(session: &mut Session, action: &str, body: Vec<u8>, screen: &mut Screen) -> Result<ExitCode> {
    let mut answers = session.action(action, body).await?;
    let mut end = None;
    loop {
        let answer = tokio::select! {
            answer = answers.next() => answer,
            _ = tokio::signal::ctrl_c() => {
                eprintln!("interrupted: nothing of the run is published; skep pipeline retry goes on with it");
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

/// What a person sees of a run: a line for each model and test, as they end.
struct Screen {
    json: bool,
    colours: bool,
    bundle: Bundle,
    models: usize,
    ended: usize,
}

impl Screen {
    fn new(json: bool, bundle: Bundle) -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { json, colours, bundle, models: 0, ended: 0 }
    }

    fn show(&mut self, event: &Event, raw: &[u8]) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let gone = |e: std::io::Error| Error::new(Kind::Cancelled, "nobody reads what is printed").source(e);
        if self.json {
            out.write_all(raw).and_then(|()| out.write_all(b"\n")).map_err(gone)?;
            return out.flush().map_err(gone);
        }
        let text = match event {
            Event::Begun { run, pipeline, environment, models } => {
                self.models = models.len();
                format!("run {run} of {pipeline} in {environment}: {} models\n", models.len())
            }
            Event::Model { model, kind, range } => match range {
                Some(range) if !range.is_empty() => format!("       {model} ({kind}): {range}\n"),
                _ => String::new(),
            },
            Event::Ended { model, state, rows, took_ms, note } => {
                self.ended += 1;
                let rows = rows.filter(|_| *state == State::Done).map(|rows| format!(" {rows} rows"));
                let note = note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
                format!(
                    "{} [{}/{}] {model}{} ({:.1} s){note}\n",
                    self.state(*state),
                    self.ended,
                    self.models,
                    rows.unwrap_or_default(),
                    *took_ms as f64 / 1000.0
                )
            }
            Event::Tested { state: State::Done, .. } => String::new(),
            Event::Tested { model, test, state, failures, note } => {
                let note = note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
                format!("{}   {model} {test}, {failures} rows{note}\n", self.state(*state))
            }
            Event::Wrong(finding) => {
                wrong(finding, &self.bundle);
                String::new()
            }
            Event::Warning { message } => format!("{} {message}\n", self.state(State::Warned)),
            Event::Over { state, took_ms, message, .. } => {
                format!("{} {message} ({:.1} s)\n", self.state(*state), *took_ms as f64 / 1000.0)
            }
        };
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(gone)
    }

    fn state(&self, state: State) -> String {
        let (word, colour) = match state {
            State::Running => ("...   ", "36"),
            State::Done => ("ok    ", "32"),
            State::Unchanged => ("same  ", "2"),
            State::Warned => ("warn  ", "33"),
            State::Failed => ("FAILED", "1;31"),
            State::Skipped => ("skip  ", "33"),
        };
        if self.colours { format!("\x1b[{colour}m{word}\x1b[0m") } else { word.to_owned() }
    }
}

/// Texts below each other, each column as wide as its widest.
fn columns<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |line: &[String; N]| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}

async fn status(place: &PipelinePlace, number: Option<i64>) -> Result<ExitCode> {
    let (mut session, own) = session(place).await?;
    let shown = show_status(&mut session, number).await;
    drop(session);
    if let Some(own) = own {
        own.stop().await;
    }
    shown.map(|()| ExitCode::SUCCESS)
}

async fn show_status(session: &mut Session, number: Option<i64>) -> Result<()> {
    let runs = "SELECT run_id, pipeline, environment, state, began_at, ended_at, snapshot_id, error \
                FROM system.pipeline_runs ORDER BY run_id DESC LIMIT 20";
    print_rows(session, runs).await?;
    let number = match number {
        Some(number) => number.to_string(),
        None => "(SELECT max(run_id) FROM system.pipeline_runs)".to_owned(),
    };
    let models = format!(
        "SELECT model, kind, state, row_count, took_ms, note FROM system.pipeline_models WHERE run_id = {number} ORDER BY position"
    );
    print_rows(session, &models).await?;
    let tests = format!(
        "SELECT model, test, state, failures, note FROM system.pipeline_tests WHERE run_id = {number} AND state <> 'done' ORDER BY 1, 2"
    );
    print_rows(session, &tests).await
}

async fn print_rows(session: &mut Session, sql: &str) -> Result<()> {
    if let Answer::Rows(_, batches) = session.run(sql).await?
        && batches.iter().any(|batch| batch.num_rows() > 0)
    {
        let text = arrow::util::pretty::pretty_format_batches(&batches)
            .map_err(|e| Error::internal("rows cannot be shown").source(e))?;
        println!("{text}");
    }
    Ok(())
}
