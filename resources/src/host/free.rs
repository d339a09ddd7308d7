//! Free memory of a pnode right now: `MemFree`, and the per-CPU lists, which `MemFree` does not include.

use crate::host::HostTopology;
use crate::host::files::{HostRoot, names, required, value};
use crate::host::meminfo::Meminfo;
use crate::host::zones;
use crate::ids::PnodeId;
use crate::units::Bytes;
use std::path::Path;

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
    /// Reads it from a host's files; `None` if the node is not there. Without `zoneinfo` nothing is on lists.
    pub fn read(root: &HostRoot, pnode: PnodeId) -> Option<Self> {
        let (meminfo, pools) = if HostTopology::has_nodes(root) {
            let node = root.nodes().join(format!("node{pnode}"));
            (node.join("meminfo"), node.join("hugepages"))
        } else if pnode == PnodeId(0) {
            (root.procfs().join("meminfo"), root.sysfs().join("kernel/mm/hugepages"))
        } else {
            return None;
        };
        let memory = Meminfo::of(&meminfo, &required(&meminfo).ok()?).ok()?;
        let zones = zones::read(&root.procfs().join("zoneinfo")).ok().flatten().unwrap_or_default();
        Some(Self {
            free: memory.free,
            on_cpu_lists: zones.get(&pnode).map_or(Bytes::ZERO, |zones| zones.on_cpu_lists(memory.total)),
            in_pools: in_pools(&pools),
        })
    }

    /// What any process may have: all but the pools'.
    pub fn all(self) -> Bytes {
        self.free.saturating_add(self.on_cpu_lists)
    }
}

fn in_pools(directory: &Path) -> Bytes {
    let free = |name: &String| {
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages = value::<u64>(&directory.join(name).join("free_hugepages"), "is not a number of pages");
        kib.checked_mul(1024)?.checked_mul(pages.ok().flatten()?)
    };
    let names = names(directory).unwrap_or_default();
    Bytes(names.iter().filter_map(free).fold(0, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    use super::PnodeFree;
    use crate::host::HostRoot;
    use crate::ids::PnodeId;
    use crate::units::Bytes;
    use std::fs;

    #[test]
    fn pools_of_all_sizes_add_up_beside_what_is_free() {
        let root = tempfile::tempdir().unwrap();
        let node = root.path().join("devices/system/node/node3");
        for (size, free) in [("hugepages-2048kB", "5\n"), ("hugepages-1048576kB", "2\n"), ("odd", "9")] {
            let pool = node.join("hugepages").join(size);
            fs::create_dir_all(&pool).unwrap();
            fs::write(pool.join("free_hugepages"), free).unwrap();
        }
        fs::write(node.join("meminfo"), "Node 3 MemTotal: 9 kB\nNode 3 MemFree: 7 kB\n").unwrap();
        let host = HostRoot::of(root.path());
        let free = PnodeFree::read(&host, PnodeId(3)).unwrap();
        let expected =
            PnodeFree { free: Bytes(7 << 10), on_cpu_lists: Bytes::ZERO, in_pools: Bytes(2058 << 20) };
        assert_eq!((free, free.all()), (expected, Bytes(7 << 10)));
        assert_eq!(PnodeFree::read(&host, PnodeId(0)), None);
        fs::create_dir_all(host.procfs()).unwrap();
        let zones = "Node 3, zone Normal\n managed 2\n pagesets\n cpu: 0\n count: 4\n cpu: 1\n count: 1\n";
        fs::write(host.procfs().join("zoneinfo"), zones).unwrap();
        let free = PnodeFree::read(&host, PnodeId(3)).unwrap();
        assert_eq!(free.all(), Bytes((7 << 10) + 5 * 4096));
    }

    #[test]
    fn a_machine_without_numa_has_its_memory_on_pnode_0() {
        let root = tempfile::tempdir().unwrap();
        let host = HostRoot::of(root.path());
        fs::create_dir_all(host.procfs()).unwrap();
        fs::write(host.procfs().join("meminfo"), "MemTotal: 9 kB\nMemFree: 7 kB\n").unwrap();
        assert_eq!(PnodeFree::read(&host, PnodeId(0)).unwrap().all(), Bytes(7 << 10));
        assert_eq!(PnodeFree::read(&host, PnodeId(1)), None);
    }
}
