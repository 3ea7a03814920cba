//! The Flight calls, each answered by its command.
//!
//! arrow-flight's own `FlightSqlService` fixes three calls as unimplemented and drops fields that drivers read, so
//! the commands it decodes are dispatched here instead.

use std::sync::Arc;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::{Any, Command};
use arrow_flight::{
    Action, ActionType, BasicAuth, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use prost::Message;
use skep_common::{Error, Result};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::config::Config;
use super::handle::{Body, Handle};
use super::sessions::{Caller, Lease, Prepared, Sessions, credentials};
use super::{actions, metadata, poll, put, run, types};
use crate::auth::Credentials;

/// The Flight SQL service of one coordinator.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) config: Arc<Config>,
}

type Reply<T> = std::result::Result<Response<T>, Status>;
type Items<T> = BoxStream<'static, std::result::Result<T, Status>>;

impl Service {
    pub(crate) async fn caller<T>(&self, request: &Request<T>) -> Result<Caller> {
        self.sessions.resolve(request.metadata(), request.extensions()).await
    }

    /// The prepared statement that `handle` names.
    pub(crate) fn prepared(&self, caller: &Caller, handle: &[u8]) -> Result<(Lease, Handle, Arc<Prepared>)> {
        let (lease, handle) = self.sessions.redeem(caller, handle)?;
        if handle.body != Body::Prepared {
            return Err(Error::invalid("the handle is not one of a prepared statement"));
        }
        let prepared = lease.prepared(handle.id)?;
        Ok((lease, handle, prepared))
    }

    async fn info(&self, caller: &Caller, descriptor: FlightDescriptor) -> Result<FlightInfo> {
        let info = match command(&descriptor.cmd)? {
            command @ (Command::CommandStatementQuery(_) | Command::CommandPreparedStatementQuery(_)) => {
                let planned = self.planned(caller, command).await?;
                run::ticket(&self.sessions, &planned).await?
            }
            other => {
                let schema = metadata::schema(&other).ok_or_else(|| unsupported(&other))?;
                let ticket = Ticket::new(descriptor.cmd.clone());
                let mut info = FlightInfo::new().with_endpoint(FlightEndpoint::new().with_ticket(ticket));
                info.schema = run::schema_bytes(&schema)?;
                info.with_ordered(true)
            }
        };
        Ok(info.with_descriptor(descriptor))
    }

    async fn planned(&self, caller: &Caller, command: Command) -> Result<run::Planned> {
        match command {
            Command::CommandStatementQuery(query) => {
                let place = self.sessions.place(caller, query.transaction_id.as_ref())?;
                run::plan(&self.sessions, place, query.query).await
            }
            Command::CommandPreparedStatementQuery(query) => {
                let (lease, _, prepared) = self.prepared(caller, &query.prepared_statement_handle)?;
                run::plan_prepared(&lease, &prepared)
            }
            other => Err(unsupported(&other)),
        }
    }

    async fn poll(&self, caller: &Caller, descriptor: FlightDescriptor) -> Result<PollInfo> {
        match command(&descriptor.cmd)? {
            Command::TicketStatementQuery(ticket) => {
                let (lease, handle) = self.sessions.redeem(caller, &ticket.statement_handle)?;
                poll::again(&self.sessions, &lease, &handle).await
            }
            command @ (Command::CommandStatementQuery(_) | Command::CommandPreparedStatementQuery(_)) => {
                let planned = self.planned(caller, command).await?;
                poll::start(&self.sessions, planned, descriptor).await
            }
            // There is nothing to wait for.
            _ => {
                let info = Some(self.info(caller, descriptor).await?);
                Ok(PollInfo { info, flight_descriptor: None, progress: Some(1.0), expiration_time: None })
            }
        }
    }

    async fn schema(&self, caller: &Caller, descriptor: &FlightDescriptor) -> Result<SchemaResult> {
        let schema = match command(&descriptor.cmd)? {
            Command::CommandStatementQuery(query) => {
                let place = self.sessions.place(caller, query.transaction_id.as_ref())?;
                run::schema(&self.sessions, place, &query.query).await?
            }
            Command::CommandPreparedStatementQuery(query) => {
                let (_, _, prepared) = self.prepared(caller, &query.prepared_statement_handle)?;
                Arc::clone(&prepared.schema)
            }
            other => metadata::schema(&other).ok_or_else(|| unsupported(&other))?,
        };
        Ok(SchemaResult { schema: run::schema_bytes(&types::told(&schema))? })
    }

