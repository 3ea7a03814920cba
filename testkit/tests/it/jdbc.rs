//! What Java programs do through the Arrow Flight SQL JDBC driver: the checks of `testkit/java/Jdbc.java`.

use std::process::Command;

use skep_testkit::process::{Server, output};
use skep_testkit::{root, skip};

#[test]
fn jdbc_conformance() {
    let Some(jar) = std::env::var_os("SKEP_JDBC") else {
        return skip("jdbc::jdbc_conformance", "Java with the Arrow Flight SQL JDBC driver");
    };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let arguments =
        ["up", "--data", data.to_str().unwrap(), "--flight", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let server = Server::start(&arguments).unwrap();
    let mut command = Command::new("java");
    command.args(["--add-opens=java.base/java.nio=ALL-UNNAMED", "-cp"]).arg(jar);
    command.arg(root().join("testkit/java/Jdbc.java")).arg(server.flight());
    let checked = output(command);
    assert_eq!(checked.code, Some(0), "{}\n{}", checked.stdout, checked.stderr);
}
