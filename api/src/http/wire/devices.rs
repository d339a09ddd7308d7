//! Virtio devices and their counters.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The size of a disk as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct DiskSize {
    /// Disk number, in configuration order.
    pub id: u32,
    /// Bytes, a multiple of the sector size.
    pub size: u64,
}

/// The link of a network interface, as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NetLink {
    /// Interface number, in configuration order.
    pub id: u32,
    /// Whether the link is up.
    pub up: bool,
}

/// Counters of a device's virtio transport since the VM started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct DeviceCounters {
    /// Times the driver set DRIVER_OK.
    pub activations: u64,
    /// Times the driver reset the device.
    pub resets: u64,
    /// Times the driver requested unsupported features.
    pub refused_features: u64,
    /// Times the device failed to start.
    pub failed_activations: u64,
    /// Malformed queues.
    pub queue_faults: u64,
    /// Invalid register accesses, which were ignored.
    pub ignored_accesses: u64,
    /// Notifications handled by a VM exit instead of an ioeventfd.
    pub slow_notifications: u64,
    /// Interrupts, routes and addresses that the host rejected.
    pub host_failures: u64,
}

/// A virtio device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Device {
    /// Name, such as `blk0` for the first disk.
    pub name: String,
    /// The vnode of its PCI segment.
    pub vnode: u32,
    /// Counters of its transport.
    pub counters: DeviceCounters,
    /// Counters since the VM started and current gauges of the device itself, by name. The names depend on the kind of
    /// device: `GET /v1/metrics` has each with its help, as `numavisor_KIND_NAME`, with `_total` for counters. A set of
    /// states has a figure for each state, such as `datapath_own`: 1 for the current state, 0 for the others.
    #[serde(default)]
    #[cfg_attr(test, schema(required = true))]
    pub figures: BTreeMap<String, u64>,
}

/// All virtio devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Devices {
    /// In order of creation.
    pub devices: Vec<Device>,
}
