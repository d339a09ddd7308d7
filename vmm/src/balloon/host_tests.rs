//! The host's side of a balloon over real mappings, without a guest: what becomes of memory that is out. A pool is acted
//! by small pages, so that the tests need none.

use super::host::{Books, VnodeHost};
use super::leases::Leases;
use crate::memory::{GuestRam, RamRegion};
use crate::sys::{Backing, Mapping, PageStatus};
use devices::virtio::balloon::{BalloonHost, PageRun, Sweep};
use resources::lease::Lease;
use resources::{Bytes, Gpa, PageSize, RamRange, VmSpec, VmTopology, VnodeId, VnodeSpec};
use std::sync::Arc;
use vm_memory::{Bytes as _, GuestAddress};

/// Bytes of each vnode: two huge pages.
const SIZE: Bytes = Bytes::mib(4);
/// Pages of a huge one.
const HUGE: u32 = 512;

struct Bench {
    ram: Arc<GuestRam>,
    books: Arc<Books>,
    host: VnodeHost,
}

/// One vnode from address 0 on.
fn bench(pages: PageSize) -> Bench {
    bench_with(pages, Arc::default())
}

fn bench_with(pages: PageSize, leases: Arc<Leases>) -> Bench {
    let vnode = VnodeSpec { memory: Some(Bytes::mib(128)), vcpus: "0".parse().ok(), ..VnodeSpec::new(0) };
    let topology = VmTopology::try_from(&VmSpec { numa: vec![vnode], ..VmSpec::default() }).unwrap();
    let mapping = Mapping::new(SIZE, 0, Bytes::mib(2), Backing::Anonymous, "balloon-test").unwrap();
    let range = RamRange { vnode: VnodeId(0), start: Gpa(0), size: SIZE };
    let mapping = Arc::new(mapping);
    let ram = Arc::new(GuestRam::of_regions(vec![RamRegion::of(range, pages, mapping)]));
    let books = Arc::new(Books::new(&topology, |_| Arc::default()));
    let host = VnodeHost::new(Arc::clone(&ram), VnodeId(0), Arc::clone(&books), leases);
    Bench { ram, books, host }
}

fn run(first: u32, count: u32) -> PageRun {
    PageRun { first, count }
}

impl Bench {
    fn write(&self, page: u32, value: u8) {
        self.ram.memory().write_obj(value, GuestAddress(u64::from(page) * 4096)).unwrap();
    }

    fn is_present(&self, page: u32) -> bool {
        let region = self.ram.regions().next().unwrap();
        let status = region.mapping.locate(&[usize::try_from(page).unwrap() * 4096]).unwrap();
        matches!(status[..], [PageStatus::On(_)])
    }

    fn populates(&self) -> u64 {
        self.books.of(VnodeId(0)).counters.populates.get()
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
        assert_eq!(bench.host.is_torn(), tells_first);
        assert_eq!(bench.host.sweep(), Sweep::Whole);
        let now = [3, 300, HUGE].map(|page| bench.read(page));
        assert_eq!(now, if tells_first { [0, 0, 0] } else { [9, 0, 9] });
    }
}

#[test]
fn the_end_of_the_vm_brings_no_page_of_a_pool_back() {
    let bench = bench(PageSize::Huge2M);
    bench.host.begin(true);
    bench.host.take(&[run(0, 2 * HUGE)]);
    bench.host.end();
    bench.host.forget();
    bench.host.end();
    assert_eq!(bench.populates(), 0);
}

#[test]
fn pages_of_a_pool_come_back_when_the_driver_is_reset_but_not_what_the_next_one_gives_again() {
    let bench = bench(PageSize::Huge2M);
    bench.host.begin(true);
    bench.host.take(&[run(0, 2 * HUGE)]);
    bench.host.forget();
    bench.host.begin(true);
    // Whether or not its page was on its way, it is out now, and stays so.
    bench.host.take(&[run(0, HUGE)]);
    while bench.populates() == 0 || !bench.is_present(HUGE) {
        std::thread::yield_now();
    }
    bench.host.end();
    assert!(!bench.is_present(0));
    // What is out is brought back before the guest has it.
    let before = bench.populates();
    assert!(bench.host.give(&[run(0, 1)]));
    assert_eq!((bench.populates(), bench.is_present(0)), (before + 1, true));
}

#[test]
fn reported_pages_that_are_to_keep_their_content_keep_it() {
    for poisoned in [false, true] {
        let bench = bench(PageSize::Small);
        bench.write(3, 0xAA);
        bench.host.reported(&[run(0, 8)], poisoned);
        assert_eq!(bench.read(3), if poisoned { 0xAA } else { 0 });
        assert_eq!(bench.books.of(VnodeId(0)).counters.reported_bytes.get(), 8 * 4096);
    }
}

#[test]
fn a_guest_has_nothing_back_of_what_was_released_before_it_is_claimed_again() {
    let page = Bytes(4096);
    let kinds = [(PageSize::Small, page, HUGE + 10), (PageSize::Thp, page, HUGE + 10)];
    // Of a pool what is out as a whole, and one part that goes back takes all of it along.
    for (pages, unit, count) in kinds.into_iter().chain([(PageSize::Huge2M, Bytes::mib(2), 2 * HUGE)]) {
        let out = Bytes(u64::from(count) * 4096);
        let leases = Arc::new(Leases::new([Lease::default()]));
        let bench = bench_with(pages, Arc::clone(&leases));
        let lease = || *leases.of(VnodeId(0));
        bench.host.begin(false);
        bench.host.take(&[run(0, 20)]);
        assert_eq!(lease().releasable(), Bytes::ZERO, "{pages:?}: of a driver that does not tell");
        bench.host.forget();
        bench.host.begin(true);
        bench.host.take(&[run(0, count)]);
        assert_eq!(lease().releasable(), out, "{pages:?}");
        assert_eq!(leases.of(VnodeId(0)).release(out), out);
        assert!(!bench.host.give(&[run(5, 1), run(7, 1)]), "{pages:?}");
        let wanted = if unit == page { Bytes(2 * 4096) } else { unit };
        assert_eq!((lease().wanted(), bench.populates()), (wanted, 0), "{pages:?}");
        leases.of(VnodeId(0)).claimed(wanted);
        assert!(bench.host.give(&[run(5, 1), run(7, 1)]), "{pages:?}");
        // The driver is reset with all the rest out. What is not of a pool is watched over until it is claimed.
        bench.host.forget();
        let (rest, waits) = (lease().released(), pages == PageSize::Huge2M);
        assert_eq!((rest, bench.host.is_ready()), (out.saturating_sub(wanted), !waits), "{pages:?}");
        let owed = if waits { Bytes::ZERO } else { rest };
        assert_eq!((lease().owed(), lease().wanted()), (owed, rest), "{pages:?}");
        leases.of(VnodeId(0)).claimed(rest);
        assert!(bench.host.is_ready(), "{pages:?}");
        assert_eq!((lease().releasable(), lease().wanted()), (Bytes::ZERO, Bytes::ZERO), "{pages:?}");
        bench.host.end();
    }
}
