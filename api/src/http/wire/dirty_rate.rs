//! How much memory is written in a time.

use serde::{Deserialize, Serialize};

/// How long to measure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct DirtyRateRequest {
    /// For so long, 1 to 10,000; meanwhile the guest has a page fault for each page that it writes first.
    pub milliseconds: u32,
}

/// What was written of the memory of each vnode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct DirtyRate {
    /// In this time.
    pub milliseconds: u32,
    /// By vnode, ascending.
    pub vnodes: Vec<DirtyVnode>,
}

/// What was written of one vnode, in whole pages of 4 KiB, each counted once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct DirtyVnode {
    /// Which.
    pub vnode: u32,
    /// By the guest or for its devices.
    pub bytes: u64,
    /// By the guest.
    pub guest: u64,
    /// By this process for its devices; what vhost writes is not seen.
    pub devices: u64,
}
