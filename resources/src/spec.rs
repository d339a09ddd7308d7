//! The configuration as given: one schema for command line, config file and HTTP body. `topology` validates it.

use crate::distance::DistanceSpec;
use crate::set::{NodeSet, VcpuSet};
use crate::units::Bytes;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{fmt, path::PathBuf, str::FromStr};

/// The configuration of a VM, as given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct VmSpec {
    /// Kernel: a bzImage, or an ELF file with a PVH entry point.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub kernel: Option<PathBuf>,
    /// Initial ramdisk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub initramfs: Option<PathBuf>,
    /// Kernel command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// Number of vCPUs of the VM; those not assigned to a vnode are split evenly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Memory of the VM; what is not assigned to a vnode is split evenly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Number of equal vnodes, if `numa` is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vnodes: Option<VnodeCount>,
    /// The vnodes, one entry each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub numa: Vec<VnodeSpec>,
    /// SLIT distances between vnodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub distances: Vec<DistanceSpec>,
    /// `host`: take distances, latencies and bandwidths from the pnodes of the vnodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distances_from: Option<DistancesFrom>,
    /// HMAT: latency and bandwidth per pair of vnodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<AttributeSpec>,
    /// `host`: take latencies and bandwidths from the pnodes of the vnodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes_from: Option<AttributesFrom>,
    /// HMAT: memory-side caches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<CacheSpec>,
    /// Host CPUs of individual vCPUs; overrides the affinity of their vnode.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<PinSpec>,
    /// Disks; the guest sees the disks of a vnode in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskSpec>,
    /// Network interfaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<NetSpec>,
    /// Vsock device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockSpec>,
    /// Virtio console.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console: Option<ConsoleSpec>,
    /// Whether the VM has an entropy device (virtio-rng).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rng: Option<Switch>,
    /// Whether the balloon offers free page reporting; reported pages are returned to the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_page_reporting: Option<Switch>,
    /// Destination of the guest's first serial port.
    pub serial: SerialSpec,
    /// Action on a guest reset.
    pub on_reset: OnReset,
    /// How to choose pnodes for vnodes without `pnode`.
    pub placement: PlacementPolicy,
    /// What to do if such a vnode fits on no pnode.
    pub fit: Fit,
    /// Whether pnodes with device memory may be chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_memory: Option<Switch>,
}

/// A vnode, as given; all fields except `id` are optional.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct VnodeSpec {
    /// Number: 0, 1, 2 ... without gaps, in any order.
    pub id: u32,
    /// Memory, a multiple of the page size and of 2 MiB; 0 for a vnode with vCPUs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// vCPUs; empty for a vnode with memory only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<VcpuSet>,
    /// The pnode or pnodes to place it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pnode: Option<NodeSet>,
    /// Memory policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<MemoryPolicy>,
    /// Affinity of its vCPU threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Page size of its backing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<PageSize>,
    /// Whether to allocate all memory at start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefault: Option<Switch>,
    /// Whether memory is backed by a memfd that other processes can map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<Switch>,
    /// HMAT: access latency in nanoseconds for its own vCPUs, or the nearest ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<u32>,
    /// HMAT: bandwidth in bytes per second for the same vCPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bytes>,
    /// HMAT: the initiator of a vnode with memory only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<u32>,
}

impl VnodeSpec {
    /// A vnode with nothing but an id.
    pub fn new(id: u32) -> Self {
        Self {
            id,
            memory: None,
            vcpus: None,
            pnode: None,
            policy: None,
            affinity: None,
            pages: None,
            prefault: None,
            shared: None,
            latency: None,
            bandwidth: None,
            initiator: None,
        }
    }
}

/// A word that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is not one of {allowed}")]
pub struct UnknownWord {
    /// The given word, shortened.
    pub word: String,
    /// The allowed words, separated by commas.
    pub allowed: &'static str,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? } allowed $allowed:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// The words, in order.
            pub const WORDS: &'static [&'static str] = &[$($word),+];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$variant => $word),+ })
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;
            fn from_str(word: &str) -> Result<Self, Self::Err> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord { word: word.chars().take(40).collect(), allowed: $allowed }),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }

        #[cfg(feature = "schema")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                crate::schema::words(Self::WORDS)
            }
        }

        #[cfg(feature = "schema")]
        impl utoipa::ToSchema for $name {}
    };
}

pub mod device;
mod hmat;
mod pin;

pub use device::{ConsoleSpec, DiskSpec, NetSpec, VsockSpec};
pub use hmat::{AttributeSpec, CacheAssociativity, CacheSpec, CacheWritePolicy};
pub use pin::PinSpec;

words!(
    /// The memory policy of a vnode.
    MemoryPolicy {
        /// Only on its pnodes (`MPOL_BIND`).
        Bind = "bind",
        /// On its pnodes while they have room, else on others (`MPOL_PREFERRED`, `MPOL_PREFERRED_MANY`).
        Preferred = "preferred",
        /// Page by page over its pnodes (`MPOL_INTERLEAVE`).
        Interleave = "interleave",
    } allowed "bind, preferred, interleave"
);

words!(
    /// The affinity of a vnode's vCPU threads.
    Affinity {
        /// Each pinned to one CPU, while there are enough.
        Hard = "hard",
        /// On any CPU of the vnode's pnodes.
        Soft = "soft",
        /// On any CPU of the host.
        None = "none",
    } allowed "hard, soft, none"
);

