//! The flag of the claims directory.

use clap::Args;
use std::path::PathBuf;

/// Where living VMs keep what they were promised.
#[derive(Debug, Default, Args)]
pub struct ClaimsFlags {
    /// Directory of what living VMs were promised, shared by all that should see each other; `none`: see nobody
    /// [default: numavisor in /run for root, else in XDG_RUNTIME_DIR, else /tmp/numavisor-UID]
    #[arg(long, value_name = "DIR", help_heading = "Placement")]
    pub claims_dir: Option<PathBuf>,
}
