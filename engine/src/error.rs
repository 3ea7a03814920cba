//! DataFusion's errors as ours, and back.
//!
//! The kind follows from the variant. Ours cross DataFusion as `External`, and text channels in their encoded form, so
//! that [`from_datafusion`] finds them again unchanged.

use std::error::Error as StdError;

use datafusion::arrow::error::ArrowError;
use datafusion::common::{Column, Diagnostic, SchemaError};
use datafusion::error::DataFusionError;
use parquet::errors::ParquetError;
use skep_common::{Error, Kind, Position, Span};

use crate::names;

/// How many columns a hint lists.
const COLUMNS_SHOWN_MAX: usize = 12;

/// Our error as DataFusion carries it.
pub fn to_datafusion(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// DataFusion's error as ours.
pub fn from_datafusion(error: DataFusionError) -> Error {
    from_ref(&error)
}

/// As [`from_datafusion`], for an error that is shared.
pub fn from_ref(error: &DataFusionError) -> Error {
    match error {
        DataFusionError::External(inner) => from_dyn(inner.as_ref()),
        DataFusionError::Shared(inner) => from_ref(inner),
        DataFusionError::Diagnostic(diagnostic, inner) => {
            let error = match inner.as_ref() {
                // The diagnostic says it shorter.
                DataFusionError::Plan(message) if Error::decode(message).is_none() => {
                    match unknown_function(message) {
                        Some(error) => error,
                        None => text(Kind::Invalid, &diagnostic.message),
                    }
                }
                inner => from_ref(inner),
            };
            diagnosed(diagnostic, error)
        }
        DataFusionError::Collection(errors) => match errors.first() {
            Some(first) => from_ref(first),
            None => Error::internal("an empty collection of errors"),
        },
        // Names of optimizer rules are no context for people.
        DataFusionError::Context(context, inner) => {
            let inner = from_ref(inner);
            let of_rule = context.starts_with("Optimizer rule") || !context.contains(' ');
            if !of_rule { inner.context(tidy(context).0) } else { inner }
        }
        DataFusionError::ArrowError(inner, _) => from_arrow(inner),
        DataFusionError::ParquetError(inner) => from_parquet(inner),
        DataFusionError::ObjectStore(inner) => from_store(inner),
        DataFusionError::IoError(inner) => from_io(inner),
        DataFusionError::SQL(inner, _) => text(Kind::Invalid, &inner.to_string()),
        DataFusionError::Plan(message)
        | DataFusionError::Configuration(message)
        | DataFusionError::Execution(message) => text(Kind::Invalid, message),
        DataFusionError::NotImplemented(message) => text(Kind::Unsupported, message),
        DataFusionError::Internal(message)
        | DataFusionError::Substrait(message)
        | DataFusionError::Ffi(message) => text(Kind::Internal, message),
        DataFusionError::SchemaError(inner, _) => from_schema(inner),
        DataFusionError::ExecutionJoin(inner) => {
            Error::internal("a part of the query panicked").source(inner.to_string())
        }
        DataFusionError::ResourcesExhausted(message) => exhausted(message),
    }
}

/// An error behind a `dyn`, which may be ours at any depth.
pub fn from_dyn(error: &(dyn StdError + 'static)) -> Error {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<Error>() {
            return error.clone();
        }
        if let Some(error) = error.downcast_ref::<DataFusionError>() {
            return from_ref(error);
        }
        if let Some(error) = error.downcast_ref::<ArrowError>() {
            return from_arrow(error);
        }
        if let Some(error) = error.downcast_ref::<ParquetError>() {
            return from_parquet(error);
        }
        if let Some(error) = error.downcast_ref::<object_store::Error>() {
            return from_store(error);
        }
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return from_io(error);
        }
        next = error.source();
    }
    text(Kind::Internal, &error.to_string())
}

fn from_arrow(error: &ArrowError) -> Error {
    match error {
        ArrowError::ExternalError(inner) => from_dyn(inner.as_ref()),
        ArrowError::IoError(message, inner) => match inner.get_ref() {
            Some(source) => from_dyn(source),
            None => from_io(inner).context(tidy(message).0),
        },
        ArrowError::NotYetImplemented(message) => text(Kind::Unsupported, message),
        ArrowError::ParquetError(message) | ArrowError::IpcError(message) => text(Kind::Corrupt, message),
        ArrowError::MemoryError(message) => exhausted(message),
        ArrowError::CDataInterface(message) => text(Kind::Internal, message),
        ArrowError::DivideByZero => {
            Error::invalid("division by zero").hint("NULLIF(divisor, 0) gives NULL instead")
        }
        ArrowError::CastError(message)
        | ArrowError::ParseError(message)
        | ArrowError::SchemaError(message)
        | ArrowError::ComputeError(message)
        | ArrowError::ArithmeticOverflow(message)
        | ArrowError::CsvError(message)
        | ArrowError::JsonError(message)
        | ArrowError::AvroError(message)
        | ArrowError::InvalidArgumentError(message) => text(Kind::Invalid, message),
        other => text(Kind::Invalid, &other.to_string()),
    }
}

