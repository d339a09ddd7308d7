//! Latency and bandwidth of initiator and target pairs, as HMAT tells them (ACPI 6.5, 5.2.29). Encoding is `acpi`'s.

use crate::distance::Distance;
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

/// Attributes of every pair of nodes: `[initiator][target]`, `None` where nothing is known or there is no way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct MemoryAttributes {
    rows: Vec<Vec<Option<AccessAttributes>>>,
}

impl MemoryAttributes {
    /// Asks `pair` for each initiator and target, itself included.
    pub fn from_fn(nodes: usize, mut pair: impl FnMut(usize, usize) -> Option<AccessAttributes>) -> Self {
        Self { rows: (0..nodes).map(|i| (0..nodes).map(|t| pair(i, t)).collect()).collect() }
    }

    /// What is known of one pair.
    pub fn get(&self, initiator: usize, target: usize) -> Option<AccessAttributes> {
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
