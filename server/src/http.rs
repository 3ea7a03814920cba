//! The HTTP door: liveness, readiness, and a page for people who open it in a browser.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use skep_common::task::spawn;
use skep_common::{Error, Result};
use skep_coordinator::Coordinator;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// The routes.
///
/// - `GET /livez`: 200 as long as the process answers.
/// - `GET /readyz`: 200 while statements are taken, 503 otherwise.
/// - `GET /metrics`: what the coordinator counts, in the OpenMetrics text format.
/// - `GET /`: a page.
pub fn router(coordinator: Coordinator) -> Router {
    Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(coordinator)
}

/// Serves [`router`] on `listener` until `shutdown` resolves; open requests are answered first.
///
/// A connection has ten seconds to send the head of a request, and ends after ten minutes in any case.
///
/// # Errors
/// [`Kind::Unavailable`](skep_common::Kind::Unavailable) if the listener has no address any more.
pub async fn serve(
    coordinator: Coordinator,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let gone = |e| Error::unavailable("the HTTP listener failed").source(e);
    let address = listener.local_addr().map_err(gone)?;
    tracing::debug!(%address, "HTTP");
    let app = router(coordinator);
    let mut http = Builder::new(TokioExecutor::new()).http1_only();
    http.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    let (free, closing) = (Arc::new(Semaphore::new(CONNECTIONS_MAX as usize)), CancellationToken::new());
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Mostly too many open files, of which some may be closed in a moment.
                tracing::warn!(%error, "the HTTP port took no connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // One too many is closed.
        let Ok(permit) = Arc::clone(&free).try_acquire_owned() else { continue };
        let service = TowerToHyperService::new(app.clone());
        let connection = http.serve_connection(TokioIo::new(stream), service).into_owned();
        let closed = closing.clone().cancelled_owned();
        let work = async move {
            let _permit = permit;
            tokio::pin!(connection, closed);
            let served = async {
                tokio::select! {
                    served = connection.as_mut() => return served,
                    () = closed => connection.as_mut().graceful_shutdown(),
                }
                connection.await
            };
            match tokio::time::timeout(LIFETIME, served).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(error)) => tracing::debug!(error, "an HTTP connection failed"),
            }
        };
        spawn("http connection", work).detach();
    }
    closing.cancel();
    // Whoever is slower is left.
    let _ = tokio::time::timeout(PATIENCE, free.acquire_many(CONNECTIONS_MAX)).await;
    Ok(())
}

/// Connections at a time.
const CONNECTIONS_MAX: u32 = 512;
/// Time for the head of a request, and for open requests when the port closes.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest life of a connection.
const LIFETIME: Duration = Duration::from_secs(600);
/// How long nothing is accepted after an error.
const PAUSE: Duration = Duration::from_millis(100);

async fn ready(State(coordinator): State<Coordinator>) -> (StatusCode, &'static str) {
    if coordinator.ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

async fn metrics(State(coordinator): State<Coordinator>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match coordinator.metrics().await {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.report() + "\n").into_response(),
    }
}

const PAGE: &str = "<!doctype html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<title>Skep</title>
<style>body { font: 16px/1.5 system-ui, sans-serif; max-width: 40em; margin: 4em auto; padding: 0 1em }</style>
<h1>Skep</h1>
<p>This is a Skep coordinator. Statements come in through the other door, Arrow Flight SQL:</p>
<pre>skep sql --url grpc://HOST:PORT</pre>
<p><a href=\"/livez\">/livez</a> answers while the process lives,
<a href=\"/readyz\">/readyz</a> while it takes statements.</p>
</html>
";
