//! Commits of single statements: decided on a snapshot, published, and decided again when another commit came first.
//! Inside a transaction, the same path ends in the transaction.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use skep_catalog::{Catalog, Change, CommitInfo, Snapshot, Transaction};
use skep_common::{Error, Kind, QueryId, Result};

use crate::queries::{State, Watch};

/// How often a statement is decided again because of conflicts.
const ATTEMPTS_MAX: u32 = 5;
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// Who commits which statement.
#[derive(Debug, Clone)]
pub(crate) struct Author {
    /// Learns that a commit begins, and may say that it must not.
    pub(crate) watch: Arc<Watch>,
    pub(crate) user: String,
    pub(crate) statement: String,
    pub(crate) query: QueryId,
    /// The open transaction that takes the changes instead of a commit.
    pub(crate) transaction: Option<Arc<Transaction>>,
}

impl Author {
    /// What the catalog records. The query's id is the key: a commit whose answer got lost is not made twice.
    pub(crate) fn info(&self, attempt: u32) -> CommitInfo {
        let key = uuid::Uuid::from_u128(self.query.as_uuid().as_u128() ^ u128::from(attempt));
        CommitInfo { author: Some(self.user.clone()), message: Some(shorten(&self.statement)), key }
    }
}

/// The start of a statement, for the history.
fn shorten(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= CHARS_MAX {
        return line;
    }
    line.chars().take(CHARS_MAX).chain("...".chars()).collect()
}

/// Commits what `decide` makes of the latest snapshot; no changes, no commit. Returns whether something changed.
///
/// # Errors
/// Those of `decide` and of the commit; a conflict only after several tries on later snapshots.
pub(crate) async fn autocommit(
    catalog: &Catalog,
    author: &Author,
    decide: impl Fn(&Snapshot) -> Result<Vec<Change>>,
) -> Result<bool> {
    let mut attempt = 0;
    loop {
        author.watch.advance(State::Running)?;
        let base = match &author.transaction {
            Some(transaction) => transaction.snapshot(),
            None => catalog.snapshot().await?,
        };
        let changes = decide(&base)?;
        if changes.is_empty() {
            return Ok(false);
        }
        match publish(catalog, base, author, attempt, changes).await {
            Ok(()) => return Ok(true),
            Err(error) => attempt = next_attempt(attempt, error).await?,
        }
    }
}

/// Commits `changes`, decided on `base`, or adds them to the open transaction.
pub(crate) async fn publish(
    catalog: &Catalog,
    base: Arc<Snapshot>,
    author: &Author,
    attempt: u32,
    changes: Vec<Change>,
) -> Result<()> {
    publish_with(catalog, base, author, attempt, changes, |_| ()).await
}

/// As [`publish`], with rows of our own that `side` adds.
pub(crate) async fn publish_with(
    catalog: &Catalog,
    base: Arc<Snapshot>,
    author: &Author,
    attempt: u32,
    changes: Vec<Change>,
    side: impl FnOnce(&Transaction),
) -> Result<()> {
    if let Some(transaction) = &author.transaction {
        transaction.apply(changes)?;
        side(transaction);
        return Ok(());
    }
    let transaction = catalog.begin(base, author.info(attempt));
    transaction.apply(changes)?;
    side(&transaction);
    author.watch.advance(State::Finishing)?;
    transaction.commit().await.map(drop)
}

/// Waits a little before the next attempt, or gives the error back if another attempt would not help.
pub(crate) async fn next_attempt(attempt: u32, error: Error) -> Result<u32> {
    if error.kind() != Kind::Conflict || attempt + 1 >= ATTEMPTS_MAX {
        return Err(error);
    }
    tracing::debug!(attempt, error = error.report(), "conflict, deciding again");
    let factor = rand::rng().random_range(1.0..2.0);
    tokio::time::sleep(PAUSE_MIN.mul_f64(factor) * 2u32.pow(attempt)).await;
    Ok(attempt + 1)
}
