//! What clients send in: parameters to bind, parameters of updates, rows to ingest.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::decode::{DecodedFlightData, DecodedPayload, FlightDataDecoder};
use arrow_flight::error::FlightError;
use arrow_flight::sql::{
    CommandStatementIngest, DoPutPreparedStatementResult, DoPutUpdateResult, TableExistsOption,
    TableNotExistOption,
};
use arrow_flight::{FlightData, PutResult};
use bytes::Bytes;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use prost::Message;
use skep_common::{Error, Result};
use skep_coordinator::Done;
use skep_coordinator::ingest::{Existing, Target};
use tonic::{Status, Streaming};

use super::metadata::CATALOG;
use super::sessions::{Lease, Parameters, Place, Prepared, Sessions};
use super::{guard, parameters, run};

/// Answers to a DoPut.
pub(crate) type Answers = BoxStream<'static, Result<PutResult, Status>>;

/// The one answer of an update.
pub(crate) fn updated(rows: i64) -> PutResult {
    PutResult { app_metadata: DoPutUpdateResult { record_count: rows }.encode_to_vec().into() }
}

/// The answer to bound parameters. Clients that know it use the handle it names, which is the one they have.
fn bound(handle: &Bytes) -> PutResult {
    let result = DoPutPreparedStatementResult { prepared_statement_handle: Some(handle.clone()) };
    PutResult { app_metadata: result.encode_to_vec().into() }
}

/// A single answer.
pub(crate) fn once(answer: PutResult) -> Answers {
    stream::once(async { Ok(answer) }).boxed()
}

/// An error in the messages that a client streams.
fn from_flight(error: FlightError) -> Error {
    match error {
        FlightError::Tonic(status) => Error::from_status(&status),
        other => Error::invalid("the client's messages are not a stream of Arrow batches").source(other),
    }
}

/// The Arrow messages of a DoPut. Empty ones, by which drivers carry the command alone, are left out.
fn messages(
    first: FlightData,
    rest: Streaming<FlightData>,
    bytes_max: usize,
) -> impl Stream<Item = Result<DecodedFlightData, FlightError>> + Send + Unpin + 'static {
    let all = stream::iter([Ok(first)]).chain(rest);
    let full = all.try_filter(|data| std::future::ready(!data.data_header.is_empty()));
    let honest = full.and_then(move |data| {
        std::future::ready(guard::check(&data, bytes_max).map(|()| data).map_err(|e| e.to_status()))
    });
    let decoder = FlightDataDecoder::new(honest.map_err(|status| FlightError::Tonic(Box::new(status))));
    let weighed = decoder.and_then(move |decoded| {
        let weighed = match &decoded.payload {
            DecodedPayload::RecordBatch(batch) => guard::weigh(batch, bytes_max),
            DecodedPayload::Schema(_) | DecodedPayload::None => Ok(()),
        };
        std::future::ready(weighed.map(|()| decoded).map_err(|e| FlightError::Tonic(Box::new(e.to_status()))))
    });
    // The decoder trusts its input in places, and panics where that was wrong; it is not asked again after that.
    AssertUnwindSafe(weighed).catch_unwind().map(|decoded| {
        decoded.unwrap_or_else(|_| {
            Err(FlightError::DecodeError("the messages contradict themselves".to_owned()))
        })
    })
}

fn batches(
    first: FlightData,
    rest: Streaming<FlightData>,
    bytes_max: usize,
) -> BoxStream<'static, Result<RecordBatch>> {
    let decoded = messages(first, rest, bytes_max).map_err(from_flight);
    decoded
        .try_filter_map(|data| async move {
            Ok(match data.payload {
                DecodedPayload::RecordBatch(batch) => Some(batch),
                DecodedPayload::Schema(_) | DecodedPayload::None => None,
            })
        })
        .boxed()
}

/// Takes every batch of `input` and answers at its end.
///
/// Some clients wait for the answer before they close their side, so after `patience` without a further batch the
/// answer so far is sent; batches that come later still count, and are followed by another answer.
fn answer<S, F, A>(
    input: impl Stream<Item = Result<RecordBatch>> + Send + Unpin + 'static,
    patience: Duration,
    state: S,
    take: F,
    result: A,
) -> Answers
where
    S: Send + 'static,
    F: AsyncTake<S>,
    A: Fn(&S) -> Result<PutResult> + Send + Sync + 'static,
{
    struct Step<I, S, F, A> {
        input: I,
        state: S,
        take: F,
        result: A,
        /// Whether something was taken that is not answered.
        owed: bool,
        answered: bool,
        ended: bool,
    }
    let start = Step { input, state, take, result, owed: false, answered: false, ended: false };
    let steps = stream::try_unfold(start, move |mut step| async move {
        loop {
            if step.ended {
                return Ok(None);
            }
            let next = if step.owed {
                tokio::time::timeout(patience, step.input.next()).await
            } else {
                Ok(step.input.next().await)
            };
            match next {
                Ok(Some(batch)) => {
                    step.take.take(&mut step.state, batch?).await?;
                    step.owed = true;
                }
                Ok(None) => {
                    step.ended = true;
                    if step.owed || !step.answered {
                        return Ok(Some(((step.result)(&step.state)?, step)));
                    }
                }
                Err(_) => {
                    step.owed = false;
                    step.answered = true;
                    return Ok(Some(((step.result)(&step.state)?, step)));
                }
            }
        }
    });
    steps.map_err(|error: Error| error.to_status()).boxed()
}

