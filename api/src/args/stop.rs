//! The flag for the time that a guest has to power off.

use crate::args::count;
use clap::Args;
use std::time::Duration;

/// How a VM ends after a signal.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct StopFlags {
    /// Seconds for the guest to power off after the first SIGTERM, SIGINT or SIGHUP. After that the VM is killed as by
    /// a second signal, with status 143 [default: no limit]
    #[arg(long, value_name = "SECONDS", value_parser = count, help_heading = "Shutdown")]
    pub shutdown_timeout: Option<u32>,
}

impl StopFlags {
    /// The time, if there is an end to it.
    pub fn timeout(&self) -> Option<Duration> {
        self.shutdown_timeout.map(|seconds| Duration::from_secs(seconds.into()))
    }
}
