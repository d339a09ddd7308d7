//! The file of `--config`: JSON in the schema of [`VmSpec`], read as strictly as a request's body.

use crate::exit::Failure;
use crate::files;
use crate::strict_json;
use resources::VmSpec;
use std::path::Path;

/// Most bytes of a configuration: 256 vnodes with every field and all distances between them need less.
const MAX_CONFIG: u64 = 1 << 20;

/// Reads a configuration. Paths in it are taken as on the command line, from the working directory.
pub fn read(path: &Path) -> Result<VmSpec, Failure> {
    let refused =
        |why: &dyn std::fmt::Display| Failure::input(format_args!("--config: {}: {why}", path.display()));
    let text = files::read(path, MAX_CONFIG).map_err(|error| refused(&error))?;
    strict_json::read(text.as_bytes()).map_err(|error| refused(&error))
}