fn from_parquet(error: &ParquetError) -> Error {
    match error {
        ParquetError::External(inner) => from_dyn(inner.as_ref()),
        ParquetError::NYI(message) => text(Kind::Unsupported, message),
        ParquetError::General(message) if message.starts_with(UNREAD) => unread(message),
        other => text(Kind::Corrupt, &other.to_string()),
    }
}

/// How DataFusion begins to say that it cannot read a Parquet file; the path in its store and the cause follow.
const UNREAD: &str = "Failed to fetch metadata for file ";

fn unread(message: &str) -> Error {
    let rest = message.strip_prefix(UNREAD).unwrap_or(message);
    let (path, cause) = rest.split_once(": ").unwrap_or((rest, "no reason is known"));
    // The store could not be read, which says nothing of the file.
    let cause_lower = cause.to_lowercase();
    let of_store = cause_lower.starts_with("object store error") && !cause_lower.contains("not found");
    let error = text(if of_store { Kind::Unavailable } else { Kind::Corrupt }, cause);
    error.context(format!("file '/{path}' cannot be read as Parquet"))
}

fn from_store(error: &object_store::Error) -> Error {
    match error {
        object_store::Error::NotFound { path, .. } => {
            Error::not_found(format!("file '{path}' does not exist"))
        }
        object_store::Error::AlreadyExists { path, .. } => {
            Error::already_exists(format!("file '{path}' exists already"))
        }
        object_store::Error::PermissionDenied { path, .. }
        | object_store::Error::Unauthenticated { path, .. } => {
            Error::denied(format!("file '{path}' may not be read or written"))
        }
        object_store::Error::NotSupported { source } => text(Kind::Unsupported, &source.to_string()),
        object_store::Error::NotImplemented { .. } => text(Kind::Unsupported, &error.to_string()),
        object_store::Error::InvalidPath { .. } => text(Kind::Invalid, &error.to_string()),
        other => match other.source() {
            // Ours, or one with a better kind, may be the cause.
            Some(source) if knows_kind(source) => from_dyn(source),
            _ => text(Kind::Unavailable, &other.to_string()),
        },
    }
}

fn knows_kind(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<Error>() || error.is::<DataFusionError>() || error.is::<std::io::Error>() {
            return true;
        }
        next = error.source();
    }
    Error::decode(&error.to_string()).is_some()
}

fn from_io(error: &std::io::Error) -> Error {
    if let Some(inner) = error.get_ref()
        && knows_kind(inner)
    {
        return from_dyn(inner);
    }
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => Kind::NotFound,
        std::io::ErrorKind::PermissionDenied => Kind::Denied,
        std::io::ErrorKind::AlreadyExists => Kind::AlreadyExists,
        std::io::ErrorKind::StorageFull
        | std::io::ErrorKind::QuotaExceeded
        | std::io::ErrorKind::FileTooLarge => Kind::NoSpace,
        std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => Kind::Corrupt,
        std::io::ErrorKind::InvalidInput => Kind::Invalid,
        std::io::ErrorKind::Unsupported => Kind::Unsupported,
        _ => Kind::Unavailable,
    };
    text(kind, &error.to_string())
}

fn from_schema(error: &SchemaError) -> Error {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let error = Error::invalid(format!("column '{}' does not exist", shown(field)));
            match column_hint(field, valid_fields) {
                Some(hint) => error.hint(hint),
                None => error,
            }
        }
        SchemaError::AmbiguousReference { field } => {
            Error::invalid(format!("column '{}' is in more than one table", field.name))
                .hint(format!("write the table before it, as in t.{}", names::quote(&field.name)))
        }
        SchemaError::DuplicateQualifiedField { name, .. }
        | SchemaError::DuplicateUnqualifiedField { name } => {
            Error::invalid(format!("column '{name}' occurs twice"))
                .hint("give one of them another name with AS")
        }
    }
}

fn shown(column: &Column) -> String {
    match &column.relation {
        Some(relation) => format!("{}.{}", relation.table(), column.name),
        None => column.name.clone(),
    }
}

