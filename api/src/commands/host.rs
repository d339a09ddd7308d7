//! `numavisor host`: what we believe of this host.

use crate::args::HostArgs;
use crate::exit::Failure;
use crate::{files, look, show};
use std::process::ExitCode;

/// Prints the host.
pub fn run(args: &HostArgs) -> Result<ExitCode, Failure> {
    let host = look::host(&args.sysfs)?;
    files::print(&if args.json {
        show::json(&show::host_json::document(&host))?
    } else {
        show::host::text(&host)
    })
}
