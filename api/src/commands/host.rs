//! `numavisor host`: what we believe of this host.

use crate::args::HostArgs;
use crate::claims::ClaimsAt;
use crate::exit::Failure;
use crate::{files, look, show};
use std::process::ExitCode;

/// Prints the host.
pub fn run(args: &HostArgs) -> Result<ExitCode, Failure> {
    let claims = || ClaimsAt::from(&args.directory).living();
    let living = args.claims.then(claims).transpose()?;
    let host = look::host(&args.sysfs)?;
    files::print(&match (args.json, &living) {
        (true, _) => show::json(&show::host_json::document(&host, living.as_deref()))?,
        (false, None) => show::host::text(&host),
        (false, Some(living)) => {
            format!("{}\n{}", show::host::text(&host), show::claims::text(&host, living))
        }
    })
}
