//! The one error of the whole program: a kind that says what the caller can do, a message, and where.
//!
//! Errors stay typed from the failing line to the client: [`Error::to_status`] and [`Error::from_status`] carry
//! every field over gRPC, [`Error::encode`] and [`Error::decode`] through channels that only carry text.
//! `Display` prints the message alone; [`Error::report`] prints the chain, and is called by whoever shows it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The result of everything that can fail with an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The statement, argument or configuration is wrong. Fix it; retrying does not help.
    Invalid,
    /// A named thing does not exist.
    NotFound,
    /// A thing of that name exists already.
    AlreadyExists,
    /// Another commit changed what this one read or changes. Run the statement again.
    Conflict,
    /// The caller did not prove who it is, or may not do this.
    Denied,
    /// Memory or a limit is spent. Wait, or raise the setting the message names.
    Exhausted,
    /// A disk is full. Make room on the node and in the folder that the message names; nothing of the statement was left there.
    NoSpace,
    /// A node or service cannot be reached, or left. Retry.
    Unavailable,
    /// Somebody cancelled the work.
    Cancelled,
    /// The work took longer than its limit.
    Deadline,
    /// Valid, and not supported by this version.
    Unsupported,
    /// Stored bytes are not what was written.
    Corrupt,
    /// A bug in this program. Report it with the query id.
    Internal,
}

impl Kind {
    /// Whether the same request may succeed when it is sent again unchanged.
    pub fn retryable(self) -> bool {
        matches!(self, Kind::Conflict | Kind::Unavailable)
    }

    /// The stable name, as `errors.md` lists it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Invalid => "invalid",
            Kind::NotFound => "not_found",
            Kind::AlreadyExists => "already_exists",
            Kind::Conflict => "conflict",
            Kind::Denied => "denied",
            Kind::Exhausted => "exhausted",
            Kind::NoSpace => "no_space",
            Kind::Unavailable => "unavailable",
            Kind::Cancelled => "cancelled",
            Kind::Deadline => "deadline",
            Kind::Unsupported => "unsupported",
            Kind::Corrupt => "corrupt",
            Kind::Internal => "internal",
        }
    }

    fn grpc(self) -> tonic::Code {
        match self {
            Kind::Invalid => tonic::Code::InvalidArgument,
            Kind::NotFound => tonic::Code::NotFound,
            Kind::AlreadyExists => tonic::Code::AlreadyExists,
            Kind::Conflict => tonic::Code::Aborted,
            Kind::Denied => tonic::Code::Unauthenticated,
            Kind::Exhausted => tonic::Code::ResourceExhausted,
            Kind::NoSpace => tonic::Code::ResourceExhausted,
            Kind::Unavailable => tonic::Code::Unavailable,
            Kind::Cancelled => tonic::Code::Cancelled,
            Kind::Deadline => tonic::Code::DeadlineExceeded,
            Kind::Unsupported => tonic::Code::Unimplemented,
            Kind::Corrupt => tonic::Code::DataLoss,
            Kind::Internal => tonic::Code::Internal,
        }
    }

    fn from_grpc(code: tonic::Code) -> Self {
        match code {
            tonic::Code::InvalidArgument | tonic::Code::FailedPrecondition | tonic::Code::OutOfRange => {
                Kind::Invalid
            }
            tonic::Code::NotFound => Kind::NotFound,
            tonic::Code::AlreadyExists => Kind::AlreadyExists,
            tonic::Code::Aborted => Kind::Conflict,
            tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => Kind::Denied,
            tonic::Code::ResourceExhausted => Kind::Exhausted,
            tonic::Code::Unavailable => Kind::Unavailable,
            tonic::Code::Cancelled => Kind::Cancelled,
            tonic::Code::DeadlineExceeded => Kind::Deadline,
            tonic::Code::Unimplemented => Kind::Unsupported,
            tonic::Code::DataLoss => Kind::Corrupt,
            tonic::Code::Ok | tonic::Code::Internal | tonic::Code::Unknown => Kind::Internal,
        }
    }
}

/// A place in the text of a statement. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
}

impl Position {
    /// The place of the character that begins at byte `offset` of `text`, whose first line is line `first`. Behind the end: the end.
    pub fn of(text: &str, offset: usize, first: u64) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count() as u64;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() as u64;
        Self { line: first + line, column: column + 1 }
    }
}

/// A piece of a statement, from a place up to another, which is not part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Its first character.
    pub start: Position,
    /// The place after its last; equal to `start` where only that is known.
    pub end: Position,
}

impl From<Position> for Span {
    fn from(at: Position) -> Self {
        Self { start: at, end: at }
    }
}

/// What else there is to say of an error, mostly of another place of the statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Lowercase, without a final period.
    pub message: String,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Span>,
}