fn column_hint(field: &Column, valid: &[Column]) -> Option<String> {
    // Statements that change rows have columns of their own beside those of people.
    let valid: Vec<&Column> = valid.iter().filter(|column| !column.name.starts_with("__skep_")).collect();
    let candidates = valid.iter().map(|column| column.name.as_str());
    if let Some(near) = names::nearest(&field.name, candidates) {
        return Some(format!("did you mean '{near}'?"));
    }
    let mut names: Vec<&str> = valid.iter().map(|column| column.name.as_str()).collect();
    names.dedup();
    match names.len() {
        0 => None,
        n if n > COLUMNS_SHOWN_MAX => {
            Some(format!("columns are {}, ...", names[..COLUMNS_SHOWN_MAX].join(", ")))
        }
        _ => Some(format!("columns are {}", names.join(", "))),
    }
}

fn diagnosed(diagnostic: &Diagnostic, error: Error) -> Error {
    let error = match (error.position(), diagnostic.span.and_then(span)) {
        (None, Some(at)) => error.at(at),
        _ => error,
    };
    let error = match (error.hint_text(), diagnostic.helps.first()) {
        (None, Some(help)) => error.hint(tidy(&help.message).0),
        _ => error,
    };
    // Those that only guess at names are hints of ours.
    let told = diagnostic.notes.iter().filter(|note| !note.message.to_lowercase().starts_with("possible "));
    told.fold(error, |error, note| error.note(counted(&note.message), note.span.and_then(span)))
}

/// A note in our manner: results have columns, and one of them is one.
fn counted(message: &str) -> String {
    let (text, _) = tidy(message);
    match text.strip_prefix("this side has ").and_then(|rest| rest.strip_suffix(" fields")) {
        Some("1") => "this side has 1 column".to_owned(),
        Some(count) => format!("this side has {count} columns"),
        None => text,
    }
}

/// DataFusion's span as ours; its end is not part of it either. `None` for its mark of "nowhere".
fn span(span: datafusion::common::Span) -> Option<Span> {
    let place = |at: datafusion::common::Location| Position { line: at.line, column: at.column };
    (span.start.line > 0).then(|| Span { start: place(span.start), end: place(span.end) })
}

/// The error of a function that does not exist. DataFusion guesses at a name however far it is.
fn unknown_function(message: &str) -> Option<Error> {
    let name = message.strip_prefix("Invalid function '")?.split('\'').next()?;
    let error = Error::invalid(format!("function '{name}' does not exist"));
    let guess = message.split_once("Did you mean '").and_then(|(_, rest)| rest.split('\'').next());
    Some(match guess.and_then(|guess| names::nearest(name, [guess])) {
        Some(near) => error.hint(format!("did you mean '{near}'?")),
        None => error,
    })
}

/// `error` with the nearest of `known`, if it is that of a table function that does not exist.
pub(crate) fn unknown_table_function<'a>(error: Error, known: impl Iterator<Item = &'a str>) -> Error {
    let name =
        error.message().strip_prefix("table function '").and_then(|rest| rest.strip_suffix("' not found"));
    let Some(name) = name.map(str::to_owned) else { return error };
    let mut known: Vec<&str> = known.collect();
    known.sort_unstable();
    let ours = Error::invalid(format!("table function '{name}' does not exist"));
    match names::nearest(&name, known.iter().copied()) {
        Some(near) => ours.hint(format!("did you mean '{near}'?")),
        None => ours.hint(format!("table functions are {}", known.join(", "))),
    }
}

fn exhausted(message: &str) -> Error {
    if let Some(error) = Error::decode(message) {
        return error;
    }
    let (message, _) = tidy(message);
    Error::exhausted("the query needs more memory than is left")
        .hint("start the node with more --memory (in a configuration file: memory), lower skep.partitions, or run fewer queries at once")
        .source(message)
}

fn text(kind: Kind, message: &str) -> Error {
    if let Some(error) = Error::decode(message) {
        return error;
    }
    let (message, hint) = tidy(message);
    let error = Error::new(kind, message);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Arrow's names of types, and SQL's.
const TYPES: [(&str, &str); 15] = [
    ("Utf8View", "VARCHAR"),
    ("LargeUtf8", "VARCHAR"),
    ("Utf8", "VARCHAR"),
    ("String", "VARCHAR"),
    ("Boolean", "BOOLEAN"),
    ("Int8", "TINYINT"),
    ("Int16", "SMALLINT"),
    ("Int32", "INTEGER"),
    ("Int64", "BIGINT"),
    ("UInt64", "BIGINT UNSIGNED"),
    ("Float32", "REAL"),
    ("Float64", "DOUBLE"),
    ("Date32", "DATE"),
    ("BinaryView", "BINARY"),
    ("Decimal128", "DECIMAL"),
];

/// `text` with the names of types that SQL has. A name before a parenthesis is part of an expression and stays.
fn sql_types(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphanumeric()) {
        let end =
            rest[start..].find(|c: char| !c.is_ascii_alphanumeric()).map_or(rest.len(), |at| start + at);
        let word = &rest[start..end];
        let call = rest[end..].starts_with('(') && word != "Decimal128";
        let name = TYPES.iter().find(|(arrow, _)| *arrow == word && !call).map_or(word, |(_, sql)| sql);
        out.push_str(&rest[..start]);
        out.push_str(name);
        rest = &rest[end..];
    }
    out + rest
}

