//! Statements: planned, run, and turned into messages.
//!
//! ```text
//! query    GetFlightInfo: describe -> ticket        DoGet: execute -> rows, as the client reads them
//! update   GetFlightInfo: describe -> execute, once -> ticket of a row count       DoGet: the count
//! update   DoPut: execute, once -> the count
//! ```
//! What is polled runs at once instead: `poll`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::sql::{ProstMessageExt, TicketStatementQuery};
use arrow_flight::{
    FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, IpcMessage, SchemaAsIpc, Ticket,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use prost::Message;
use skep_common::{Error, Result};
use skep_coordinator::{Done, Outcome, Progress, StatementKind};
use skep_engine::error::from_datafusion;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

use super::config::Config;
use super::handle::{Body, Handle};
use super::poll::{self, Fetched};
use super::sessions::{Lease, Parameters, Place, Prepared, Sessions};
use super::types;

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

/// A statement that a client asked for, and what it is.
pub(crate) struct Planned {
    pub(crate) place: Place,
    pub(crate) sql: String,
    pub(crate) kind: StatementKind,
    /// Of its rows; for updates that of their details, mostly no columns.
    schema: SchemaRef,
    /// Parameters, a row for each execution.
    pub(crate) rows: Arc<Vec<Parameters>>,
}

impl Planned {
    fn bound(&self) -> bool {
        self.rows.first().is_some_and(|row| !row.is_empty())
    }

    /// The schema that the client is told, unless values of parameters decide on it.
    pub(crate) fn told(&self) -> Option<SchemaRef> {
        match self.kind {
            StatementKind::Query => {
                // A parameter without a type leaves the types of the result open until it is bound.
                let open = self.schema.fields().iter().any(|field| field.data_type().is_null());
                (!self.bound() || !open).then(|| Arc::clone(&self.schema))
            }
            StatementKind::Update if self.schema.fields().is_empty() => Some(count_schema()),
            StatementKind::Update => Some(Arc::clone(&self.schema)),
        }
    }

    /// What the ticket `id` of this query says; the session keeps its parameters.
    pub(crate) fn body(&self, sessions: &Sessions, id: Uuid) -> Body {
        let bound = self.bound();
        if bound {
            sessions.bind(&self.place.lease, id, Arc::clone(&self.rows));
        }
        Body::Query {
            sql: self.sql.clone(),
            fingerprint: self.told().map(|schema| fingerprint(&schema)),
            bound,
            transaction: self.place.transaction,
        }
    }
}

/// Plans `sql`, which has no parameters.
///
/// # Errors
/// Those of planning.
pub(crate) async fn plan(sessions: &Sessions, place: Place, sql: String) -> Result<Planned> {
    sessions.authorise(&place.lease, &sql)?;
    let description = place.session.describe(&sql).await?;
    if !description.parameters.fields().is_empty() {
        let count = description.parameters.fields().len();
        return Err(Error::invalid(format!("the statement has {count} parameters without values"))
            .hint("prepare the statement and bind them"));
    }
    let (kind, schema) = (description.kind, description.schema);
    Ok(Planned { place, sql, kind, schema, rows: Arc::new(vec![Vec::new()]) })
}

/// A prepared statement with the rows bound last.
///
/// # Errors
/// [`Kind::Invalid`](skep_common::Kind::Invalid) if parameters are not bound; those of [`Lease::place_of`].
pub(crate) fn plan_prepared(lease: &Lease, prepared: &Prepared) -> Result<Planned> {
    let wanted = prepared.parameters.fields().len();
    let bound = prepared.bound.lock().clone();
    let rows = match (wanted, bound) {
        (0, _) => Arc::new(vec![Vec::new()]),
        (_, Some(rows)) => rows,
        (_, None) => {
            return Err(Error::invalid(format!("the statement has {wanted} parameters, none are bound")));
        }
    };
    if rows.is_empty() {
        return Err(no_rows());
    }
    Ok(Planned {
        place: lease.place_of(prepared)?,
        sql: prepared.sql.clone(),
        kind: prepared.kind,
        schema: Arc::clone(&prepared.schema),
        rows,
    })
}

fn no_rows() -> Error {
    Error::invalid("no rows of parameters are bound")
}

/// A ticket for what is planned; an update runs here, exactly once for each row of parameters.
///
/// # Errors
/// For updates those of running.
pub(crate) async fn ticket(sessions: &Sessions, planned: &Planned) -> Result<FlightInfo> {
    let lease = &planned.place.lease;
    if planned.kind == StatementKind::Update {
        let running = lease.run(Uuid::now_v7());
        let done = updates(sessions, planned, running.cancel.clone(), &Mutex::default()).await?;
        return done_info(sessions, lease, &done);
    }
    let id = Uuid::now_v7();
    query_info(&sessions.handle(lease, id, planned.body(sessions, id)), planned.told().as_ref())
}

/// The schema that [`ticket`] would announce; nothing runs.
///
/// # Errors
/// Those of planning.
pub(crate) async fn schema(sessions: &Sessions, place: Place, sql: &str) -> Result<SchemaRef> {
    sessions.authorise(&place.lease, sql)?;
    let description = place.session.describe(sql).await?;
    Ok(match description.kind {
        StatementKind::Update if description.schema.fields().is_empty() => count_schema(),
        StatementKind::Query | StatementKind::Update => description.schema,
    })
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
    place: &Place,
    sql: &str,
    parameters: Parameters,
) -> Result<Done> {
    let running = place.lease.run(Uuid::now_v7());
    update_until(sessions, place, sql, parameters, running.cancel.clone(), None).await
}

/// Runs the update that is planned once for each row of parameters.
///
/// # Errors
/// As [`update`].
pub(crate) async fn updates(
    sessions: &Sessions,
    planned: &Planned,
    cancel: CancellationToken,
    seen: &Mutex<Option<Progress>>,
) -> Result<Done> {
    let Planned { place, sql, rows, .. } = planned;
    let seen = (rows.len() == 1).then_some(seen);
    let mut total: Option<Done> = None;
    for parameters in rows.iter() {
        let done = update_until(sessions, place, sql, parameters.clone(), cancel.clone(), seen).await?;
        total = Some(add(total, done));
    }
    total.ok_or_else(no_rows)
}

async fn update_until(
    sessions: &Sessions,
    place: &Place,
    sql: &str,
    parameters: Parameters,
    cancel: CancellationToken,
    seen: Option<&Mutex<Option<Progress>>>,
) -> Result<Done> {
    sessions.authorise(&place.lease, sql)?;
    let (progress, outcome) = place.session.start(sql.to_owned(), parameters, cancel);
    if let Some(seen) = seen {
        *seen.lock() = Some(progress);
    }
    match outcome.await? {
        Outcome::Done(done) => Ok(done),
        Outcome::Rows(_) => {
            Err(Error::invalid("the statement returns rows").hint("send it as a query, not as an update"))
        }
    }
}

/// The answer with the one ticket that is `handle`.
///
/// # Errors
/// As [`schema_bytes`].
pub(crate) fn query_info(handle: &Handle, schema: Option<&SchemaRef>) -> Result<FlightInfo> {
    let mut info = FlightInfo::new().with_endpoint(endpoint(handle)).with_ordered(true);
    if let Some(schema) = schema {
        info.schema = schema_bytes(&types::told(schema))?;
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
    let seconds = handle.expires_ms.div_euclid(1000);
    let nanos = handle.expires_ms.rem_euclid(1000) * 1_000_000;
    let until = prost_types::Timestamp { seconds, nanos: i32::try_from(nanos).unwrap_or(0) };
    FlightEndpoint::new()
        .with_ticket(Ticket::new(ticket.as_any().encode_to_vec()))
        .with_expiration_time(until)
}

/// What an update gave, as the row that its ticket stands for.
///
/// # Errors
/// [`Kind::Internal`](skep_common::Kind::Internal) if the row cannot be built.
pub(crate) fn done_rows(done: &Done) -> Result<RecordBatch> {
    match &done.details {
        Some(rows) => Ok(rows.clone()),
        None => count_row(count(done)),
    }
}

fn count_row(rows: i64) -> Result<RecordBatch> {
    RecordBatch::try_new(count_schema(), vec![Arc::new(Int64Array::from(vec![rows]))])
        .map_err(|e| Error::internal("cannot build the row count").source(e))
}

/// The descriptor by which a client polls the statement of `handle` again.
pub(crate) fn again(handle: &Handle) -> FlightDescriptor {
    let ticket = TicketStatementQuery { statement_handle: handle.encode() };
    FlightDescriptor::new_cmd(ticket.as_any().encode_to_vec())
}

/// The rows that a ticket stands for.
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
    let kept = lease.started(handle.id);
    let fetched = match &kept {
        Some(started) => Some(started.fetch().await?),
        None => None,
    };
    match (handle.body, fetched) {
        (Body::Done { rows }, _) => {
            let batch = match lease.kept(handle.id) {
                Some(batch) => batch,
                None => count_row(rows)?,
            };
            Ok(encode(config, batch.schema(), stream::iter([Ok(batch)])))
        }
        (Body::Prepared | Body::Transaction, _) => Err(Error::invalid("the handle is not one of a ticket")),
        (Body::Started, Some(Fetched::Rows(schema, batches))) => {
            Ok(held(kept, encode(config, schema, batches)))
        }
        (Body::Started, Some(Fetched::Taken) | None) => Err(poll::forgotten()),
        (Body::Query { fingerprint: announced, .. }, Some(Fetched::Rows(schema, batches))) => {
            as_announced(announced, &schema)?;
            Ok(held(kept, encode(config, schema, batches)))
        }
        // Whoever fetches twice gets the rows of another execution.
        (Body::Query { sql, fingerprint: announced, bound, transaction }, Some(Fetched::Taken) | None) => {
            let place = match transaction {
                Some(id) => lease.place_in(id)?,
                None => lease.place(),
            };
            let parameters = if bound { lease.bound(handle.id)? } else { Arc::new(vec![Vec::new()]) };
            sessions.authorise(&lease, &sql)?;
            let running = lease.run(handle.id);
            let (schema, batches) = rows(place, running.cancel.clone(), sql, parameters, None).await?;
            as_announced(announced, &schema)?;
            Ok(held(running, encode(config, schema, batches)))
        }
    }
}

fn as_announced(announced: Option<u64>, schema: &Schema) -> Result<()> {
    match announced {
        Some(announced) if announced != fingerprint(schema) => {
            Err(Error::conflict("the tables changed after the statement was planned")
                .hint("run the statement again"))
        }
        _ => Ok(()),
    }
}

/// Rows as an execution gives them.
pub(crate) type Batches = BoxStream<'static, Result<RecordBatch>>;

/// The rows of a query, of one execution for each row of parameters, one after the other. `seen` gets the progress of the
/// execution, if it is the only one.
///
/// # Errors
/// Those of running as far as the first row.
pub(crate) async fn rows(
    place: Place,
    cancel: CancellationToken,
    sql: String,
    rows: Arc<Vec<Parameters>>,
    seen: Option<&Mutex<Option<Progress>>>,
) -> Result<(SchemaRef, Batches)> {
    let first = rows.first().cloned().ok_or_else(no_rows)?;
    let (progress, started) = start(place.clone(), cancel.clone(), sql.clone(), first);
    if let Some(seen) = seen.filter(|_| rows.len() == 1) {
        *seen.lock() = Some(progress);
    }
    let (schema, batches) = started.await?;
    let more = executions(place, cancel, sql, rows, Arc::clone(&schema));
    Ok((schema, batches.chain(more).boxed()))
}

/// Starts one execution of a query. Boxed, because the compiler cannot see through the engine's futures whether a
/// stream of them may move between threads.
fn start(
    place: Place,
    cancel: CancellationToken,
    sql: String,
    parameters: Parameters,
) -> (Progress, BoxFuture<'static, Result<(SchemaRef, Batches)>>) {
    let (progress, outcome) = place.session.start(sql, parameters, cancel);
    let started = async move {
        // Held, so that the session does not go idle while the statement starts.
        let _place = place;
        match outcome.await? {
            Outcome::Rows(rows) => Ok((rows.schema, rows.stream.map_err(from_datafusion).boxed())),
            Outcome::Done(done) => Err(Error::internal(format!("a query ran as {}", done.tag))),
        }
    };
    (progress, started.boxed())
}

/// The executions for the second and later rows of parameters.
fn executions(
    place: Place,
    cancel: CancellationToken,
    sql: String,
    rows: Arc<Vec<Parameters>>,
    schema: SchemaRef,
) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static {
    let later = 1..rows.len();
    stream::iter(later)
        .then(move |i| {
            let (_, started) = start(place.clone(), cancel.clone(), sql.clone(), rows[i].clone());
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
        .with_schema(types::told(&schema))
        .with_max_flight_data_size(config.message_target.as_usize())
        .build(batches.map_err(|e| FlightError::Tonic(Box::new(e.to_status()))))
        .map_err(Status::from)
        .boxed()
}

/// `messages`, with what makes them until they are dropped. What is cancelled ends in its rows.
fn held(maker: impl Send + 'static, messages: Messages) -> Messages {
    messages
        .inspect(move |_| {
            let _ = &maker;
        })
        .boxed()
}

/// A number that differs when the schema does.
fn fingerprint(schema: &Schema) -> u64 {
    let mut hasher = DefaultHasher::new();
    schema.fields().iter().for_each(|field| field.hash(&mut hasher));
    hasher.finish()
}