/// Why something did not happen. See the module for how it travels.
#[derive(Clone)]
pub struct Error(Box<Fields>);

#[derive(Clone)]
struct Fields {
    kind: Kind,
    message: String,
    at: Option<Span>,
    notes: Vec<Note>,
    hint: Option<String>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// What travels: the error and its chain of causes as text, outermost first.
#[derive(Serialize, Deserialize)]
struct Wire {
    kind: Kind,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<Span>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    notes: Vec<Note>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    causes: Vec<String>,
}

/// A cause that came over the wire: its text and its own cause.
#[derive(Debug)]
struct RemoteCause {
    message: String,
    source: Option<Box<RemoteCause>>,
}

impl fmt::Display for RemoteCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RemoteCause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|cause| cause as _)
    }
}

macro_rules! constructors {
    ($($name:ident => $kind:ident),* $(,)?) => {$(
        #[doc = concat!("An error of [`Kind::", stringify!($kind), "`].")]
        pub fn $name(message: impl Into<String>) -> Self {
            Self::new(Kind::$kind, message)
        }
    )*};
}

impl Error {
    /// An error of `kind`. The message is lowercase, quotes values, and has no final period.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let (at, notes, hint, source) = (None, Vec::new(), None, None);
        Self(Box::new(Fields { kind, message: message.into(), at, notes, hint, source }))
    }

    constructors! {
        invalid => Invalid, not_found => NotFound, already_exists => AlreadyExists, conflict => Conflict,
        denied => Denied, exhausted => Exhausted, no_space => NoSpace, unavailable => Unavailable, cancelled => Cancelled,
        deadline => Deadline, unsupported => Unsupported, corrupt => Corrupt, internal => Internal,
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds where in the statement it happened.
    #[must_use]
    pub fn at(mut self, at: impl Into<Span>) -> Self {
        self.0.at = Some(at.into());
        self
    }

    /// Adds what there is to say of another place of the statement, or of none.
    #[must_use]
    pub fn note(mut self, message: impl Into<String>, at: Option<Span>) -> Self {
        self.0.notes.push(Note { message: message.into(), at });
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// The same kind, place, notes and hint under a message that says what was being done; `self` becomes the cause.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Self {
        let (kind, at, notes, hint) = (self.0.kind, self.0.at, self.0.notes.clone(), self.0.hint.clone());
        let source: Option<Arc<dyn std::error::Error + Send + Sync>> = Some(Arc::new(self));
        Self(Box::new(Fields { kind, message: message.into(), at, notes, hint, source }))
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The message alone.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Where in the statement it begins.
    pub fn position(&self) -> Option<Position> {
        self.0.at.map(|at| at.start)
    }

    /// Where in the statement, with its end if that is known.
    pub fn span(&self) -> Option<Span> {
        self.0.at
    }

    /// What else there is to say.
    pub fn notes(&self) -> &[Note] {
        &self.0.notes
    }

    /// What to do about it.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The messages of the causes, outermost first, without this error's own.
    pub fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        causes
    }

    /// The whole chain on one line, `message: cause: cause`, leaving out a cause that the text already ends with.
    pub fn report(&self) -> String {
        let mut text = self.0.message.clone();
        for cause in self.causes() {
            if !text.ends_with(&cause) {
                text.push_str(": ");
                text.push_str(&cause);
            }
        }
        text
    }

    fn wire(&self) -> Wire {
        Wire {
            kind: self.0.kind,
            message: self.0.message.clone(),
            at: self.0.at,
            notes: self.0.notes.clone(),
            hint: self.0.hint.clone(),
            causes: self.causes(),
        }
    }

    fn from_wire(wire: Wire) -> Self {
        let cause = wire
            .causes
            .into_iter()
            .rev()
            .fold(None, |source, message| Some(Box::new(RemoteCause { message, source })));
        Self(Box::new(Fields {
            kind: wire.kind,
            message: wire.message,
            at: wire.at,
            notes: wire.notes,
            hint: wire.hint,
            source: cause.map(|cause| Arc::new(*cause) as _),
        }))
    }

    /// One line of text that [`Error::decode`] finds again inside a longer one.
    ///
    /// For channels that only carry strings, such as an error that crossed another library's transport.
    pub fn encode(&self) -> String {
        // A struct of strings and enums always serialises.
        let json = serde_json::to_string(&self.wire()).unwrap_or_default();
        format!("{MARK_OPEN}{json}{MARK_CLOSE}")
    }

    /// Finds an error that [`Error::encode`] wrote, wherever it stands in `text`.
    pub fn decode(text: &str) -> Option<Self> {
        let start = text.find(MARK_OPEN)? + MARK_OPEN.len();
        let end = start + text[start..].find(MARK_CLOSE)?;
        serde_json::from_str(&text[start..end]).ok().map(Self::from_wire)
    }

    /// The report with the place and the hint, for those who show a text and no more.
    fn text(&self) -> String {
        let mut text = self.report();
        if let Some(at) = self.position() {
            text.push_str(&format!(" (line {}, column {})", at.line, at.column));
        }
        if let Some(hint) = &self.0.hint {
            text.push_str("; ");
            text.push_str(hint);
        }
        text
    }

    /// As a gRPC status: the report with place and hint, cut to a length that fits a header, with every field in the details.
    pub fn to_status(&self) -> tonic::Status {
        let mut message = self.text();
        if message.len() > MESSAGE_BYTES_MAX {
            let cut = (0..=MESSAGE_BYTES_MAX).rev().find(|&i| message.is_char_boundary(i)).unwrap_or(0);
            message.truncate(cut);
            message.push_str("...");
        }
        let mut wire = self.wire();
        let mut details = serde_json::to_vec(&wire).unwrap_or_default();
        if details.len() > DETAIL_BYTES_MAX {
            wire.causes.clear();
            wire.notes.clear();
            wire.message.clone_from(&message);
            details = serde_json::to_vec(&wire).unwrap_or_default();
        }
        tonic::Status::with_details(self.0.kind.grpc(), message, details.into())
    }

    /// From a gRPC status of ours, or of anyone.
    pub fn from_status(status: &tonic::Status) -> Self {
        if let Ok(wire) = serde_json::from_slice::<Wire>(status.details()) {
            return Self::from_wire(wire);
        }
        if let Some(inner) = Self::decode(status.message()) {
            return inner;
        }
        let mut error = Self::new(Kind::from_grpc(status.code()), status.message());
        if let Some(cause) = std::error::Error::source(status) {
            let mut messages = Vec::new();
            let mut next = Some(cause);
            while let Some(cause) = next {
                messages.push(cause.to_string());
                next = cause.source();
            }
            let chain = messages
                .into_iter()
                .rev()
                .fold(None, |source, message| Some(Box::new(RemoteCause { message, source })));
            error.0.source = chain.map(|cause| Arc::new(*cause) as _);
        }
        error
    }
}

