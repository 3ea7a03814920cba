//! Errors of DataFusion and of this program, each found again inside the other.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use skep_common::{Error, Kind};
use tokio::task::JoinError;
use url::Url;

/// Wraps an error of ours, so that [`from_datafusion`] finds it again unchanged.
pub fn to_datafusion(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The error of ours inside `error`, or what comes closest to it.
///
/// Looks through wrappers, then for text that [`Error::encode`] wrote (for errors that crossed a transport that only
/// keeps text), then at what DataFusion says, as [`skep_engine::error`] reads it.
pub fn from_datafusion(error: &DataFusionError) -> Error {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(ours) = cause.downcast_ref::<Error>() {
            return ours.clone();
        }
        if let Some(status) = cause.downcast_ref::<tonic::Status>() {
            return Error::from_status(status);
        }
        // DataFusion shares what a repartition's task died of between its outputs.
        let ended = cause.downcast_ref::<JoinError>();
        let ended = ended.or_else(|| cause.downcast_ref::<Arc<JoinError>>().map(AsRef::as_ref));
        if let Some(ended) = ended.filter(|ended| ended.is_panic()) {
            return Error::internal(format!("an operator panicked: {ended}"))
                .hint("this is a bug in skep; the query did not finish, no part of it was committed");
        }
        next = cause.source();
    }
    Error::decode(&error.to_string()).unwrap_or_else(|| skep_engine::error::from_ref(error))
}

/// Whether `error` says that what ran was ended from outside, as when its node stops.
pub fn is_stopped(error: &DataFusionError) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        let ended = cause.downcast_ref::<JoinError>();
        let ended = ended.or_else(|| cause.downcast_ref::<Arc<JoinError>>().map(AsRef::as_ref));
        if ended.is_some_and(JoinError::is_cancelled) {
            return true;
        }
        next = cause.source();
    }
    false
}

/// What a failed call to the worker at `url` means: its own typed error, or that it cannot be reached.
pub fn from_call(url: &Url, status: &tonic::Status) -> Error {
    let error = Error::from_status(status);
    if !status.details().is_empty() || error.kind() == Kind::Denied {
        return error;
    }
    Error::unavailable(format!("lost the worker at {url}"))
        .hint("the worker stopped or the network to it is cut; run the statement again")
        .source(error)
}

/// What a failed call to the coordinator at `url` means: its own typed error, or that this node is cut off from it.
pub fn from_coordinator(url: &Url, status: &tonic::Status) -> Error {
    let error = Error::from_status(status);
    if !status.details().is_empty() || error.kind() == Kind::Denied {
        return error;
    }
    Error::unavailable(format!("{CUT_OFF}{url}")).source(error)
}

const CUT_OFF: &str = "cannot reach the coordinator at ";

/// Whether `error` says that the node where it happened is cut off from the coordinator: another node may do better.
pub fn is_cut_off(error: &Error) -> bool {
    error.kind() == Kind::Unavailable && error.report().contains(CUT_OFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_ended_from_outside_is_told_from_what_failed() {
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(std::future::pending::<()>());
        tasks.abort_all();
        let ended = tasks.join_next().await.and_then(Result::err).unwrap();
        let ended = object_store::Error::JoinError { source: ended };
        assert!(is_stopped(&DataFusionError::ObjectStore(Box::new(ended))));
        assert!(!is_stopped(&DataFusionError::Execution("task 7 was cancelled".to_owned())));
    }

    #[test]
    fn errors_of_ours_come_back_unchanged() {
        let ours = Error::exhausted("no memory").hint("raise memory.limit");
        let shared = DataFusionError::Shared(Arc::new(to_datafusion(ours.clone())));
        let wrapped = DataFusionError::Context("stage 3".to_owned(), Box::new(shared));
        assert_eq!(format!("{:?}", from_datafusion(&wrapped)), format!("{ours:?}"));
        let text = DataFusionError::External(format!("External error: {}", ours.encode()).into());
        assert_eq!(format!("{:?}", from_datafusion(&text)), format!("{ours:?}"));
    }

    #[test]
    fn others_get_the_kind_of_their_variant() {
        let full = DataFusionError::ResourcesExhausted("pool".to_owned());
        assert_eq!(from_datafusion(&full.context("sort")).kind(), Kind::Exhausted);
        let odd = DataFusionError::Internal("oops".to_owned());
        assert_eq!(from_datafusion(&odd).kind(), Kind::Internal);
    }

    #[test]
    fn a_silent_transport_error_names_the_worker() {
        let url: Url = "http://127.0.0.1:7".parse().unwrap();
        let lost = from_call(&url, &tonic::Status::unknown("h2 protocol error"));
        assert_eq!(lost.kind(), Kind::Unavailable);
        assert!(lost.message().contains("127.0.0.1:7"));
        let cut = from_coordinator(&url, &tonic::Status::unknown("h2 protocol error"));
        assert!(is_cut_off(&cut.context("reading a file")) && !is_cut_off(&lost));
        let typed = from_call(&url, &Error::corrupt("bad block").to_status());
        assert_eq!(typed.kind(), Kind::Corrupt);
    }
}
