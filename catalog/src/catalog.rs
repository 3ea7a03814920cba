//! Opens a catalog, and hands out its snapshots.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use skep_common::clock::{self, Clock};
use skep_common::task::Task;
use skep_common::{Error, Result};
use skep_metadb::{Location, MetaDb, WriteTx, database_error};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::check;
use crate::ddl;
use crate::files::{self, FileCache};
use crate::load;
use crate::model::{DataFile, Snapshot};
use crate::overlay::stands_alone;
use crate::transaction::{CommitInfo, Transaction};

/// How a catalog is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Where the files of a catalog that does not exist yet will lie: a URL or an absolute folder, ending in `/`.
    /// An existing catalog keeps its own, see [`Catalog::data_path`].
    pub data_path: String,
    /// Tells the time of snapshots.
    pub clock: Arc<dyn Clock>,
    /// How the database is opened.
    pub database: skep_metadb::Options,
}

impl OpenOptions {
    /// The usual options, with the clock of the machine.
    pub fn new(data_path: impl Into<String>) -> Self {
        Self {
            data_path: data_path.into(),
            clock: clock::system(),
            database: skep_metadb::Options::default(),
        }
    }
}

/// The latest state of a catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The id of the latest snapshot.
    pub snapshot: i64,
    /// When it was made.
    pub time: DateTime<Utc>,
    /// What relative paths start from, as it is written down.
    pub data_path: String,
}

/// An open catalog. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Catalog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: MetaDb,
    data_path: String,
    clock: Arc<dyn Clock>,
    /// The latest loaded last.
    snapshots: Mutex<VecDeque<Arc<Snapshot>>>,
    files: FileCache,
    /// The bases of transactions of this process, each with how many there are on it.
    bases: Mutex<BTreeMap<i64, usize>>,
    /// Commits under way. They outlive the callers that started them.
    commits: Mutex<Vec<Task<()>>>,
}

/// Snapshots kept in memory. They share the tables that did not change between them.
const SNAPSHOTS_MAX: usize = 32;

/// Schemas of a new catalog. The first is the one the specification requires.
const SCHEMAS: [&str; 4] = ["main", "lake", "warehouse", "mart"];

