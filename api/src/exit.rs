//! How the process ends: a status per cause, and one line that says why. What the line says is the failing part's
//! business.

use std::fmt::Display;
use std::process::ExitCode;

/// Exit statuses; `--help` and docs/cli.md list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The guest powered off, or the user typed the escape, or the command did what it was asked.
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
    /// The VM is not in a state for what was asked of it.
    Conflict,
    /// A second signal ended the VM at once; 128 + SIGTERM, as shells say it.
    Killed,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        ExitCode::from(match status {
            Status::Done => 0,
            Status::Internal => 1,
            Status::Input => 2,
            Status::Host => 3,
            Status::Reset => 4,
            Status::Crash => 5,
            Status::Conflict => 6,
            Status::Killed => 143,
        })
    }
}

/// Why a command failed.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// How the process ends.
    pub status: Status,
    /// Why, in one line.
    pub line: String,
}

impl Failure {
    /// A failure with a status.
    pub fn new(status: Status, why: impl Display) -> Self {
        Self { status, line: why.to_string() }
    }

    /// Something typed, or a file it names, is wrong: `field: value rule`.
    pub fn input(why: impl Display) -> Self {
        Self::new(Status::Input, why)
    }

    /// Writes the line to standard error, whatever is in it as one line, and gives the status.
    pub fn report(self) -> ExitCode {
        let line: String = self.line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        crate::log::line(format!("numavisor: {}\n", line.trim_end()));
        self.status.into()
    }
}
