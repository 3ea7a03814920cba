//! Skep as processes: started, waited for, killed.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use skep_common::clock;

use crate::client::Client;
use crate::links::{Links, Node};

/// How long a process may take to say that it is ready, and to end when it is told to.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test: `SKEP_BIN`, or the one that was built beside the running test.
///
/// # Panics
/// If it was not built.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("SKEP_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test knows where it lies");
    // A test lies in target/debug/deps, a development binary in target/debug.
    let found =
        test.ancestors().skip(1).take(2).map(|folder| folder.join("skep")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no skep beside {}: run 'cargo build --workspace'", test.display()))
}

/// A command that runs the program with nothing of the surrounding environment that could change what it does.
pub fn skep(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).stdin(Stdio::null()).env("NO_COLOR", "1");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SKEP_") {
            command.env_remove(name);
        }
    }
    command
}

/// What a finished command said.
#[derive(Debug)]
pub struct Output {
    /// The exit code; absent if a signal ended it.
    pub code: Option<i32>,
    /// Rows.
    pub stdout: String,
    /// All else.
    pub stderr: String,
}

/// Runs the program to its end.
///
/// # Panics
/// If it cannot be started.
pub fn run(arguments: &[&str]) -> Output {
    output(skep(arguments))
}

/// Runs a command to its end.
///
/// # Panics
/// If it cannot be started.
pub fn output(mut command: Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    ready: HashMap<String, String>,
    log: Option<JoinHandle<String>>,
    _stdout: JoinHandle<()>,
}

impl Server {
    /// Starts the program and waits for its ready line.
    ///
    /// # Errors
    /// What it said on stderr, and how it ended, if it ended or said nothing in time.
    pub fn start(arguments: &[&str]) -> Result<Self, Output> {
        Self::start_command(skep(arguments))
    }

    /// The same for a prepared command.
    ///
    /// # Errors
    /// As [`Server::start`].
    ///
    /// # Panics
    /// If the command cannot be started at all.
    pub fn start_command(mut command: Command) -> Result<Self, Output> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let log = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, receiver) = mpsc::sync_channel(1);
        let stdout = std::thread::spawn(move || {
            // Read to the end, so that the process never waits for a reader.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.starts_with("ready") {
                    let _ = sender.try_send(line);
                }
            }
        });
        let mut server = Self { child, ready: HashMap::new(), log: Some(log), _stdout: stdout };
        match receiver.recv_timeout(PATIENCE) {
            Ok(line) => {
                let pairs = line.split_whitespace().filter_map(|word| word.split_once('='));
                server.ready = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
                Ok(server)
            }
            Err(_) => {
                let _ = server.child.kill();
                let status = server.child.wait().ok();
                Err(Output {
                    code: status.and_then(|status| status.code()),
                    stdout: String::new(),
                    stderr: server.take_log(),
                })
            }
        }
    }

    /// A value of the ready line, such as `flight`.
    ///
    /// # Panics
    /// If the line does not have it.
    pub fn address(&self, key: &str) -> &str {
        self.ready.get(key).unwrap_or_else(|| panic!("the ready line has no '{key}': {:?}", self.ready))
    }

    /// The address of Flight SQL.
    pub fn flight(&self) -> &str {
        self.address("flight")
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the process at once, as a power cut would, and returns what it logged.
    pub fn kill(mut self) -> String {
        self.end();
        self.take_log()
    }

    /// Asks the process to end, and returns how it ended and what it logged.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn stop(mut self) -> (ExitStatus, String) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let status =
            wait(&mut self.child).unwrap_or_else(|| panic!("process {pid} does not end when asked to"));
        (status, self.take_log())
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn take_log(&mut self) -> String {
        self.log.take().and_then(|log| log.join().ok()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
        let log = self.take_log();
        if std::thread::panicking() && !log.is_empty() {
            eprintln!("--- log of process {}\n{log}", self.child.id());
        }
    }
}

fn wait(child: &mut Child) -> Option<ExitStatus> {
    let clock = clock::system();
    let start = clock.instant();
    while clock.instant() - start < PATIENCE {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Err(_) => return None,
        }
    }
    None
}

/// A cluster of processes: one coordinator, and workers.
#[derive(Debug)]
pub struct Cluster {
    /// The coordinator.
    pub coordinator: Server,
    /// The workers.
    pub workers: Vec<Server>,
    folder: PathBuf,
    /// Tables of the config file that workers have too.
    tables: String,
    /// Keys of the table `[worker]` that they all have.
    worker_keys: String,
    links: Option<Linked>,
}

/// A cluster of which each node is reached through a relay.
#[derive(Debug)]
struct Linked {
    links: Links,
    /// Where nodes listen: the coordinator, then the workers.
    listen: Vec<SocketAddr>,
}

