//! `numavisor import`: another program's configuration in our format.

use crate::args::ImportArgs;
use crate::exit::Failure;
use crate::formats::{self, Format, MAX_INPUT};
use crate::{files, show};
use resources::VmSpec;
use std::path::Path;
use std::process::ExitCode;

/// Prints the configuration, or writes it to a file.
pub fn run(args: &ImportArgs) -> Result<ExitCode, Failure> {
    let spec = read(args.from, "FILE", &args.file)?;
    files::put(args.out.as_deref(), &show::json(&spec)?)
}

/// Reads a description, `-` from standard input, and warns of what is left out. `flag` says who named the file.
pub fn read(format: Format, flag: &str, path: &Path) -> Result<VmSpec, Failure> {
    let input = path == Path::new("-");
    let shown = if input { "standard input".to_owned() } else { path.display().to_string() };
    let refused = |why: &dyn std::fmt::Display| Failure::input(format_args!("{flag}: {shown}: {why}"));
    let text = match input {
        true => files::read_from(std::io::stdin().lock(), MAX_INPUT),
        false => files::read(path, MAX_INPUT),
    };
    let text = text.map_err(|error| refused(&error))?;
    let (spec, warnings) = formats::read(format, &text).map_err(|refusal| refused(&refusal))?;
    for warning in warnings {
        tracing::warn!("{shown}: {warning}");
    }
    Ok(spec)
}
