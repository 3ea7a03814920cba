//! Opens the metadata database and hands out its one writer and its readers.
//!
//! ```text
//! catalog, ledger, users, leases ...          each with `skep_*` tables of its own
//!        |            |
//!     reader()     begin()                    many readers, one writer
//!        \            /
//!         SQLite file (WAL, synchronous = FULL)
//! ```
//!
//! # Invariants
//! - At most one write transaction is open in the process, and it holds SQLite's write lock from its first statement:
//!   what it reads cannot change before it commits.
//! - A [`WriteTx`] that is dropped leaves nothing behind.
//! - Readers never wait for the writer, and see only committed transactions.
//! - A component's tables are never older or newer than its code: [`MetaDb::migrate`] brings them up, or refuses.
//!
//! # Not here
//! What the tables mean. The `ducklake_*` tables belong to `catalog`.

mod error;
mod migrate;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skep_common::{Error, Result};
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Sqlite, SqliteConnection, SqlitePool, Transaction};

pub use error::database_error;
pub use migrate::MIGRATIONS;

/// How the database is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Create the file when it is absent. Otherwise its absence is an error.
    pub create: bool,
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
            readers: 8,
            busy_timeout: Duration::from_secs(5),
            wait_timeout: Duration::from_secs(60),
        }
    }
}

/// A handle to the open database. Cheap to clone; the file closes with the last one.
#[derive(Debug, Clone)]
pub struct MetaDb(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// A pool of exactly one: its queue is the async mutex around the writer, and a dropped transaction rolls back
    /// before the connection is handed on.
    writer: SqlitePool,
    readers: SqlitePool,
}

impl MetaDb {
    /// Opens the SQLite file at `path`.
    ///
    /// # Errors
    /// [`Kind::Corrupt`](skep_common::Kind::Corrupt) if the file is not an SQLite database or is damaged,
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) if it is absent and `create` is off,
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) if it cannot be opened for writing.
    pub async fn open(path: &Path, options: Options) -> Result<MetaDb> {
        let shown = path.display();
        let exists = path
            .try_exists()
            .map_err(|e| Error::invalid(format!("cannot look at the database file '{shown}'")).source(e))?;
        if !exists && !options.create {
            return Err(Error::not_found(format!("the database file '{shown}' does not exist")));
        }
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(options.create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .auto_vacuum(SqliteAutoVacuum::None)
            .busy_timeout(options.busy_timeout)
            .foreign_keys(false);
        let context = || format!("cannot open the database file '{shown}'");
        let writer = pool(1, &options)
            .connect_with(connect.clone())
            .await
            .map_err(|e| database_error(context(), e))?;
        check(&writer).await.map_err(|e| e.context(context()))?;
        let readers = pool(options.readers.clamp(1, 64), &options)
            .connect_with(connect.pragma("query_only", "ON"))
            .await
            .map_err(|e| database_error(context(), e))?;
        Ok(MetaDb(Arc::new(Inner { path: path.to_owned(), writer, readers })))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Connections that can only read. Each statement sees the latest commit; a transaction sees one.
    pub fn reader(&self) -> &SqlitePool {
        &self.0.readers
    }

    /// Waits for the writer and takes SQLite's write lock.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](skep_common::Kind::Unavailable) if another process keeps the lock for longer than
    /// the busy timeout: retry. [`Kind::Exhausted`](skep_common::Kind::Exhausted) if this process does.
    pub async fn begin(&self) -> Result<WriteTx> {
        let tx = self.0.writer.begin_with("BEGIN IMMEDIATE").await;
        tx.map(WriteTx).map_err(|e| database_error("cannot begin a write to the metadata database", e))
    }

    /// Brings the tables of `component` to the last of `steps`, each run once, in one transaction.
    ///
    /// `steps[i]` is SQL that takes the tables from version `i` to `i + 1`. A step that was released never changes.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) if a newer program wrote the tables.
    pub async fn migrate(&self, component: &str, steps: &[&'static str]) -> Result<()> {
        migrate::run(self, component, steps).await
    }

    /// Waits for running statements, folds the log into the file, and closes it. Handles that remain get errors.
    pub async fn close(&self) {
        self.0.readers.close().await;
        self.0.writer.close().await;
    }
}

/// A write transaction. Dropping it rolls back.
#[derive(Debug)]
#[must_use = "dropping a transaction rolls it back"]
pub struct WriteTx(Transaction<'static, Sqlite>);

impl WriteTx {
    /// The connection, inside the transaction.
    pub fn conn(&mut self) -> &mut SqliteConnection {
        &mut self.0
    }

    /// Makes everything durable and visible.
    ///
    /// # Errors
    /// After an error the transaction may or may not have been committed: whoever needs to know writes a key in it,
    /// and looks for the key before trying again.
    pub async fn commit(self) -> Result<()> {
        self.0.commit().await.map_err(|e| database_error("cannot commit a write to the metadata database", e))
    }
}

fn pool(connections: u32, options: &Options) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .min_connections(0)
        .acquire_timeout(options.wait_timeout)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}

/// Reads the schema and a page of every table's root: a damaged header or schema shows here and not in a query later.
async fn check(pool: &SqlitePool) -> Result<()> {
    let damaged = "the metadata database does not pass its check";
    sqlx::query("SELECT count(*) FROM sqlite_master")
        .execute(pool)
        .await
        .map_err(|e| database_error(damaged, e))?;
    let verdict: (String,) = sqlx::query_as("PRAGMA quick_check(1)")
        .fetch_one(pool)
        .await
        .map_err(|e| database_error(damaged, e))?;
    if verdict.0 != "ok" {
        return Err(Error::corrupt(damaged).hint(error::RESTORE).source(verdict.0));
    }
    Ok(())
}
