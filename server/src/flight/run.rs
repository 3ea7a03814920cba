//! Statements: planned, run, and turned into messages.
//!
//! ```text
//! query    GetFlightInfo: describe -> ticket        DoGet: execute -> rows, as the client reads them
//! update   GetFlightInfo: describe -> execute, once -> ticket of a row count       DoGet: the count
//! update   DoPut: execute, once -> the count
//! ```

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::sql::{ProstMessageExt, TicketStatementQuery};
use arrow_flight::{FlightData, FlightEndpoint, FlightInfo, IpcMessage, SchemaAsIpc, Ticket};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use prost::Message;
use skep_common::{Error, Result};
use skep_coordinator::{Done, Outcome, StatementKind};
use skep_engine::error::from_datafusion;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

use super::config::Config;
use super::handle::{Body, Handle};
use super::sessions::{Lease, Parameters, Prepared, Running, Sessions};

/// Messages of rows.
pub(crate) type Messages = BoxStream<'static, Result<FlightData, Status>>;

/// The schema of the answer to an update: one row, its row count.
pub(crate) fn count_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("count", DataType::Int64, true)]))
}

/// The rows an update wrote, as drivers want them: none is zero.
pub(crate) fn count(done: &Done) -> i64 {
    i64::try_from(done.rows.unwrap_or(0)).unwrap_or(i64::MAX)
}

/// What the shell prints of a statement without rows; it travels as `app_metadata`.
fn outcome(done: &Done) -> Bytes {
    let json = serde_json::json!({
        "tag": done.tag, "rows": done.rows, "query": done.query.to_string(), "details": done.details.is_some(),
    });
    json.to_string().into()
}

/// `schema` as an encapsulated IPC message.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) if it does not encode.
pub(crate) fn schema_bytes(schema: &Schema) -> Result<Bytes> {
    let options = Default::default();
    let message: IpcMessage = SchemaAsIpc::new(schema, &options)
        .try_into()
        .map_err(|e| Error::internal("the schema does not encode").source(e))?;
    Ok(message.0)
}

/// Plans `sql` on behalf of a client that will redeem the ticket; an update runs here, exactly once.
///
/// # Errors
/// Those of planning, and for updates those of running.
pub(crate) async fn plan(sessions: &Sessions, lease: &Lease, sql: &str) -> Result<FlightInfo> {
    sessions.authorise(lease, sql)?;
    let description = lease.session.describe(sql).await?;
    if !description.parameters.fields().is_empty() {
        let count = description.parameters.fields().len();
        return Err(Error::invalid(format!("the statement has {count} parameters without values"))
            .hint("prepare the statement and bind them"));
    }
    match description.kind {
        StatementKind::Query => {
            let schema = description.schema;
            let fingerprint = fingerprint(&schema);
            let body = Body::Query { sql: sql.to_owned(), fingerprint: Some(fingerprint), bound: false };
            query_info(&sessions.handle(lease, Uuid::now_v7(), body), Some(&schema))
        }
        StatementKind::Update => {
            let done = update(sessions, lease, sql, Vec::new()).await?;
            done_info(sessions, lease, &done)
        }
    }
}

/// The schema that [`plan`] would announce; nothing runs.
///
/// # Errors
/// Those of planning.
pub(crate) async fn schema(sessions: &Sessions, lease: &Lease, sql: &str) -> Result<SchemaRef> {
    sessions.authorise(lease, sql)?;
    let description = lease.session.describe(sql).await?;
    Ok(match description.kind {
        StatementKind::Query => description.schema,
        StatementKind::Update if !description.schema.fields().is_empty() => description.schema,
        StatementKind::Update => count_schema(),
    })
}