impl Linked {
    /// Sees to it that `command` listens behind its relay, and that its own connections are known for those of `node`.
    ///
    /// A file that may not grow ends no process then: its disk can be filled.
    fn lead(&mut self, command: Command, role: &str, node: Node) -> Command {
        let index = match node {
            Node::Coordinator => 0,
            Node::Worker(number) => number + 1,
        };
        while self.listen.len() <= index {
            let next = match self.listen.len() {
                0 => Node::Coordinator,
                worker => Node::Worker(worker - 1),
            };
            self.listen.push(self.links.lead_to(next).expect("a relay can listen"));
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(command.get_program());
        shell.args(command.get_args()).stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell.env(format!("SKEP__{role}__LISTEN"), self.listen[index].to_string());
        shell.env(format!("SKEP__{role}__ADVERTISE"), node.advertise().to_string());
        shell.env("SKEP__CLUSTER__CHANNEL__SOURCE", node.source().to_string());
        shell
    }
}

/// Short waits.
const HASTY: &str = "
[coordinator.lanes.durable]
worker_timeout = \"4s\"

[cluster.membership]
heartbeat = \"300ms\"
dead_after = \"3s\"

[cluster.channel]
connect_timeout = \"2s\"
keepalive_interval = \"2s\"
keepalive_timeout = \"2s\"

[store]
read_timeout = \"2s\"
node_wait = \"10s\"
";

impl Cluster {
    /// Starts a coordinator and `workers` workers with folders under `folder`.
    ///
    /// # Panics
    /// If one of them does not start.
    pub fn start(folder: &Path, workers: usize) -> Self {
        Self::start_with(folder, workers, "")
    }

    /// The same, with a folder that every node may read.
    ///
    /// # Panics
    /// If one of them does not start.
    pub fn start_sharing(folder: &Path, workers: usize, shared: &Path) -> Self {
        Self::start_with(folder, workers, &format!("shared_paths = [{shared:?}]\n"))
    }

    /// The same, with `settings` as tables of the config file of each node.
    ///
    /// # Panics
    /// If one of them does not start.
    pub fn start_with_settings(folder: &Path, workers: usize, settings: &str) -> Self {
        Self::start_with(folder, workers, settings)
    }

    /// The same, with tables that keep their files at `place`, a URL, which the tables `settings` of the config files lead to.
    ///
    /// # Errors
    /// What the coordinator said, if it did not start.
    ///
    /// # Panics
    /// If a worker does not start.
    pub fn start_at(folder: &Path, workers: usize, place: &str, settings: &str) -> Result<Self, Output> {
        Self::try_start(folder, workers, Some(place), settings, None)
    }

    /// The same, with lost nodes found and waits over within seconds, for tests that lose nodes.
    ///
    /// # Panics
    /// If one of them does not start.
    pub fn start_hasty(folder: &Path, workers: usize) -> Self {
        Self::start_with(folder, workers, HASTY)
    }

    /// The same, with links between the nodes that can be cut, and disks of workers that can be filled.
    ///
    /// # Panics
    /// If one of them does not start.
    pub fn start_linked(folder: &Path, workers: usize) -> Self {
        Self::start_linked_with(folder, workers, "")
    }

    /// The same, with `keys` in the table `[worker]` of each worker's config file.
    ///
    /// # Panics
    /// If one of them does not start.
    pub fn start_linked_with(folder: &Path, workers: usize, keys: &str) -> Self {
        let linked = Linked { links: Links::default(), listen: Vec::new() };
        let mut cluster = Self::start_led(folder, 0, HASTY, Some(linked));
        cluster.worker_keys = keys.to_owned();
        for _ in 0..workers {
            cluster.add_worker();
        }
        cluster
    }

    /// The same, with `settings` as tables of the config file of each node.
    ///
    /// # Panics
    /// If one of them does not start.
    pub fn start_linked_with_settings(folder: &Path, workers: usize, settings: &str) -> Self {
        let linked = Linked { links: Links::default(), listen: Vec::new() };
        Self::start_led(folder, workers, &format!("{HASTY}{settings}"), Some(linked))
    }

    fn start_with(folder: &Path, workers: usize, keys: &str) -> Self {
        Self::start_led(folder, workers, keys, None)
    }

    fn start_led(folder: &Path, workers: usize, keys: &str, links: Option<Linked>) -> Self {
        Self::try_start(folder, workers, None, keys, links)
            .unwrap_or_else(|output| panic!("the coordinator did not start: {output:?}"))
    }

