//! What a person sees who types into the shell: the checks of `testkit/python/shell.py`, on a pseudo-terminal.

use std::process::Command;

use skep_testkit::process::{Server, binary, output};
use skep_testkit::{root, skip};

#[test]
fn pty_shell() {
    let Some(python) = std::env::var_os("SKEP_PYTHON") else {
        return skip("pty::pty_shell", "Python");
    };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let arguments =
        ["up", "--data", data.to_str().unwrap(), "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let server = Server::start(&arguments).unwrap();
    let mut script = Command::new(python);
    script.arg(root().join("testkit/python/shell.py")).arg(binary()).arg(server.flight());
    let script = output(script);
    assert_eq!(script.code, Some(0), "{}\n{}", script.stdout, script.stderr);
}