impl Catalog {
    /// Opens the catalog in an SQLite file or a PostgreSQL database, creating it when the file is absent, or the
    /// database empty.
    ///
    /// # Errors
    /// Those of [`MetaDb::open`];
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) if it holds something else, or was written by a newer program,
    /// [`Kind::Unsupported`](skep_common::Kind::Unsupported) if its files are encrypted.
    pub async fn open(location: impl Into<Location>, options: OpenOptions) -> Result<Catalog> {
        let db = MetaDb::open(location, options.database).await?;
        let created = create_if_empty(&db, &options.data_path, options.clock.as_ref()).await?;
        if !created {
            verify(&db).await?;
        }
        db.migrate("catalog", &ddl::MIGRATIONS).await?;
        let stored = metadata(&db, "data_path").await?.ok_or_else(|| not_a_catalog(&db))?;
        let data_path = resolve_data_path(&stored, db.location())?;
        Ok(Catalog(Arc::new(Inner {
            db,
            data_path,
            clock: options.clock,
            snapshots: Mutex::default(),
            files: FileCache::default(),
            bases: Mutex::default(),
            commits: Mutex::default(),
        })))
    }

    /// What a database holds, read as it is: no table of ours is brought up to date.
    ///
    /// # Errors
    /// As [`Catalog::open`]; [`Kind::Corrupt`](skep_common::Kind::Corrupt) if there is no snapshot.
    pub async fn head(db: &MetaDb) -> Result<Head> {
        verify(db).await?;
        let row: Option<(i64, String)> = sqlx::query_as(
            "SELECT snapshot_id, CAST(snapshot_time AS TEXT) FROM ducklake_snapshot ORDER BY snapshot_id DESC LIMIT 1",
        )
        .fetch_optional(db.reader())
        .await
        .map_err(|e| database_error("cannot read the latest snapshot", e))?;
        let (snapshot, time) = row.ok_or_else(|| Error::corrupt("the catalog has no snapshot"))?;
        let time = load::parse_time(&time)
            .ok_or_else(|| Error::corrupt(format!("snapshot {snapshot} has the time '{time}'")))?;
        let data_path = metadata(db, "data_path").await?.ok_or_else(|| not_a_catalog(db))?;
        Ok(Head { snapshot, time, data_path })
    }

    /// What all relative paths start from: a URL or an absolute folder, ending in `/`.
    pub fn data_path(&self) -> &str {
        &self.0.data_path
    }

    /// The database, for tables of our own that other components keep in it.
    pub fn db(&self) -> &MetaDb {
        &self.0.db
    }

    /// The latest snapshot.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn snapshot(&self) -> Result<Arc<Snapshot>> {
        let row: (Option<i64>,) = sqlx::query_as("SELECT max(snapshot_id) FROM ducklake_snapshot")
            .fetch_one(self.db().reader())
            .await
            .map_err(|e| database_error("cannot read the latest snapshot", e))?;
        let id = row.0.ok_or_else(|| {
            Error::corrupt("the catalog has no snapshot").hint("restore the latest backup of the catalog")
        })?;
        self.snapshot_at(id).await
    }

    /// The snapshot of that id.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) if there is none, or it was expired.
    pub async fn snapshot_at(&self, id: i64) -> Result<Arc<Snapshot>> {
        let (cached, newest) = {
            let cache = self.0.snapshots.lock();
            (cache.iter().find(|s| s.id == id).cloned(), cache.back().cloned())
        };
        if let Some(snapshot) = cached {
            return Ok(snapshot);
        }
        let snapshot = Arc::new(load::snapshot(self.db(), id, newest.as_deref()).await?);
        let mut cache = self.0.snapshots.lock();
        if let Some(other) = cache.iter().find(|s| s.id == id) {
            return Ok(Arc::clone(other));
        }
        if cache.len() == SNAPSHOTS_MAX {
            cache.pop_front();
        }
        cache.push_back(Arc::clone(&snapshot));
        Ok(snapshot)
    }

    /// The snapshot that was the latest at `time`.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) if the catalog is younger, or the snapshot was expired.
    pub async fn snapshot_as_of(&self, time: DateTime<Utc>) -> Result<Arc<Snapshot>> {
        // The text form sorts as the times do.
        let row: (Option<i64>,) = sqlx::query_as(
            "SELECT max(snapshot_id) FROM ducklake_snapshot WHERE snapshot_time <= CAST(? AS TIMESTAMPTZ)",
        )
        .bind(load::time_text(time))
        .fetch_one(self.db().reader())
        .await
        .map_err(|e| database_error("cannot look for a snapshot", e))?;
        match row.0 {
            Some(id) => self.snapshot_at(id).await,
            None => Err(Error::not_found(format!("there is no snapshot as old as {time}"))
                .hint("SHOW SNAPSHOTS lists those that are there")),
        }
    }

    /// The files that hold the rows of a table in a snapshot, in the order they were added.
    ///
    /// # Errors
    /// [`Kind::NotFound`](skep_common::Kind::NotFound) if the snapshot has no such table.
    /// [`Kind::Unsupported`](skep_common::Kind::Unsupported) if another engine left rows in it that files alone do
    /// not tell: inlined rows, encrypted files.
    pub async fn files(&self, snapshot: &Snapshot, table: i64) -> Result<Arc<Vec<Arc<DataFile>>>> {
        files::list(self.db(), &self.0.files, snapshot, table).await
    }

    /// Starts collecting changes that were decided on `base`. Touches nothing before it is committed.
    pub fn begin(&self, base: Arc<Snapshot>, info: CommitInfo) -> Transaction {
        Transaction::new(self.clone(), base, info)
    }

    /// The snapshot that the commit of `key` made, if there was one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn committed(&self, key: Uuid) -> Result<Option<i64>> {
        let row: Option<(i64,)> = sqlx::query_as("SELECT snapshot_id FROM skep_commit WHERE key = ?")
            .bind(key.to_string())
            .fetch_optional(self.db().reader())
            .await
            .map_err(|e| database_error("cannot look for a commit", e))?;
        Ok(row.map(|(id,)| id))
    }

    /// Looks for broken invariants, such as bounds that do not cover their files, and says each in a sentence.
    ///
    /// Reads all statistics: for tests and for whoever doubts a database, not for every start.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn check(&self) -> Result<Vec<String>> {
        check::check(self.db()).await
    }

    /// Snapshots that transactions of this process were begun on.
    pub(crate) fn bases(&self) -> Vec<i64> {
        self.0.bases.lock().keys().copied().collect()
    }

    pub(crate) fn hold(&self, base: i64) -> Hold {
        *self.0.bases.lock().entry(base).or_default() += 1;
        Hold { catalog: self.clone(), base }
    }

    /// Forgets cached snapshots that are no more.
    pub(crate) fn drop_cached(&self, gone: &[i64]) {
        self.0.snapshots.lock().retain(|snapshot| gone.binary_search(&snapshot.id).is_err());
    }

    /// The time that the catalog goes by.
    pub fn now(&self) -> DateTime<Utc> {
        self.0.clock.now()
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        self.0.clock.as_ref()
    }

    /// Owns a commit until it is done.
    pub(crate) fn keep(&self, commit: Task<()>) {
        let mut commits = self.0.commits.lock();
        commits.retain(|task| !task.is_finished());
        commits.push(commit);
    }
}

/// Keeps the base of a transaction from being expired.
#[derive(Debug)]
pub(crate) struct Hold {
    catalog: Catalog,
    base: i64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut bases = self.catalog.0.bases.lock();
        if let Some(count) = bases.get_mut(&self.base) {
            *count -= 1;
            if *count == 0 {
                bases.remove(&self.base);
            }
        }
    }
}

