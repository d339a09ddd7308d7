//! Health and version of the service.

use super::json;
use crate::http::app::App;
use crate::http::body::Query;
use crate::http::problem::Problem;
use crate::http::wire;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use std::sync::Arc;

/// `GET /v1/health`: answered by the thread that answers everything, after the lock that every command takes.
pub async fn health(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    Query::of(&request, &[])?;
    if *app.ending.borrow() {
        return Err(Problem::unavailable("ending", "this process is shutting down"));
    }
    let vm = app.commands.state();
    Ok(json(StatusCode::OK, &wire::Health { status: wire::HealthStatus::Ok, vm }))
}

/// `GET /v1/version`.
pub async fn version(request: Request) -> Result<Response, Problem> {
    Query::of(&request, &[])?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(json(StatusCode::OK, &wire::Version { version, api: wire::API_VERSION, pid: std::process::id() }))
}
