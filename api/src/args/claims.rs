//! The flags of the claims directory.

use clap::Args;
use std::path::PathBuf;

/// Where running VMs record their claims.
#[derive(Debug, Default, Args)]
pub struct ClaimsFlags {
    /// Directory with the claims of running VMs; VMs on one host should share it. `none`: make no claim and ignore
    /// other VMs [default: numavisor in /run for root, else in XDG_RUNTIME_DIR or /run/user/UID, else
    /// /tmp/numavisor-UID]
    #[arg(long, value_name = "DIR", help_heading = "Placement")]
    pub claims_dir: Option<PathBuf>,
}

/// The same for commands that claim.
#[derive(Debug, Default, Args)]
pub struct ClaimingFlags {
    #[command(flatten)]
    pub directory: ClaimsFlags,
    /// Group, by name or number, whose members may read the claims directory [default: only the user may]
    #[arg(long, value_name = "GROUP", help_heading = "Placement")]
    pub claims_group: Option<String>,
}
