//! Database errors by what the caller can do about them.

use skep_common::{Error, Kind};
use sqlx::error::DatabaseError;

pub(crate) const RESTORE: &str = "stop the server, keep a copy of the file with its '-wal' and '-shm' neighbours, and restore the latest \
     backup, or recover what is left with the sqlite3 shell's '.recover'";

/// Turns an error of the database into ours, under a message that says what was being done.
///
/// The kinds: a file that is damaged or is no database, [`Kind::Corrupt`]; a lock another process holds, a server that
/// cannot be reached or is starting or stopping, a deadlock, no free connection, [`Kind::Unavailable`]; a full disk,
/// [`Kind::Exhausted`]; a file that cannot be opened or written, a user, password or database that the server does not
/// know, [`Kind::Invalid`]; a broken unique key, [`Kind::Conflict`]; everything else, [`Kind::Internal`].
pub fn database_error(doing: impl Into<String>, error: sqlx::Error) -> Error {
    let (kind, hint) = match &error {
        sqlx::Error::Database(inner) => of_database(inner.as_ref()),
        sqlx::Error::PoolTimedOut => (
            Kind::Unavailable,
            Some("the metadata database does not answer, or too many requests wait for it: try again later"),
        ),
        sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
            (Kind::Unavailable, Some("the metadata database is being closed"))
        }
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => (
            Kind::Unavailable,
            Some("check that the database server runs and can be reached, then try again"),
        ),
        sqlx::Error::Tls(_) | sqlx::Error::Configuration(_) => {
            (Kind::Invalid, Some("check the address of the catalog and its sslmode"))
        }
        _ => (Kind::Internal, None),
    };
    let mapped = Error::new(kind, doing).source(error);
    match hint {
        Some(hint) => mapped.hint(hint),
        None => mapped,
    }
}

fn of_database(error: &dyn DatabaseError) -> (Kind, Option<&'static str>) {
    let Some(code) = error.code() else { return (Kind::Internal, None) };
    // A state of PostgreSQL has five letters or digits, a code of SQLite at most four digits.
    if code.len() == 5 { of_postgres(&code) } else { of_sqlite(code.parse().unwrap_or(0)) }
}

/// The primary result codes of SQLite; the upper bits of a code only refine them.
///
/// Source: <https://www.sqlite.org/rescode.html>
fn of_sqlite(code: i32) -> (Kind, Option<&'static str>) {
    match code & 0xff {
        3 | 8 | 14 => (
            Kind::Invalid,
            Some("check that the folder exists and that this user may write the file and beside it"),
        ),
        5 | 6 => (
            Kind::Unavailable,
            Some("another process is writing to the same file: try again when it is done"),
        ),
        7 => (Kind::Exhausted, Some("the process is out of memory")),
        10 => (Kind::Unavailable, Some("the disk reported an error: check it, then try again")),
        11 | 26 => (Kind::Corrupt, Some(RESTORE)),
        13 => (Kind::NoSpace, Some("the disk is full: free some space")),
        19 => (Kind::Conflict, None),
        _ => (Kind::Internal, None),
    }
}

/// The states of PostgreSQL by class and, where a class mixes cases, by state.
///
/// Source: <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn of_postgres(state: &str) -> (Kind, Option<&'static str>) {
    match state {
        // Serialization, deadlock, no lock in time, an idle transaction that was ended.
        "40001" | "40P01" | "55P03" | "25P03" => {
            (Kind::Unavailable, Some("another writer was faster: try again"))
        }
        "57P01" | "57P02" | "57P03" | "57P05" => {
            (Kind::Unavailable, Some("the database server stops or starts: try again when it is up"))
        }
        "23505" => (Kind::Conflict, None),
        "53300" => (Kind::Exhausted, Some("raise max_connections of the database server")),
        "53100" => (Kind::NoSpace, Some("the disk of the database server is full: free some space")),
        "42501" | "25006" => {
            (Kind::Invalid, Some("let the user of the catalog create and write tables in its database"))
        }
        _ => match &state[..2] {
            "08" => (
                Kind::Unavailable,
                Some("check that the database server runs and can be reached, then try again"),
            ),
            "28" | "3D" => {
                (Kind::Invalid, Some("check user, password and database in the address of the catalog"))
            }
            "53" => (Kind::Exhausted, Some("the database server is short of memory or connections")),
            "XX" => (
                Kind::Corrupt,
                Some("look into the log of the database server, and restore the latest backup"),
            ),
            _ => (Kind::Internal, None),
        },
    }
}