    async fn rows(&self, caller: &Caller, ticket: &Ticket) -> Result<run::Messages> {
        match command(&ticket.ticket)? {
            Command::TicketStatementQuery(ticket) => {
                let (lease, handle) = self.sessions.redeem(caller, &ticket.statement_handle)?;
                run::redeem(&self.sessions, &self.config, lease, handle).await
            }
            other => {
                let place = caller.lease.place_without_id();
                let batch = metadata::rows(&place.session, other).await?;
                Ok(run::encode(&self.config, batch.schema(), stream::iter([Ok(batch)])))
            }
        }
    }

    async fn put(&self, caller: &Caller, mut input: Streaming<FlightData>) -> Result<put::Answers> {
        let first = input.message().await?.ok_or_else(|| Error::invalid("the client sent no command"))?;
        let descriptor = first.flight_descriptor.clone();
        let descriptor = descriptor.ok_or_else(|| Error::invalid("the first message has no descriptor"))?;
        let (patience, bytes_max) = (self.config.answer_after, self.config.message_max.as_usize());
        match command(&descriptor.cmd)? {
            Command::CommandStatementUpdate(update) => {
                let place = self.sessions.place(caller, update.transaction_id.as_ref())?;
                let done = run::update(&self.sessions, &place, &update.query, Vec::new()).await?;
                Ok(put::once(put::updated(run::count(&done))))
            }
            Command::CommandPreparedStatementUpdate(update) => {
                let (lease, _, prepared) = self.prepared(caller, &update.prepared_statement_handle)?;
                let place = lease.place_of(&prepared)?;
                if prepared.parameters.fields().is_empty() {
                    let done = run::update(&self.sessions, &place, &prepared.sql, Vec::new()).await?;
                    return Ok(put::once(put::updated(run::count(&done))));
                }
                let limits = (patience, bytes_max);
                Ok(put::update(Arc::clone(&self.sessions), place, prepared, limits, first, input))
            }
            Command::CommandPreparedStatementQuery(query) => {
                let handle = query.prepared_statement_handle;
                let (lease, _, prepared) = self.prepared(caller, &handle)?;
                Ok(put::bind(lease, prepared, handle, (patience, bytes_max), first, input))
            }
            Command::CommandStatementIngest(ingest) => {
                let place = match &ingest.transaction_id {
                    Some(id) if !id.is_empty() => self.sessions.place(caller, Some(id))?,
                    _ => caller.lease.place_without_id(),
                };
                let done = put::ingest(&self.sessions, &place, ingest, first, input).await?;
                Ok(put::once(put::updated(run::count(&done))))
            }
            other => Err(unsupported(&other)),
        }
    }
}

/// The command in `bytes`.
fn command(bytes: &[u8]) -> Result<Command> {
    let wrong = || Error::invalid("the request is not a Flight SQL command");
    let any = Any::decode(bytes).map_err(|e| wrong().source(e))?;
    Command::try_from(any).map_err(|e| wrong().source(e))
}

fn unsupported(command: &Command) -> Error {
    let name = command.type_url().rsplit('.').next().unwrap_or_default();
    Error::unsupported(format!("'{name}' is not supported here"))
}

/// `value`, with the cookie by which the client finds its session again.
fn reply<T>(caller: &Caller, value: T) -> Response<T> {
    let mut response = Response::new(value);
    if let Some(cookie) = caller.cookie.as_ref().and_then(|cookie| cookie.parse().ok()) {
        response.metadata_mut().insert("set-cookie", cookie);
    }
    response
}

/// Credentials of a handshake: of the header, or of the older payload.
async fn handshake_credentials(
    headers: &MetadataMap,
    payload: &mut Streaming<HandshakeRequest>,
) -> Result<Credentials> {
    let shown = credentials(headers)?;
    if shown != Credentials::None || headers.contains_key("authorization") {
        return Ok(shown);
    }
    let Some(message) = payload.message().await? else { return Ok(Credentials::None) };
    match BasicAuth::decode(message.payload) {
        Ok(basic) if !basic.username.is_empty() => {
            Ok(Credentials::Basic { user: basic.username, password: basic.password })
        }
        _ => Ok(Credentials::None),
    }
}

