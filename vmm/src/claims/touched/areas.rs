//! Guest memory among the areas of `/proc/PID/smaps`, which kernels without NUMA have as well: the areas that are left out
//! of core dumps and of forked children. `numa_maps` is the parent module's.

use super::{NumaStat, Touched, pages_of};
use resources::{Bytes, PnodeId};

/// What was read of one area.
#[derive(Default)]
pub struct Area {
    /// Bytes that it has of ordinary memory.
    resident: u64,
    /// Bytes that it has of a pool.
    huge: u64,
    page: u64,
}

impl Area {
    /// The next line. `VmFlags` is the last of an area.
    pub fn read(&mut self, line: &str, touched: &mut Touched) {
        let mut words = line.split_whitespace();
        let key = words.next().unwrap_or_default();
        if key == "VmFlags:" {
            let (dump, fork) =
                words.fold((true, true), |(dump, fork), flag| (dump && flag != "dd", fork && flag != "dc"));
            if !dump && !fork {
                self.count(touched);
            }
            *self = Self::default();
            return;
        }
        let kib = || words.clone().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
        let bytes = kib().saturating_mul(1024);
        match key {
            "Rss:" => self.resident = bytes,
            "Shared_Hugetlb:" | "Private_Hugetlb:" => self.huge = self.huge.saturating_add(bytes),
            "KernelPageSize:" => self.page = bytes,
            _ => {}
        }
    }

    fn count(&self, touched: &mut Touched) {
        let pnode = PnodeId(0);
        let ordinary = pages_of(4096, self.resident / 4096);
        let huge = self.huge.checked_div(self.page).and_then(|pages| pages_of(self.page, pages));
        for more in ordinary.into_iter().chain(huge) {
            touched.has.add(pnode, &more);
        }
        let hit = Bytes(self.resident.saturating_add(self.huge));
        touched.count(pnode, NumaStat { hit, ..NumaStat::default() });
    }
}

#[cfg(test)]
mod tests {
    use super::Area;
    use crate::claims::touched::{NumaStat, Touched, of, own_start};
    use resources::{Bytes, Claim, NodeClaim, PnodeId};
    use std::fs;

    const SMAPS: &str = "\
7f0000000000-7f0040000000 rw-p 00000000 00:00 0    [anon:guest-ram-v0]
Size:            1048576 kB
KernelPageSize:        4 kB
Rss:              524288 kB
AnonHugePages:    524288 kB
Shared_Hugetlb:        0 kB
Private_Hugetlb:       0 kB
THPeligible:           1
VmFlags: rd wr mr mw me dc dd ac hg
7f0080000000-7f00c0000000 rw-s 00000000 00:0f 7    /memfd:guest-ram-v1 (deleted)
Size:            1048576 kB
KernelPageSize:     2048 kB
Rss:                   0 kB
Shared_Hugetlb:     4096 kB
Private_Hugetlb:    2048 kB
VmFlags: rd wr sh mr mw me ms dc dd ht
7f0100000000-7f0100800000 rw-p 00000000 00:00 0
KernelPageSize:        4 kB
Rss:                8192 kB
VmFlags: rd wr mr mw me ac
7ffe00000000-7ffe00004000 r--p 00000000 00:00 0    [vvar]
Rss:                  16 kB
VmFlags: rd mr pf io de dd
";

    #[test]
    fn guest_memory_is_what_is_neither_dumped_nor_forked() {
        let mut touched = Touched::default();
        let mut area = Area::default();
        SMAPS.lines().for_each(|line| area.read(line, &mut touched));
        let mut has = Claim::default();
        let huge_pages = [(Bytes::mib(2), 3)].into();
        has.add(PnodeId(0), &NodeClaim { memory: Bytes::mib(512), huge_pages, ..NodeClaim::default() });
        let hit = NumaStat { hit: Bytes::mib(518), ..NumaStat::default() };
        assert_eq!(touched, Touched { has, stat: [(PnodeId(0), hit)].into() });
    }

    #[test]
    fn smaps_is_read_where_there_is_no_numa_maps_and_only_there() {
        let root = tempfile::tempdir().unwrap();
        let pid = std::process::id();
        let process = root.path().join(pid.to_string());
        fs::create_dir_all(&process).unwrap();
        fs::copy("/proc/self/stat", process.join("stat")).unwrap();
        let memory = || Some(of(root.path(), pid, own_start())?.has.pnodes.get(&PnodeId(0))?.memory);
        assert_eq!(of(root.path(), pid, own_start()), None);
        fs::write(process.join("smaps"), SMAPS).unwrap();
        assert_eq!(memory(), Some(Bytes::mib(512)));
        fs::write(process.join("numa_maps"), "7f0000000000 bind:0 anon=1 N0=1 kernelpagesize_kB=4\n")
            .unwrap();
        assert_eq!(memory(), Some(Bytes(4096)));
    }

    #[test]
    fn this_process_own_areas_are_found_by_their_flags() {
        use crate::sys::{Advice, Backing, Mapping};
        let mapping = Mapping::new(Bytes::mib(4), 0, Bytes::mib(2), Backing::Anonymous, "t").unwrap();
        for advice in [Advice::DontDump, Advice::DontFork] {
            mapping.advise(advice).unwrap();
        }
        mapping.populate(0, 4 << 20).unwrap();
        let mut touched = Touched::default();
        let mut area = Area::default();
        fs::read_to_string("/proc/self/smaps")
            .unwrap()
            .lines()
            .for_each(|line| area.read(line, &mut touched));
        assert!(touched.has.pnodes[&PnodeId(0)].memory >= Bytes::mib(4), "{touched:?}");
    }
}