async fn create_if_empty(db: &MetaDb, data_path: &str, clock: &dyn Clock) -> Result<bool> {
    let doing = "cannot create the catalog";
    let mut tx = db.begin().await?;
    if tx.tables().await?.iter().any(|name| !name.starts_with("skep_")) {
        return Ok(false);
    }
    let absolute = stands_alone(data_path);
    if !absolute || !data_path.ends_with('/') {
        return Err(Error::invalid(format!("the data path '{data_path}' cannot be used"))
            .hint("give a URL or an absolute folder that ends in '/'"));
    }
    write_new(&mut tx, data_path, clock).await.map_err(|e| database_error(doing, e))?;
    tx.commit().await?;
    Ok(true)
}

async fn write_new(tx: &mut WriteTx, data_path: &str, clock: &dyn Clock) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(ddl::tables(tx.conn().dialect()))).execute(tx.conn()).await?;
    let created_by = concat!("Skep ", env!("CARGO_PKG_VERSION"));
    for (key, value) in [
        ("version", ddl::VERSION),
        ("created_by", created_by),
        ("data_path", data_path),
        ("encrypted", "false"),
        // Rows that DuckDB keeps in the catalog instead of in files would be hidden from us.
        ("data_inlining_row_limit", "0"),
    ] {
        sqlx::query("INSERT INTO ducklake_metadata VALUES (?, ?, NULL, NULL)")
            .bind(key)
            .bind(value)
            .execute(tx.conn())
            .await?;
    }
    let next_id = i64::try_from(SCHEMAS.len()).unwrap_or(0);
    sqlx::query("INSERT INTO ducklake_snapshot VALUES (0, CAST(? AS TIMESTAMPTZ), 0, ?, 0)")
        .bind(load::time_text(clock.now()))
        .bind(next_id)
        .execute(tx.conn())
        .await?;
    let mut tokens = Vec::new();
    for (id, name) in (0i64..).zip(SCHEMAS) {
        sqlx::query("INSERT INTO ducklake_schema VALUES (?, CAST(? AS UUID), 0, NULL, ?, ?, true)")
            .bind(id)
            .bind(Uuid::now_v7().to_string())
            .bind(name)
            .bind(crate::model::directory(name))
            .execute(tx.conn())
            .await?;
        tokens.push(crate::changes::Token::CreatedSchema(name.to_owned()));
    }
    sqlx::query("INSERT INTO ducklake_snapshot_changes VALUES (0, ?, NULL, NULL, NULL)")
        .bind(crate::changes::format(&tokens))
        .execute(tx.conn())
        .await?;
    Ok(())
}

async fn verify(db: &MetaDb) -> Result<()> {
    if !db.tables().await?.contains("ducklake_metadata") {
        return Err(not_a_catalog(db));
    }
    let shown = db.location();
    match metadata(db, "version").await? {
        Some(version) if version == ddl::VERSION => {}
        Some(version) => {
            return Err(Error::invalid(format!(
                "the catalog '{shown}' has DuckLake version '{version}', and this program reads version '{}'",
                ddl::VERSION
            ))
            .hint(
                "run a newer skep, or, for an older version, let DuckDB bring the catalog up to 1.0 by attaching it",
            ));
        }
        None => return Err(not_a_catalog(db)),
    }
    if metadata(db, "encrypted").await?.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Err(Error::unsupported(format!("the catalog '{shown}' encrypts its files"))
            .hint("copy its tables to a catalog made without ENCRYPTED"));
    }
    Ok(())
}

fn not_a_catalog(db: &MetaDb) -> Error {
    Error::invalid(format!("the database '{}' holds tables, but no DuckLake catalog", db.location()))
        .hint("name another one: a new catalog is created where there is none")
}

/// A value of the whole catalog.
async fn metadata(db: &MetaDb, key: &str) -> Result<Option<String>> {
    let row: Option<(String,)> =
        sqlx::query_as("SELECT value FROM ducklake_metadata WHERE key = ? AND scope IS NULL")
            .bind(key)
            .fetch_optional(db.reader())
            .await
            .map_err(|e| database_error("cannot read the catalog's options", e))?;
    Ok(row.map(|(value,)| value))
}

/// A relative path, which only other engines write, starts from the folder of the catalog file.
fn resolve_data_path(stored: &str, catalog: &Location) -> Result<String> {
    let mut path = if stored.contains("://") || stored.starts_with('/') {
        stored.to_owned()
    } else {
        let catalog = catalog.file().ok_or_else(|| {
            Error::unsupported(format!("the catalog '{catalog}' has the relative data path '{stored}'"))
                .hint("have the engine that made it attach it with an absolute DATA_PATH")
        })?;
        let file = std::path::absolute(catalog).map_err(|e| {
            Error::invalid(format!("the path '{}' is not usable", catalog.display())).source(e)
        })?;
        let folder = file.parent().unwrap_or(Path::new("/"));
        folder.join(stored).to_string_lossy().into_owned()
    };
    if !path.ends_with('/') {
        path.push('/');
    }
    Ok(path)
}