#[tonic::async_trait]
impl FlightService for Service {
    type HandshakeStream = Items<HandshakeResponse>;
    type ListFlightsStream = Items<FlightInfo>;
    type DoGetStream = Items<FlightData>;
    type DoPutStream = Items<PutResult>;
    type DoActionStream = Items<arrow_flight::Result>;
    type ListActionsStream = Items<ActionType>;
    type DoExchangeStream = Items<FlightData>;

    async fn handshake(&self, request: Request<Streaming<HandshakeRequest>>) -> Reply<Self::HandshakeStream> {
        let (headers, _, mut payload) = request.into_parts();
        let shown = handshake_credentials(&headers, &mut payload).await?;
        let token = self.sessions.handshake(&shown).await?;
        let answer = HandshakeResponse { protocol_version: 0, payload: token.clone().into() };
        let mut response = Response::new(stream::iter([Ok(answer)]).boxed());
        let bearer =
            format!("Bearer {token}").parse().map_err(|_| Error::internal("the token is not ASCII"))?;
        response.metadata_mut().insert("authorization", bearer);
        Ok(response)
    }

    async fn list_flights(&self, _request: Request<Criteria>) -> Reply<Self::ListFlightsStream> {
        Err(Error::unsupported("ListFlights is not supported").hint("list tables with GetTables"))?
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Reply<FlightInfo> {
        let caller = self.caller(&request).await?;
        let info = self.info(&caller, request.into_inner()).await?;
        Ok(reply(&caller, info))
    }

    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Reply<PollInfo> {
        let caller = self.caller(&request).await?;
        let poll = self.poll(&caller, request.into_inner()).await?;
        Ok(reply(&caller, poll))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Reply<SchemaResult> {
        let caller = self.caller(&request).await?;
        let schema = self.schema(&caller, request.get_ref()).await?;
        Ok(reply(&caller, schema))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Reply<Self::DoGetStream> {
        let caller = self.caller(&request).await?;
        let rows = self.rows(&caller, request.get_ref()).await?;
        Ok(reply(&caller, rows))
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Reply<Self::DoPutStream> {
        let caller = self.caller(&request).await?;
        let answers = self.put(&caller, request.into_inner()).await?;
        Ok(reply(&caller, answers))
    }

    async fn do_action(&self, request: Request<Action>) -> Reply<Self::DoActionStream> {
        if request.get_ref().r#type == actions::CLOSE_SESSION {
            self.sessions.close(request.metadata(), request.extensions()).await?;
            return Ok(Response::new(actions::closed()));
        }
        let caller = self.caller(&request).await?;
        if let Some(extension) = self.sessions.coordinator().extension_of(&request.get_ref().r#type) {
            let Action { r#type, body } = request.into_inner();
            let answers = extension.call(&caller.lease.session, &r#type, body).await?;
            // The session lives as long as somebody listens.
            let lease = caller.lease.clone();
            let answers = answers.map(move |answer| {
                let _ = &lease;
                Ok(arrow_flight::Result { body: answer? })
            });
            return Ok(reply(&caller, answers.boxed()));
        }
        let results = actions::run(self, &caller, request.into_inner()).await?;
        Ok(reply(&caller, stream::iter(results.map(|body| Ok(arrow_flight::Result { body }))).boxed()))
    }

    async fn list_actions(&self, _request: Request<Empty>) -> Reply<Self::ListActionsStream> {
        let added = self.sessions.coordinator().actions().into_iter().map(|(name, about)| {
            arrow_flight::ActionType { r#type: name.to_owned(), description: about.to_owned() }
        });
        Ok(Response::new(stream::iter(actions::list().chain(added).map(Ok).collect::<Vec<_>>()).boxed()))
    }

    async fn do_exchange(&self, _request: Request<Streaming<FlightData>>) -> Reply<Self::DoExchangeStream> {
        Err(Error::unsupported("DoExchange is not supported"))?
    }
}
