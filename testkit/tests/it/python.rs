//! Scripts of `testkit/python` against a server of their own.

use std::process::Command;

use skep_testkit::process::{Server, binary, output};
use skep_testkit::{root, skip};

/// Runs `script` with the URL of a server and the program; `test` and `needs` say what was skipped without Python.
pub(crate) fn checks(test: &str, needs: &str, script: &str) {
    let Some(python) = std::env::var_os("SKEP_PYTHON") else {
        return skip(test, needs);
    };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let arguments =
        ["up", "--data", data.to_str().unwrap(), "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let server = Server::start(&arguments).unwrap();
    let mut command = Command::new(python);
    // Modules beside the script are compiled into its folder otherwise.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg(root().join("testkit/python").join(script)).arg(server.flight()).arg(binary());
    let checked = output(command);
    assert_eq!(checked.code, Some(0), "{}\n{}", checked.stdout, checked.stderr);
}
