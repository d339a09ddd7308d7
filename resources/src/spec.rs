//! What was typed: one schema for command line, config file and HTTP body. What it means is `topology`'s business.

use crate::distance::DistanceSpec;
use crate::set::{NodeSet, VcpuSet};
use crate::units::Bytes;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{fmt, path::PathBuf, str::FromStr};

/// A virtual machine as typed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct VmSpec {
    /// bzImage, or an ELF kernel with a PVH entry.
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
    /// vCPUs of the whole VM; those that no vnode names are shared out evenly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Memory of the whole VM; what no vnode names is shared out evenly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// How many vnodes to make when none is described.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vnodes: Option<VnodeCount>,
    /// The vnodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub numa: Vec<VnodeSpec>,
    /// SLIT distances between vnodes, in the order given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub distances: Vec<DistanceSpec>,
    /// `host`: vnodes are as far apart, and as fast, as the pnodes they lie on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distances_from: Option<DistancesFrom>,
    /// HMAT: latency and bandwidth of pairs of vnodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<AttributeSpec>,
    /// `host`: vnodes are as fast as the pnodes they lie on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes_from: Option<AttributesFrom>,
    /// HMAT: caches in front of the vnodes' memory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<CacheSpec>,
    /// Host CPUs of single vCPUs, whatever the affinity of their vnode.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<PinSpec>,
    /// Disks, in the order in which the guest finds those of one vnode.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskSpec>,
    /// Network interfaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<NetSpec>,
    /// A socket device between guest and host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockSpec>,
    /// A console beside the serial port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console: Option<ConsoleSpec>,
    /// Whether there is an entropy device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rng: Option<Switch>,
    /// Whether the guest reports pages that it has free, which the host then gets back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_page_reporting: Option<Switch>,
    /// Where the guest's first serial port goes.
    pub serial: SerialSpec,
    /// What a guest's reset does.
    pub on_reset: OnReset,
    /// How pnodes are chosen for vnodes that name none.
    pub placement: PlacementPolicy,
    /// What happens when such vnodes fit nowhere as they are.
    pub fit: Fit,
    /// Whether pnodes may be chosen whose memory is a device's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_memory: Option<Switch>,
}

/// A vnode as typed; everything but the id may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct VnodeSpec {
    /// Dense from 0 over all vnodes, in any order.
    pub id: u32,
    /// Its memory, a multiple of its page size and of 2 MiB; 0 for a vnode with vCPUs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Its vCPUs; none for a vnode with memory only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<VcpuSet>,
    /// The host node or nodes it lies on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pnode: Option<NodeSet>,
    /// How its memory is held there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<MemoryPolicy>,
    /// How its vCPU threads are held there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// The pages behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<PageSize>,
    /// Whether all its memory is taken at start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefault: Option<Switch>,
    /// Whether its memory is a file without a name (memfd) that other processes may map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<Switch>,
    /// HMAT: nanoseconds of an access by its own vCPUs, or by the nearest ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<u32>,
    /// HMAT: bytes per second of such accesses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bytes>,
    /// HMAT: for a vnode with memory only, the vnode whose vCPUs its memory is attached to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<u32>,
}

impl VnodeSpec {
    /// A vnode of which nothing but the id was said.
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

/// A word that is not among those allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is not one of {allowed}")]
pub struct UnknownWord {
    /// As typed, shortened.
    pub word: String,
    /// What could be typed, separated by commas.
    pub allowed: &'static str,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? } allowed $allowed:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// The words as typed, in order.
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
    /// Where a vnode's memory may lie.
    MemoryPolicy {
        /// On its pnodes and nowhere else (`MPOL_BIND`).
        Bind = "bind",
        /// On its pnodes while there is room, else elsewhere (`MPOL_PREFERRED`, `MPOL_PREFERRED_MANY`).
        Preferred = "preferred",
        /// Page by page in turn over its pnodes (`MPOL_INTERLEAVE`).
        Interleave = "interleave",
    } allowed "bind, preferred, interleave"
);

words!(
    /// Where a vnode's vCPU threads may run.
    Affinity {
        /// Each pinned to a CPU of its own, where the node has enough.
        Hard = "hard",
        /// On all CPUs of the vnode's pnodes.
        Soft = "soft",
        /// Wherever the host's scheduler wants.
        None = "none",
    } allowed "hard, soft, none"
);

words!(
    /// The pages behind a vnode.
    PageSize {
        /// 4 KiB pages only.
        Small = "4K",
        /// Transparent huge pages where the host has them.
        Thp = "thp",
        /// 2 MiB pages from the node's pool.
        Huge2M = "2M",
        /// 1 GiB pages from the node's pool.
        Huge1G = "1G",
    } allowed "4K, thp, 2M, 1G"
);

words!(
    /// Distances taken from somewhere else.
    DistancesFrom {
        /// As the host's sysfs has them between the chosen pnodes.
        Host = "host",
    } allowed "host"
);

words!(
    /// Latency and bandwidth taken from somewhere else.
    AttributesFrom {
        /// As the host's sysfs has them for the chosen pnodes.
        Host = "host",
    } allowed "host"
);

words!(
    /// What a guest's reset does.
    #[derive(Default)]
    OnReset {
        /// The process ends with status 4.
        #[default]
        Exit = "exit",
        /// The guest starts again.
        Reboot = "reboot",
    } allowed "exit, reboot"
);

words!(
    /// How pnodes are chosen for vnodes that name none.
    #[derive(Default)]
    PlacementPolicy {
        /// For all of them together: the fewest pnodes, then the nearest to each other, then the least claimed.
        #[default]
        Auto = "auto",
        /// Each on the first pnode that has room.
        FirstFit = "first-fit",
        /// Each on the pnode with the least free memory that has room.
        BestFit = "best-fit",
        /// Each on the pnode with the most free memory.
        WorstFit = "worst-fit",
    } allowed "auto, first-fit, best-fit, worst-fit"
);

words!(
    /// What happens when vnodes that name no pnode fit nowhere as they are.
    #[derive(Default)]
    Fit {
        /// They are refused.
        Strict = "strict",
        /// They are spread over several pnodes, or share CPUs, and that is reported.
        #[default]
        Prefer = "prefer",
    } allowed "strict, prefer"
);

mod vnode_count;
pub use vnode_count::VnodeCount;

impl PageSize {
    /// The size of the host page pool it draws on; `None` for ordinary memory.
    pub fn pool(self) -> Option<Bytes> {
        match self {
            Self::Small | Self::Thp => None,
            Self::Huge2M => Some(Bytes::mib(2)),
            Self::Huge1G => Some(Bytes::gib(1)),
        }
    }
}

/// On or off, typed as such or as a JSON boolean.
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

/// Where the guest's first serial port goes: `stdio`, `none` or `file=PATH`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SerialSpec {
    /// Standard input and output; raw when they are a terminal.
    #[default]
    Stdio,
    /// Nowhere; the guest still finds a port.
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
