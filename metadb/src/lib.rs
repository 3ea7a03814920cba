//! Opens the metadata database and hands out its one writer and its readers.
//!
//! ```text
//! catalog, ledger, users, leases ...          each with `skep_*` tables of its own
//!        |            |
//!     reader()     begin()                    many readers, one writer
//!        \            /
//!      SQLite file, or a database of a PostgreSQL server         one way to write SQL for both: `Dialect`
//! ```
//!
//! # Invariants
//! - At most one write transaction of Skep is open in the database, over all processes: it holds SQLite's write lock, or
//!   an advisory lock of PostgreSQL, from its first statement. What it reads of our tables cannot change before it
//!   commits. Tables that other programs write too need a lock of their own on PostgreSQL: [`WriteTx::lock`].
//! - A [`WriteTx`] that is dropped leaves nothing behind.
//! - Readers never wait for the writer, and see only committed transactions.
//! - A component's tables are never older or newer than its code: [`MetaDb::migrate`] brings them up, or refuses.
//!
//! # Not here
//! What the tables mean. The `ducklake_*` tables belong to `catalog`.

mod conn;
mod dialect;
mod error;
mod lease;
mod location;
mod migrate;
mod open;
mod transfer;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use skep_common::{Error, Kind, Result};
use sqlx::{AnyPool, AssertSqlSafe};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use conn::{Conn, Reader};
pub use dialect::Dialect;
pub use error::database_error;
pub use lease::{LEASES, Lease, Taken};
pub use location::Location;
pub use migrate::MIGRATIONS;

/// How the database is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Create the file when it is absent. Otherwise its absence is an error. A database of a server must be there.
    pub create: bool,
    /// Open a file that nobody writes to, and leave it and its folder exactly as they are: a backup.
    pub immutable: bool,
    /// Readers at a time; more wait. 1 to 64.
    pub readers: u32,
    /// How long a statement waits for a lock another process holds.
    pub busy_timeout: Duration,
    /// How long a caller waits for the writer or for a free reader before it gets an error.
    pub wait_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            create: true,
            immutable: false,
            readers: 8,
            busy_timeout: Duration::from_secs(5),
            wait_timeout: Duration::from_secs(60),
        }
    }
}

/// A handle to the open database. Cheap to clone; it closes with the last one.
#[derive(Debug, Clone)]
pub struct MetaDb(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    location: Location,
    dialect: Dialect,
    wait_timeout: Duration,
    /// The queue of writers. A place in it is waited for long, a connection is not: a server that is gone should be
    /// heard of soon.
    writing: Arc<Semaphore>,
    /// A pool of exactly one: a dropped transaction rolls back before the connection is handed on.
    writer: AnyPool,
    readers: Reader,
}

