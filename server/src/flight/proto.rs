//! Messages of the Flight and Flight SQL protocols that arrow-flight does not have, and our own handle.

use std::collections::HashMap;

use arrow_flight::sql::Any;
use bytes::Bytes;
use prost::Message;

/// `ActionCreatePreparedStatementResult` with its field 4, by which newer JDBC drivers tell updates from queries.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PreparedStatementResult {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) handle: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) dataset_schema: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) parameter_schema: Bytes,
    #[prost(bool, optional, tag = "4")]
    pub(crate) is_update: Option<bool>,
}

impl PreparedStatementResult {
    /// As the protocol sends it.
    pub(crate) fn as_any(&self) -> Any {
        Any {
            type_url: "type.googleapis.com/arrow.flight.protocol.sql.ActionCreatePreparedStatementResult"
                .to_owned(),
            value: self.encode_to_vec().into(),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StringList {
    #[prost(string, repeated, tag = "1")]
    pub(crate) values: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum OptionValue {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(sfixed64, tag = "3")]
    Int(i64),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(message, tag = "5")]
    List(StringList),
}

impl OptionValue {
    /// As the text that a setting takes.
    pub(crate) fn as_text(&self) -> String {
        match self {
            OptionValue::Text(text) => text.clone(),
            OptionValue::Bool(value) => value.to_string(),
            OptionValue::Int(value) => value.to_string(),
            OptionValue::Double(value) => value.to_string(),
            OptionValue::List(list) => list.values.join(","),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SessionOptionValue {
    #[prost(oneof = "OptionValue", tags = "1, 2, 3, 4, 5")]
    pub(crate) value: Option<OptionValue>,
}

impl SessionOptionValue {
    pub(crate) fn text(value: impl Into<String>) -> Self {
        Self { value: Some(OptionValue::Text(value.into())) }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SetSessionOptionsRequest {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) options: HashMap<String, SessionOptionValue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum OptionError {
    Unspecified = 0,
    InvalidName = 1,
    InvalidValue = 2,
    Other = 3,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SessionOptionError {
    #[prost(enumeration = "OptionError", tag = "1")]
    pub(crate) value: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) errors: HashMap<String, SessionOptionError>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) options: HashMap<String, SessionOptionValue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum CloseStatus {
    Unspecified = 0,
    Closed = 1,
    Closing = 2,
    NotCloseable = 3,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CloseSessionResult {
    #[prost(enumeration = "CloseStatus", tag = "1")]
    pub(crate) status: i32,
}
