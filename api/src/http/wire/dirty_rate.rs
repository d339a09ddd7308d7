//! How much memory is written in a time.

use serde::{Deserialize, Serialize};

/// A dirty rate measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct DirtyRateRequest {
    /// Duration, 1 to 10,000 ms. Meanwhile the guest has a page fault for its first write to each page.
    pub milliseconds: u32,
}

/// Memory of each vnode that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct DirtyRate {
    /// Duration of the measurement.
    pub milliseconds: u32,
    /// By vnode, ascending.
    pub vnodes: Vec<DirtyVnode>,
}

/// Memory of one vnode that was written, in pages of 4 KiB, each counted once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct DirtyVnode {
    /// Number.
    pub vnode: u32,
    /// Bytes written by the guest or for its devices.
    pub bytes: u64,
    /// Bytes written by the guest.
    pub guest: u64,
    /// Bytes written by this process for its devices, without vhost.
    pub devices: u64,
}