impl MetaDb {
    /// Opens the database.
    ///
    /// # Errors
    /// [`Kind::Corrupt`](skep_common::Kind::Corrupt) if the file is not an SQLite database or is damaged,
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) if it is absent and `create` is off,
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) if it cannot be opened for writing, or the server does not know
    /// user, password or database, [`Kind::Unavailable`](skep_common::Kind::Unavailable) if it cannot be reached.
    pub async fn open(location: impl Into<Location>, options: Options) -> Result<MetaDb> {
        open::open(location.into(), options).await
    }

    /// The file or server.
    pub fn location(&self) -> &Location {
        &self.0.location
    }

    /// What kind of database it is.
    pub fn dialect(&self) -> Dialect {
        self.0.dialect
    }

    /// Connections that can only read. Each statement sees the latest commit.
    pub fn reader(&self) -> &Reader {
        &self.0.readers
    }

    /// Waits for the writer and takes the lock that only one writer has.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](skep_common::Kind::Unavailable) if another process keeps the lock for longer than
    /// the busy timeout: retry. [`Kind::Exhausted`](skep_common::Kind::Exhausted) if this process does.
    pub async fn begin(&self) -> Result<WriteTx> {
        let doing = "cannot begin a write to the metadata database";
        let queued = tokio::time::timeout(self.0.wait_timeout, Arc::clone(&self.0.writing).acquire_owned());
        let place = queued.await.ok().and_then(std::result::Result::ok).ok_or_else(|| {
            Error::new(Kind::Exhausted, doing).hint("too many writers wait for their turn: try again later")
        })?;
        let statement = match self.dialect() {
            Dialect::Sqlite => "BEGIN IMMEDIATE",
            Dialect::Postgres => "BEGIN",
        };
        let tx = self.0.writer.begin_with(statement).await.map_err(|e| database_error(doing, e))?;
        let mut tx = WriteTx(Conn { tx, dialect: self.dialect() }, place);
        if self.dialect() == Dialect::Postgres {
            // The statement after the lock is the first that sees data: whatever was committed before it.
            sqlx::raw_sql(ADVISORY_LOCK).execute(tx.conn()).await.map_err(|e| database_error(doing, e))?;
        }
        Ok(tx)
    }

    /// The names of the tables that are there.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tables(&self) -> Result<BTreeSet<String>> {
        let rows: Vec<(String,)> =
            sqlx::query_as(tables_of(self.dialect()))
                .fetch_all(self.reader())
                .await
                .map_err(|e| database_error("cannot list the tables of the metadata database", e))?;
        Ok(rows.into_iter().map(|(name,)| name).collect())
    }

    /// Brings the tables of `component` to the last of `steps`, each run once, in one transaction.
    ///
    /// `steps[i]` is SQL that takes the tables from version `i` to `i + 1`, with the types of [`Dialect`]. A step that
    /// was released never changes.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) if a newer program wrote the tables.
    pub async fn migrate(&self, component: &str, steps: &[&'static str]) -> Result<()> {
        migrate::run(self, component, steps).await
    }

    /// Waits for running statements, folds the log into the file, and closes it. Handles that remain get errors.
    pub async fn close(&self) {
        self.0.readers.pool.close().await;
        self.0.writer.close().await;
    }
}

/// A number that nobody else takes, the letters of the program's name, and one for the schema: each schema of a database
/// may hold a catalog.
const ADVISORY_LOCK: &str =
    "SELECT pg_advisory_xact_lock(1936418160, hashtext(coalesce(current_schema(), '')))";

fn tables_of(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => {
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        }
        Dialect::Postgres => {
            "SELECT CAST(table_name AS TEXT) FROM information_schema.tables WHERE table_schema = current_schema()"
        }
    }
}

/// A write transaction. Dropping it rolls back.
#[derive(Debug)]
#[must_use = "dropping a transaction rolls it back"]
pub struct WriteTx(
    Conn,
    #[expect(dead_code, reason = "held until the transaction ends")] OwnedSemaphorePermit,
);

impl WriteTx {
    /// The connection, inside the transaction.
    pub fn conn(&mut self) -> &mut Conn {
        &mut self.0
    }

    /// The names of the tables that are there.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tables(&mut self) -> Result<BTreeSet<String>> {
        let rows: Vec<(String,)> = sqlx::query_as(tables_of(self.0.dialect))
            .fetch_all(self.conn())
            .await
            .map_err(|e| database_error("cannot list the tables of the metadata database", e))?;
        Ok(rows.into_iter().map(|(name,)| name).collect())
    }

    /// Keeps other programs from writing to `table` until the end of the transaction; they may read it. Call it before
    /// reading what must not change. SQLite's write lock does that by itself.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](skep_common::Kind::Unavailable) if another program writes to it for longer than the busy
    /// timeout.
    pub async fn lock(&mut self, table: &'static str) -> Result<()> {
        if self.0.dialect == Dialect::Postgres {
            sqlx::raw_sql(AssertSqlSafe(format!("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")))
                .execute(self.conn())
                .await
                .map_err(|e| database_error(format!("cannot lock {table}"), e))?;
        }
        Ok(())
    }

    /// Makes everything durable and visible.
    ///
    /// # Errors
    /// After an error the transaction may or may not have been committed: whoever needs to know writes a key in it,
    /// and looks for the key before trying again.
    pub async fn commit(self) -> Result<()> {
        self.0
            .tx
            .commit()
            .await
            .map_err(|e| database_error("cannot commit a write to the metadata database", e))
    }
}
