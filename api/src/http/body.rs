//! Parts of a request: JSON bodies with limits of size and time, numbers in paths, query parameters. Errors name the
//! invalid field.

use crate::http::problem::Problem;
use crate::strict_json::{self, ReadError};
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use hyper::body::Body as _;
use resources::ErrorKind;
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

/// Most bytes of a body: 256 vnodes with every field and all distances between them need less.
pub const MOST: usize = 1 << 20;
/// How long a client may take to send a body.
const WITHIN: Duration = Duration::from_secs(10);

/// The body as JSON.
pub async fn json<T: DeserializeOwned>(request: Request) -> Result<T, Problem> {
    let (parts, body) = request.into_parts();
    require_json(&parts.headers)?;
    parse(&read(&parts.headers, body).await?)
}

/// Refuses a body that is not empty, and not an empty object either.
pub async fn none(request: Request) -> Result<(), Problem> {
    let (parts, body) = request.into_parts();
    let bytes = read(&parts.headers, body).await?;
    match bytes.trim_ascii() {
        b"" | b"{}" => Ok(()),
        _ => Err(Problem::new(
            ErrorKind::Malformed,
            "body_not_empty",
            "this request takes no body, must be empty",
        )),
    }
}

/// The value of a JSON text, or an error with the invalid field.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    strict_json::read(bytes).map_err(|error| match error {
        ReadError::Syntax(error) => {
            Problem::new(ErrorKind::Malformed, "json_syntax", format_args!("not JSON: {error}"))
        }
        ReadError::Schema { field: None, rule } => Problem::new(ErrorKind::Invalid, "schema", rule),
        ReadError::Schema { field: Some(field), rule } => {
            Problem::new(ErrorKind::Invalid, "schema", format_args!("{field}: {rule}")).at(field, rule)
        }
    })
}

fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    let name = given.map(|given| given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    if name.as_deref() == Some("application/json") {
        return Ok(());
    }
    let given = given.unwrap_or("none");
    let detail = format!("content-type: `{given}` is not application/json");
    let problem = Problem::new(ErrorKind::Malformed, "media_type", detail);
    Err(problem.with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE))
}

async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("the body is larger than {MOST} bytes");
        Problem::new(ErrorKind::Malformed, "too_large", detail).with_status(StatusCode::PAYLOAD_TOO_LARGE)
    };
    // Chunks have the last word.
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    let said = headers.get(header::CONTENT_LENGTH).filter(|_| !chunked);
    let said = said.and_then(|length| length.to_str().ok()?.parse().ok());
    if said.is_some_and(|said: u64| said > MOST as u64) {
        return Err(too_large());
    }
    let late = |_| {
        let problem = Problem::new(ErrorKind::Malformed, "body_late", "the body was not received in time");
        problem.with_status(StatusCode::REQUEST_TIMEOUT)
    };
    tokio::time::timeout(WITHIN, collect(body)).await.map_err(late)??.ok_or_else(too_large)
}

/// All of a body, or `None` when that is too much.
async fn collect(mut body: Body) -> Result<Option<Bytes>, Problem> {
    let mut all = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let broken = |error: axum::Error| {
            Problem::new(
                ErrorKind::Malformed,
                "body_broken",
                format_args!("reading the body failed: {error}"),
            )
        };
        // Trailers say nothing here.
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            if all.len() + data.len() > MOST {
                return Ok(None);
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(Some(all.into()))
}

/// The number that a path names something by.
pub fn number<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| {
        let short: String = text.chars().take(40).collect();
        let rule = format!("`{short}` is not a number, or is too large");
        Problem::new(ErrorKind::Malformed, "bad_id", format_args!("{what}: {rule}")).at(what, rule)
    })
}

/// The parameters of a query.
pub struct Query<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Query<'a> {
    /// Those of a request, all of them among `known`, none of them twice.
    pub fn of(request: &'a Request, known: &[&str]) -> Result<Self, Problem> {
        let text = request.uri().query().unwrap_or_default();
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let short: String = name.chars().take(40).collect();
            if !known.contains(&name) {
                return Err(bad(&short, "unknown parameter"));
            }
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(bad(&short, "given twice, must be given once"));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// A switch: `true`, `false`, or left out.
    pub fn switch(&self, name: &str, default: bool) -> Result<bool, Problem> {
        match self.get(name) {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(bad(name, "is neither true nor false")),
        }
    }

    /// A number, or left out.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        self.get(name).map(|text| number(name, text)).transpose()
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
    }
}

fn bad(name: &str, rule: impl Display) -> Problem {
    let detail = format!("{name}: {rule}");
    Problem::new(ErrorKind::Malformed, "bad_parameter", detail).at(name, rule)
}

#[cfg(test)]
mod tests {
    use super::{number, parse};
    use resources::VmSpec;

    fn refused(json: &str) -> (u16, String, Option<String>) {
        let problem = parse::<VmSpec>(json.as_bytes()).unwrap_err();
        (problem.status, problem.code.clone(), problem.field.clone())
    }

    #[test]
    fn what_is_not_json_is_a_bad_request() {
        for json in ["", "{", "{]", "nul", "{} {}", "{\"vcpus\": 1,}", "\u{0}"] {
            assert_eq!(refused(json), (400, "json_syntax".into(), None), "{json}");
        }
    }

    #[test]
    fn json_that_breaks_a_rule_names_its_field() {
        let cases = [
            (r#"{"vcpus": -1}"#, Some("vcpus")),
            (r#"{"numa": [{"id": 0}, {"id": 1, "policy": "strict"}]}"#, Some("numa[1].policy")),
            (r#"{"numa": [{"id": 0, "mem": 1}]}"#, Some("numa[0].mem")),
            (r#"{"kernal": "x"}"#, Some("kernal")),
            (r#"{"memory": "1.5G"}"#, Some("memory")),
            (r#"[1]"#, None),
        ];
        for (json, field) in cases {
            let (status, code, at) = refused(json);
            assert_eq!((status, code.as_str()), (422, "schema"), "{json}");
            if let Some(field) = field {
                assert_eq!(at.as_deref(), Some(field), "{json}");
            }
        }
    }

    #[test]
    fn numbers_in_paths_are_digits() {
        assert_eq!(number::<u32>("id", "7").unwrap(), 7);
        for text in ["", "+1", "-1", "x", "1x", "4294967296", "0x1"] {
            assert!(number::<u32>("id", text).is_err(), "{text}");
        }
    }
}