/// Longest message of a gRPC status: longer ones overflow the trailers of some clients.
const MESSAGE_BYTES_MAX: usize = 2048;
/// Longest details of a gRPC status, for the same reason.
const DETAIL_BYTES_MAX: usize = 4096;
const MARK_OPEN: &str = "\u{2}skep-error ";
const MARK_CLOSE: &str = "\u{3}";

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind.name(), self.report())?;
        if let Some(at) = self.position() {
            write!(f, " (line {}, column {})", at.line, at.column)?;
        }
        match &self.0.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::from_status(&status)
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        error.to_status()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Error {
        Error::not_found("table 'x' does not exist")
            .hint("did you mean 'y'?")
            .at(Span { start: Position { line: 2, column: 7 }, end: Position { line: 2, column: 8 } })
            .note("'y' does", Some(Position { line: 1, column: 1 }.into()))
            .source(std::io::Error::other("disk on fire"))
    }

    #[test]
    fn status_round_trip_keeps_every_field() {
        let back = Error::from_status(&sample().to_status());
        assert_eq!(format!("{back:?}"), format!("{:?}", sample()));
        assert_eq!((back.span(), back.notes()), (sample().span(), sample().notes()));
        assert_eq!(back.causes(), ["disk on fire"]);
    }

    /// Drivers show the text of a status, and nothing else.
    #[test]
    fn the_text_of_a_status_has_the_place_and_the_hint() {
        let text = "table 'x' does not exist: disk on fire (line 2, column 7); did you mean 'y'?";
        assert_eq!(sample().to_status().message(), text);
    }

    #[test]
    fn text_round_trip_survives_wrapping() {
        let wrapped = format!("External error: stage 3: {} and more", sample().encode());
        let back = Error::decode(&wrapped).map(|e| format!("{e:?}"));
        assert_eq!(back, Some(format!("{:?}", sample())));
        assert!(Error::decode("nothing here").is_none());
    }

    #[test]
    fn long_messages_fit_a_trailer() {
        let status = Error::invalid("\u{e4}".repeat(100_000)).to_status();
        assert!(status.message().len() < 3000 && status.details().len() < 8000);
        assert_eq!(Error::from_status(&status).kind(), Kind::Invalid);
    }

    #[test]
    fn context_keeps_the_kind_and_the_cause() {
        let error = sample().context("cannot plan the query");
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(error.report(), "cannot plan the query: table 'x' does not exist: disk on fire");
    }
}
