//! A Flight SQL client that keeps errors typed.

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use skep_common::{Error, Result};
use std::sync::Arc;
use tonic::transport::{Channel, Endpoint};

/// One connection, and so one session.
#[derive(Debug, Clone)]
pub struct Client {
    inner: FlightSqlServiceClient<Channel>,
}

/// What a statement gave.
#[derive(Debug)]
pub enum Answer {
    /// Rows.
    Rows(SchemaRef, Vec<RecordBatch>),
    /// A change, with the rows it wrote.
    Done(u64),
}

impl Client {
    /// Connects to `url`, `grpc://HOST:PORT`, and opens a session.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](skep_common::Kind::Unavailable) if nobody listens.
    pub async fn connect(url: &str) -> Result<Self> {
        let address = url.replacen("grpc://", "http://", 1);
        let endpoint =
            Endpoint::new(address).map_err(|e| Error::invalid(format!("'{url}' is no URL")).source(e))?;
        let channel = endpoint
            .connect()
            .await
            .map_err(|e| Error::unavailable(format!("cannot connect to '{url}'")).source(e))?;
        let inner = FlightServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        let mut inner = FlightSqlServiceClient::new_from_inner(inner);
        inner.handshake("test", "").await.map_err(typed)?;
        Ok(Self { inner })
    }

    /// Runs one statement: a query when it begins as one.
    ///
    /// # Errors
    /// Those of the server, with their kinds.
    pub async fn run(&mut self, sql: &str) -> Result<Answer> {
        if is_query(sql) {
            let (schema, batches) = self.query(sql).await?;
            Ok(Answer::Rows(schema, batches))
        } else {
            self.update(sql).await.map(Answer::Done)
        }
    }

    /// Runs a query and collects its rows.
    ///
    /// # Errors
    /// Those of the server, with their kinds.
    pub async fn query(&mut self, sql: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let info = self.inner.execute(sql.to_owned(), None).await.map_err(typed)?;
        let mut schema = None;
        let mut batches = Vec::new();
        for endpoint in info.endpoint {
            let ticket = endpoint.ticket.ok_or_else(|| Error::internal("an endpoint without a ticket"))?;
            let mut stream = self.inner.do_get(ticket).await.map_err(typed)?;
            while let Some(batch) = stream.try_next().await.map_err(typed)? {
                batches.push(batch);
            }
            schema = schema.or_else(|| stream.schema().cloned());
        }
        Ok((schema.unwrap_or_else(|| Arc::new(Schema::empty())), batches))
    }

    /// Runs a query whose rows are read as the caller pleases. Dropping the stream ends the query.
    ///
    /// # Errors
    /// Those of the server, with their kinds, here and in the stream.
    pub async fn stream(&mut self, sql: &str) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let info = self.inner.execute(sql.to_owned(), None).await.map_err(typed)?;
        let ticket = info.endpoint.into_iter().next().and_then(|endpoint| endpoint.ticket);
        let ticket = ticket.ok_or_else(|| Error::internal("an endpoint without a ticket"))?;
        Ok(self.inner.do_get(ticket).await.map_err(typed)?.map_err(typed).boxed())
    }

    /// Runs a query and renders its rows.
    ///
    /// # Errors
    /// Those of the server, with their kinds.
    pub async fn rows(&mut self, sql: &str) -> Result<Vec<Vec<String>>> {
        crate::rows::text(&self.query(sql).await?.1)
    }

    /// Runs a statement that changes something, and returns how many rows it wrote.
    ///
    /// # Errors
    /// Those of the server, with their kinds.
    pub async fn update(&mut self, sql: &str) -> Result<u64> {
        let count = self.inner.execute_update(sql.to_owned(), None).await.map_err(typed)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

/// Whether a statement returns rows, by its first word.
pub fn is_query(sql: &str) -> bool {
    let code = sql.lines().filter(|line| !line.trim_start().starts_with("--"));
    let first = code.flat_map(str::split_whitespace).next().unwrap_or_default().to_ascii_lowercase();
    let words = ["select", "with", "values", "show", "msck", "describe", "desc", "explain", "table", "from"];
    first.starts_with('(') || words.contains(&first.as_str())
}

/// The server's error inside a client's.
fn typed(error: impl Into<FlightError>) -> Error {
    match error.into() {
        FlightError::Tonic(status) => Error::from_status(&status),
        other => {
            let text = other.to_string();
            Error::decode(&text).unwrap_or_else(|| Error::internal(text))
        }
    }
}

/// The statements of a script. Quotes and comments may hold semicolons.
pub fn statements(script: &str) -> Vec<String> {
    let mut statements = vec![String::new()];
    let mut quote = None;
    let mut chars = script.chars().peekable();
    while let Some(c) = chars.next() {
        let last = statements.last_mut().expect("there is always one");
        match (quote, c) {
            (None, '-') if chars.peek() == Some(&'-') => {
                for _ in chars.by_ref().take_while(|&c| c != '\n') {}
                last.push('\n');
            }
            (None, ';') => statements.push(String::new()),
            (None, '\'' | '"') => {
                quote = Some(c);
                last.push(c);
            }
            (Some(open), _) if open == c => {
                quote = None;
                last.push(c);
            }
            _ => last.push(c),
        }
    }
    statements.into_iter().map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_split_at_semicolons_outside_quotes_and_comments() {
        let found = statements("SELECT 'a;b'; -- no; not here\nSELECT \"c;\" ;;\n");
        assert_eq!(found, ["SELECT 'a;b'", "SELECT \"c;\""]);
    }

    #[test]
    fn queries_are_known_by_their_first_word() {
        assert!(
            is_query("-- why\n  select 1")
                && is_query("(SELECT 1)")
                && is_query("WITH a AS (SELECT 1) SELECT 1")
        );
        assert!(!is_query("INSERT INTO t SELECT 1") && !is_query("COPY (SELECT 1) TO 'x'"));
    }
}
