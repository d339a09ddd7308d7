//! What emulated hosts are known to do to a test that is no fault of what is tested, each told by what was seen and not by
//! words of an error. Whether a second try is due is `xtask::lanes`' decision.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a test came to fail, where that says something of its host.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// A vCPU shut down after a triple fault.
    GuestCrashed,
    /// The guest did not answer in time, and its vCPUs were busy: it was slow, or went round in circles.
    GuestBusy,
    /// The lab host gave no sign of life.
    HostSilent,
    /// The lab host's kernel or the emulator ended.
    HostEnded,
}

impl fmt::Display for Fault {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::GuestCrashed => "guest crashed",
            Self::GuestBusy => "guest busy and silent",
            Self::HostSilent => "lab host silent",
            Self::HostEnded => "lab host ended",
        })
    }
}
