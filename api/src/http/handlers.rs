//! One function per operation: reads the request, has it carried out, and responds. `admission` has the rules.

pub mod devices;
pub mod dirty_rate;
pub mod events;
pub mod plans;
pub mod reclaim;
pub mod service;
pub mod vm;
pub mod vnodes;

use crate::http::problem::Problem;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// A document.
fn json(status: StatusCode, document: &impl Serialize) -> Response {
    match serde_json::to_vec(document) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => Problem::internal(error).into_response(),
    }
}
