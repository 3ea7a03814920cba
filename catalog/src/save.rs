//! Transactions that outlive their process: written down before the commit, taken up by whoever comes next.
//!
//! # Invariants
//! - What is taken up reads and commits as what was written down, with the same key.
//! - The commit takes its own row away in the same database transaction.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use skep_common::{Error, Result};
use skep_metadb::database_error;
use uuid::Uuid;

use crate::catalog::Catalog;
use crate::load;
use crate::transaction::{Change, CommitInfo, Transaction};

/// A transaction that was written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The key of its commit.
    pub key: Uuid,
    /// Who commits.
    pub author: Option<String>,
    /// What it does, for people.
    pub message: Option<String>,
    /// When it was written down last.
    pub time: DateTime<Utc>,
}

impl Transaction {
    /// Writes down what was applied so far, in the place of what was written down before. Rows of our own
    /// ([`Transaction::with`]) are not part of it: whoever takes it up adds them again.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn save(&self) -> Result<()> {
        let changes = serde_json::to_string(&self.changes())
            .map_err(|e| Error::internal("a transaction cannot be written down").source(e))?;
        let mut tx = self.catalog.db().begin().await?;
        sqlx::query(
            "INSERT INTO skep_transaction (key, base, author, message, changes, saved_at) VALUES (?, ?, ?, ?, ?, ?) \
             ON CONFLICT (key) DO UPDATE SET changes = excluded.changes, saved_at = excluded.saved_at",
        )
        .bind(self.info.key.to_string())
        .bind(self.base.id)
        .bind(&self.info.author)
        .bind(&self.info.message)
        .bind(changes)
        .bind(load::time_text(self.catalog.clock().now()))
        .execute(tx.conn())
        .await
        .map_err(|e| database_error("cannot write a transaction down", e))?;
        tx.commit().await
    }
}

impl Catalog {
    /// Takes up the transaction that was written down under `key`.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) if there is none: it was never written down, was committed or was
    /// forgotten; or if its base was expired since.
    pub async fn resume(&self, key: Uuid) -> Result<Transaction> {
        let row: Option<(i64, Option<String>, Option<String>, String)> =
            sqlx::query_as("SELECT base, author, message, changes FROM skep_transaction WHERE key = ?")
                .bind(key.to_string())
                .fetch_optional(self.db().reader())
                .await
                .map_err(|e| database_error("cannot read a transaction", e))?;
        let Some((base, author, message, changes)) = row else {
            return Err(Error::not_found(format!("no transaction was written down under {key}"))
                .hint("it was committed or given up: look at the history of the catalog"));
        };
        let changes: Vec<Change> = serde_json::from_str(&changes).map_err(|e| {
            Error::corrupt(format!("the transaction {key} does not read"))
                .hint("run what it did again")
                .source(e)
        })?;
        let base = self.snapshot_at(base).await?;
        let transaction = self.begin(Arc::clone(&base), CommitInfo { author, message, key });
        // One by one, as they came: ids below zero are given in that order.
        for change in changes {
            transaction.apply([change])?;
        }
        Ok(transaction)
    }

    /// The transactions that were written down and neither committed nor forgotten, the oldest first.
    ///
    /// # Errors
    /// Those of the database; [`Kind::Corrupt`](skep_common::Kind::Corrupt) for one that does not read: whoever leaves it
    /// out would take its files for nobody's.
    pub async fn saved(&self) -> Result<Vec<Saved>> {
        let rows: Vec<(String, Option<String>, Option<String>, String)> = sqlx::query_as(
            "SELECT key, author, message, saved_at FROM skep_transaction ORDER BY saved_at, key",
        )
        .fetch_all(self.db().reader())
        .await
        .map_err(|e| database_error("cannot list transactions", e))?;
        let saved = rows.into_iter().map(|(key, author, message, time)| {
            let damaged = || {
                Error::corrupt(format!(
                    "the transaction '{key}' that was written down at '{time}' does not read"
                ))
                .hint("restore the latest backup of the catalog")
            };
            let time = load::parse_time(&time).ok_or_else(damaged)?;
            let key = Uuid::parse_str(&key).map_err(|e| damaged().source(e))?;
            Ok(Saved { key, author, message, time })
        });
        saved.collect()
    }

    /// Forgets the transaction that was written down under `key`. Its files are the caller's to delete.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forget(&self, key: Uuid) -> Result<()> {
        let mut tx = self.db().begin().await?;
        sqlx::query("DELETE FROM skep_transaction WHERE key = ?")
            .bind(key.to_string())
            .execute(tx.conn())
            .await
            .map_err(|e| database_error("cannot forget a transaction", e))?;
        tx.commit().await
    }
}
