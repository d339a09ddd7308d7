//! The VM as a whole.

use super::json;
use crate::http::app::App;
use crate::http::body::{self, Query};
use crate::http::command_queue::{Done, Task, check};
use crate::http::problem::Problem;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use resources::VmSpec;
use std::sync::Arc;

type Answer = Result<Response, Problem>;

/// `GET /v1/vm`.
pub async fn get(State(app): State<Arc<App>>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    Ok(json(StatusCode::OK, &app.commands.vm()?))
}

/// `PUT /v1/vm`.
pub async fn put(State(app): State<Arc<App>>, request: Request) -> Answer {
    Query::of(&request, &[])?;
    let spec: Box<VmSpec> = body::json(request).await?;
    check(&spec)?;
    match app.commands.ask(Task::Define(spec)).await? {
        Done::So => Ok(json(StatusCode::OK, &app.commands.vm()?)),
        Done::Created => {
            let mut response = json(StatusCode::CREATED, &app.commands.vm()?);
            response.headers_mut().insert(header::LOCATION, header::HeaderValue::from_static("/v1/vm"));
            Ok(response)
        }
    }
}

/// `DELETE /v1/vm`.
pub async fn delete(State(app): State<Arc<App>>, request: Request) -> Answer {
    plain(request).await?;
    app.commands.ask(Task::Delete).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `POST /v1/vm/boot`.
pub async fn boot(State(app): State<Arc<App>>, request: Request) -> Answer {
    send(&app, request, Task::Boot, StatusCode::ACCEPTED).await
}

/// `POST /v1/vm/pause`.
pub async fn pause(State(app): State<Arc<App>>, request: Request) -> Answer {
    send(&app, request, Task::Pause, StatusCode::OK).await
}

/// `POST /v1/vm/resume`.
pub async fn resume(State(app): State<Arc<App>>, request: Request) -> Answer {
    send(&app, request, Task::Resume, StatusCode::OK).await
}

/// `POST /v1/vm/shutdown`.
pub async fn shutdown(State(app): State<Arc<App>>, request: Request) -> Answer {
    send(&app, request, Task::Shutdown, StatusCode::ACCEPTED).await
}

/// `POST /v1/vm/reset`.
pub async fn reset(State(app): State<Arc<App>>, request: Request) -> Answer {
    send(&app, request, Task::Reset, StatusCode::ACCEPTED).await
}

async fn send(app: &App, request: Request, task: Task, status: StatusCode) -> Answer {
    plain(request).await?;
    app.commands.ask(task).await?;
    Ok(json(status, &app.commands.vm()?))
}

async fn plain(request: Request) -> Result<(), Problem> {
    Query::of(&request, &[])?;
    body::none(request).await
}
