//! `numavisor export`: a VM in another program's format.

use crate::args::ExportArgs;
use crate::exit::Failure;
use crate::{files, formats};
use std::process::ExitCode;

/// Prints the description, or writes it to a file, and warns of what it does not have.
pub fn run(args: &ExportArgs) -> Result<ExitCode, Failure> {
    let spec = args.vm.spec()?;
    let (text, warnings) = formats::write(args.to, &spec).map_err(Failure::input)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    files::put(args.out.as_deref(), &text)
}
