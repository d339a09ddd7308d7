//! Plans and the host: what would be decided, and from what.

use super::json;
use crate::addresses;
use crate::claims::{ClaimsAt, explain};
use crate::http::app::App;
use crate::http::body::{self, Query};
use crate::http::problem::Problem;
use crate::look;
use crate::show::{host_json, plan_json};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use resources::{HostTopology, Plan, VmSpec};
use std::sync::Arc;

type Answer = Result<Response, Problem>;

/// This host as it is now.
pub fn look() -> Result<HostTopology, Problem> {
    look::this_host().map_err(|failure| Problem::unavailable("host_refused", failure.line))
}

fn planned(spec: &VmSpec, claims: &ClaimsAt) -> Answer {
    let ledger = claims.ledger().map_err(|error| Problem::unavailable(error.code(), explain(&error)))?;
    let plan = Plan::beside(&addresses::given(spec.clone()), &look()?, &ledger)?;
    Ok(json(StatusCode::OK, &plan_json::document(&plan)))
}

async fn plan(app: &Arc<App>, work: impl FnOnce(&ClaimsAt) -> Answer + Send + 'static) -> Answer {
    let claims = app.commands.claims.clone();
    app.slowly(move || work(&claims)).await
}

/// `GET /v1/vm/plan`: as it was decided, if it was.
pub async fn of_vm(State(app): State<Arc<App>>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    let spec = app.commands.spec()?;
    match app.commands.last_handle() {
        Some(handle) => Ok(json(StatusCode::OK, &plan_json::document(handle.plan()))),
        None => plan(&app, move |claims| planned(&spec, claims)).await,
    }
}

/// `POST /v1/plan`.
pub async fn of_body(State(app): State<Arc<App>>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    let spec: VmSpec = body::json(request).await?;
    plan(&app, move |claims| planned(&spec, claims)).await
}

/// `GET /v1/host`.
pub async fn host(State(app): State<Arc<App>>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    app.slowly(|| Ok(json(StatusCode::OK, &host_json::document(&look()?, None)))).await
}
