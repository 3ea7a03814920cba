//! The open transactions of a session: the one that BEGIN, COMMIT and ROLLBACK speak of, and those beside it, which callers
//! hold by themselves.
//!
//! ```text
//! BEGIN --> statements read and change the transaction's snapshot --> COMMIT: one snapshot of the catalog
//!                                                                 \-> ROLLBACK, or the session ends: nothing
//! ```
//!
//! # Invariants
//! - A statement that fails leaves the transaction as it was before the statement.
//! - Whatever COMMIT answers, the transaction is over; while another of its statements runs, it does not start.
//! - Nothing runs in a transaction beside its session after the end of it.
//! - Files that no commit can name any more are deleted.

use std::sync::Arc;

use skep_catalog::{Snapshot, Transaction};
use skep_common::{Error, Kind, Result, task};
use skep_engine::Statement;
use tokio_util::sync::CancellationToken;

use crate::coordinator::Shared;
use crate::maintenance::Active;
use crate::queries::State;
use crate::session::{Inner, Outcome, Session};
use crate::statement::{Pending, Run};

/// A transaction between BEGIN and its end.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    pub(crate) transaction: Arc<Transaction>,
    pub(crate) read_only: bool,
    /// What it loaded.
    pub(crate) loads: Arc<Pending>,
    /// Maintenance waits for its end: what it did could come between.
    pub(crate) active: Arc<Active>,
}

impl Session {
    /// What a statement that came now would read.
    pub(crate) async fn snapshot(&self) -> Result<Arc<Snapshot>> {
        let open = self.0.open.lock().as_ref().map(|open| open.transaction.snapshot());
        match open {
            Some(snapshot) => Ok(snapshot),
            None => self.0.shared.environment.catalog.snapshot().await,
        }
    }
}

/// A transaction beside whatever its session has open, with the session's settings. Dropping it rolls it back.
#[derive(Debug, Clone)]
pub struct Beside(Session);

impl Session {
    /// Begins a transaction that only what runs in [`Beside::session`] is part of.
    ///
    /// # Errors
    /// Those of reading the catalog.
    pub async fn begin(&self) -> Result<Beside> {
        let session = self.beside();
        session.control("BEGIN").await?;
        Ok(Beside(session))
    }

    /// Runs BEGIN, COMMIT or ROLLBACK.
    async fn control(&self, sql: &str) -> Result<()> {
        let parsed = skep_engine::parse_one(sql)?;
        let watch = self.watch(sql, CancellationToken::new());
        let run = Run::new(self, &parsed, &watch);
        let outcome = run.execute(parsed.statement, Vec::new()).await;
        watch.settle(outcome).map(drop)
    }
}

impl Beside {
    /// The session of its statements. They are refused once the transaction has ended.
    pub fn session(&self) -> &Session {
        &self.0
    }

    /// Whether it has not ended.
    pub fn is_open(&self) -> bool {
        self.0.0.open.lock().is_some()
    }

    /// Commits it.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if another commit came between, or a statement of it is running;
    /// [`Kind::Invalid`] if it has ended.
    pub async fn commit(&self) -> Result<()> {
        self.0.control("COMMIT").await
    }

    /// Rolls it back.
    ///
    /// # Errors
    /// As [`Beside::commit`].
    pub async fn rollback(&self) -> Result<()> {
        self.0.control("ROLLBACK").await
    }
}

impl Run {
    /// Refuses what cannot be part of a transaction beside its session: its end, and whatever comes after.
    pub(crate) fn belongs(&self, statement: &Statement) -> Result<()> {
        if !self.session.beside {
            return Ok(());
        }
        match statement {
            Statement::Begin { .. } | Statement::Commit | Statement::Rollback => {
                Err(Error::invalid("the client holds the transaction that this statement would begin or end")
                    .hint("commit or roll back through the driver, or turn its autocommit on"))
            }
            _ if self.open.is_none() => {
                Err(Error::invalid("the transaction of this statement has ended").hint("begin another"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) async fn begin(self, read_only: bool) -> Result<Outcome> {
        let catalog = &self.shared.environment.catalog;
        let base = catalog.snapshot().await?;
        let transaction = Arc::new(catalog.begin(base, self.author().info(0)));
        {
            let mut open = self.session.open.lock();
            if open.is_some() {
                return Err(
                    Error::invalid("a transaction is open already").hint("COMMIT or ROLLBACK it first")
                );
            }
            let active = Arc::new(self.shared.activity.enter());
            *open = Some(Open { transaction, read_only, loads: Arc::default(), active });
        }
        Ok(self.done("BEGIN", None))
    }

    pub(crate) async fn commit(mut self) -> Result<Outcome> {
        self.open = None;
        self.watch.advance(State::Finishing)?;
        let Some(transaction) = end(&self.session)? else { return Ok(self.done("COMMIT", None)) };
        let staged = transaction.staged_files();
        match transaction.commit().await {
            Ok(_) => Ok(self.done("COMMIT", None)),
            Err(error) => {
                if refused(&error) {
                    self.shared.discard(staged).await;
                }
                let retry = error.kind() == Kind::Conflict;
                Err(if retry {
                    error.hint("the transaction was rolled back: run it again from BEGIN")
                } else {
                    error
                })
            }
        }
    }

    pub(crate) async fn rollback(mut self) -> Result<Outcome> {
        self.open = None;
        if let Some(transaction) = end(&self.session)? {
            self.shared.discard(transaction.staged_files()).await;
        }
        Ok(self.done("ROLLBACK", None))
    }

    /// Refuses to change anything in a transaction that only reads.
    pub(crate) fn may_write(&self) -> Result<()> {
        if self.open.as_ref().is_some_and(|open| open.read_only) {
            return Err(Error::invalid("the transaction is read only")
                .hint("COMMIT it, and change tables outside of it or after BEGIN without READ ONLY"));
        }
        Ok(())
    }
}

/// Takes the transaction out of its session. `None` if it is read by nobody and changed nothing.
fn end(session: &Inner) -> Result<Option<Transaction>> {
    let mut slot = session.open.lock();
    let Some(Open { transaction, read_only, loads, active }) = slot.take() else {
        return Err(Error::invalid("no transaction is open").hint("BEGIN starts one"));
    };
    match Arc::try_unwrap(transaction) {
        Ok(transaction) => Ok((!transaction.is_empty()).then_some(transaction)),
        Err(transaction) => {
            *slot = Some(Open { transaction, read_only, loads, active });
            Err(Error::conflict("another statement of the transaction is running")
                .hint("wait until it is done, or cancel it, and try again"))
        }
    }
}

/// Whether `error` says that the catalog did not take a commit, whose files are deleted then: after any other it may stand.
pub fn refused(error: &Error) -> bool {
    matches!(
        error.kind(),
        Kind::Conflict
            | Kind::AlreadyExists
            | Kind::NotFound
            | Kind::Invalid
            | Kind::Unsupported
            | Kind::Cancelled
    )
}

/// What a session that ends leaves open is rolled back.
impl Drop for Inner {
    fn drop(&mut self) {
        let Some(open) = self.open.get_mut().take() else { return };
        let staged = open.transaction.staged_files();
        if staged.is_empty() || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let shared: Arc<Shared> = Arc::clone(&self.shared);
        task::spawn("remove the files of a transaction that was left", async move {
            shared.discard(staged).await;
        })
        .detach();
    }
}
