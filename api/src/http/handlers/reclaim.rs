//! Reclaim and give: memory of one pnode.

use super::json;
use super::plans::look;
use crate::http::admission::Command;
use crate::http::app::App;
use crate::http::body::{self, Query};
use crate::http::problem::Problem;
use crate::http::{convert, wire};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use resources::replacement::ReplacementError;
use resources::{Bytes, ErrorKind, PnodeId, VnodeId};
use std::sync::Arc;
use vmm::balloon::{ReclaimKind, ReclaimOrder};

type Answer = Result<Response, Problem>;

/// `POST /v1/reclaim`.
pub async fn take(State(app): State<Arc<App>>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    let wanted: wire::ReclaimRequest = body::json(request).await?;
    start(&app, ReclaimKind::Take, wanted.pnode, wanted.bytes, wanted.exact).await
}

/// `POST /v1/give`.
pub async fn give(State(app): State<Arc<App>>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    let wanted: wire::GiveRequest = body::json(request).await?;
    start(&app, ReclaimKind::Give, wanted.pnode, wanted.bytes, true).await
}

async fn start(app: &App, kind: ReclaimKind, pnode: u32, bytes: Bytes, exact: bool) -> Answer {
    let handle = app.commands.handle(Command::Look)?;
    let order = ReclaimOrder { kind, pnode: PnodeId(pnode), bytes, exact };
    let view = app
        .slowly(move || {
            let host = look()?;
            if !host.pnodes().iter().any(|there| there.id.0 == pnode) {
                let there = host.pnodes().iter().map(|there| there.id).collect();
                return Err(ReplacementError::NoSuchPnode { pnode: PnodeId(pnode), host: there }.into());
            }
            handle.ask(vmm::Request::Reclaim(order))?;
            handle.reclaim().ok_or_else(none_yet)
        })
        .await?;
    app.watch.notify();
    Ok(json(StatusCode::ACCEPTED, &convert::reclaim(&view)))
}

/// `GET /v1/reclaim`.
pub async fn get(State(app): State<Arc<App>>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    app.commands.spec()?;
    let view = app.commands.last_handle().and_then(|handle| handle.reclaim()).ok_or_else(none_yet)?;
    Ok(json(StatusCode::OK, &convert::reclaim(&view)))
}

/// `DELETE /v1/reclaim`.
pub async fn cancel(State(app): State<Arc<App>>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    body::none(request).await?;
    app.commands.spec()?;
    let handle = app.commands.last_handle().ok_or_else(none_yet)?;
    let view = handle.reclaim().ok_or_else(none_yet)?;
    match handle.cancel_reclaim() {
        true => Ok(json(StatusCode::ACCEPTED, &convert::reclaim(&view))),
        false => {
            let detail = format!("reclaim {} has ended, it cannot be cancelled", view.id);
            Err(Problem::new(ErrorKind::Conflict, "reclaim_over", detail))
        }
    }
}

/// `POST /v1/free-memory`.
pub async fn free_memory(State(app): State<Arc<App>>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    body::none(request).await?;
    let handle = app.commands.handle(Command::Look)?;
    let free = app.slowly(move || Ok(handle.free_memory()?)).await?;
    let vnode = |(vnode, bytes): (VnodeId, Bytes)| wire::OfVnode { vnode: vnode.0, bytes: bytes.get() };
    Ok(json(StatusCode::OK, &wire::FreeMemory { vnodes: free.into_iter().map(vnode).collect() }))
}

fn none_yet() -> Problem {
    Problem::new(ErrorKind::Absent, "no_reclaim", "there was no reclaim or give yet")
}
