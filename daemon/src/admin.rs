//! The admin HTTP server: `/healthz` (the process lives), `/readyz` (it is in service), `/metrics` (Prometheus text),
//! `/version`, and whatever the daemon adds. Read-only, without authentication: bind it to a trusted address.

use axum::{Json, Router, http::StatusCode, routing::get};
use tokio::net::TcpListener;

use crate::{Context, metrics};

/// Serves `routes` and the base routes on `listener` until shutdown.
pub async fn serve(listener: TcpListener, routes: Router, context: Context) {
    let Context { role, ready, shutdown } = context;
    let version = Json(serde_json::json!({ "role": role, "version": env!("CARGO_PKG_VERSION") }));
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || async move {
                if ready.is_in_service() {
                    (StatusCode::OK, "in service\n")
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "not in service\n")
                }
            }),
        )
        .route("/metrics", get(|| async { metrics::render() }))
        .route("/version", get(|| async { version }))
        .merge(routes);
    if let Err(error) =
        axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await
    {
        tracing::error!(%error, "the admin server ended");
    }
}
