//! Transactions that a program steers: begun under a key of its own, written down as they grow, taken up again by whoever
//! comes next, and committed with rows of the program's own.
//!
//! # Not here
//! BEGIN, COMMIT and ROLLBACK as statements ([`crate::transaction`]); COMMIT and ROLLBACK end these as well.

use std::sync::Arc;

use skep_catalog::{Catalog, CommitInfo, SideEffect, Snapshot, Transaction};
use skep_common::{Error, Result};
use uuid::Uuid;

use crate::session::Session;
use crate::transaction::Open;

impl Session {
    /// The catalog that the statements of the session read.
    pub fn catalog(&self) -> &Catalog {
        &self.0.shared.environment.catalog
    }

    /// Who the session belongs to.
    pub fn user(&self) -> &str {
        &self.0.user
    }

    /// Begins a transaction on the latest snapshot, whose commit has the key `key` and says `message`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) if one is open; those of the catalog.
    pub async fn begin_under(&self, key: Uuid, message: &str) -> Result<()> {
        let base = self.catalog().snapshot().await?;
        let info = CommitInfo { author: Some(self.0.user.clone()), message: Some(message.to_owned()), key };
        self.take_up(self.catalog().begin(base, info))
    }

    /// Takes up the transaction that was written down under `key`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) if one is open; [`Kind::NotFound`](skep_common::Kind::NotFound) if none was
    /// written down, or it was committed.
    pub async fn resume_under(&self, key: Uuid) -> Result<()> {
        let transaction = self.catalog().resume(key).await?;
        self.take_up(transaction)
    }

    fn take_up(&self, transaction: Transaction) -> Result<()> {
        let mut open = self.0.open.lock();
        if open.is_some() {
            return Err(Error::invalid("a transaction is open already").hint("COMMIT or ROLLBACK it first"));
        }
        let active = Arc::new(self.0.shared.activity.enter());
        let (transaction, loads) = (Arc::new(transaction), Arc::default());
        *open = Some(Open { transaction, read_only: false, loads, active });
        Ok(())
    }

    fn transaction(&self) -> Result<Arc<Transaction>> {
        let open = self.0.open.lock();
        open.as_ref()
            .map(|open| Arc::clone(&open.transaction))
            .ok_or_else(|| Error::internal("no transaction is open"))
    }

    /// What the next statement of the session reads: the open transaction, or the latest snapshot.
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn sees(&self) -> Result<Arc<Snapshot>> {
        self.snapshot().await
    }

    /// Whether the open transaction changed anything.
    ///
    /// # Errors
    /// [`Kind::Internal`](skep_common::Kind::Internal) if none is open.
    pub fn changed(&self) -> Result<bool> {
        Ok(!self.transaction()?.is_empty())
    }

    /// Rows of the caller's own that are committed with the open transaction.
    ///
    /// # Errors
    /// [`Kind::Internal`](skep_common::Kind::Internal) if none is open.
    pub fn add(&self, side: impl SideEffect + 'static) -> Result<()> {
        self.transaction()?.with(side);
        Ok(())
    }

    /// Writes the open transaction down, so that it can be taken up if this process ends.
    ///
    /// # Errors
    /// Those of the catalog.
    pub async fn save(&self) -> Result<()> {
        self.transaction()?.save().await
    }

    /// Lets go of the open transaction and keeps its files: it was written down, and may be taken up again.
    pub fn leave(&self) {
        drop(self.0.open.lock().take());
    }

    /// Gives up what was written down under `key`, with its files.
    ///
    /// # Errors
    /// Those of the catalog; nothing written down is none.
    pub async fn give_up(&self, key: Uuid) -> Result<()> {
        let files = match self.catalog().resume(key).await {
            Ok(transaction) => transaction.staged_files(),
            Err(error) if error.kind() == skep_common::Kind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        self.catalog().forget(key).await?;
        self.0.shared.discard(files).await;
        Ok(())
    }
}
