//! Who may do what only one process may do: a lease of limited time, with a number that grows with each holder.
//!
//! The number, the epoch, is what makes it safe: work of a holder is written in transactions that check it first
//! ([`WriteTx::fence`]). A process that slept through the end of its lease finds a later epoch there and writes nothing,
//! however its clock goes. Time only decides when somebody else may take over.
//!
//! Source: the fencing tokens of M. Kleppmann, "Designing Data-Intensive Applications", chapter 8.

use std::time::Duration;

use chrono::{DateTime, Utc};
use skep_common::{Error, Result};

use crate::{MetaDb, WriteTx, database_error};

/// The table of leases.
pub const LEASES: &str = "skep_lease";

pub(crate) const MIGRATIONS: &[&str] = &["CREATE TABLE skep_lease (
    name TEXT PRIMARY KEY NOT NULL, holder TEXT NOT NULL, epoch INTEGER NOT NULL, expires_us INTEGER NOT NULL)"];

/// A lease that was taken. Whether it still holds is for the database to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What it is for.
    pub name: String,
    /// Who took it.
    pub holder: String,
    /// Greater than that of every holder before.
    pub epoch: i64,
}

/// How taking a lease ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is the caller's.
    Yes(Lease),
    /// Somebody else has it.
    No {
        /// Who.
        holder: String,
        /// Until when, unless it is renewed.
        until: DateTime<Utc>,
    },
}

impl MetaDb {
    /// Takes the lease `name` for `holder` if it is free, ran out, or is the holder's own from an earlier life.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn take_lease(
        &self,
        name: &str,
        holder: &str,
        now: DateTime<Utc>,
        time: Duration,
    ) -> Result<Taken> {
        let doing = || format!("cannot take the lease '{name}'");
        self.migrate("lease", MIGRATIONS).await?;
        let mut tx = self.begin().await?;
        let row: Option<(String, i64, i64)> =
            sqlx::query_as("SELECT holder, epoch, expires_us FROM skep_lease WHERE name = ?")
                .bind(name)
                .fetch_optional(tx.conn())
                .await
                .map_err(|e| database_error(doing(), e))?;
        let epoch = match row {
            Some((other, _, expires)) if other != holder && expires > now.timestamp_micros() => {
                let until = DateTime::from_timestamp_micros(expires).unwrap_or(now);
                return Ok(Taken::No { holder: other, until });
            }
            Some((_, epoch, _)) => epoch + 1,
            None => 1,
        }
        // Greater than what holders had before the database was restored from a backup.
        .max(now.timestamp_micros());
        sqlx::query(
            "INSERT INTO skep_lease (name, holder, epoch, expires_us) VALUES (?, ?, ?, ?) \
             ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, epoch = excluded.epoch, \
             expires_us = excluded.expires_us",
        )
        .bind(name)
        .bind(holder)
        .bind(epoch)
        .bind(expiry(now, time))
        .execute(tx.conn())
        .await
        .map_err(|e| database_error(doing(), e))?;
        tx.commit().await?;
        Ok(Taken::Yes(Lease { name: name.to_owned(), holder: holder.to_owned(), epoch }))
    }

    /// Keeps a lease for `time` from now.
    ///
    /// # Errors
    /// [`Kind::Conflict`](skep_common::Kind::Conflict) if somebody else took it since: stop the work.
    pub async fn renew_lease(&self, lease: &Lease, now: DateTime<Utc>, time: Duration) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.fence(lease).await?;
        set_expiry(&mut tx, lease, expiry(now, time)).await?;
        tx.commit().await
    }

    /// Gives a lease back, so that nobody has to wait for its end. One that was lost is left alone.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn release_lease(&self, lease: &Lease) -> Result<()> {
        let mut tx = self.begin().await?;
        set_expiry(&mut tx, lease, 0).await?;
        tx.commit().await
    }
}

impl WriteTx {
    /// Refuses to go on unless the lease is still the latest: nothing of a stale holder is committed.
    ///
    /// # Errors
    /// [`Kind::Conflict`](skep_common::Kind::Conflict), naming the holder of today.
    pub async fn fence(&mut self, lease: &Lease) -> Result<()> {
        let row: Option<(String, i64)> =
            sqlx::query_as("SELECT holder, epoch FROM skep_lease WHERE name = ?")
                .bind(&lease.name)
                .fetch_optional(self.conn())
                .await
                .map_err(|e| database_error(format!("cannot check the lease '{}'", lease.name), e))?;
        match row {
            Some((_, epoch)) if epoch == lease.epoch => Ok(()),
            Some((holder, epoch)) => Err(Error::conflict(format!(
                "the lease '{}' of '{}' was lost: '{holder}' took it (epoch {epoch} after {})",
                lease.name, lease.holder, lease.epoch
            ))
            .hint("this process was silent for too long: let the other one do the work, or start this one again")),
            None => Err(Error::conflict(format!("the lease '{}' is not there any more", lease.name))),
        }
    }
}

fn expiry(now: DateTime<Utc>, time: Duration) -> i64 {
    now.timestamp_micros().saturating_add(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
}

async fn set_expiry(tx: &mut WriteTx, lease: &Lease, expires_us: i64) -> Result<()> {
    sqlx::query("UPDATE skep_lease SET expires_us = ? WHERE name = ? AND epoch = ?")
        .bind(expires_us)
        .bind(&lease.name)
        .bind(lease.epoch)
        .execute(tx.conn())
        .await
        .map_err(|e| database_error(format!("cannot write the lease '{}'", lease.name), e))?;
    Ok(())
}