/// Plans the execution of a prepared statement with the rows bound last; an update runs here, exactly once.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) if parameters are not bound; for updates those of running.
pub(crate) async fn plan_prepared(
    sessions: &Sessions,
    lease: &Lease,
    prepared: &Prepared,
) -> Result<FlightInfo> {
    let wanted = prepared.parameters.fields().len();
    let bound = prepared.bound.lock().clone();
    let rows = match (wanted, bound) {
        (0, _) => Arc::new(vec![Vec::new()]),
        (_, Some(rows)) => rows,
        (_, None) => {
            return Err(Error::invalid(format!("the statement has {wanted} parameters, none are bound")));
        }
    };
    if prepared.kind == StatementKind::Update {
        let mut total: Option<Done> = None;
        for parameters in rows.iter() {
            let done = update(sessions, lease, &prepared.sql, parameters.clone()).await?;
            total = Some(add(total, done));
        }
        let total = total.ok_or_else(|| Error::invalid("no rows of parameters are bound"))?;
        return done_info(sessions, lease, &total);
    }
    let id = Uuid::now_v7();
    let bound = wanted > 0;
    if bound {
        sessions.bind(lease, id, rows);
    }
    // A parameter without a type leaves the types of the result open until it is bound.
    let open = prepared.schema.fields().iter().any(|field| field.data_type().is_null());
    let known = (!bound || !open).then_some(&prepared.schema);
    let fingerprint = known.map(|schema| fingerprint(schema));
    let body = Body::Query { sql: prepared.sql.clone(), fingerprint, bound };
    query_info(&sessions.handle(lease, id, body), known)
}

/// Adds the rows of one more execution of the same statement.
pub(crate) fn add(total: Option<Done>, done: Done) -> Done {
    let before = total.as_ref().and_then(|total| total.rows);
    let rows = match (before, done.rows) {
        (None, None) => None,
        (a, b) => Some(a.unwrap_or(0) + b.unwrap_or(0)),
    };
    let details = match (total.and_then(|total| total.details), &done.details) {
        (Some(before), Some(rows)) => concat_batches(&rows.schema(), [&before, rows]).ok(),
        (before, _) => before.or_else(|| done.details.clone()),
    };
    Done { rows, details, ..done }
}

/// Runs an update, once.
///
/// # Errors
/// Those of running; [`Kind::Invalid`](skep_common::Kind::Invalid) if it returns rows.
pub(crate) async fn update(
    sessions: &Sessions,
    lease: &Lease,
    sql: &str,
    parameters: Parameters,
) -> Result<Done> {
    sessions.authorise(lease, sql)?;
    let running = lease.run(Uuid::now_v7());
    match lease.session.execute_until(sql, parameters, running.cancel.clone()).await? {
        Outcome::Done(done) => Ok(done),
        Outcome::Rows(_) => {
            Err(Error::invalid("the statement returns rows").hint("send it as a query, not as an update"))
        }
    }
}

fn query_info(handle: &Handle, schema: Option<&SchemaRef>) -> Result<FlightInfo> {
    let mut info = FlightInfo::new().with_endpoint(endpoint(handle)).with_ordered(true);
    if let Some(schema) = schema {
        info.schema = schema_bytes(schema)?;
    }
    Ok(info)
}

fn done_info(sessions: &Sessions, lease: &Lease, done: &Done) -> Result<FlightInfo> {
    let id = Uuid::now_v7();
    let handle = sessions.handle(lease, id, Body::Done { rows: count(done) });
    let (schema, records) = match &done.details {
        Some(rows) => {
            sessions.keep(lease, id, rows.clone());
            (rows.schema(), rows.num_rows())
        }
        None => (count_schema(), 1),
    };
    let info = query_info(&handle, Some(&schema))?;
    Ok(info.with_total_records(i64::try_from(records).unwrap_or(-1)).with_app_metadata(outcome(done)))
}

/// One endpoint without a location: the ticket is redeemed where the client already is.
fn endpoint(handle: &Handle) -> FlightEndpoint {
    let ticket = TicketStatementQuery { statement_handle: handle.encode() };
    FlightEndpoint::new().with_ticket(Ticket::new(ticket.as_any().encode_to_vec()))
}

