//! Sees that a stage of the durable lane has begun: its first task makes the folder `durable/JOB/STAGE` on its node.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

/// The stages of one statement.
#[derive(Debug)]
pub(crate) struct Stages {
    scratches: Vec<PathBuf>,
    /// Jobs of statements before.
    before: HashSet<String>,
}

fn names(folder: &Path) -> impl Iterator<Item = String> {
    // A folder that is not there yet, or any more, has no names in it.
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
}

impl Stages {
    /// Those that begin from here on.
    pub(crate) fn watch(scratches: Vec<PathBuf>) -> Self {
        let before = scratches.iter().flat_map(|scratch| names(scratch)).collect();
        Self { scratches, before }
    }

    /// The stages that have begun on any node.
    pub(crate) fn begun(&self) -> BTreeSet<usize> {
        let jobs = self.scratches.iter().flat_map(|scratch| {
            let jobs = names(scratch).filter(|job| !self.before.contains(job));
            jobs.map(|job| scratch.join(job)).collect::<Vec<_>>()
        });
        jobs.flat_map(|job| names(&job).collect::<Vec<_>>()).filter_map(|stage| stage.parse().ok()).collect()
    }
}

/// The stages of an EXPLAIN, each with its number of tasks.
pub(crate) fn planned(explained: &str) -> Vec<(usize, u64)> {
    let stage = |line: &str| {
        let (number, rest) = line.trim().strip_prefix("stage ")?.split_once(": ")?;
        let tasks = rest.split(' ').next()?.parse().ok()?;
        Some((number.parse().ok()?, tasks))
    };
    let mut stages: Vec<_> = explained.lines().filter_map(stage).collect();
    stages.sort_unstable();
    stages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_begin_with_their_folders() {
        let folder = std::env::temp_dir().join(format!("skep-stages-{}", skep_common::QueryId::generate()));
        let scratch = |worker: &str| folder.join(worker).join("durable");
        std::fs::create_dir_all(scratch("w1").join("old").join("9")).unwrap();
        let stages = Stages::watch(vec![scratch("w1"), scratch("w2")]);
        assert!(stages.begun().is_empty());
        std::fs::create_dir_all(scratch("w1").join("job").join("1").join("0")).unwrap();
        std::fs::create_dir_all(scratch("w2").join("job").join("2")).unwrap();
        assert_eq!(stages.begun(), BTreeSet::from([1, 2]));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn plans_name_their_stages() {
        let text = "lane: durable\nstage 2: 1 task\n  SortExec\nstage 1: 12 tasks\n  stage x: y\n";
        assert_eq!(planned(text), [(1, 12), (2, 1)]);
        assert_eq!(planned("lane: local"), []);
    }
}
