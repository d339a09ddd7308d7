//! The devices of the VM, and the size of disks.

use super::json;
use crate::http::admission::Command;
use crate::http::app::App;
use crate::http::body::{self, Query, number};
use crate::http::convert;
use crate::http::problem::Problem;
use crate::http::wire;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use std::sync::Arc;

/// `GET /v1/devices`.
pub async fn all(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    Query::of(&request, &[])?;
    let handle = app.commands.handle(Command::Look)?;
    let devices = handle.devices().iter().map(convert::device).collect();
    Ok(json(StatusCode::OK, &wire::Devices { devices }))
}

/// `PUT /v1/nets/{id}/link`.
pub async fn net_link(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    Query::of(&request, &[])?;
    let id: u32 = number("id", &id)?;
    let wanted: wire::NetLinkRequest = body::json(request).await?;
    let handle = app.commands.handle(Command::Look)?;
    handle.set_link(usize::try_from(id).unwrap_or(usize::MAX), wanted.up)?;
    Ok(json(StatusCode::OK, &wire::NetLink { id, up: wanted.up }))
}

/// `PUT /v1/disks/{id}/size`.
pub async fn disk_size(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    Query::of(&request, &[])?;
    let id: u32 = number("id", &id)?;
    let wanted: wire::DiskSizeRequest = body::json(request).await?;
    let handle = app.commands.handle(Command::Look)?;
    let disk = usize::try_from(id).unwrap_or(usize::MAX);
    let size = app.slowly(move || Ok(handle.resize_disk(disk, wanted.size)?)).await?;
    Ok(json(StatusCode::OK, &wire::DiskSize { id, size: size.get() }))
}