    fn try_start(
        folder: &Path,
        workers: usize,
        place: Option<&str>,
        keys: &str,
        mut links: Option<Linked>,
    ) -> Result<Self, Output> {
        let own = folder.join("coordinator");
        std::fs::create_dir_all(folder).expect("the cluster's folder can be created");
        let config = folder.join("coordinator.toml");
        let data = match place {
            None => format!("data = {own:?}"),
            Some(place) => format!("data = {place:?}\ncatalog = {:?}", own.join("catalog.sqlite")),
        };
        let text = format!(
            "[coordinator]\n{data}\nflight = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\nlisten = \"127.0.0.1:0\"\n{keys}"
        );
        std::fs::write(&config, text).expect("the config can be written");
        let mut command = skep(&["coordinator", "--config", &config.to_string_lossy()]);
        if let Some(linked) = &mut links {
            command = linked.lead(command, "COORDINATOR", Node::Coordinator);
        }
        let coordinator = Server::start_command(command)?;
        let folder = folder.to_path_buf();
        let tables = keys.find("\n[").map(|at| keys[at..].to_owned()).unwrap_or_default();
        let mut cluster =
            Self { coordinator, workers: Vec::new(), folder, tables, worker_keys: String::new(), links };
        for _ in 0..workers {
            cluster.add_worker();
        }
        Ok(cluster)
    }

    /// Starts one more worker.
    ///
    /// # Panics
    /// If it does not start.
    pub fn add_worker(&mut self) {
        let number = self.workers.len() + 1;
        let worker = self.start_worker(number);
        self.workers
            .push(worker.unwrap_or_else(|output| panic!("worker {number} did not start: {output:?}")));
    }

    /// Ends worker `number`, counted from 0, as kill -9 does, and starts it again on its folder.
    ///
    /// # Panics
    /// If it does not start again within the patience of tests.
    pub fn restart_worker(&mut self, number: usize) {
        let mut dead = self.workers.remove(number);
        dead.end();
        drop(dead);
        let clock = clock::system();
        let start = clock.instant();
        loop {
            match self.start_worker(number + 1) {
                Ok(worker) => {
                    self.workers.insert(number, worker);
                    return;
                }
                // Until the coordinator has missed its signs of life, its name is taken.
                Err(output) => {
                    let late = clock.instant() - start > PATIENCE;
                    assert!(!late, "worker {number} does not start again: {output:?}");
                }
            }
        }
    }

    /// Ends the coordinator as kill -9 does, if it still runs, and starts it again where it was.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart_coordinator(&mut self) {
        self.coordinator.end();
        let listen = self.coordinator.address("listen").trim_start_matches("http://").to_owned();
        let config = self.folder.join("coordinator.toml");
        let mut command = skep(&["coordinator", "--config", &config.to_string_lossy()]);
        match &mut self.links {
            Some(linked) => command = linked.lead(command, "COORDINATOR", Node::Coordinator),
            None => {
                command.env("SKEP__COORDINATOR__LISTEN", listen);
            }
        }
        self.coordinator = Server::start_command(command)
            .unwrap_or_else(|output| panic!("the coordinator did not start again: {output:?}"));
    }

    /// The folder of worker `number`, counted from 0.
    pub fn worker_folder(&self, number: usize) -> PathBuf {
        self.folder.join(format!("worker-{}", number + 1))
    }

    /// The links of a cluster that was started with some.
    ///
    /// # Panics
    /// If it was not.
    pub fn links(&self) -> &Links {
        &self.links.as_ref().expect("the cluster was started with links").links
    }

    /// Lets worker `number`, counted from 0, write no byte more to any file, or again as many as it likes: what a full disk is
    /// to a writer, without a disk to fill. The cluster must have been started with links.
    ///
    /// # Panics
    /// If `prlimit` of util-linux cannot do it.
    pub fn fill_disk(&self, number: usize, full: bool) {
        assert!(self.links.is_some(), "a worker that was not told to would end with a signal");
        let limit = if full { "--fsize=0:unlimited" } else { "--fsize=unlimited" };
        let pid = self.workers[number].pid().to_string();
        let done = Command::new("prlimit").args(["--pid", &pid, limit]).status();
        assert!(done.is_ok_and(|status| status.success()), "prlimit cannot limit process {pid}");
    }

    fn start_worker(&mut self, number: usize) -> Result<Server, Output> {
        let config = self.folder.join(format!("worker-{number}.toml"));
        let text = format!(
            "[worker]\ncoordinator = {:?}\nlisten = \"127.0.0.1:0\"\ndata = {:?}\n{}\n{}",
            self.coordinator.address("listen"),
            self.folder.join(format!("worker-{number}")),
            self.worker_keys,
            self.tables
        );
        std::fs::write(&config, text).expect("the config can be written");
        let mut command = skep(&["worker", "--config", &config.to_string_lossy()]);
        if let Some(linked) = &mut self.links {
            command = linked.lead(command, "WORKER", Node::Worker(number - 1));
        }
        Server::start_command(command)
    }

    /// The address of Flight SQL.
    pub fn flight(&self) -> &str {
        self.coordinator.flight()
    }

    /// Whether the coordinator hears of every worker.
    ///
    /// # Panics
    /// If `client` cannot ask it.
    pub async fn whole(&self, client: &mut Client) -> bool {
        let heard = "SELECT count(*) FROM system.workers WHERE silent_ms < 1000";
        let count = client.rows(heard).await.expect("the coordinator answers");
        count == [[self.workers.len().to_string()]]
    }
}
