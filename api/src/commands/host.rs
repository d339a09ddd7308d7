//! `numavisor host`: the topology of this host.

use crate::args::HostArgs;
use crate::claims::ClaimsAt;
use crate::exit::Failure;
use crate::{files, look, show};
use std::process::ExitCode;

/// Prints the host.
pub fn run(args: &HostArgs) -> Result<ExitCode, Failure> {
    let claims = || ClaimsAt::from(&args.directory).running();
    let running = args.claims.then(claims).transpose()?;
    let root = args.tree.root();
    let host = look::host(&root)?;
    let no_linux = if look::is_this(&root) { vmm::why_no_linux() } else { None };
    let document = show::host_json::document(&host, no_linux, running.as_deref());
    files::print(&match (args.json, &running) {
        (true, _) => show::json(&document)?,
        (false, None) => show::host::text(&show::value(&document)?),
        (false, Some(running)) => {
            let host_text = show::host::text(&show::value(&document)?);
            format!("{host_text}\n{}", show::claims::text(&host, running))
        }
    })
}
