//! The rule of the crate graph: dependencies point downwards only, and neighbours never import each other.

use std::fs;

use crate::run::{Outcome, root};

/// Each layer may depend on every layer above it in this list, and on none of its own.
const LAYERS: [&[&str]; 8] = [
    &["common"],
    &["metadb"],
    &["catalog", "store"],
    &["engine"],
    &["cluster"],
    &["coordinator", "worker"],
    &["server", "pipeline", "ingest"],
    &["skep"],
];
/// A client like any other.
const CLIENT: &str = "repl";
/// Development only: nothing else may depend on them.
const DEVELOPMENT: [&str; 2] = ["testkit", "xtask"];

/// Every edge between crates of the workspace that the rule forbids, and every manifest that breaks the house rules.
pub(crate) fn problems() -> Outcome<Vec<String>> {
    let mut problems = Vec::new();
    for name in members()? {
        let manifest = read_manifest(&name)?;
        for dependency in &manifest.skep {
            if let Some(reason) = forbidden(&name, dependency) {
                problems.push(format!("crate '{name}' depends on '{dependency}': {reason}"));
            }
        }
        for line in &manifest.own_versions {
            problems.push(format!(
                "crate '{name}' names a version of its own, '{line}': put it into the root Cargo.toml"
            ));
        }
    }
    Ok(problems)
}

/// Why `from` must not depend on `to`; `None` if it may.
fn forbidden(from: &str, to: &str) -> Option<&'static str> {
    let layer = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    if DEVELOPMENT.contains(&to) {
        return Some("it is for development only");
    }
    match from {
        "xtask" => Some("xtask compiles in a moment because it depends on nothing"),
        "testkit" => None,
        CLIENT => (to != "common").then_some("the shell is a client like any other"),
        _ if to == CLIENT => (from != "skep").then_some("only the binary holds the shell"),
        _ => match (layer(from), layer(to)) {
            (Some(from), Some(to)) if from > to => None,
            (Some(_), Some(_)) => Some("dependencies point downwards only"),
            _ => Some("it has no layer: add it to the graph in xtask/src/graph.rs and docs/architecture.md"),
        },
    }
}

/// The folders of the workspace's crates, and `skep` for the root.
pub(crate) fn members() -> Outcome<Vec<String>> {
    let text = read_file("Cargo.toml")?;
    let list = text.split("members = [").nth(1).and_then(|rest| rest.split(']').next());
    let list = list.ok_or("the root Cargo.toml lists no members")?;
    let names = list.split(',').map(|name| name.trim().trim_matches('"')).filter(|name| !name.is_empty());
    Ok(names.chain(["skep"]).map(str::to_owned).collect())
}

/// The folder of a member, relative to the workspace.
pub(crate) fn folder(member: &str) -> &str {
    if member == "skep" { "." } else { member }
}

struct Manifest {
    /// Crates of this workspace that it depends on, without the `skep-`.
    skep: Vec<String>,
    /// Lines of dependencies that are not `workspace = true`.
    own_versions: Vec<String>,
}

fn read_manifest(member: &str) -> Outcome<Manifest> {
    let text = read_file(&format!("{}/Cargo.toml", folder(member)))?;
    let mut manifest = Manifest { skep: Vec::new(), own_versions: Vec::new() };
    let (mut counts, mut development) = (false, false);
    for line in text.lines().map(str::trim) {
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            counts = table.ends_with("dependencies") && !table.starts_with("workspace");
            development = table.ends_with("dev-dependencies");
        } else if counts && !line.is_empty() && !line.starts_with('#') {
            if !line.contains("workspace = true") {
                manifest.own_versions.push(line.to_owned());
            }
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if let Some(name) = name.strip_prefix("skep-")
                && !development
            {
                manifest.skep.push(name.to_owned());
            }
        }
    }
    Ok(manifest)
}

fn read_file(path: &str) -> Outcome<String> {
    fs::read_to_string(root().join(path)).map_err(|e| format!("cannot read '{path}': {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_point_downwards_only() {
        assert!(forbidden("engine", "catalog").is_none());
        assert!(forbidden("skep", "repl").is_none());
        assert!(forbidden("repl", "common").is_none());
        for (from, to) in [
            ("catalog", "engine"),
            ("catalog", "store"),
            ("worker", "coordinator"),
            ("coordinator", "server"),
            ("repl", "server"),
            ("server", "repl"),
            ("skep", "testkit"),
            ("xtask", "common"),
            ("engine", "nowhere"),
        ] {
            assert!(forbidden(from, to).is_some(), "{from} -> {to}");
        }
    }

    #[test]
    fn this_workspace_keeps_the_rule() {
        assert_eq!(problems(), Ok(Vec::new()));
    }
}