/// The rows that a ticket of [`plan`] or [`plan_prepared`] stands for.
///
/// # Errors
/// Those of planning, of running as far as the first row, and
/// [`Kind::Conflict`](skep_common::Kind::Conflict) if the result no longer has the announced schema.
pub(crate) async fn redeem(
    sessions: &Sessions,
    config: &Config,
    lease: Lease,
    handle: Handle,
) -> Result<Messages> {
    match handle.body {
        Body::Done { rows } => {
            if let Some(batch) = lease.kept(handle.id) {
                return Ok(encode(config, batch.schema(), stream::iter([Ok(batch)])));
            }
            let batch = RecordBatch::try_new(count_schema(), vec![Arc::new(Int64Array::from(vec![rows]))])
                .map_err(|e| Error::internal("cannot build the row count").source(e))?;
            Ok(encode(config, batch.schema(), stream::iter([Ok(batch)])))
        }
        Body::Prepared => Err(Error::invalid("a prepared statement is not a ticket")),
        Body::Query { sql, fingerprint: announced, bound } => {
            let rows = if bound { lease.bound(handle.id)? } else { Arc::new(vec![Vec::new()]) };
            sessions.authorise(&lease, &sql)?;
            let running = lease.run(handle.id);
            let first =
                rows.first().cloned().ok_or_else(|| Error::invalid("no rows of parameters are bound"))?;
            let (schema, batches) = start(lease.clone(), running.cancel.clone(), sql.clone(), first).await?;
            if announced.is_some_and(|announced| announced != fingerprint(&schema)) {
                return Err(Error::conflict("the tables changed after the statement was planned")
                    .hint("run the statement again"));
            }
            let more = executions(
                lease.clone(),
                running.cancel.clone(),
                sql,
                Arc::clone(&rows),
                Arc::clone(&schema),
            );
            let batches = batches.chain(more);
            Ok(held(running, encode(config, schema, batches)))
        }
    }
}

type Batches = BoxStream<'static, Result<RecordBatch>>;

/// Starts one execution of a query. Boxed, because the compiler cannot see through the engine's futures whether a
/// stream of them may move between threads.
fn start(
    lease: Lease,
    cancel: CancellationToken,
    sql: String,
    parameters: Parameters,
) -> BoxFuture<'static, Result<(SchemaRef, Batches)>> {
    async move {
        match lease.session.execute_until(&sql, parameters, cancel).await? {
            Outcome::Rows(rows) => Ok((rows.schema, rows.stream.map_err(from_datafusion).boxed())),
            Outcome::Done(done) => Err(Error::internal(format!("a query ran as {}", done.tag))),
        }
    }
    .boxed()
}

/// The executions for the second and later rows of parameters, one after the other.
fn executions(
    lease: Lease,
    cancel: CancellationToken,
    sql: String,
    rows: Arc<Vec<Parameters>>,
    schema: SchemaRef,
) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static {
    let later = 1..rows.len();
    stream::iter(later)
        .then(move |i| {
            let started = start(lease.clone(), cancel.clone(), sql.clone(), rows[i].clone());
            let schema = Arc::clone(&schema);
            async move {
                let (other, batches) = started.await?;
                if other != schema {
                    return Err(Error::invalid("the rows of parameters give results of different types"));
                }
                Ok(batches)
            }
        })
        .try_flatten()
}

/// `batches` as messages, made as the client reads them.
pub(crate) fn encode(
    config: &Config,
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
) -> Messages {
    FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .with_max_flight_data_size(config.message_target.as_usize())
        .build(batches.map_err(|e| FlightError::Tonic(Box::new(e.to_status()))))
        .map_err(Status::from)
        .boxed()
}

/// `messages`, with the execution on the list until they are dropped. What is cancelled ends in its rows.
fn held(running: Running, messages: Messages) -> Messages {
    messages
        .inspect(move |_| {
            let _ = &running;
        })
        .boxed()
}

/// A number that differs when the schema does.
fn fingerprint(schema: &Schema) -> u64 {
    let mut hasher = DefaultHasher::new();
    schema.fields().iter().for_each(|field| field.hash(&mut hasher));
    hasher.finish()
}
