//! DataFusion's errors as ours.

use arrow::error::ArrowError;
use arrow_flight::error::FlightError;
use datafusion::error::DataFusionError;
use skep_common::Error;

/// The error of ours inside `error`, or the nearest kind for one that is DataFusion's own.
pub(crate) fn from_datafusion(error: DataFusionError) -> Error {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = next {
        if let Some(ours) = cause.downcast_ref::<Error>() {
            return ours.clone();
        }
        if let Some(status) = cause.downcast_ref::<tonic::Status>() {
            return Error::from_status(status);
        }
        next = cause.source();
    }
    if let Some(ours) = Error::decode(&error.to_string()) {
        return ours;
    }
    let text = error.strip_backtrace();
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => Error::exhausted(text),
        DataFusionError::NotImplemented(_) => Error::unsupported(text),
        DataFusionError::Plan(_) | DataFusionError::SchemaError(..) | DataFusionError::SQL(..) => {
            Error::invalid(text)
        }
        DataFusionError::Execution(_) => Error::invalid(text),
        DataFusionError::ArrowError(inner, _) if is_data(inner) => Error::invalid(text),
        _ => Error::internal("the query failed").source(text),
    }
}

/// Whether an Arrow error is about the values in the query, not about the program.
fn is_data(error: &ArrowError) -> bool {
    matches!(
        error,
        ArrowError::DivideByZero
            | ArrowError::ArithmeticOverflow(_)
            | ArrowError::CastError(_)
            | ArrowError::ParseError(_)
            | ArrowError::ComputeError(_)
            | ArrowError::CsvError(_)
            | ArrowError::JsonError(_)
    )
}

/// An error in the messages that a client streams.
pub(crate) fn from_flight(error: FlightError) -> Error {
    match error {
        FlightError::Tonic(status) => Error::from_status(&status),
        other => Error::invalid("the client's messages are not a stream of Arrow batches").source(other),
    }
}

#[cfg(test)]
mod tests {
    use skep_common::Kind;

    use super::*;

    #[test]
    fn our_errors_come_back_from_any_depth() {
        let ours = Error::not_found("table 'x' does not exist").hint("look again");
        let wrapped = DataFusionError::External(Box::new(ours.clone())).context("while scanning");
        assert_eq!(format!("{:?}", from_datafusion(wrapped)), format!("{ours:?}"));
        let text = DataFusionError::Execution(format!("remote: {}", ours.encode()));
        assert_eq!(from_datafusion(text).kind(), Kind::NotFound);
        let arrow = DataFusionError::from(ArrowError::ExternalError(Box::new(ours)));
        assert_eq!(from_datafusion(arrow).kind(), Kind::NotFound);
    }

    #[test]
    fn bad_values_are_the_statement_s_fault() {
        let error = DataFusionError::from(ArrowError::DivideByZero);
        assert_eq!(from_datafusion(error).kind(), Kind::Invalid);
        assert_eq!(from_datafusion(DataFusionError::Internal("x".into())).kind(), Kind::Internal);
    }
}
