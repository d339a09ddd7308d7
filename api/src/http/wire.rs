//! Wire types, except the configuration (`VmSpec`), plans and hosts, which are the same everywhere. Fields are added,
//! never changed. Sizes are bytes; sets are Linux lists (`0-3,8`).

mod devices;
mod dirty_rate;
mod jobs;
mod reclaim;
mod requests;
mod service;
mod vm;
mod vnodes;

pub use devices::{Device, DeviceCounters, Devices, DiskSize, NetLink};
pub use dirty_rate::{DirtyRate, DirtyRateRequest, DirtyVnode};
pub use jobs::{Job, JobState, Jobs, LeftBehind};
pub use reclaim::{PnodeFree, Reclaim, ReclaimKind, ReclaimPart};
pub use requests::{
    AffinityRequest, DiskSizeRequest, EvacuateRequest, GiveRequest, MoveRequest, NetLinkRequest,
    ReclaimRequest, SwapRequest, TargetRequest, VnodeAffinityRequest,
};
pub use service::{API_VERSION, Health, HealthStatus, Version};
pub use vm::{End, EndCause, Vm, VmState};
pub use vnodes::{
    Balloon, BalloonOutcome, BalloonPhase, FreeMemory, Moves, MovesOnPnode, OfVnode, OnPnode, PnodeUse,
    Residency, Vcpu, Vnode, Vnodes,
};
