//! Runs other programs and says what it runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The outcome of a command: nothing, or a line that says what is wrong.
pub(crate) type Outcome<T = ()> = Result<T, String>;

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    // Asked at run time: with a target folder shared by several checkouts, the program may stem from another one.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    // The manifest of this crate lies one folder below.
    manifest.parent().map(Path::to_path_buf).unwrap_or_default()
}

/// `cargo` with `arguments`, in the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    forget_caller(&mut command);
    command.args(arguments).current_dir(root());
    command
}

/// Leaves out what the cargo that started this program says of it, for programs that start cargo.
///
/// The build script of a dependency asks to run again when that changes, and with it most dependencies would be built again
/// whenever cargo is called by hand, and again when it is called here.
pub(crate) fn forget_caller(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let told = name.to_str().is_some_and(|name| {
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
                .iter()
                .any(|start| name.starts_with(start))
        });
        if told {
            command.env_remove(name);
        }
    }
}

/// Runs to the end, output shown.
pub(crate) fn run(mut command: Command) -> Outcome {
    let line = shown(&command);
    eprintln!("$ {line}");
    let status = command.status().map_err(|e| format!("cannot start '{line}': {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("'{line}' failed ({status})")) }
}

/// Runs to the end and returns what it printed on stdout.
pub(crate) fn read(mut command: Command) -> Outcome<String> {
    let line = shown(&command);
    let output =
        command.stderr(Stdio::inherit()).output().map_err(|e| format!("cannot start '{line}': {e}"))?;
    if !output.status.success() {
        return Err(format!("'{line}' failed ({})", output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("'{line}' printed bytes that are not text"))
}

/// The folder that cargo builds into.
pub(crate) fn target() -> Outcome<PathBuf> {
    let metadata = read(cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
    let key = "\"target_directory\":\"";
    let found = metadata.find(key).and_then(|at| metadata[at + key.len()..].split('"').next());
    found.map(PathBuf::from).ok_or_else(|| "cargo metadata names no target directory".to_owned())
}

/// The commit that is checked out, and whether files differ from it.
pub(crate) fn commit() -> String {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(root());
        command
            .output()
            .ok()
            .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
            .unwrap_or_default()
    };
    let hash = git(&["rev-parse", "--short", "HEAD"]);
    let changed = if git(&["status", "--porcelain"]).is_empty() { "" } else { " with uncommitted changes" };
    format!("{}{changed}", if hash.is_empty() { "unknown" } else { &hash })
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    command.get_args().fold(name, |line, argument| line + " " + &argument.to_string_lossy())
}
