//! Opens a database of either kind.

use std::sync::{Arc, Once};
use std::time::Duration;

use skep_common::{Error, Result};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{AnyPool, AssertSqlSafe, ConnectOptions, Connection};
use tokio::sync::Semaphore;

use crate::conn::Reader;
use crate::dialect::Dialect;
use crate::error::{RESTORE, database_error};
use crate::location::Location;
use crate::{Inner, MetaDb, Options};

pub(crate) async fn open(location: Location, options: Options) -> Result<MetaDb> {
    static DRIVERS: Once = Once::new();
    DRIVERS.call_once(sqlx::any::install_default_drivers);
    let context = || format!("cannot open the metadata database '{location}'");
    if let Some(path) = location.file() {
        let there = path.try_exists().map_err(|e| Error::invalid(context()).source(e))?;
        if !there && (!options.create || options.immutable) {
            return Err(Error::not_found(format!("the database file '{location}' does not exist")));
        }
    }
    let dialect = match location {
        Location::File(_) => Dialect::Sqlite,
        Location::Postgres(_) => Dialect::Postgres,
    };
    let url = location.driver_url(&options)?;
    let connect = AnyConnectOptions::from_url(&url).map_err(|e| database_error(context(), e))?;
    probe(&connect, dialect, &options).await.map_err(|e| database_error(context(), e))?;
    let writer = pool(dialect, 1, &options, false);
    let writer = writer.connect_with(connect.clone()).await.map_err(|e| database_error(context(), e))?;
    if dialect == Dialect::Sqlite {
        check(&writer).await.map_err(|e| e.context(context()))?;
    }
    let pool = pool(dialect, options.readers.clamp(1, 64), &options, true)
        .connect_with(connect)
        .await
        .map_err(|e| database_error(context(), e))?;
    let readers = Reader { pool, dialect };
    let writing = Arc::new(Semaphore::new(1));
    let wait_timeout = options.wait_timeout;
    Ok(MetaDb(Arc::new(Inner { location, dialect, wait_timeout, writing, writer, readers })))
}

/// Says what is wrong with the database at once: a pool would try again until its timeout, and say only that. Creates
/// the schema that the address names, if it names one.
async fn probe(connect: &AnyConnectOptions, dialect: Dialect, options: &Options) -> Result<(), sqlx::Error> {
    let mut connection = connect.connect().await?;
    sqlx::raw_sql(AssertSqlSafe(setup(dialect, options, false))).execute(&mut connection).await?;
    if dialect == Dialect::Postgres && options.create {
        let (missing,): (Option<String>,) = sqlx::query_as(
            "SELECT CASE WHEN current_schema() IS NULL THEN quote_ident(trim(both ' \"' from \
             split_part(current_setting('search_path'), ',', 1))) END",
        )
        .fetch_one(&mut connection)
        .await?;
        if let Some(schema) = missing {
            let sql = format!("CREATE SCHEMA IF NOT EXISTS {schema}");
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
        }
    }
    connection.close().await
}

/// How long a server may take to answer. What was lost with it is tried again by whoever knows how.
const SERVER_TIMEOUT: Duration = Duration::from_secs(5);

fn pool(dialect: Dialect, connections: u32, options: &Options, read_only: bool) -> AnyPoolOptions {
    let setup: Arc<str> = setup(dialect, options, read_only).into();
    AnyPoolOptions::new()
        .max_connections(connections)
        .min_connections(0)
        .acquire_timeout(match dialect {
            Dialect::Sqlite => options.wait_timeout,
            Dialect::Postgres => options.wait_timeout.min(SERVER_TIMEOUT),
        })
        .idle_timeout(None)
        .max_lifetime(None)
        // A file does not go away, a server does.
        .test_before_acquire(dialect == Dialect::Postgres)
        .after_connect(move |connection, _| {
            let setup = Arc::clone(&setup);
            Box::pin(async move {
                sqlx::raw_sql(AssertSqlSafe(setup)).execute(connection).await?;
                Ok(())
            })
        })
}

/// What each new connection is told.
fn setup(dialect: Dialect, options: &Options, read_only: bool) -> String {
    let busy = options.busy_timeout.as_millis();
    match dialect {
        Dialect::Sqlite if options.immutable => "PRAGMA query_only = ON".to_owned(),
        Dialect::Sqlite => {
            let read_only = if read_only { "PRAGMA query_only = ON;" } else { "" };
            format!(
                "PRAGMA busy_timeout = {busy}; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                 PRAGMA foreign_keys = OFF; {read_only}"
            )
        }
        // Times are compared and shown as text: in one zone. A coordinator that vanished in mid-transaction gives its
        // locks back when the server notices that nothing comes.
        Dialect::Postgres => format!(
            "SET TIME ZONE 'UTC'; SET DateStyle = 'ISO'; SET application_name = 'skep'; SET lock_timeout = {busy}; \
             SET synchronous_commit = on; SET idle_in_transaction_session_timeout = '60s'; \
             SET default_transaction_read_only = {}",
            if read_only { "on" } else { "off" }
        ),
    }
}

/// Reads the schema and a page of every table's root: a damaged header or schema shows here and not in a query later.
async fn check(pool: &AnyPool) -> Result<()> {
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
        return Err(Error::corrupt(damaged).hint(RESTORE).source(verdict.0));
    }
    Ok(())
}
