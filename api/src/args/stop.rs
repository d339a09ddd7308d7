//! The flag of how long a guest may take to power off.

use crate::args::count;
use clap::Args;
use std::time::Duration;

/// How a VM ends that is told to by a signal.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct StopFlags {
    /// Seconds that the guest has to power off after the first SIGTERM, SIGINT or SIGHUP; then the VM is ended as by a
    /// second one, with status 143 [default: as long as it takes]
    #[arg(long, value_name = "SECONDS", value_parser = count, help_heading = "End")]
    pub shutdown_timeout: Option<u32>,
}

impl StopFlags {
    /// The time, if there is an end to it.
    pub fn timeout(&self) -> Option<Duration> {
        self.shutdown_timeout.map(|seconds| Duration::from_secs(seconds.into()))
    }
}
