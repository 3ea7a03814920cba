//! What a run staged, as others read it: `run_57.mart.revenue`.
//!
//! # Not here
//! Reading it (`skep_coordinator::extension`).

use skep_common::{Error, Result};
use skep_engine::names::{INFORMATION_SCHEMA, SYSTEM_SCHEMA};
use uuid::Uuid;

use super::Runner;
use crate::ledger::Ledger;
use crate::project::Name;
use crate::rewrite::{self, Rewritten};
use crate::statements;

/// What stands before the number of a run.
const PREFIX: &str = "run_";

/// The key of what a run staged, by its name; `None` for names that are no run's.
///
/// # Errors
/// [`Kind::NotFound`](skep_common::Kind::NotFound) for a run that is not there or keeps nothing; those of the database.
pub(crate) async fn key(ledger: &Ledger, name: &str) -> Result<Option<Uuid>> {
    let Some(run) = name.strip_prefix(PREFIX).and_then(|number| number.parse::<i64>().ok()) else {
        return Ok(None);
    };
    let keeper = ledger.keeper(run).await?;
    let gone = |what: &str| Error::not_found(format!("run {run} keeps nothing: it {what}"));
    if keeper.latest != run {
        return Err(gone(&format!("was gone on with by run {}", keeper.latest))
            .hint(format!("{PREFIX}{} shows what that one staged, unless it was published", keeper.latest)));
    }
    match (keeper.state.as_str(), keeper.snapshot) {
        ("failed" | "lost" | "running", _) => Ok(Some(keeper.key)),
        ("done", Some(snapshot)) => Err(gone(&format!("published its tables in snapshot {snapshot}")).hint(
            format!("its tables have their own names; VERSION AS OF {snapshot} shows them as they were"),
        )),
        ("unchanged", _) => Err(gone("had nothing to do")),
        (state, _) => Err(gone(&format!("is {state}"))),
    }
}

impl Runner {
    /// What tells people to look at the rows of `sql`, which reads what this run staged.
    pub(super) fn look(&self, sql: Option<&str>) -> String {
        let nothing = "nothing of the run is published";
        match sql.and_then(|sql| self.as_staged(sql)) {
            Some(sql) => format!("{nothing}; until another run begins: {sql}"),
            None => format!("{nothing}; what it staged can be read as {PREFIX}{}.schema.table", self.run),
        }
    }

    /// `sql` with the names that its tables have for everybody, on one line.
    fn as_staged(&self, sql: &str) -> Option<String> {
        let (_, reads) = rewrite::reads(sql).ok()?;
        let tables = reads.tables.iter().map(|table| (Name::of(table), table.span));
        let own =
            tables.filter(|(name, _)| ![SYSTEM_SCHEMA, INFORMATION_SCHEMA].contains(&name.schema.as_str()));
        let edits =
            own.map(|(name, span)| (span, format!("{PREFIX}{}.{}", self.run, statements::table(&name))));
        let text = Rewritten::new(sql, edits.collect()).text;
        // Comments would take the rest of the line with them.
        if text.contains("--") {
            return None;
        }
        Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}
