//! A session with a Flight SQL server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, BinaryArray, RecordBatch, StringArray, UnionArray};
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{
    Any, CommandGetSqlInfo, CommandGetTables, CommandStatementIngest, CommandStatementQuery,
    DoPutUpdateResult, ProstMessageExt, SqlInfo, TableDefinitionOptions, TableExistsOption,
    TableNotExistOption,
};
use arrow_flight::{
    Action, CancelFlightInfoResult, CancelStatus, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest,
    IpcMessage,
};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use prost::Message;
use serde::Deserialize;
use skep_common::{Error, Result};
use tokio::sync::oneshot;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use url::Url;

use crate::Target;

/// The port of a URL that names none.
const DEFAULT_PORT: u16 = 8815;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest wait for the answer to closing or cancelling.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Why a statement failed, and whether the connection is gone with it.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) lost: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, lost: false }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        // The server sends details with every error; a status without them was made on this side of the wire.
        let lost = status.details().is_empty()
            && matches!(
                status.code(),
                tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled
            );
        let error = Error::from_status(&status);
        if lost {
            return Self {
                error: Error::unavailable("the connection to the server was lost").source(error),
                lost,
            };
        }
        Self { error, lost }
    }
}

impl From<FlightError> for Failure {
    fn from(error: FlightError) -> Self {
        match error {
            FlightError::Tonic(status) => Failure::from(*status),
            other => Error::internal("the server sent rows that do not decode").source(other).into(),
        }
    }
}

/// The outcome of a statement without rows, as the server words it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) tag: String,
    pub(crate) rows: Option<u64>,
    /// Whether the answer has rows that say more.
    details: bool,
}

/// What the server says of the statement that the session began last. What it does not know is absent.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Work {
    pub(crate) query: String,
    pub(crate) state: String,
    pub(crate) lane: Option<String>,
    pub(crate) progress: Option<f64>,
    pub(crate) remaining_ms: Option<u64>,
    pub(crate) rows: Option<u64>,
    pub(crate) scan_bytes: Option<u64>,
    pub(crate) local: Option<f64>,
    pub(crate) workers: u64,
    pub(crate) stages: Vec<Stage>,
}

/// A stage of it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Stage {
    pub(crate) stage: u64,
    pub(crate) state: String,
    pub(crate) tasks: u64,
    /// Parts of its output that are there, and all.
    pub(crate) done: Option<(u64, u64)>,
    pub(crate) rows: Option<u64>,
}

impl Outcome {
    fn read(metadata: &[u8]) -> Option<Self> {
        let json: serde_json::Value = serde_json::from_slice(metadata).ok()?;
        let details = json["details"].as_bool().unwrap_or(false);
        Some(Self { tag: json.get("tag")?.as_str()?.to_owned(), rows: json["rows"].as_u64(), details })
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.rows {
            Some(rows) => write!(f, "{} {rows}", self.tag),
            None => f.write_str(&self.tag),
        }
    }
}

/// What a statement gave.
pub(crate) enum Reply {
    /// With rows that say more, if there are some.
    Done(Outcome, Option<Rows>),
    Rows(Rows),
}

/// Rows to be read.
pub(crate) struct Rows {
    pub(crate) schema: SchemaRef,
    pub(crate) batches: BoxStream<'static, std::result::Result<RecordBatch, Failure>>,
}

/// One table, as the server lists it.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) kind: String,
    /// Present when asked for.
    pub(crate) columns: Option<SchemaRef>,
}

/// A session. Clones are the same session.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    flight: FlightServiceClient<Channel>,
    token: MetadataValue<Ascii>,
}