/// Takes one batch into a state.
trait AsyncTake<S>: Send + Sync + 'static {
    fn take(&self, state: &mut S, batch: RecordBatch) -> impl Future<Output = Result<()>> + Send;
}

/// Binds rows of parameters to a prepared statement.
struct Bind {
    lease: Lease,
    prepared: Arc<Prepared>,
    bytes_max: usize,
}

#[derive(Default)]
struct BoundRows {
    rows: Vec<Parameters>,
    bytes: usize,
}

impl AsyncTake<BoundRows> for Bind {
    async fn take(&self, state: &mut BoundRows, batch: RecordBatch) -> Result<()> {
        state.bytes += batch.get_array_memory_size() + parameters::bytes(&batch);
        if state.bytes > self.bytes_max {
            return Err(parameters::too_many(self.bytes_max));
        }
        state.rows.extend(parameters::rows(&batch, &self.prepared.parameters, self.bytes_max)?);
        *self.prepared.bound.lock() = Some(Arc::new(state.rows.clone()));
        // Held, so that the session does not go idle while a client binds.
        let _ = &self.lease;
        Ok(())
    }
}

/// Binds the rows that a client streams to `prepared`, for the executions that follow.
pub(crate) fn bind(
    lease: Lease,
    prepared: Arc<Prepared>,
    handle: Bytes,
    limits: (Duration, usize),
    first: FlightData,
    rest: Streaming<FlightData>,
) -> Answers {
    let (patience, bytes_max) = limits;
    let take = Bind { lease, prepared, bytes_max };
    answer(batches(first, rest, bytes_max), patience, BoundRows::default(), take, move |_| Ok(bound(&handle)))
}

/// Runs an update once for each row of parameters.
struct Update {
    sessions: Arc<Sessions>,
    place: Place,
    prepared: Arc<Prepared>,
    bytes_max: usize,
}

impl AsyncTake<Option<Done>> for Update {
    async fn take(&self, total: &mut Option<Done>, batch: RecordBatch) -> Result<()> {
        for parameters in parameters::rows(&batch, &self.prepared.parameters, self.bytes_max)? {
            let done = run::update(&self.sessions, &self.place, &self.prepared.sql, parameters).await?;
            *total = Some(run::add(total.take(), done));
        }
        Ok(())
    }
}

/// Runs the update `prepared` once for each row of parameters that the client streams, as they come.
pub(crate) fn update(
    sessions: Arc<Sessions>,
    place: Place,
    prepared: Arc<Prepared>,
    limits: (Duration, usize),
    first: FlightData,
    rest: Streaming<FlightData>,
) -> Answers {
    let (patience, bytes_max) = limits;
    let wanted = prepared.parameters.fields().len();
    let take = Update { sessions, place, prepared, bytes_max };
    answer(batches(first, rest, bytes_max), patience, None, take, move |total| match total {
        Some(done) => Ok(updated(run::count(done))),
        None => Err(Error::invalid(format!("the statement has {wanted} parameters, none are bound"))),
    })
}

/// Writes the rows that a client streams into a table.
///
/// # Errors
/// [`Kind::Unsupported`](skep_common::Kind::Unsupported) for temporary tables; those of writing.
pub(crate) async fn ingest(
    sessions: &Sessions,
    place: &Place,
    command: CommandStatementIngest,
    first: FlightData,
    rest: Streaming<FlightData>,
) -> Result<Done> {
    if command.temporary {
        return Err(Error::unsupported("rows are streamed into permanent tables only"));
    }
    if let Some(catalog) = command.catalog.as_deref()
        && !catalog.is_empty()
        && catalog != CATALOG
    {
        return Err(Error::not_found(format!("catalog '{catalog}' does not exist"))
            .hint(format!("the catalog is '{CATALOG}'")));
    }
    let options = command.table_definition_options.unwrap_or_default();
    let target = Target {
        schema: command.schema.filter(|schema| !schema.is_empty()),
        table: command.table,
        create: options.if_not_exist() == TableNotExistOption::Create,
        existing: match options.if_exists() {
            TableExistsOption::Append => Existing::Append,
            TableExistsOption::Replace => Existing::Replace,
            TableExistsOption::Fail => Existing::Fail,
            TableExistsOption::Unspecified if command.table_definition_options.is_none() => Existing::Append,
            TableExistsOption::Unspecified => Existing::Fail,
        },
    };
    sessions.authorise(&place.lease, &target.to_string())?;
    let bytes_max = sessions.config().message_max.as_usize();
    let (schema, rows) = typed(messages(first, rest, bytes_max)).await?;
    let rows = rows.map_err(|e| DataFusionError::External(Box::new(e)));
    place.session.ingest(&target, Box::pin(RecordBatchStreamAdapter::new(schema, rows))).await
}

/// The schema that opens the stream, and the batches after it.
async fn typed(
    mut decoder: impl Stream<Item = Result<DecodedFlightData, FlightError>> + Send + Unpin + 'static,
) -> Result<(SchemaRef, BoxStream<'static, Result<RecordBatch>>)> {
    loop {
        let Some(data) = decoder.try_next().await.map_err(from_flight)? else {
            return Err(Error::invalid("the client sent no schema"));
        };
        if let DecodedPayload::Schema(schema) = data.payload {
            let batches = decoder.map_err(from_flight).try_filter_map(|data| async move {
                match data.payload {
                    DecodedPayload::RecordBatch(batch) => Ok(Some(batch)),
                    DecodedPayload::None => Ok(None),
                    DecodedPayload::Schema(_) => Err(Error::invalid("the client sent a second schema")),
                }
            });
            return Ok((schema, batches.boxed()));
        }
    }
}
