//! Virtio devices and what they count.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How long a disk is for the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct DiskSize {
    /// Its number, in the order in which the disks were given.
    pub id: u32,
    /// Bytes, in whole sectors.
    pub size: u64,
}

/// The link of a network interface, as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NetLink {
    /// Its number, in the order in which the interfaces were given.
    pub id: u32,
    /// Whether it is up.
    pub up: bool,
}

/// What the transport of a device counts, since the VM started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct DeviceCounters {
    /// The driver started the device.
    pub activations: u64,
    /// The driver reset it.
    pub resets: u64,
    /// The driver asked for features that are not supported.
    pub refused_features: u64,
    /// The device could not start.
    pub failed_activations: u64,
    /// Queues that the driver broke.
    pub queue_faults: u64,
    /// Register accesses that made no sense.
    pub ignored_accesses: u64,
    /// Notifications that came through an exit.
    pub slow_notifications: u64,
    /// Interrupts, routes and addresses that the host refused.
    pub host_failures: u64,
}

/// A virtio device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Device {
    /// Such as `blk0`, the first disk.
    pub name: String,
    /// Where it sits.
    pub vnode: u32,
    /// What its transport counts.
    pub counters: DeviceCounters,
    /// What the device counts since the VM started, and what it has now, by name. Which names there are depends on the kind
    /// of device; `GET /v1/metrics` has them with their help, as `numavisor_KIND_NAME`, and counters with `_total` after it.
    /// Of a set of states there is a figure for each, such as `datapath_own`, that is 1 for the current state and 0 for others.
    #[serde(default)]
    #[cfg_attr(test, schema(required = true))]
    pub figures: BTreeMap<String, u64>,
}

/// All virtio devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Devices {
    /// In the order in which they were made.
    pub devices: Vec<Device>,
}