impl Client {
    /// Connects and opens a session.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid) for a URL that is not one of a server, and the failure of
    /// connecting or shaking hands.
    pub(crate) async fn connect(
        target: &Target,
        user: Option<&str>,
        password: Option<&str>,
    ) -> std::result::Result<Self, Failure> {
        let (channel, login, name) = match target {
            Target::Channel(channel) => (channel.clone(), None, "the server".to_owned()),
            Target::Url(text) => {
                let (endpoint, login) = endpoint(text)?;
                let text = crate::connect::without_password(text);
                let channel = endpoint.connect().await.map_err(|e| Failure {
                    error: Error::unavailable(format!("cannot connect to '{text}'"))
                        .source(e)
                        .hint("start a server with `skep up`, or name one with --url"),
                    lost: true,
                })?;
                (channel, login, format!("'{text}'"))
            }
        };
        let authorization = authorization(user, password, login)?;
        let mut flight = FlightServiceClient::new(channel)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        let mut request = Request::new(stream::iter([HandshakeRequest::default()]));
        if let Some(authorization) = authorization {
            request.metadata_mut().insert("authorization", authorization);
        }
        let response = flight.handshake(request).await.map_err(|status| {
            let failure = Failure::from(status);
            Failure { error: failure.error.context(format!("cannot open a session with {name}")), ..failure }
        })?;
        let token = response.metadata().get("authorization").cloned();
        let token = token.ok_or_else(|| Error::internal("the server's handshake has no token"))?;
        Ok(Self { flight, token })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.token.clone());
        request
    }

    /// Runs one statement. Dropping the future or the rows cancels it.
    ///
    /// # Errors
    /// Those of the statement, up to its first row.
    pub(crate) async fn execute(&mut self, sql: &str) -> std::result::Result<Reply, Failure> {
        let command = CommandStatementQuery { query: sql.to_owned(), transaction_id: None };
        let info = self.info(&command).await?;
        if let Some(outcome) = Outcome::read(&info.app_metadata) {
            let details = if outcome.details { Some(self.redeem(info).await?) } else { None };
            return Ok(Reply::Done(outcome, details));
        }
        self.redeem(info).await.map(Reply::Rows)
    }

    async fn info(&mut self, command: &impl ProstMessageExt) -> std::result::Result<FlightInfo, Failure> {
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let request = self.request(descriptor);
        Ok(self.flight.get_flight_info(request).await?.into_inner())
    }

    async fn redeem(&mut self, info: FlightInfo) -> std::result::Result<Rows, Failure> {
        let schema = Schema::try_from(IpcMessage(info.schema.clone()))
            .map_err(|e| Error::internal("the server sent a schema that does not decode").source(e))?;
        let mut parts = Vec::new();
        for endpoint in &info.endpoint {
            let ticket = endpoint.ticket.clone();
            let ticket =
                ticket.ok_or_else(|| Error::internal("the server sent an endpoint without a ticket"))?;
            let request = self.request(ticket);
            let data = self.flight.do_get(request).await?.into_inner();
            let data = data.map_err(|status| FlightError::Tonic(Box::new(status)));
            parts.push(FlightRecordBatchStream::new_from_flight_data(data).map_err(Failure::from));
        }
        let batches = stream::iter(parts).flatten().boxed();
        Ok(Rows { schema: Arc::new(schema), batches })
    }

    /// Asks the server to cancel all that the session runs; whether something did run.
    pub(crate) async fn cancel_running(&mut self) -> bool {
        let Some(body) = self.ask("skep.CancelStatement").await else { return false };
        CancelFlightInfoResult::decode(body)
            .is_ok_and(|result| result.status != CancelStatus::NotCancellable as i32)
    }

    /// What the statement that the session began last does, or did.
    pub(crate) async fn status(&mut self) -> Option<Work> {
        let body = self.ask("skep.StatementStatus").await?;
        serde_json::from_slice(&body).ok()
    }

    /// The only result of an action without a body. It is of use to people only: without an answer they go without.
    async fn ask(&mut self, action: &str) -> Option<bytes::Bytes> {
        let request = self.request(Action::new(action, Vec::new()));
        let call = async {
            let mut results = self.flight.do_action(request).await.ok()?.into_inner();
            Some(results.message().await.ok()??.body)
        };
        tokio::time::timeout(GOODBYE_TIMEOUT, call).await.ok()?
    }

    /// Calls an action. Its answers come one by one.
    ///
    /// # Errors
    /// Those of the server.
    pub(crate) async fn action(
        &mut self,
        name: &str,
        body: bytes::Bytes,
    ) -> std::result::Result<BoxStream<'static, std::result::Result<bytes::Bytes, Failure>>, Failure> {
        let request = self.request(Action::new(name, body));
        let results = self.flight.do_action(request).await?.into_inner();
        Ok(results.map_ok(|result| result.body).map_err(Failure::from).boxed())
    }

    /// The server's name and version.
    pub(crate) async fn server(&mut self) -> Option<String> {
        let info = [SqlInfo::FlightSqlServerName, SqlInfo::FlightSqlServerVersion];
        let command = CommandGetSqlInfo { info: info.map(|info| info as u32).to_vec() };
        let info = self.info(&command).await.ok()?;
        let mut batches = self.redeem(info).await.ok()?.batches;
        let batch = batches.try_next().await.ok()??;
        let values = batch.column(1).as_any().downcast_ref::<UnionArray>()?;
        let text = |row| {
            let value = values.value(row);
            value.as_any().downcast_ref::<StringArray>().map(|value| value.value(0).to_owned())
        };
        Some(format!("{} {}", text(0)?, text(1)?))
    }

    /// Closes the session.
    pub(crate) async fn close(mut self) {
        let request = self.request(Action::new("CloseSession", Vec::new()));
        // The server closes it by itself when this does not arrive.
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, self.flight.do_action(request)).await;
    }

    /// The schema that unqualified names are looked up in. Absent: the server did not say in time.
    ///
    /// # Errors
    /// The session or the connection is gone.
    pub(crate) async fn current_schema(&mut self) -> std::result::Result<Option<String>, Failure> {
        let request = self.request(Action::new("GetSessionOptions", Vec::new()));
        let call = async { self.flight.do_action(request).await?.into_inner().message().await };
        let Ok(answer) = tokio::time::timeout(GOODBYE_TIMEOUT, call).await else { return Ok(None) };
        let options = answer?.and_then(|result| SessionOptions::decode(result.body).ok());
        Ok(options.and_then(|options| options.options.get("schema").map(|value| value.text.clone())))
    }

    /// The tables that match LIKE patterns.
    ///
    /// # Errors
    /// Those of the server.
    pub(crate) async fn tables(
        &mut self,
        schema: Option<&str>,
        name: Option<&str>,
        columns: bool,
    ) -> std::result::Result<Vec<Table>, Failure> {
        let command = CommandGetTables {
            db_schema_filter_pattern: schema.map(str::to_owned),
            table_name_filter_pattern: name.map(str::to_owned),
            include_schema: columns,
            ..CommandGetTables::default()
        };
        let info = self.info(&command).await?;
        let mut batches = self.redeem(info).await?.batches;
        let mut tables = Vec::new();
        while let Some(batch) = batches.try_next().await? {
            read_tables(&batch, &mut tables)?;
        }
        Ok(tables)
    }

    /// Streams `batches` into an existing table; the rows written. An error in them, or dropping the future, leaves
    /// the table as it was.
    ///
    /// # Errors
    /// Those of `batches` and of the server.
    pub(crate) async fn ingest(
        &mut self,
        schema: Option<String>,
        table: String,
        columns: SchemaRef,
        batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
    ) -> std::result::Result<u64, Failure> {
        let options = TableDefinitionOptions {
            if_not_exist: TableNotExistOption::Fail.into(),
            if_exists: TableExistsOption::Append.into(),
        };
        let command = CommandStatementIngest {
            table_definition_options: Some(options),
            table,
            schema,
            catalog: None,
            temporary: false,
            transaction_id: None,
            options: HashMap::new(),
        };
        let descriptor = FlightDescriptor::new_cmd(Any::encode_to_vec(&command.as_any()));
        let encoded = FlightDataEncoderBuilder::new()
            .with_schema(columns)
            .with_flight_descriptor(Some(descriptor))
            .build(batches.map_err(|e| FlightError::ExternalError(Box::new(e))));
        let (data, failed) = unless_failed(encoded);
        let request = self.request(data);
        let call = async {
            let mut results = self.flight.do_put(request).await?.into_inner();
            let result =
                results.message().await?.ok_or_else(|| Error::internal("the server did not answer"))?;
            let result = DoPutUpdateResult::decode(result.app_metadata)
                .map_err(|e| Error::internal("the server's answer does not decode").source(e))?;
            Ok(u64::try_from(result.record_count).unwrap_or(0))
        };
        tokio::select! {
            biased;
            Ok(error) = failed => Err(error.into()),
            rows = call => rows,
        }
    }
}

