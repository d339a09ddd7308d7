//! How much of a pnode is free right now: what its `MemFree` counts, and what lies free on the CPUs' own lists, which
//! `MemFree` leaves out.

use crate::ids::PnodeId;
use crate::units::Bytes;
use std::path::Path;

const PAGE: u64 = 4096;

/// Free memory of one pnode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PnodeFree {
    /// `MemFree` of its `meminfo`.
    pub free: Bytes,
    /// On the lists of CPUs: the kernel puts what it frees there first.
    pub on_cpu_lists: Bytes,
    /// Free pages of its pools, of all sizes; `MemFree` leaves them out.
    pub in_pools: Bytes,
}

impl PnodeFree {
    /// Reads it from a sysfs and a procfs tree; `None` if the node is not there. Without `zoneinfo` nothing is on lists.
    pub fn read(sysfs: &Path, procfs: &Path, pnode: PnodeId) -> Option<Self> {
        let meminfo = sysfs.join(format!("devices/system/node/node{pnode}/meminfo"));
        let meminfo = std::fs::read_to_string(meminfo).ok()?;
        let line = meminfo.lines().find(|line| line.split_whitespace().nth(2) == Some("MemFree:"))?;
        let free = line.split_whitespace().nth(3)?.parse::<u64>().ok()?.checked_mul(1024)?;
        let zones = std::fs::read_to_string(procfs.join("zoneinfo")).unwrap_or_default();
        Some(Self {
            free: Bytes(free),
            on_cpu_lists: Bytes(pages_on_lists(&zones, pnode).saturating_mul(PAGE)),
            in_pools: in_pools(sysfs, pnode),
        })
    }

    /// What any process may have: all but the pools'.
    pub fn all(self) -> Bytes {
        self.free.saturating_add(self.on_cpu_lists)
    }
}

fn in_pools(sysfs: &Path, pnode: PnodeId) -> Bytes {
    let pools = std::fs::read_dir(sysfs.join(format!("devices/system/node/node{pnode}/hugepages")));
    let free = |pool: std::fs::DirEntry| {
        let name = pool.file_name();
        let kib: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages = std::fs::read_to_string(pool.path().join("free_hugepages")).ok()?;
        kib.checked_mul(1024)?.checked_mul(pages.trim().parse().ok()?)
    };
    let sizes = pools.into_iter().flatten().flatten().filter_map(free);
    Bytes(sizes.fold(0, u64::saturating_add))
}

/// Sums the `count:` lines of the node's zones.
fn pages_on_lists(zoneinfo: &str, pnode: PnodeId) -> u64 {
    let (mut here, mut pages) = (false, 0_u64);
    for line in zoneinfo.lines() {
        if let Some(rest) = line.strip_prefix("Node ") {
            here = rest.split(',').next().and_then(|id| id.trim().parse().ok()) == Some(pnode.0);
        } else if let Some(count) = line.trim_start().strip_prefix("count:").filter(|_| here) {
            pages = pages.saturating_add(count.trim().parse().unwrap_or(0));
        }
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::{PnodeFree, pages_on_lists};
    use crate::ids::PnodeId;
    use crate::units::Bytes;

    #[test]
    fn pools_of_all_sizes_add_up_beside_what_is_free() {
        let root = tempfile::tempdir().unwrap();
        let node = root.path().join("devices/system/node/node3");
        for (size, free) in [("hugepages-2048kB", "5\n"), ("hugepages-1048576kB", "2\n"), ("odd", "9")] {
            let pool = node.join("hugepages").join(size);
            std::fs::create_dir_all(&pool).unwrap();
            std::fs::write(pool.join("free_hugepages"), free).unwrap();
        }
        std::fs::write(node.join("meminfo"), "Node 3 MemTotal: 9 kB\nNode 3 MemFree: 7 kB\n").unwrap();
        let free = PnodeFree::read(root.path(), root.path(), PnodeId(3)).unwrap();
        let expected =
            PnodeFree { free: Bytes(7 << 10), on_cpu_lists: Bytes::ZERO, in_pools: Bytes(2058 << 20) };
        assert_eq!((free, free.all()), (expected, Bytes(7 << 10)));
    }

    #[test]
    fn the_lists_of_all_zones_and_cpus_of_a_node_add_up() {
        let text = "Node 0, zone    DMA32\n  pagesets\n    cpu: 0\n              count: 7\n              high:  14\n\
                    Node 1, zone   Normal\n  pages free 5\n  pagesets\n    cpu: 0\n              count: 40\n    cpu: 1\n\
                    \x20             count: 2\nNode 1, zone  Movable\n    cpu: 0\n  count: 1\n";
        assert_eq!([0, 1, 10].map(|node| pages_on_lists(text, PnodeId(node))), [7, 43, 0]);
    }
}
