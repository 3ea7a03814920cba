//! What Python programs do through Flight SQL: the checks of `testkit/python/flightsql.py`.

use std::process::Command;

use skep_testkit::process::{Server, output};
use skep_testkit::{root, skip};

#[test]
fn adbc_conformance() {
    let Some(python) = std::env::var_os("SKEP_PYTHON") else {
        return skip("adbc::adbc_conformance", "Python with adbc-driver-flightsql");
    };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let arguments =
        ["up", "--data", data.to_str().unwrap(), "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let server = Server::start(&arguments).unwrap();
    let mut script = Command::new(python);
    script.arg(root().join("testkit/python/flightsql.py")).arg(server.flight());
    let script = output(script);
    assert_eq!(script.code, Some(0), "{}\n{}", script.stdout, script.stderr);
}