/// The messages up to the first error. After an error the stream never ends, because an end would say that all
/// rows were sent; the caller drops the call instead.
fn unless_failed(
    encoded: impl Stream<Item = std::result::Result<FlightData, FlightError>> + Send + 'static,
) -> (BoxStream<'static, FlightData>, oneshot::Receiver<Error>) {
    let (failed, error) = oneshot::channel();
    let state = (encoded.boxed(), Some(failed));
    let data = stream::unfold(state, |(mut encoded, mut failed)| async move {
        match encoded.next().await {
            Some(Ok(data)) => Some((data, (encoded, failed))),
            None => None,
            Some(Err(e)) => {
                if let Some(failed) = failed.take() {
                    // Nobody listens when the call is gone already.
                    let _ = failed.send(local_error(e));
                }
                std::future::pending().await
            }
        }
    });
    (data.boxed(), error)
}

fn local_error(error: FlightError) -> Error {
    match error {
        FlightError::ExternalError(inner) => match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => Error::internal("the rows cannot be sent").source(other),
        },
        other => Error::internal("the rows cannot be sent").source(other),
    }
}

fn read_tables(batch: &RecordBatch, tables: &mut Vec<Table>) -> Result<()> {
    let wrong = || Error::internal("the server's list of tables has other columns");
    let text = |name: &str| {
        let column = batch.column_by_name(name).and_then(|c| c.as_any().downcast_ref::<StringArray>());
        column.ok_or_else(wrong)
    };
    let (schemas, names, kinds) = (text("db_schema_name")?, text("table_name")?, text("table_type")?);
    let columns = batch.column_by_name("table_schema").and_then(|c| c.as_any().downcast_ref::<BinaryArray>());
    for row in 0..batch.num_rows() {
        let decode = |bytes: &[u8]| {
            let schema = Schema::try_from(IpcMessage(bytes::Bytes::copy_from_slice(bytes)));
            schema.map(Arc::new).map_err(|e| wrong().source(e))
        };
        tables.push(Table {
            schema: if schemas.is_null(row) { String::new() } else { schemas.value(row).to_owned() },
            name: names.value(row).to_owned(),
            kind: kinds.value(row).to_owned(),
            columns: columns.map(|columns| decode(columns.value(row))).transpose()?,
        });
    }
    Ok(())
}

