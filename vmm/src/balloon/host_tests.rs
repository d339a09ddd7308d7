//! The host's side of a balloon over real mappings, without a guest: what becomes of memory that is out. A pool is acted
//! by small pages, so that the tests need none.

use super::host::{Books, VnodeHost};
use crate::memory::{GuestRam, RamRegion};
use crate::sys::{Backing, Mapping};
use devices::virtio::balloon::{BalloonHost, PageRun, Sweep};
use resources::{Bytes, Gpa, PageSize, RamRange, VmSpec, VmTopology, VnodeId, VnodeSpec};
use std::sync::Arc;
use vm_memory::{Bytes as _, GuestAddress};

/// Bytes of each vnode: two huge pages.
const SIZE: Bytes = Bytes::mib(4);
/// Pages of a huge one.
const HUGE: u32 = 512;

struct Bench {
    ram: Arc<GuestRam>,
    host: VnodeHost,
}

/// One vnode from address 0 on.
fn bench(pages: PageSize) -> Bench {
    let vnode = VnodeSpec { memory: Some(Bytes::mib(128)), vcpus: "0".parse().ok(), ..VnodeSpec::new(0) };
    let topology = VmTopology::try_from(&VmSpec { numa: vec![vnode], ..VmSpec::default() }).unwrap();
    let mapping = Mapping::new(SIZE, 0, Bytes::mib(2), Backing::Anonymous, "balloon-test").unwrap();
    let range = RamRange { vnode: VnodeId(0), start: Gpa(0), size: SIZE };
    let ram = Arc::new(GuestRam::of_regions(vec![RamRegion { range, pages, mapping }]));
    let host = VnodeHost::new(Arc::clone(&ram), VnodeId(0), Arc::new(Books::new(&topology)));
    Bench { ram, host }
}

fn run(first: u32, count: u32) -> PageRun {
    PageRun { first, count }
}

impl Bench {
    fn write(&self, page: u32, value: u8) {
        self.ram.memory().write_obj(value, GuestAddress(u64::from(page) * 4096)).unwrap();
    }

    fn read(&self, page: u32) -> u8 {
        self.ram.memory().read_obj(GuestAddress(u64::from(page) * 4096)).unwrap()
    }
}

#[test]
fn pages_that_a_driver_uses_before_it_tells_keep_their_content_unless_it_said_that_it_tells() {
    for tells_first in [false, true] {
        let bench = bench(PageSize::Thp);
        bench.host.begin(tells_first);
        (0..2 * HUGE).for_each(|page| bench.write(page, 7));
        bench.host.take(&[run(0, 256), run(HUGE, 100)]);
        assert_eq!([0, 255, 256].map(|page| bench.read(page)), [0, 0, 7]);
        // It has these two again already.
        [3, HUGE].iter().for_each(|page| bench.write(*page, 9));
        // The rest of the first huge page comes, and time passes for the second.
        bench.host.take(&[run(256, 256)]);
        let sweep = bench.host.sweep();
        let now = [3, 300, HUGE].map(|page| bench.read(page));
        match tells_first {
            true => assert_eq!((sweep, now), (Sweep::Whole, [0, 0, 0])),
            false => assert_eq!((sweep, now), (Sweep::Needless, [9, 0, 9])),
        }
    }
}
