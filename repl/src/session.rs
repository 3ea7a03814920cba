//! A session for programs: statements in, whole answers out.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use skep_common::{Error, Result};

use crate::Target;
use crate::client::{Client, Reply};
use crate::lex::{Piece, split};

/// What a statement gave.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Rows.
    Rows(SchemaRef, Vec<RecordBatch>),
    /// No rows: what was done, such as `INSERT`, and to how many rows.
    Done(String, Option<u64>),
}

/// A statement of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Its text, without its end.
    pub text: String,
    /// Where it starts in the script, from 1.
    pub line: usize,
}

/// The statements of a script, split as the shell splits them.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) for a command of the shell.
pub fn statements(script: &str) -> Result<Vec<Statement>> {
    let statement = |piece| match piece {
        Piece::Sql { text, line, .. } => Ok(Statement { text, line }),
        Piece::Command { text, .. } => {
            Err(Error::invalid(format!("'\\{text}' is a command of the shell, and no SQL"))
                .hint("write SQL only, such as COPY INTO for \\copy"))
        }
    };
    split(script).into_iter().map(statement).collect()
}

/// A session with a server. Clones are the same session.
#[derive(Debug, Clone)]
pub struct Session(Client);

impl Session {
    /// Connects to `url`, `grpc://HOST:PORT`, and opens a session.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](skep_common::Kind::Unavailable) if nobody listens.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::open(&Target::Url(url.to_owned())).await
    }

    /// Opens a session with `target`.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub async fn open(target: &Target) -> Result<Self> {
        let client = Client::connect(target, None, None).await;
        client.map(Self).map_err(|failure| failure.error)
    }

    /// Calls an action of the server by its name. Its answers come one by one; dropping them ends it.
    ///
    /// # Errors
    /// Those of the action, at once or among its answers.
    pub async fn action(
        &mut self,
        name: &str,
        body: impl Into<Bytes>,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let answers = self.0.action(name, body.into()).await.map_err(|failure| failure.error)?;
        Ok(answers.map_err(|failure| failure.error).boxed())
    }

    /// Runs one statement and reads all of its rows. Dropping the future cancels it.
    ///
    /// # Errors
    /// Those of the statement.
    pub async fn run(&mut self, sql: &str) -> Result<Answer> {
        match self.0.execute(sql).await.map_err(|failure| failure.error)? {
            Reply::Done(outcome, _) => Ok(Answer::Done(outcome.tag, outcome.rows)),
            Reply::Rows(rows) => {
                let batches = rows.batches.try_collect().await.map_err(|failure| failure.error)?;
                Ok(Answer::Rows(rows.schema, batches))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_hold_sql_only() {
        let found = statements("-- first\nSELECT 1;\n\nSELECT ';'").unwrap();
        let found: Vec<_> = found.iter().map(|s| (s.line, s.text.as_str())).collect();
        assert_eq!(found, [(2, "SELECT 1"), (4, "SELECT ';'")]);
        let error = statements("\\d t\n").unwrap_err();
        assert!(error.message().contains("'\\d t'"), "{error:?}");
    }
}
