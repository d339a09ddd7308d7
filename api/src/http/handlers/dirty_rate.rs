//! How much memory the guest and its devices write.

use super::json;
use crate::http::admission::Command;
use crate::http::app::App;
use crate::http::body::{self, Query};
use crate::http::problem::Problem;
use crate::http::wire;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use resources::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

/// One request must not take a thread for longer.
const MAX_MILLISECONDS: u32 = 10_000;

/// `POST /v1/dirty-rate`.
pub async fn measure(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    Query::of(&request, &[])?;
    let wire::DirtyRateRequest { milliseconds } = body::json(request).await?;
    if !(1..=MAX_MILLISECONDS).contains(&milliseconds) {
        let rule = format!("must be 1 to {MAX_MILLISECONDS}");
        let detail = format!("milliseconds: {milliseconds} is out of range, {rule}");
        return Err(Problem::new(ErrorKind::Invalid, "milliseconds", detail).at("milliseconds", rule));
    }
    let handle = app.commands.handle(Command::Look)?;
    let time = Duration::from_millis(milliseconds.into());
    let written = app.slowly(move || Ok(handle.dirty(time)?)).await?;
    let vnodes = written.into_iter().map(|(vnode, written)| wire::DirtyVnode {
        vnode: vnode.0,
        bytes: written.all.get(),
        guest: written.guest.get(),
        devices: written.devices.get(),
    });
    Ok(json(StatusCode::OK, &wire::DirtyRate { milliseconds, vnodes: vnodes.collect() }))
}
