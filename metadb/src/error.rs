//! Database errors by what the caller can do about them.

use skep_common::{Error, Kind};
use sqlx::error::DatabaseError;

pub(crate) const RESTORE: &str = "stop the server, keep a copy of the file with its '-wal' and '-shm' neighbours, and restore the latest \
     backup, or recover what is left with the sqlite3 shell's '.recover'";

/// Turns an error of the database into ours, under a message that says what was being done.
///
/// The kinds: a file that is damaged or is no database, [`Kind::Corrupt`]; a lock another process holds,
/// [`Kind::Unavailable`]; a full disk or no free connection, [`Kind::Exhausted`]; a file that cannot be opened or
/// written, [`Kind::Invalid`]; a broken unique key, [`Kind::Conflict`]; everything else, [`Kind::Internal`].
pub fn database_error(doing: impl Into<String>, error: sqlx::Error) -> Error {
    let (kind, hint) = match &error {
        sqlx::Error::Database(inner) => of_database(inner.as_ref()),
        sqlx::Error::PoolTimedOut => {
            (Kind::Exhausted, Some("too many requests wait for the metadata database: try again later"))
        }
        sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
            (Kind::Unavailable, Some("the metadata database is being closed"))
        }
        sqlx::Error::Io(_) => (Kind::Unavailable, None),
        _ => (Kind::Internal, None),
    };
    let mapped = Error::new(kind, doing).source(error);
    match hint {
        Some(hint) => mapped.hint(hint),
        None => mapped,
    }
}

/// The primary result codes of SQLite; the upper bits of a code only refine them.
///
/// Source: <https://www.sqlite.org/rescode.html>
fn of_database(error: &dyn DatabaseError) -> (Kind, Option<&'static str>) {
    let code = error.code().and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff);
    match code {
        Some(3 | 8 | 14) => (
            Kind::Invalid,
            Some("check that the folder exists and that this user may write the file and beside it"),
        ),
        Some(5 | 6) => (
            Kind::Unavailable,
            Some("another process is writing to the same file: try again when it is done"),
        ),
        Some(7) => (Kind::Exhausted, Some("the process is out of memory")),
        Some(10) => (Kind::Unavailable, Some("the disk reported an error: check it, then try again")),
        Some(11 | 26) => (Kind::Corrupt, Some(RESTORE)),
        Some(13) => (Kind::Exhausted, Some("the disk is full: free some space")),
        Some(19) => (Kind::Conflict, None),
        _ => (Kind::Internal, None),
    }
}
