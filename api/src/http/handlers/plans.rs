//! Plans, and the host.

use super::json;
use crate::addresses;
use crate::claims::ClaimsAt;
use crate::http::app::App;
use crate::http::body::{self, Query};
use crate::http::problem::Problem;
use crate::look::{self, LookError};
use crate::show::{host_json, plan_json};
use crate::start;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use resources::{HostTopology, Plan, VmSpec};
use std::borrow::Borrow;
use std::sync::Arc;

type Answer = Result<Response, Problem>;

/// This host as it is now.
pub fn look() -> Result<HostTopology, LookError> {
    look::this_host()
}

fn planned(spec: &VmSpec, claims: &ClaimsAt, force_host: bool) -> Answer {
    let ledger = claims.ledger()?;
    let plan = Plan::beside(&addresses::given(spec.clone()), &look()?, &ledger)?;
    start::check(&plan, spec, force_host)?;
    Ok(json(StatusCode::OK, &plan_json::document(&plan)))
}

async fn plan(app: &Arc<App>, spec: impl Borrow<VmSpec> + Send + 'static) -> Answer {
    let (claims, force_host) = (app.commands.claims.clone(), app.commands.force_host);
    app.slowly(move || planned(spec.borrow(), &claims, force_host)).await
}

/// `GET /v1/vm/plan`: as it was decided, if it was.
pub async fn of_vm(State(app): State<Arc<App>>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    let spec = app.commands.spec()?;
    match app.commands.last_handle() {
        Some(handle) => Ok(json(StatusCode::OK, &plan_json::document(handle.plan()))),
        None => plan(&app, spec).await,
    }
}

/// `POST /v1/plan`.
pub async fn of_body(State(app): State<Arc<App>>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    let spec: VmSpec = body::json(request).await?;
    plan(&app, spec).await
}

/// `GET /v1/host`.
pub async fn host(State(app): State<Arc<App>>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    app.slowly(|| Ok(json(StatusCode::OK, &host_json::document(&look()?, vmm::why_no_linux(), None)))).await
}
