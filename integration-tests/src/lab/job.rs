//! What a lab host is told to do, and what it says while it does it.

use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::shape::HostShape;

/// Events stand on lines of their own on the runner's standard output, after this.
pub(crate) const EVENT: &str = "@@lab ";
/// Where an L1 finds the numavisor binary, kernels and images.
pub(crate) const PAYLOAD: &str = "/payload";
/// Where an L1 finds its job and leaves what is too long for the console.
pub(crate) const SCRATCH: &str = "/scratch";
/// The job's file name in the scratch directory.
pub(crate) const JOB_FILE: &str = "job.json";

/// What one start of the runner is for.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Job {
    /// Run these boot tests.
    Tests(Vec<String>),
    /// Run a command with `numavisor` in its path.
    Command(Vec<String>),
    /// An interactive shell.
    Shell,
    /// Boot a 2-vnode guest and print its view beside the host's.
    Demo,
    /// Start numavisor and its rival in turn.
    Bench {
        /// Starts of each side.
        rounds: u32,
    },
    /// Use the disk and the interface of either in turn.
    DeviceBench,
    /// Move a vnode, and a plain process beside it.
    Moves {
        /// There and back.
        rounds: u32,
    },
    /// Inflate the balloon of either in turn.
    Balloons {
        /// Guests of each side.
        rounds: u32,
    },
    /// Start many at once.
    Starts {
        /// How often.
        rounds: u32,
    },
    /// Keep a guest's memory changing, and look whether it notices.
    Soak(Soak),
}

/// A soak: guests one after the other, whose memory is taken, given back and moved while they look at it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Soak {
    /// Ends after so many rounds of all guests ...
    pub(crate) rounds: u64,
    /// ... or so many seconds.
    pub(crate) seconds: u64,
    /// A guest lives so many rounds.
    pub(crate) rounds_of_guest: u64,
    pub(crate) monitor: Monitor,
    /// Whether memory is taken and given back at all; the guest looks at it all the same.
    pub(crate) balloon: bool,
    pub(crate) pressure: Pressure,
    /// vCPUs of a guest.
    pub(crate) vcpus: u32,
    /// Whether the host's kernel writes down what its KVM does, for the end of a guest that dies: that takes time.
    pub(crate) trace: bool,
}

/// What runs the guests of a soak.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
pub(crate) enum Monitor {
    Numavisor,
    Qemu,
}

/// How much of a guest's free memory is asked for at a time.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
pub(crate) enum Pressure {
    /// A part.
    Low,
    /// More than there is.
    High,
}

impl Job {
    /// A word for file names.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Tests(_) => "tests",
            Self::Command(_) => "command",
            Self::Shell => "shell",
            Self::Demo => "demo",
            Self::Bench { .. } => "bench",
            Self::DeviceBench => "device-bench",
            Self::Moves { .. } => "moves",
            Self::Balloons { .. } => "balloons",
            Self::Starts { .. } => "starts",
            Self::Soak(_) => "soak",
        }
    }

    /// More words for the host's kernel. It does not trust a TSC of several sockets and takes the HPET, which costs a program that
    /// often reads the clock more than any machine would: that is no base to compare devices on.
    pub(crate) const fn host_cmdline(&self) -> &'static str {
        match self {
            Self::DeviceBench => " tsc=reliable",
            _ => "",
        }
    }

    /// For file names: the job on a host.
    pub(crate) fn label(&self, shape: &HostShape) -> String {
        format!("{}-{}", shape.name, self.name())
    }
}

/// One line of the runner.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum Event {
    /// The host is usable; the job begins.
    Ready,
    /// The host is not stuck; said all the time.
    Alive,
    /// A test begins.
    Start { test: String },
    /// A test is over.
    Test(TestResult),
    /// A benchmark's figures.
    Bench(serde_json::Value),
    /// The job is over.
    Exit { code: i32 },
}

/// How a test ended.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct TestResult {
    pub(crate) test: String,
    pub(crate) verdict: Verdict,
    pub(crate) seconds: f64,
    /// Why it failed or was skipped, with the end of the guest's output.
    pub(crate) detail: String,
    /// What it was seen to fail of, where that may be its host's doing.
    #[serde(default)]
    pub(crate) fault: Option<Fault>,
}

/// The three ways a test can end.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Passed,
    Failed,
    Skipped,
}

impl Event {
    /// Prints the event on its line, at once.
    pub(crate) fn say(&self) {
        let text = serde_json::to_string(self).unwrap_or_else(|error| error.to_string());
        println!("{EVENT}{text}");
    }

    /// The event on a line, if it has one.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line.trim().strip_prefix(EVENT)?).ok()
    }
}
