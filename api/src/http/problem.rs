//! Errors as problem documents (RFC 9457) with a stable `code`. The error types provide code and kind; which
//! status a kind has is in `statuses`.

use crate::claims::explain;
use crate::http::admission::Denial;
use crate::look::LookError;
use crate::start::StartError;
use crate::statuses;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use resources::diagnosis::field_and_rule;
use resources::replacement::ReplacementError;
use resources::{DeviceError, Diagnosis, ErrorKind, PlanError, SpecError};
use serde::{Deserialize, Serialize};
use vmm::claims::ClaimsError;

/// The media type of a problem document.
const MEDIA_TYPE: &str = "application/problem+json";
/// Seconds after which it makes sense to try again.
const RETRY_AFTER: &str = "1";

/// A problem document (RFC 9457): why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[cfg_attr(test, schema(as = Problem))]
pub struct Document {
    /// `urn:numavisor:problem:` and the code.
    pub r#type: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, with the value and the rule.
    pub detail: String,
    /// The stable error code.
    pub code: String,
    /// The kind of error, which determines the status; a fallback for clients that do not know the code.
    #[serde(default)]
    #[cfg_attr(test, schema(value_type = ErrorKind))]
    pub kind: String,
    /// The path of the invalid field, such as `numa[1].policy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The rule that the field violates, with the given value.
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
    /// A problem of a kind, with a stable code, and what is wrong.
    pub fn new(kind: ErrorKind, code: &str, detail: impl ToString) -> Self {
        let problem = Self(Box::new(Document {
            r#type: format!("urn:numavisor:problem:{code}"),
            title: String::new(),
            status: 0,
            detail: detail.to_string(),
            code: code.to_owned(),
            kind: kind.name().to_owned(),
            field: None,
            rule: None,
        }));
        problem.with_status(statuses::http(kind))
    }

    /// A problem that knows all of this about itself.
    pub fn of(found: Diagnosis, detail: impl ToString) -> Self {
        let problem = Self::new(found.kind, found.code, detail);
        let Some(field) = found.field else { return problem };
        let rule = match field_and_rule(&problem.detail) {
            Some((_, rule)) => rule.to_owned(),
            None => problem.detail.clone(),
        };
        problem.at(field, rule)
    }

    /// A problem of something typed, whose text is `field: value and rule`.
    pub fn typed(code: &'static str, detail: impl ToString) -> Self {
        let detail = detail.to_string();
        Self::of(Diagnosis::new(ErrorKind::Invalid, code).at_start_of(&detail), detail)
    }

    /// With a status of HTTP's own, where it has one for just that.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.0.title = status.canonical_reason().unwrap_or_default().to_owned();
        self.0.status = status.as_u16();
        self
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

    /// No such object.
    pub fn not_found(code: &str, detail: impl ToString) -> Self {
        Self::new(ErrorKind::NotFound, code, detail)
    }

    /// Busy, or shutting down; try again.
    pub fn unavailable(code: &str, detail: impl ToString) -> Self {
        Self::new(ErrorKind::Transient, code, detail)
    }

    /// A bug.
    pub fn internal(detail: impl ToString) -> Self {
        Self::new(ErrorKind::Internal, "internal", detail)
    }
}

impl From<SpecError> for Problem {
    fn from(error: SpecError) -> Self {
        Self::typed(error.code(), error)
    }
}

impl From<DeviceError> for Problem {
    fn from(error: DeviceError) -> Self {
        PlanError::from(error).into()
    }
}

impl From<ClaimsError> for Problem {
    fn from(error: ClaimsError) -> Self {
        Self::of(error.diagnosis(), explain(&error))
    }
}

impl From<Denial> for Problem {
    fn from(denial: Denial) -> Self {
        let kind = match denial {
            Denial::NoVm => ErrorKind::Absent,
            Denial::QueueFull => ErrorKind::Transient,
            Denial::VmRuns
            | Denial::AlreadyBooted
            | Denial::NotRunning
            | Denial::Starting
            | Denial::Paused => ErrorKind::Conflict,
        };
        Self::new(kind, denial.code(), denial)
    }
}

/// Errors that know all about themselves.
macro_rules! from_diagnosed {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for Problem {
            fn from(error: $error) -> Self {
                Self::of(error.diagnosis(), error)
            }
        })+
    };
}

from_diagnosed!(
    PlanError,
    ReplacementError,
    StartError,
    vmm::HostError,
    vmm::RequestError,
    vmm::balloon::BalloonError,
    vmm::balloon::HintError,
);

impl From<LookError> for Problem {
    fn from(error: LookError) -> Self {
        Self::of(error.diagnosis, error.text)
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
    use axum::http::header::RETRY_AFTER;
    use axum::response::IntoResponse;
    use resources::ErrorKind;

    #[test]
    fn a_typed_text_gives_field_and_rule() {
        let text = "vnodes[1].distances[0]: 10 is not remote, must be 11 to 255";
        let problem = Problem::typed("distance", text);
        assert_eq!(problem.field.as_deref(), Some("vnodes[1].distances[0]"));
        assert_eq!(problem.rule.as_deref(), Some("10 is not remote, must be 11 to 255"));
        assert_eq!((problem.detail.as_str(), problem.status), (text, 422));
    }

    #[test]
    fn a_text_without_a_field_has_none() {
        let problem = Problem::typed("x", "KVM_RUN for vCPU 0: no");
        assert_eq!((&problem.field, &problem.rule), (&None, &None));
    }

    #[test]
    fn only_what_passes_by_itself_is_to_be_tried_again() {
        for kind in ErrorKind::ALL {
            let response = Problem::new(kind, "x", "y").into_response();
            let again = response.headers().contains_key(RETRY_AFTER);
            assert_eq!((again, response.status() == 503), (kind == ErrorKind::Transient, again), "{kind}");
        }
    }
}
