//! Devices as typed. What they mean is `devices`' business.

use super::UnknownWord;
use crate::spec::Switch;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::path::PathBuf;
use std::{fmt, str::FromStr};

/// A disk as typed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DiskSpec {
    /// A raw file or a block device.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub path: PathBuf,
    /// The vnode it sits on; 0 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vnode: Option<u32>,
    /// `raw` says that it is raw whatever it begins with; left out, what looks like another format is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<DiskFormat>,
    /// Whether the guest may only read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readonly: Option<Switch>,
    /// Whether the host's page cache is passed by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<Switch>,
    /// How many queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// Which CPUs it interrupts; `node` where several vnodes have vCPUs and it has two queues or more, else `queue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupts: Option<DiskInterrupts>,
    /// The serial number that the guest sees, at most 20 printable characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// What a disk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum DiskFormat {
    /// What the guest sees, byte for byte.
    Raw,
}

/// A format that no disk has.
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
    /// Which CPUs of the guest a disk interrupts.
    DiskInterrupts {
        /// Those of its vnode: all queues share a vector, which Linux puts on the device's node.
        Node = "node",
        /// The one that asked: each queue has a vector, and Linux deals these out over all CPUs.
        Queue = "queue",
    } allowed "node, queue"
);

/// A network interface as typed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NetSpec {
    /// The host's tap interface, made when it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// An open tap instead: this process's descriptor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fd: Option<i32>,
    /// The guest's address, such as 52:54:00:12:34:56.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The MTU that the guest is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// How many queue pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// The vnode it sits on; 0 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vnode: Option<u32>,
    /// Whether the host kernel may serve the queues; on when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost: Option<Switch>,
}

/// A socket device as typed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct VsockSpec {
    /// The guest's context id.
    pub cid: u64,
    /// The unix socket that stands for the guest on the host; when left out, the host kernel serves the guest
    /// (vhost-vsock).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub socket: Option<PathBuf>,
    /// The vnode it sits on; 0 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vnode: Option<u32>,
}

/// A console as typed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ConsoleSpec {
    /// The unix socket that one client at a time attaches to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub socket: Option<PathBuf>,
    /// A file that output is appended to instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub file: Option<PathBuf>,
    /// The vnode it sits on; 0 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vnode: Option<u32>,
}
