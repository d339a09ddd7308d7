//! Errors as problem documents (RFC 9457) with a stable `code`. What is wrong is found by others; here it gets its
//! status.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use resources::replacement::ReplacementError;
use resources::{PlanError, SpecError};
use serde::{Deserialize, Serialize};
use vmm::balloon::BalloonError;

/// The media type of a problem document.
const MEDIA_TYPE: &str = "application/problem+json";
/// Seconds after which it makes sense to try again.
const RETRY_AFTER: &str = "1";

/// Why a request was not carried out, as it goes over the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = Problem))]
pub struct Document {
    /// `urn:numavisor:problem:` and the code.
    pub r#type: String,
    /// What the status says, in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, with value and rule.
    pub detail: String,
    /// The stable name of the problem.
    pub code: String,
    /// The path of the field that is wrong, such as `numa[1].policy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The rule that it breaks, with the value that was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(Box<Document>);

impl std::ops::Deref for Problem {
    type Target = Document;

    fn deref(&self) -> &Document {
        &self.0
    }
}

impl Problem {
    /// A problem with a status, a stable code, and what is wrong.
    pub fn new(status: StatusCode, code: &str, detail: impl ToString) -> Self {
        Self(Box::new(Document {
            r#type: format!("urn:numavisor:problem:{code}"),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            detail: detail.to_string(),
            code: code.to_owned(),
            field: None,
            rule: None,
        }))
    }

    /// A problem of something typed, whose text is `field: value and rule`.
    pub fn typed(status: StatusCode, code: &str, detail: impl ToString) -> Self {
        let problem = Self::new(status, code, detail);
        match problem.detail.split_once(": ") {
            Some((field, rule)) if is_path(field) => {
                let (field, rule) = (field.to_owned(), rule.to_owned());
                problem.at(field, rule)
            }
            _ => problem,
        }
    }

    /// Names the field and its rule.
    pub fn at(mut self, field: impl ToString, rule: impl ToString) -> Self {
        (self.0.field, self.0.rule) = (Some(field.to_string()), Some(rule.to_string()));
        self
    }

    /// What goes over the socket.
    pub fn document(&self) -> &Document {
        &self.0
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Nobody by that number.
    pub fn not_found(code: &str, detail: impl ToString) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    /// It is busy, or going away; try again.
    pub fn unavailable(code: &str, detail: impl ToString) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
    }

    /// A mistake of ours, or something that the host should not refuse.
    pub fn internal(detail: impl ToString) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }
}

fn is_path(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.[]".contains(c);
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(allowed)
}

impl From<SpecError> for Problem {
    fn from(error: SpecError) -> Self {
        Self::typed(StatusCode::UNPROCESSABLE_ENTITY, error.code(), error)
    }
}

impl From<PlanError> for Problem {
    fn from(error: PlanError) -> Self {
        let status = match error.is_input() {
            true => StatusCode::UNPROCESSABLE_ENTITY,
            // The host has no room for it now.
            false => StatusCode::INSUFFICIENT_STORAGE,
        };
        Self::typed(status, error.code(), error)
    }
}

impl From<ReplacementError> for Problem {
    fn from(error: ReplacementError) -> Self {
        let status = match &error {
            ReplacementError::NoSuchVnode(_) => StatusCode::NOT_FOUND,
            ReplacementError::NoPnode
            | ReplacementError::NoSuchPnode { .. }
            | ReplacementError::NoMemory(_)
            | ReplacementError::SwapWithItself(_)
            | ReplacementError::NoCpus(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ReplacementError::Full { .. }
            | ReplacementError::PoolShort { .. }
            | ReplacementError::Nowhere { .. } => StatusCode::INSUFFICIENT_STORAGE,
        };
        let text = error.to_string();
        let rule = text.split_once(' ').map_or(text.as_str(), |(_, rest)| rest).to_owned();
        let problem = Self::new(status, error.code(), text);
        if problem.status == StatusCode::NOT_FOUND.as_u16() { problem } else { problem.at("pnode", rule) }
    }
}

impl From<vmm::HostError> for Problem {
    fn from(error: vmm::HostError) -> Self {
        match error.errno() {
            nix::libc::ENOMEM => Self::new(StatusCode::INSUFFICIENT_STORAGE, "no_memory", error),
            // A CPU that went offline, or out of this process's cpuset, since the host was read.
            nix::libc::EINVAL if error.call == "sched_setaffinity" => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "no_such_cpu", error)
            }
            _ => Self::unavailable("host_refused", error),
        }
    }
}

impl From<vmm::balloon::HintError> for Problem {
    fn from(error: vmm::balloon::HintError) -> Self {
        Self::new(StatusCode::CONFLICT, error.code(), error)
    }
}

impl From<BalloonError> for Problem {
    fn from(error: BalloonError) -> Self {
        let status = match error {
            BalloonError::NoSuchVnode(_) => StatusCode::NOT_FOUND,
            BalloonError::NoMemory(_)
            | BalloonError::AboveMemory { .. }
            | BalloonError::BelowFloor { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, error.code(), error)
    }
}

impl From<vmm::RequestError> for Problem {
    fn from(error: vmm::RequestError) -> Self {
        use vmm::RequestError as E;
        match error {
            E::State { .. } => Self::new(StatusCode::CONFLICT, "vm_not_running", error),
            E::Busy { .. } => Self::new(StatusCode::CONFLICT, "vnode_busy", error),
            E::PlacementBusy => Self::unavailable("placement_busy", error),
            E::Reclaiming(_) => Self::new(StatusCode::CONFLICT, "reclaim_busy", error),
            E::NothingAsked => Self::typed(StatusCode::UNPROCESSABLE_ENTITY, "nothing_asked", error),
            E::NoSuchDisk(_) => Self::not_found("no_such_disk", error),
            E::Disk(vmm::BlkError::Size { .. }) => {
                Self::typed(StatusCode::UNPROCESSABLE_ENTITY, "disk_size", error)
            }
            E::Disk(_) => Self::unavailable("host_refused", error),
            E::NoSuchVcpu(_) => Self::not_found("no_such_vcpu", error),
            E::Balloon(error) => error.into(),
            E::Replacement(error) => error.into(),
            E::Host(error) => error.into(),
            E::Claims(error) => Self::unavailable(error.code(), error),
            E::Look(_) => Self::unavailable("host_refused", error),
            E::NotStopped(_) => Self::unavailable("not_stopped", error),
            E::NoAnswer => Self::unavailable("no_answer", error),
            E::Resizing(_) => Self::new(StatusCode::CONFLICT, "disk_busy", error),
            E::StorageHangs(_) => Self::unavailable("storage_hangs", error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // A struct of texts and numbers can always be written.
        let body = serde_json::to_vec(self.document()).unwrap_or_default();
        let mut response = (self.status(), [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response();
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::Problem;
    use axum::http::StatusCode;

    #[test]
    fn a_typed_text_gives_field_and_rule() {
        let text = "vnodes[1].distances[0]: 10 is not remote, must be 11 to 255";
        let problem = Problem::typed(StatusCode::UNPROCESSABLE_ENTITY, "distance", text);
        assert_eq!(problem.field.as_deref(), Some("vnodes[1].distances[0]"));
        assert_eq!(problem.rule.as_deref(), Some("10 is not remote, must be 11 to 255"));
        assert_eq!(problem.detail, text);
    }

    #[test]
    fn a_text_without_a_field_has_none() {
        let problem = Problem::typed(StatusCode::CONFLICT, "x", "KVM_RUN for vCPU 0: no");
        assert_eq!((&problem.field, &problem.rule), (&None, &None));
    }
}
