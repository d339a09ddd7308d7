//! Devices, as given. `devices` validates them.

use super::UnknownWord;
use crate::spec::Switch;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::path::PathBuf;
use std::{fmt, str::FromStr};

/// A disk, as given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DiskSpec {
    /// A raw file or a block device.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub path: PathBuf,
    /// The vnode of the device (default 0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vnode: Option<u32>,
    /// `raw`: treat the file as raw whatever it contains; by default, other formats are detected and rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<DiskFormat>,
    /// Whether the disk is read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readonly: Option<Switch>,
    /// Whether to bypass the host's page cache (O_DIRECT).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<Switch>,
    /// Number of queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// Interrupt affinity: by default `node` if several vnodes have vCPUs and the disk has several queues, else `queue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupts: Option<DiskInterrupts>,
    /// Serial number in the guest, at most 20 printable characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// The format of a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum DiskFormat {
    /// A raw image.
    Raw,
}

/// An unsupported format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not raw; qemu-img convert -O raw makes one of another format")]
pub struct UnknownFormat(String);

impl FromStr for DiskFormat {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "raw" => Ok(Self::Raw),
            _ => Err(UnknownFormat(text.chars().take(40).collect())),
        }
    }
}

impl TryFrom<String> for DiskFormat {
    type Error = UnknownFormat;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

words!(
    /// The interrupt affinity of a disk in the guest.
    DiskInterrupts {
        /// CPUs of its vnode: all queues share a vector, which Linux assigns to the device's node.
        Node = "node",
        /// The submitting CPU: a vector per queue, which Linux spreads over all CPUs (managed affinity).
        Queue = "queue",
    } allowed "node, queue"
);

/// A network interface, as given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NetSpec {
    /// Tap interface of the host; created if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// File descriptor of an open tap instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fd: Option<i32>,
    /// MAC address of the guest, such as 52:54:00:12:34:56.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// MTU of the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Number of queue pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// The vnode of the device (default 0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vnode: Option<u32>,
    /// Whether to use vhost-net if available (default on).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost: Option<Switch>,
}

/// A vsock device, as given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct VsockSpec {
    /// Context ID (CID) of the guest.
    pub cid: u64,
    /// Unix socket on the host for connections to and from the guest; default: the host kernel
    /// (vhost-vsock, `AF_VSOCK`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub socket: Option<PathBuf>,
    /// The vnode of the device (default 0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vnode: Option<u32>,
}

/// A virtio console, as given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ConsoleSpec {
    /// Unix socket for one client at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub socket: Option<PathBuf>,
    /// File to append output to instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub file: Option<PathBuf>,
    /// The vnode of the device (default 0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vnode: Option<u32>,
}
