//! A PostgreSQL server of a test's own, on loopback: started, stopped as a crash would, started again.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// The superuser of the server, who needs no password.
const USER: &str = "skep";
/// The server refuses to run as root: then it runs as this user, `nobody` on all systems that have one.
const NOBODY: u32 = 65534;

/// A running server. Dropping it stops it and deletes its data.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    folder: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Postgres {
    /// Starts a server with the programs in `SKEP_POSTGRES_BIN`; `None` if that is not set.
    ///
    /// # Panics
    /// If the server does not start; with what it said.
    pub fn start() -> Option<Self> {
        let programs = PathBuf::from(std::env::var_os("SKEP_POSTGRES_BIN")?);
        let folder = tempfile::tempdir().expect("a folder for the server");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let mut server = Self { programs, folder, port, child: None };
        if root(server.folder.path()) {
            std::os::unix::fs::chown(server.folder.path(), Some(NOBODY), Some(NOBODY))
                .expect("the folder is ours to give");
        }
        let output = server
            .command("initdb")
            .arg("-D")
            .arg(server.data())
            .args(["-U", USER, "--auth=trust", "-E", "UTF8", "--no-locale", "--no-sync"])
            .output()
            .expect("initdb starts");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        server.resume();
        Some(server)
    }

    /// The address of its database, to which `?options=` may be added.
    pub fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/postgres", self.port)
    }

    /// The address of a schema of its own.
    pub fn schema(&self, name: &str) -> String {
        format!("{}?options=-csearch_path%3D{name}", self.url())
    }

    /// What DuckDB attaches: a connection string with blanks.
    pub fn connection_string(&self) -> String {
        format!("dbname=postgres user={USER} host=127.0.0.1 port={}", self.port)
    }

    /// Ends it as a crash does: connections break, nothing is written back.
    pub fn crash(&mut self) {
        self.end("-QUIT");
    }

    /// Starts it again after [`Postgres::crash`].
    ///
    /// # Panics
    /// If it does not start; with what it said.
    pub fn resume(&mut self) {
        let mut child = self
            .command("postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=400"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("postgres starts");
        let stderr = child.stderr.take().expect("stderr is piped");
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let mut said = String::new();
        let ready = lines.by_ref().any(|line| {
            said.push_str(&line);
            said.push('\n');
            line.contains("ready to accept connections")
        });
        assert!(ready, "the server ended: {said}");
        // Read to the end, so that the server never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        self.child = Some(child);
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.stdin(Stdio::null()).current_dir(self.folder.path());
        if root(self.folder.path()) || self.is_given_away() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn is_given_away(&self) -> bool {
        std::fs::metadata(self.folder.path()).is_ok_and(|folder| folder.uid() == NOBODY)
    }

    fn end(&mut self, signal: &str) {
        let Some(mut child) = self.child.take() else { return };
        let _ = Command::new("kill").args([signal, &child.id().to_string()]).status();
        let _ = child.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.end("-INT");
    }
}

/// Whether what this process makes belongs to root.
fn root(made: &Path) -> bool {
    std::fs::metadata(made).is_ok_and(|folder| folder.uid() == 0)
}

/// Runs a command while a server runs whose address is in `SKEP_POSTGRES`, and returns its exit code.
///
/// # Errors
/// If there are no programs of a server, or the command does not start.
pub fn run_with(command: &[OsString]) -> Result<i32, String> {
    let server = Postgres::start().ok_or("SKEP_POSTGRES_BIN does not say where initdb and postgres are")?;
    let (program, arguments) = command.split_first().ok_or("name a command")?;
    let status = Command::new(program)
        .args(arguments)
        .env("SKEP_POSTGRES", server.url())
        .status()
        .map_err(|e| format!("cannot start {}: {e}", program.display()))?;
    Ok(status.code().unwrap_or(1))
}
