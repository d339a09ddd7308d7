//! Latency and bandwidth of pairs of initiator and target, and memory-side caches, as in the HMAT (ACPI 6.5, 5.2.29).
//! `acpi` encodes them.

use crate::distance::Distance;
use crate::ids::VnodeId;
use crate::spec::{CacheAssociativity, CacheWritePolicy};
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// What an access from one initiator to one target costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessAttributes {
    /// Nanoseconds of a read.
    pub read_latency_ns: u32,
    /// Nanoseconds of a write.
    pub write_latency_ns: u32,
    /// Read bandwidth in MiB per second.
    pub read_bandwidth_mib: u32,
    /// Write bandwidth in MiB per second.
    pub write_bandwidth_mib: u32,
}

impl AccessAttributes {
    /// Figures measured from `known` away, as seen from `distance` away: latency grows with it, bandwidth shrinks.
    pub fn scaled(self, distance: Distance, known: Distance) -> Self {
        let (away, known) = (u64::from(distance.get()), u64::from(known.get()));
        let grow = |n: u32| saturate((u64::from(n) * away / known).max(1));
        let shrink = |n: u32| saturate((u64::from(n) * known / away).max(1));
        Self {
            read_latency_ns: grow(self.read_latency_ns),
            write_latency_ns: grow(self.write_latency_ns),
            read_bandwidth_mib: shrink(self.read_bandwidth_mib),
            write_bandwidth_mib: shrink(self.write_bandwidth_mib),
        }
    }
}

fn saturate(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// What is known of an access from one initiator to one target: some of the figures of [`AccessAttributes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PairAttributes {
    /// Nanoseconds of a read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_latency_ns: Option<u32>,
    /// Nanoseconds of a write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_latency_ns: Option<u32>,
    /// Read bandwidth in MiB per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_bandwidth_mib: Option<u32>,
    /// Write bandwidth in MiB per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_bandwidth_mib: Option<u32>,
}

impl From<AccessAttributes> for PairAttributes {
    fn from(all: AccessAttributes) -> Self {
        Self {
            read_latency_ns: Some(all.read_latency_ns),
            write_latency_ns: Some(all.write_latency_ns),
            read_bandwidth_mib: Some(all.read_bandwidth_mib),
            write_bandwidth_mib: Some(all.write_bandwidth_mib),
        }
    }
}

impl PairAttributes {
    /// These figures, and where one is not known that of `other`.
    pub fn or(self, other: Self) -> Self {
        Self {
            read_latency_ns: self.read_latency_ns.or(other.read_latency_ns),
            write_latency_ns: self.write_latency_ns.or(other.write_latency_ns),
            read_bandwidth_mib: self.read_bandwidth_mib.or(other.read_bandwidth_mib),
            write_bandwidth_mib: self.write_bandwidth_mib.or(other.write_bandwidth_mib),
        }
    }
}

/// A cache in front of a vnode's memory (ACPI 6.5, 5.2.29.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemorySideCache {
    /// Whose memory.
    pub vnode: VnodeId,
    /// How much it holds; not 0.
    pub size: Bytes,
    /// 1 to `levels`.
    pub level: u8,
    /// How many caches that memory has, at most 3.
    pub levels: u8,
    /// How it finds its lines.
    pub associativity: CacheAssociativity,
    /// What it does with a write.
    pub policy: CacheWritePolicy,
    /// Bytes of a line; 0 when that is not told.
    pub line: u16,
}

/// Attributes of every pair of nodes: `[initiator][target]`, `None` where nothing is known or there is no way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct MemoryAttributes {
    rows: Vec<Vec<Option<PairAttributes>>>,
}

impl MemoryAttributes {
    /// Asks `pair` for each initiator and target, itself included.
    pub fn from_fn<P: Into<PairAttributes>>(
        nodes: usize,
        mut pair: impl FnMut(usize, usize) -> Option<P>,
    ) -> Self {
        let mut cell = |i, t| pair(i, t).map(Into::into).filter(|known| *known != PairAttributes::default());
        Self { rows: (0..nodes).map(|i| (0..nodes).map(|t| cell(i, t)).collect()).collect() }
    }

    /// These figures, and where one is not known that of `other`.
    pub fn or(&self, other: &Self) -> Self {
        Self::from_fn(self.rows.len(), |initiator, target| {
            match (self.get(initiator, target), other.get(initiator, target)) {
                (Some(here), Some(there)) => Some(here.or(there)),
                (here, there) => here.or(there),
            }
        })
    }

    /// What is known of one pair.
    pub fn get(&self, initiator: usize, target: usize) -> Option<PairAttributes> {
        *self.rows.get(initiator)?.get(target)?
    }

    /// Whether nothing at all is known.
    pub fn is_empty(&self) -> bool {
        self.rows.iter().flatten().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::AccessAttributes;
    use crate::distance::Distance;

    #[test]
    fn twice_the_distance_doubles_latency_and_halves_bandwidth() {
        let local = AccessAttributes {
            read_latency_ns: 80,
            write_latency_ns: 90,
            read_bandwidth_mib: 20_000,
            write_bandwidth_mib: 10_000,
        };
        let remote = AccessAttributes {
            read_latency_ns: 160,
            write_latency_ns: 180,
            read_bandwidth_mib: 10_000,
            write_bandwidth_mib: 5_000,
        };
        assert_eq!(local.scaled(Distance::REMOTE, Distance::LOCAL), remote);
        assert_eq!(remote.scaled(Distance::LOCAL, Distance::REMOTE), local);
        assert_eq!(local.scaled(Distance::LOCAL, Distance::LOCAL), local);
    }
}
