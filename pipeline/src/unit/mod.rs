//! Unit tests of models: rows that a model reads, and the rows that its query makes of them.
//!
//! ```text
//! tests/unit/NAME.sql --read--> Unit: model, rows given, rows expected
//!                                 |
//!                               Bench: the engine over an empty catalog of its own   (bench)
//!                                 |     given rows as tables, the model's query over them
//!                               Rows that are missing, rows that nobody expected     (compare)
//! ```
//!
//! # Invariants
//! - Nothing outside of the project is read: no table of a catalog, no file, no clock.
//! - A query is planned and run by the engine that runs it in a pipeline.
//!
//! # Not here
//! Tests of rows that are staged (`run::test`).

mod bench;
mod compare;
mod read;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use skep_common::clock::Clock;
use skep_common::{Error, Result};

use crate::event::Finding;
use crate::project::{Problem, Project};
use crate::select;
use bench::Bench;

pub(crate) use read::{FOLDER, Unit, read};

/// How one unit test ended.
#[derive(Debug, Clone)]
pub struct Tested {
    /// Its file, by its path in the project.
    pub file: String,
    /// The model.
    pub model: String,
    /// What is wrong, unless it passes. Of a test with other rows than expected, the message is a table of them.
    pub wrong: Option<Finding>,
    /// How long it took.
    pub took: Duration,
}

/// Runs the unit tests of the models that `choose` and not `exclude` choose, in this process and without a cluster.
///
/// # Errors
/// [`Kind::NotFound`](skep_common::Kind::NotFound) for a model that is not there; those of making a place to run them.
pub async fn run(
    project: &Project,
    choose: &[String],
    exclude: &[String],
    clock: &Arc<dyn Clock>,
) -> Result<Vec<Tested>> {
    let chosen = select::chosen(project, choose, exclude, &BTreeSet::new())?;
    run_chosen(project, &chosen, clock).await
}

/// As [`run`], of models by their places.
///
/// # Errors
/// Those of making a place to run them.
pub(crate) async fn run_chosen(
    project: &Project,
    chosen: &BTreeSet<usize>,
    clock: &Arc<dyn Clock>,
) -> Result<Vec<Tested>> {
    let of_chosen = |unit: &&Unit| chosen.iter().any(|&at| project.models[at].name == unit.model);
    let units: Vec<&Unit> = project.units.iter().filter(of_chosen).collect();
    if units.is_empty() {
        return Ok(Vec::new());
    }
    let bench = Bench::open(project, &units).await?;
    let mut all = Vec::new();
    for unit in units {
        let begun = clock.instant();
        let wrong = match bench.run(project, unit).await {
            Ok(difference) if difference.is_empty() => None,
            Ok(difference) => Some(Problem::new(&unit.file, difference.error().at(unit.expected_at))),
            Err(problem) => Some(problem),
        };
        all.push(Tested {
            file: unit.file.clone(),
            model: unit.model.to_string(),
            wrong: wrong.map(|problem| problem.finding()),
            took: clock.instant() - begun,
        });
    }
    Ok(all)
}

/// What says that a test needs something that it does not give.
fn lacks(what: String, hint: &str) -> Error {
    Error::invalid(what).hint(hint.to_owned())
}