/// A name, and a password.
type Account = (String, Option<String>);

/// Who says to be whom. What the URL says gives way.
fn authorization(
    user: Option<&str>,
    password: Option<&str>,
    login: Option<Account>,
) -> Result<Option<MetadataValue<Ascii>>> {
    let (of_url, password_of_url) = login.map_or((None, None), |(user, password)| (Some(user), password));
    let Some(user) = user.map(str::to_owned).or(of_url) else { return Ok(None) };
    let password = password.map(str::to_owned).or(password_of_url).unwrap_or_default();
    let header = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
    let header = header.parse().map_err(|_| Error::invalid("the name or the password cannot be sent"))?;
    Ok(Some(header))
}

/// The endpoint of a URL, and the name and password in it.
fn endpoint(text: &str) -> Result<(Endpoint, Option<Account>)> {
    let shown = crate::connect::without_password(text);
    let wrong =
        || Error::invalid(format!("'{shown}' is not the address of a server")).hint("write grpc://HOST:PORT");
    let url = Url::parse(text).map_err(|e| wrong().source(e))?;
    match url.scheme() {
        "grpc" | "grpc+tcp" | "http" => {}
        "grpc+tls" | "grpcs" | "https" => {
            return Err(Error::unsupported("TLS is not supported yet").hint("write grpc://HOST:PORT"));
        }
        _ => return Err(wrong()),
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
    let port = url.port().unwrap_or(DEFAULT_PORT);
    let endpoint = Endpoint::from_shared(format!("http://{host}:{port}")).map_err(|e| wrong().source(e))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .tcp_nodelay(true);
    if url.username().is_empty() {
        return Ok((endpoint, None));
    }
    Ok((endpoint, Some((url.username().to_owned(), url.password().map(str::to_owned)))))
}

/// The part of GetSessionOptionsResult that the shell reads.
#[derive(Clone, PartialEq, Message)]
struct SessionOptions {
    #[prost(map = "string, message", tag = "1")]
    options: HashMap<String, TextOption>,
}

#[derive(Clone, PartialEq, Message)]
struct TextOption {
    #[prost(string, tag = "1")]
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_read_as_the_server_words_them() {
        let outcome = Outcome::read(br#"{"tag":"INSERT","rows":2,"query":"x"}"#).unwrap();
        assert_eq!(outcome.to_string(), "INSERT 2");
        let outcome = Outcome::read(br#"{"tag":"CREATE TABLE","rows":null,"query":"x"}"#).unwrap();
        assert_eq!(outcome.to_string(), "CREATE TABLE");
        assert_eq!(Outcome::read(b""), None);
        assert_eq!(Outcome::read(b"{}"), None);
    }

    #[test]
    fn addresses_are_checked() {
        for good in ["grpc://127.0.0.1:1", "grpc://[::1]:8815", "http://host:1", "grpc+tcp://h"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["", "127.0.0.1:8815", "ftp://h:1", "grpc://", "grpc+tls://h:1"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
        let (_, login) = endpoint("grpc://ada:pw@h:1").unwrap();
        let header = authorization(None, None, login.clone()).unwrap().unwrap();
        assert_eq!(header.to_str().unwrap(), "Basic YWRhOnB3");
        let header = authorization(Some("bob"), Some("x"), login).unwrap().unwrap();
        assert_eq!(header.to_str().unwrap(), "Basic Ym9iOng=");
        assert!(authorization(None, Some("x"), None).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_failed_stream_never_ends() {
        let items = stream::iter([
            Ok(FlightData::default()),
            Err(FlightError::ExternalError(Box::new(Error::invalid("line 3")))),
        ]);
        let (mut data, failed) = unless_failed(items);
        assert!(data.next().await.is_some());
        let end = tokio::select! { biased; _ = data.next() => true, () = std::future::ready(()) => false };
        assert!(!end);
        assert_eq!(failed.await.unwrap().message(), "line 3");
    }
}