/// A foreign message in our manner: one line, lower case, no period; and its "did you mean" as a hint.
fn tidy(message: &str) -> (String, Option<String>) {
    let message = message.split("\n\nbacktrace:").next().unwrap_or(message);
    // A call that fits no signature comes with all that was tried.
    if let Some(at) = message.find("No function matches the given name and argument types") {
        let (what, candidates) =
            message[at..].split_once("Candidate functions:").unwrap_or((&message[at..], ""));
        let call = what.split('\'').nth(1).unwrap_or(what);
        let candidates = candidates.split_whitespace().collect::<Vec<_>>().join(" ");
        let hint = format!("write a CAST; it takes {}", sql_types(&candidates));
        return (format!("no function takes {}", sql_types(call)), Some(hint));
    }
    let (message, hint) = match message.split_once("Did you mean") {
        Some((before, after)) => {
            let guess = after.split(['?', '\n']).next().unwrap_or(after).trim();
            (before, Some(format!("did you mean {guess}?")))
        }
        None => (message, None),
    };
    let mut message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    for prefix in [
        "Error during planning: ",
        "Parser error: ",
        "Cast error: ",
        "Compute error: ",
        "Invalid argument error: ",
    ] {
        if let Some(rest) = message.strip_prefix(prefix) {
            message = rest.to_owned();
        }
    }
    let message = message.trim_end_matches(['.', ' ', ':']);
    let mut chars = message.chars();
    let lower = match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if !second.is_uppercase() => first.to_lowercase().chain(chars).collect(),
        _ => message.to_owned(),
    };
    (sql_types(&lower), hint)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn ours() -> Error {
        Error::conflict("table 't' changed").hint("run it again")
    }

    /// Whatever wraps one of ours on its way, it comes back as it was.
    #[test]
    fn our_errors_come_back_from_any_depth() {
        let wrapped: Vec<DataFusionError> = vec![
            to_datafusion(ours()),
            DataFusionError::Shared(Arc::new(to_datafusion(ours()))),
            DataFusionError::ArrowError(
                Box::new(ArrowError::ExternalError(Box::new(to_datafusion(ours())))),
                None,
            ),
            DataFusionError::ParquetError(Box::new(ParquetError::External(Box::new(ours())))),
            DataFusionError::ObjectStore(Box::new(object_store::Error::Generic {
                store: "skep",
                source: Box::new(ours()),
            })),
            DataFusionError::IoError(std::io::Error::other(ours())),
            DataFusionError::Execution(format!("stage 3: {}", ours().encode())),
            DataFusionError::External(format!("worker: {}", ours().encode()).into()),
        ];
        for error in wrapped {
            let shown = format!("{error:?}");
            assert_eq!(format!("{:?}", from_datafusion(error)), format!("{:?}", ours()), "{shown}");
        }
    }

    #[test]
    fn kinds_follow_variants() {
        let kind = |error| from_datafusion(error).kind();
        assert_eq!(kind(DataFusionError::Plan("no".into())), Kind::Invalid);
        assert_eq!(kind(DataFusionError::NotImplemented("no".into())), Kind::Unsupported);
        assert_eq!(kind(DataFusionError::Internal("no".into())), Kind::Internal);
        let exhausted = from_datafusion(DataFusionError::ResourcesExhausted("Failed to allocate".into()));
        assert_eq!(exhausted.kind(), Kind::Exhausted);
        assert!(exhausted.hint_text().is_some_and(|hint| hint.contains("--memory")));
        let parquet = |cause: &str| {
            let general = ParquetError::General(format!("{UNREAD}a.parquet: {cause}"));
            kind(DataFusionError::ParquetError(Box::new(general)))
        };
        assert_eq!(parquet("no footer"), Kind::Corrupt);
        assert_eq!(parquet("Object Store error: Object at location a.parquet not found"), Kind::Corrupt);
        assert_eq!(parquet("Object Store error: Error joining spawned task: cancelled"), Kind::Unavailable);
        let missing = object_store::Error::NotFound { path: "a/b.csv".into(), source: "gone".into() };
        let missing = from_datafusion(DataFusionError::ObjectStore(Box::new(missing)));
        assert_eq!(format!("{missing:?}"), "not_found: file 'a/b.csv' does not exist");
    }
}
