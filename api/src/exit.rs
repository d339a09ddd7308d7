//! Exit statuses, one per cause, and the line that explains a failure. The failing part provides the text.

use crate::statuses;
use resources::diagnosis::field_and_rule;
use resources::{Diagnosis, ErrorKind};
use serde::Serialize;
use std::borrow::Cow;
use std::fmt::Display;
use std::process::ExitCode;

/// Exit statuses; `--help` and docs/cli.md list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The guest powered off, the user quit, or the command succeeded.
    Done,
    /// Something that should not happen did.
    Internal,
    /// Something that was typed, or a file it names, is wrong.
    Input,
    /// The host refused: no permission, no memory, no such feature.
    Host,
    /// The guest reset itself under `--on-reset exit`.
    Reset,
    /// The guest crashed.
    Crash,
    /// The VM is in the wrong state for the command.
    Conflict,
    /// A second signal killed the VM; 128 + SIGTERM, as in shells.
    Killed,
}

impl Status {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Internal => 1,
            Self::Input => 2,
            Self::Host => 3,
            Self::Reset => 4,
            Self::Crash => 5,
            Self::Conflict => 6,
            Self::Killed => 143,
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        ExitCode::from(status.code())
    }
}

/// Why a command failed.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// How the process ends.
    pub status: Status,
    /// Why, in one line.
    pub line: String,
    /// What kind of failure it is.
    pub kind: Option<ErrorKind>,
    /// The stable name of the problem.
    pub code: Cow<'static, str>,
    /// The field or the flag that is to blame.
    pub field: Option<String>,
}

/// A failure as JSON.
#[derive(Serialize)]
struct Document<'a> {
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    exit_status: u8,
}

impl Failure {
    /// A failure with a status, of which no more is known than its text: `field: value rule`, where a field is to blame.
    pub fn new(status: Status, why: impl Display) -> Self {
        let line = why.to_string();
        let (kind, code) = match status {
            Status::Internal => (Some(ErrorKind::Internal), "internal"),
            Status::Input => (Some(ErrorKind::Invalid), "input"),
            Status::Host => (Some(ErrorKind::Host), "host_refused"),
            Status::Conflict => (Some(ErrorKind::Conflict), "not_reached"),
            Status::Crash => (None, "guest_crashed"),
            Status::Reset => (None, "guest_reset"),
            Status::Killed => (None, "killed"),
            Status::Done => (None, "done"),
        };
        let flag = line.split_once(": ").map(|(flag, _)| flag).filter(|flag| flag.starts_with("--"));
        let field = flag.or_else(|| Some(field_and_rule(&line)?.0)).map(str::to_owned);
        Self { status, line, kind, code: code.into(), field }
    }

    /// A failure of which more is known.
    pub fn of(found: Diagnosis, why: impl Display) -> Self {
        Self {
            status: statuses::exit(found.kind),
            line: why.to_string(),
            kind: Some(found.kind),
            code: found.code.into(),
            field: found.field,
        }
    }

    /// A failure reported by a server, which may have unknown kinds.
    pub fn reported(kind: &str, code: Option<String>, field: Option<String>, why: impl Display) -> Self {
        let kind = ErrorKind::from_name(kind).unwrap_or(ErrorKind::Host);
        let code = code.map_or(Cow::Borrowed("host_refused"), Cow::Owned);
        Self { status: statuses::exit(kind), line: why.to_string(), kind: Some(kind), code, field }
    }

    /// Something typed, or a file it names, is wrong: `field: value rule`.
    pub fn input(why: impl Display) -> Self {
        Self::new(Status::Input, why)
    }

    /// Writes the line to standard error, whatever is in it as one line, or all that is known as a line of JSON, and
    /// gives the status.
    pub fn report(self, json: bool) -> ExitCode {
        let line: String = self.line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let text = if json { self.document(line.trim_end()) } else { None };
        crate::log::line(text.unwrap_or_else(|| format!("numavisor: {}\n", line.trim_end())));
        self.status.into()
    }

    fn document(&self, detail: &str) -> Option<String> {
        let document = Document {
            code: &self.code,
            kind: self.kind.map(ErrorKind::name),
            detail,
            field: self.field.as_deref(),
            exit_status: self.status.code(),
        };
        serde_json::to_string(&document).ok().map(|text| text + "\n")
    }
}
