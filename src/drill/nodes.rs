//! The processes of a drill: started from this very binary, killed, paused, started again, ended.
//!
//! # Invariants
//! - Dropping it kills every process that it started, paused ones too.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use skep_common::task::{self, Task};
use skep_common::{ByteSize, Error, Result};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::faults::Delay;

/// How long a process may take until it serves, and a worker until its old name is free.
const START: Duration = Duration::from_secs(60);
/// Lines of logs that wait to be read.
const LINES: usize = 1 << 16;
/// What a drill wants to know of its processes.
const LOG: &str = "info,sqlx=warn,skep_coordinator::lanes=debug,ballista_scheduler=off,ballista_core=error";

/// Short waits: what is lost counts as lost within seconds.
const HASTY: &str = r#"
[cluster.membership]
heartbeat = "300ms"
dead_after = "2s"

[cluster.channel]
connect_timeout = "1s"
keepalive_interval = "1s"
keepalive_timeout = "1s"

[store]
read_timeout = "1s"
node_wait = "5s"
keep_interval = "500ms"
reserve = "1MiB"
"#;

/// What to start.
pub(crate) struct Options<'a> {
    pub(crate) folder: &'a Path,
    /// None: the coordinator alone, with its tables in plain files.
    pub(crate) workers: usize,
    pub(crate) delay: Option<&'a Delay>,
    pub(crate) seed: u64,
    pub(crate) memory: ByteSize,
}

/// One line of the log of one process.
#[derive(Debug)]
pub(crate) struct Line {
    /// `coordinator`, `w1`, ...
    pub(crate) from: String,
    pub(crate) text: String,
    pub(crate) at: Instant,
}

/// A running process. Dropping it kills it.
#[derive(Debug)]
struct Process {
    child: Child,
    ready: BTreeMap<String, String>,
    _readers: [Task<()>; 2],
}

/// A cluster of processes.
#[derive(Debug)]
pub(crate) struct Nodes {
    folder: PathBuf,
    config: String,
    memory: ByteSize,
    coordinator: Process,
    /// Absent: killed.
    workers: Vec<Option<Process>>,
    /// What the cluster calls each worker, and where it is or was: the names that logs have.
    names: Vec<(String, usize)>,
    lines: mpsc::Sender<Line>,
}

impl Nodes {
    /// Starts the processes. Their logs come through the receiver.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](skep_common::Kind::Unavailable) with what a process said that did not start.
    pub(crate) async fn start(options: Options<'_>) -> Result<(Self, mpsc::Receiver<Line>)> {
        let (lines, receiver) = mpsc::channel(LINES);
        let folder = options.folder.to_owned();
        std::fs::create_dir_all(&folder)
            .map_err(|e| Error::invalid(format!("cannot write to '{}'", folder.display())).source(e))?;
        let mut config = HASTY.to_owned();
        if let Some(Delay { percent, longest }) = options.delay {
            let (longest, seed) = (longest.as_millis(), options.seed & u64::from(u32::MAX));
            config += &format!(
                "\n[cluster.channel.delay]\npercent = {percent}\nlongest = \"{longest}ms\"\nseed = {seed}\n"
            );
        }
        let store = if options.workers == 0 { "file" } else { "skep" };
        let own = format!(
            "[coordinator]\ndata = {:?}\nstore = \"{store}\"\nflight = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n\
             listen = \"127.0.0.1:0\"\nshared_paths = [\"/\"]\nmemory = \"{}\"\n\n\
             [coordinator.lanes.durable]\nworker_timeout = \"3s\"\n{config}",
            folder.join("coordinator"),
            mib(options.memory)
        );
        let coordinator = start("coordinator", &folder, &own, &lines).await?;
        let mut nodes = Self {
            folder,
            config,
            memory: options.memory,
            coordinator,
            workers: Vec::new(),
            names: Vec::new(),
            lines,
        };
        nodes.workers.resize_with(options.workers, || None);
        for number in 1..=options.workers {
            nodes.start_worker(number).await?;
        }
        Ok((nodes, receiver))
    }

    /// The address of Flight SQL.
    pub(crate) fn flight(&self) -> &str {
        self.coordinator.ready.get("flight").map_or("", String::as_str)
    }

    pub(crate) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The folder of worker `number`, from 1.
    pub(crate) fn worker_folder(&self, number: usize) -> PathBuf {
        self.folder.join(format!("w{number}"))
    }

    /// Where processes keep outputs of durable tasks.
    pub(crate) fn scratches(&self) -> Vec<PathBuf> {
        let workers = (1..=self.workers()).map(|number| self.worker_folder(number));
        std::iter::once(self.folder.join("coordinator")).chain(workers).map(|f| f.join("durable")).collect()
    }

