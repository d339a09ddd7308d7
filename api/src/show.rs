//! How hosts and plans are shown: tables for people, documents for programs.

pub mod claims;
mod devices;
pub mod document;
pub mod host;
pub mod host_json;
mod matrix;
pub mod plan;
pub mod plan_json;
pub mod table;

use crate::exit::{Failure, Status};
use resources::Bytes;
use serde::Serialize;
use serde_json::Value;
use std::fmt::Display;

/// A document as a client sees it.
pub fn value(document: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(document).map_err(|error| Failure::new(Status::Internal, error))
}

/// A document as indented JSON with a line feed at its end.
pub fn json(document: &impl Serialize) -> Result<String, Failure> {
    match serde_json::to_string_pretty(document) {
        Ok(text) => Ok(text + "\n"),
        Err(error) => Err(Failure::new(Status::Internal, format_args!("--json: {error}"))),
    }
}

/// A line with the bytes of a vnode that are bound to each pnode.
pub fn bound(vnode: impl Display, parts: impl Iterator<Item = (impl Display, Bytes)>) -> String {
    let parts: Vec<String> = parts.map(|(pnode, size)| format!("{size} to pnode {pnode}")).collect();
    format!("vnode {vnode}: bound, {}\n", parts.join(", "))
}

/// A text, or a dash for none.
fn or_dash(text: impl ToString) -> String {
    let text = text.to_string();
    if text.is_empty() { "-".to_owned() } else { text }
}
