//! Actions: prepared statements, transactions, session options, cancelling.

use arrow::datatypes::SchemaRef;
use arrow_flight::sql::{
    ActionBeginTransactionRequest, ActionBeginTransactionResult, ActionCancelQueryRequest,
    ActionCancelQueryResult, ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest,
    ActionEndTransactionRequest, Any, Command, EndTransaction, ProstMessageExt,
};
use arrow_flight::{Action, Ticket};
use arrow_flight::{ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use parking_lot::Mutex;
use prost::Message;
use skep_common::{Error, Kind, Result};
use skep_coordinator::StatementKind;
use tonic::Status;

use super::handle::{Body, Handle};
use super::metadata::CATALOG;
use super::proto::{
    CloseSessionResult, CloseStatus, GetSessionOptionsResult, OptionError, PreparedStatementResult,
    SessionOptionError, SessionOptionValue, SetSessionOptionsRequest, SetSessionOptionsResult,
};
use super::service::Service;
use super::sessions::{Caller, Lease, Prepared};
use super::{run, types};

const CREATE_PREPARED: &str = "CreatePreparedStatement";
const CLOSE_PREPARED: &str = "ClosePreparedStatement";
const CANCEL_INFO: &str = "CancelFlightInfo";
const CANCEL_QUERY: &str = "CancelQuery";
const SET_OPTIONS: &str = "SetSessionOptions";
const GET_OPTIONS: &str = "GetSessionOptions";
/// Ours, for the shell: a statement is known by its session before the client has heard its id.
const STATEMENT_STATUS: &str = "skep.StatementStatus";
const CANCEL_STATEMENT: &str = "skep.CancelStatement";
/// Answered without opening a session.
pub(crate) const CLOSE_SESSION: &str = "CloseSession";

const BEGIN: &str = "BeginTransaction";
const END: &str = "EndTransaction";
const BEGIN_SAVEPOINT: &str = "BeginSavepoint";
const END_SAVEPOINT: &str = "EndSavepoint";

const ACTIONS: [(&str, &str); 11] = [
    (CREATE_PREPARED, "ActionCreatePreparedStatementRequest -> ActionCreatePreparedStatementResult"),
    (CLOSE_PREPARED, "ActionClosePreparedStatementRequest -> nothing"),
    (BEGIN, "ActionBeginTransactionRequest -> ActionBeginTransactionResult"),
    (END, "ActionEndTransactionRequest -> nothing"),
    (CANCEL_INFO, "CancelFlightInfoRequest -> CancelFlightInfoResult"),
    (CANCEL_QUERY, "ActionCancelQueryRequest -> ActionCancelQueryResult; CancelFlightInfo does the same"),
    (SET_OPTIONS, "SetSessionOptionsRequest -> SetSessionOptionsResult; options: catalog, schema, settings"),
    (GET_OPTIONS, "GetSessionOptionsRequest -> GetSessionOptionsResult"),
    (CLOSE_SESSION, "CloseSessionRequest -> CloseSessionResult"),
    (
        STATEMENT_STATUS,
        "nothing -> JSON: what the latest statement of the session does; nothing if there is none",
    ),
    (CANCEL_STATEMENT, "nothing -> CancelFlightInfoResult: of all that the session runs"),
];

/// The actions there are.
pub(crate) fn list() -> impl Iterator<Item = ActionType> + Send {
    ACTIONS
        .into_iter()
        .map(|(name, about)| ActionType { r#type: name.to_owned(), description: about.to_owned() })
}

/// The answer to CloseSession.
pub(crate) fn closed() -> BoxStream<'static, std::result::Result<arrow_flight::Result, Status>> {
    let body = CloseSessionResult { status: CloseStatus::Closed as i32 }.encode_to_vec().into();
    stream::iter([Ok(arrow_flight::Result { body })]).boxed()
}

/// Runs an action; at most one result.
///
/// # Errors
/// [`Kind::Unsupported`] for an unknown action, [`Kind::Invalid`] for a body that is not its request.
pub(crate) async fn run(
    service: &Service,
    caller: &Caller,
    action: Action,
) -> Result<std::option::IntoIter<Bytes>> {
    let result: Option<Bytes> = match action.r#type.as_str() {
        CREATE_PREPARED => Some(prepare(service, caller, packed(&action)?).await?),
        CLOSE_PREPARED => {
            let request: ActionClosePreparedStatementRequest = packed(&action)?;
            // Closing twice, or after the session ended, is not an error.
            if let Ok((lease, handle)) = service.sessions.redeem(caller, &request.prepared_statement_handle) {
                lease.close_prepared(handle.id);
            }
            None
        }
        CANCEL_INFO => {
            let request: CancelFlightInfoRequest = plain(&action)?;
            let info = request.info.ok_or_else(|| Error::invalid("the request names no FlightInfo"))?;
            let status = cancel(service, caller, &info)?;
            Some(CancelFlightInfoResult { status: status as i32 }.encode_to_vec().into())
        }
        CANCEL_QUERY => {
            let request: ActionCancelQueryRequest = packed(&action)?;
            let info = FlightInfo::decode(request.info).map_err(|e| malformed(CANCEL_QUERY).source(e))?;
            // The numbers of both enums are the same.
            let result = ActionCancelQueryResult { result: cancel(service, caller, &info)? as i32 };
            Some(result.as_any().encode_to_vec().into())
        }
        SET_OPTIONS => {
            let result = set_options(&caller.lease, plain(&action)?).await;
            Some(result.encode_to_vec().into())
        }
        GET_OPTIONS => Some(get_options(&caller.lease).encode_to_vec().into()),
        BEGIN => {
            let _: ActionBeginTransactionRequest = packed(&action)?;
            let transaction_id = service.sessions.begin(&caller.lease).await?.encode();
            Some(ActionBeginTransactionResult { transaction_id }.as_any().encode_to_vec().into())
        }
        END => {
            end(service, caller, &packed(&action)?).await?;
            None
        }
        BEGIN_SAVEPOINT | END_SAVEPOINT => {
            return Err(Error::unsupported("savepoints are not supported")
                .hint("a statement that fails leaves its transaction as it was before"));
        }
        STATEMENT_STATUS => match caller.lease.session.latest() {
            None => None,
            Some(status) => {
                let json = serde_json::to_vec(&status);
                Some(json.map_err(|e| Error::internal("the status does not serialise").source(e))?.into())
            }
        },
        CANCEL_STATEMENT => {
            let any = caller.lease.cancel_all();
            let status = if any { CancelStatus::Cancelling } else { CancelStatus::NotCancellable };
            Some(CancelFlightInfoResult { status: status as i32 }.encode_to_vec().into())
        }
        other => return Err(Error::unsupported(format!("action '{other}' is not supported"))),
    };
    Ok(result.into_iter())
}

fn malformed(action: &str) -> Error {
    Error::invalid(format!("the body of action '{action}' is not its request"))
}

/// The request in an action whose body is a protobuf `Any`, as Flight SQL does it.
fn packed<M: ProstMessageExt>(action: &Action) -> Result<M> {
    let any = Any::decode(action.body.as_ref()).map_err(|e| malformed(&action.r#type).source(e))?;
    match any.unpack() {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(malformed(&action.r#type)),
        Err(e) => Err(malformed(&action.r#type).source(e)),
    }
}

/// The request in an action whose body is the request, as Flight does it.
fn plain<M: Message + Default>(action: &Action) -> Result<M> {
    M::decode(action.body.as_ref()).map_err(|e| malformed(&action.r#type).source(e))
}

async fn prepare(
    service: &Service,
    caller: &Caller,
    request: ActionCreatePreparedStatementRequest,
) -> Result<Bytes> {
    let place = service.sessions.place(caller, request.transaction_id.as_ref())?;
    let lease = &place.lease;
    service.sessions.authorise(lease, &request.query)?;
    let description = place.session.describe(&request.query).await?;
    let is_update = description.kind == StatementKind::Update;
    let (schema, parameters) = (description.schema, description.parameters);
    // Drivers that do not know `is_update` take an empty schema for an update.
    let bytes = |schema: &SchemaRef, empty: bool| {
        if empty { Ok(Bytes::new()) } else { run::schema_bytes(&types::told(schema)) }
    };
    let dataset_schema = bytes(&schema, is_update && schema.fields().is_empty())?;
    let parameter_schema = bytes(&parameters, parameters.fields().is_empty())?;
    let prepared = Prepared {
        sql: request.query,
        kind: description.kind,
        schema,
        parameters,
        transaction: place.transaction,
        bound: Mutex::new(None),
    };
    let id = service.sessions.prepare(lease, prepared)?;
    let handle = service.sessions.handle(lease, id, Body::Prepared).encode();
    let result =
        PreparedStatementResult { handle, dataset_schema, parameter_schema, is_update: Some(is_update) };
    Ok(result.as_any().encode_to_vec().into())
}

async fn end(service: &Service, caller: &Caller, request: &ActionEndTransactionRequest) -> Result<()> {
    let commit = match EndTransaction::try_from(request.action) {
        Ok(EndTransaction::Commit) => true,
        Ok(EndTransaction::Rollback) => false,
        Ok(EndTransaction::Unspecified) | Err(_) => {
            return Err(Error::invalid("the request says neither commit nor rollback"));
        }
    };
    let (lease, handle) = service.sessions.redeem(caller, &request.transaction_id)?;
    if handle.body != Body::Transaction {
        return Err(Error::invalid("the handle is not one of a transaction"));
    }
    lease.end(handle.id, commit).await
}

/// Cancels what the tickets of `info` are running.
fn cancel(service: &Service, caller: &Caller, info: &FlightInfo) -> Result<CancelStatus> {
    let tickets = info.endpoint.iter().filter_map(|endpoint| endpoint.ticket.as_ref());
    let mut any = false;
    for handle in tickets.filter_map(statement_handle) {
        let (lease, handle): (Lease, Handle) = service.sessions.redeem(caller, &handle)?;
        any |= lease.cancel(handle.id);
    }
    Ok(if any { CancelStatus::Cancelled } else { CancelStatus::NotCancellable })
}

fn statement_handle(ticket: &Ticket) -> Option<Bytes> {
    let any = Any::decode(ticket.ticket.as_ref()).ok()?;
    match Command::try_from(any) {
        Ok(Command::TicketStatementQuery(ticket)) => Some(ticket.statement_handle),
        _ => None,
    }
}

/// The setting behind the session's schema.
const SCHEMA_SETTING: &str = skep_engine::settings::SCHEMA;

async fn set_options(lease: &Lease, request: SetSessionOptionsRequest) -> SetSessionOptionsResult {
    let mut errors = std::collections::HashMap::new();
    for (name, value) in request.options {
        let set = match value.value {
            None => Err(Error::invalid("an option cannot be unset")),
            Some(value) => set_option(lease, &name, &value.as_text()).await,
        };
        if let Err(error) = set {
            tracing::debug!(option = name, error = error.report(), "session option refused");
            let value = match error.kind() {
                Kind::NotFound if name != "catalog" && name != "schema" => OptionError::InvalidName,
                Kind::NotFound | Kind::Invalid => OptionError::InvalidValue,
                _ => OptionError::Other,
            };
            errors.insert(name, SessionOptionError { value: value as i32 });
        }
    }
    SetSessionOptionsResult { errors }
}

async fn set_option(lease: &Lease, name: &str, value: &str) -> Result<()> {
    match name {
        "catalog" if value == CATALOG => Ok(()),
        "catalog" => Err(Error::invalid(format!("catalog '{value}' does not exist"))),
        "schema" | SCHEMA_SETTING => {
            if !lease.session.schemas().await?.iter().any(|schema| schema == value) {
                return Err(Error::invalid(format!("schema '{value}' does not exist")));
            }
            lease.session.set(SCHEMA_SETTING, value)
        }
        name => lease.session.set(name, value),
    }
}

fn get_options(lease: &Lease) -> GetSessionOptionsResult {
    let mut options =
        std::collections::HashMap::from([("catalog".to_owned(), SessionOptionValue::text(CATALOG))]);
    if let Ok(schema) = lease.session.get(SCHEMA_SETTING) {
        options.insert("schema".to_owned(), SessionOptionValue::text(schema));
    }
    GetSessionOptionsResult { options }
}