    /// Starts worker `number`, from 1, on its folder, unless it runs.
    ///
    /// # Errors
    /// As [`Nodes::start`].
    pub(crate) async fn start_worker(&mut self, number: usize) -> Result<()> {
        if self.workers[number - 1].is_some() {
            return Ok(());
        }
        let name = format!("w{number}");
        let coordinator = self.coordinator.ready.get("listen").map_or("", String::as_str);
        let config = format!(
            "[worker]\ncoordinator = {coordinator:?}\nlisten = \"127.0.0.1:0\"\ndata = {:?}\nmemory = \"{}\"\n{}",
            self.worker_folder(number),
            mib(self.memory),
            self.config
        );
        let attempts = async {
            loop {
                match start(&name, &self.folder, &config, &self.lines).await {
                    Ok(process) => return Ok(process),
                    // Until the coordinator has missed its signs of life, its name is taken.
                    Err(error)
                        if error.report().contains("is in use") || error.report().contains("already") =>
                    {
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let late = |_| Error::unavailable(format!("{name} does not start within {} s", START.as_secs()));
        let process = tokio::time::timeout(START, attempts).await.map_err(late)??;
        for key in ["worker", "listen"] {
            self.names.extend(process.ready.get(key).map(|known| (known.clone(), number)));
        }
        self.workers[number - 1] = Some(process);
        Ok(())
    }

    /// What `text` calls workers by their names and addresses, with `w1`, `w2`, ... instead.
    pub(crate) fn named(&self, text: &str) -> String {
        let mut named = text.to_owned();
        for (known, number) in &self.names {
            let name = format!("w{number}");
            named = named.replace(&format!("{known}/"), &name).replace(known.as_str(), &name);
        }
        named
    }

    /// kill -9. Whether it ran.
    pub(crate) async fn kill(&mut self, number: usize) -> bool {
        let Some(mut process) = self.workers[number - 1].take() else { return false };
        // It is gone either way.
        let _ = process.child.kill().await;
        true
    }

    /// SIGSTOP or SIGCONT, as `name` says. Whether it was sent.
    pub(crate) async fn signal(&self, number: usize, name: &str) -> bool {
        let Some(pid) = self.workers[number - 1].as_ref().and_then(|process| process.child.id()) else {
            return false;
        };
        let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().await;
        sent.is_ok_and(|status| status.success())
    }

    /// The workers that do not run.
    pub(crate) fn dead(&self) -> Vec<usize> {
        (1..=self.workers.len()).filter(|number| self.workers[number - 1].is_none()).collect()
    }

    /// Ends every process at once, and waits until they are gone.
    pub(crate) async fn end(mut self) {
        for process in self.workers.iter_mut().flatten().chain([&mut self.coordinator]) {
            // Gone already.
            let _ = process.child.kill().await;
        }
    }
}

/// As config files have it.
fn mib(size: ByteSize) -> String {
    format!("{}MiB", (size.bytes() >> 20).max(64))
}

/// Starts one process, and waits for its ready line.
async fn start(name: &str, folder: &Path, config: &str, lines: &mpsc::Sender<Line>) -> Result<Process> {
    let failed = |what: &str| format!("{name} does not start: {what}");
    let unwritten = |e: std::io::Error| Error::invalid(failed("its files cannot be written")).source(e);
    let path = folder.join(format!("{name}.toml"));
    std::fs::write(&path, config).map_err(unwritten)?;
    let log = File::options().create(true).append(true).open(folder.join(format!("{name}.log")));
    let log = log.map_err(unwritten)?;
    let program = std::env::current_exe()
        .map_err(|e| Error::internal("the program does not know where it lies").source(e))?;
    let mut command = Command::new(program);
    for (variable, _) in std::env::vars_os() {
        // It would change what the processes do.
        if variable.to_string_lossy().starts_with("SKEP_") {
            command.env_remove(variable);
        }
    }
    let role = if name == "coordinator" { "coordinator" } else { "worker" };
    command
        .args([role, "--log", LOG, "--config"])
        .arg(&path)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-c is for the drill, which ends them.
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| Error::unavailable(failed("it cannot run")).source(e))?;
    let piped = || Error::internal(failed("its output is not there"));
    let (stdout, stderr) = (child.stdout.take().ok_or_else(piped)?, child.stderr.take().ok_or_else(piped)?);
    let (ready, told) = oneshot::channel();
    let readers = [
        task::spawn("read a ready line", read_ready(stdout, ready)),
        task::spawn("read a log", read_log(name.to_owned(), stderr, log, lines.clone())),
    ];
    let said = || {
        let text = std::fs::read_to_string(folder.join(format!("{name}.log"))).unwrap_or_default();
        let last = text.lines().rev().take(5).collect::<Vec<_>>();
        last.into_iter().rev().collect::<Vec<_>>().join("; ")
    };
    let line = tokio::time::timeout(START, told).await;
    match line {
        Ok(Ok(line)) => {
            let pairs = line.split_whitespace().filter_map(|word| word.split_once('='));
            let ready = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            Ok(Process { child, ready, _readers: readers })
        }
        // The other end of its log is read before what it said is.
        _ => {
            let _ = child.kill().await;
            let [_, log] = readers;
            let _ = log.join().await;
            Err(Error::unavailable(failed("it ended, or said nothing in time")).source(said()))
        }
    }
}

async fn read_ready(stdout: impl AsyncRead + Unpin, ready: oneshot::Sender<String>) {
    let mut ready = Some(ready);
    let mut lines = BufReader::new(stdout).lines();
    // To the end, so that the process never waits for a reader.
    while let Ok(Some(line)) = lines.next_line().await {
        if line.starts_with("ready")
            && let Some(ready) = ready.take()
        {
            let _ = ready.send(line);
        }
    }
}

async fn read_log(from: String, stderr: impl AsyncRead + Unpin, mut log: File, lines: mpsc::Sender<Line>) {
    let mut reader = BufReader::new(stderr).lines();
    while let Ok(Some(text)) = reader.next_line().await {
        // The copy is for people who keep the folder; the drill goes on without it.
        let _ = writeln!(log, "{text}");
        // Nobody reads when the drill is over.
        let _ = lines.send(Line { from: from.clone(), text, at: Instant::now() }).await;
    }
}
