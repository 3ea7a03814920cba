//! The HTTP door: liveness, readiness, and a page for people who open it in a browser.

use std::future::Future;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use skep_common::{Error, Result};
use skep_coordinator::Coordinator;
use tokio::net::TcpListener;

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
/// # Errors
/// [`Kind::Unavailable`](skep_common::Kind::Unavailable) if the listener fails.
pub async fn serve(
    coordinator: Coordinator,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    axum::serve(listener, router(coordinator))
        .with_graceful_shutdown(shutdown)
        .await
        .map_err(|e| Error::unavailable("the HTTP listener failed").source(e))
}

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