words!(
    /// The page size of a vnode's backing.
    PageSize {
        /// 4 KiB pages only.
        Small = "4K",
        /// Transparent huge pages, if the host supports them.
        Thp = "thp",
        /// 2 MiB pages from the node's hugetlb pool.
        Huge2M = "2M",
        /// 1 GiB pages from the node's hugetlb pool.
        Huge1G = "1G",
    } allowed "4K, thp, 2M, 1G"
);

words!(
    /// The source of distances.
    DistancesFrom {
        /// Sysfs of the host, for the chosen pnodes.
        Host = "host",
    } allowed "host"
);

words!(
    /// The source of latencies and bandwidths.
    AttributesFrom {
        /// Sysfs of the host, for the chosen pnodes.
        Host = "host",
    } allowed "host"
);

words!(
    /// Action on a guest reset.
    #[derive(Default)]
    OnReset {
        /// The process exits with status 4.
        #[default]
        Exit = "exit",
        /// The guest boots again.
        Reboot = "reboot",
    } allowed "exit, reboot"
);

words!(
    /// How to choose pnodes for vnodes without `pnode`.
    #[derive(Default)]
    PlacementPolicy {
        /// For all vnodes together: the fewest pnodes, then the nearest to each other, then the least claimed.
        #[default]
        Auto = "auto",
        /// Each on the first pnode with room.
        FirstFit = "first-fit",
        /// Each on the pnode with room that has the least free memory.
        BestFit = "best-fit",
        /// Each on the pnode with the most free memory.
        WorstFit = "worst-fit",
    } allowed "auto, first-fit, best-fit, worst-fit"
);

words!(
    /// What to do if a vnode without `pnode` fits on no pnode.
    #[derive(Default)]
    Fit {
        /// Fail.
        Strict = "strict",
        /// Spread it over several pnodes, or share CPUs, and report it.
        #[default]
        Prefer = "prefer",
    } allowed "strict, prefer"
);

mod vnode_count;
pub use vnode_count::VnodeCount;

impl PageSize {
    /// The page size of the hugetlb pool; `None` for ordinary memory.
    pub fn pool(self) -> Option<Bytes> {
        match self {
            Self::Small | Self::Thp => None,
            Self::Huge2M => Some(Bytes::mib(2)),
            Self::Huge1G => Some(Bytes::gib(1)),
        }
    }
}

/// `on` or `off`, or a JSON boolean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch(pub bool);

impl FromStr for Switch {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "on" => Ok(Self(true)),
            "off" => Ok(Self(false)),
            _ => Err(UnknownWord { word: word.chars().take(40).collect(), allowed: "on, off" }),
        }
    }
}

impl Serialize for Switch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(self.0)
    }
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Switch;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, \"on\" or \"off\"")
            }
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Switch, E> {
                Ok(Switch(on))
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<Switch, E> {
                word.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Destination of the guest's first serial port: `stdio`, `none` or `file=PATH`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SerialSpec {
    /// Standard input and output; raw when they are a terminal.
    #[default]
    Stdio,
    /// Output is discarded; the guest still has a port.
    None,
    /// Output appended to a file.
    File(PathBuf),
}

impl fmt::Display for SerialSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio => f.write_str("stdio"),
            Self::None => f.write_str("none"),
            Self::File(path) => write!(f, "file={}", path.display()),
        }
    }
}

impl FromStr for SerialSpec {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match (word, word.strip_prefix("file=")) {
            ("stdio", _) => Ok(Self::Stdio),
            ("none", _) => Ok(Self::None),
            (_, Some(path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => {
                Err(UnknownWord { word: word.chars().take(40).collect(), allowed: "stdio, none, file=PATH" })
            }
        }
    }
}

impl Serialize for SerialSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SerialSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{MemoryPolicy, Switch, VmSpec, VnodeSpec};
    use crate::Bytes;

    #[test]
    fn the_schema_reads_sizes_lists_and_words() {
        let json = r#"{"kernel": "vmlinuz", "numa": [{"id": 0, "memory": "512M", "vcpus": [0, 1],
            "pnode": 1, "policy": "interleave", "prefault": "on"}], "distances": [{"from": 0, "to": 1, "value": 21}]}"#;
        let spec: VmSpec = serde_json::from_str(json).unwrap();
        let vnode = VnodeSpec {
            memory: Some(Bytes::mib(512)),
            vcpus: Some("0-1".parse().unwrap()),
            pnode: Some("1".parse().unwrap()),
            policy: Some(MemoryPolicy::Interleave),
            prefault: Some(Switch(true)),
            ..VnodeSpec::new(0)
        };
        assert_eq!(spec.numa, [vnode]);
        let again: VmSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
    }

    #[test]
    fn unknown_fields_and_words_are_refused_by_name() {
        let refused = |json| serde_json::from_str::<VmSpec>(json).unwrap_err().to_string();
        assert!(refused(r#"{"kernal": "x"}"#).contains("unknown field `kernal`"));
        assert!(refused(r#"{"numa": [{"id": 0, "mem": 1}]}"#).contains("unknown field `mem`"));
        assert!(
            refused(r#"{"numa": [{"id": 0, "policy": "strict"}]}"#).contains("bind, preferred, interleave")
        );
        assert!(refused(r#"{"numa": [{"memory": 1}]}"#).contains("missing field `id`"));
    }
}
