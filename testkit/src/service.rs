//! A program of somebody else that a test starts on loopback, waits for, and ends.
//!
//! # Not here
//! PostgreSQL, which needs a user of its own (`postgres`).

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use skep_common::clock;

/// How long a service may take until it serves.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Service {
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts `command`; what it says goes to `log`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        let file = std::fs::File::create(log).expect("the log of a service can be written");
        let both = file.try_clone().expect("a file has two handles");
        let child = command.stdin(Stdio::null()).stdout(both).stderr(file).spawn();
        let child = child.unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        Self { child, log: log.to_owned() }
    }

    /// Waits until `ready`.
    ///
    /// # Panics
    /// If the program ends before, or takes too long; with what it said.
    pub(crate) fn wait(&mut self, what: &str, mut ready: impl FnMut(&str) -> bool) {
        let clock = clock::system();
        let start = clock.instant();
        loop {
            let said = std::fs::read(&self.log).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            if ready(&said) {
                return;
            }
            let ended = self.child.try_wait().expect("a child can be asked");
            assert!(ended.is_none(), "{what} ended ({ended:?}): {}", tail(&said));
            assert!(clock.instant() - start < PATIENCE, "{what} does not serve: {}", tail(&said));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of what a program said.
fn tail(said: &str) -> &str {
    let mut from = said.len().saturating_sub(4000);
    while !said.is_char_boundary(from) {
        from += 1;
    }
    &said[from..]
}

/// Runs a command to its end and returns what it printed.
///
/// # Panics
/// If it fails; with what it said.
pub(crate) fn run(mut command: Command) -> String {
    let output =
        command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {} {}", tail(&said), tail(&complained));
    said.into_owned()
}

/// A port of loopback that nobody listens on.
///
/// # Panics
/// If there is none.
pub(crate) fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// Whether somebody listens there.
pub(crate) fn listens(port: u16) -> bool {
    TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_ok()
}
