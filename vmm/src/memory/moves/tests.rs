//! Moves against a host that is a table: pages with a node each, nodes with room, and calls that fail when told.

use super::{Group, MemoryMove, MigrationMode, MoveOutcome, MoveProgress, Moved, Mover, Pages};
use crate::sys::{HostError, Mode, NodeMask, PageStatus};
use resources::{Bytes, MemoryPart, MemoryPolicy, NodeSet, PnodeId, VnodeId};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const PAGE: usize = 2 << 20;

/// What all regions share: room by pnode in pages, and the call that is to fail.
struct Host {
    room: RefCell<BTreeMap<u32, usize>>,
    calls: Cell<usize>,
    /// Which call fails, counted from 0, and how.
    fails: Option<(usize, i32)>,
    names: RefCell<Vec<&'static str>>,
    /// Cancelled after so many calls.
    cancel: RefCell<Option<(usize, std::sync::Arc<std::sync::atomic::AtomicBool>)>>,
}

struct Region {
    host: Rc<Host>,
    pages: RefCell<Vec<Option<u32>>>,
    /// Pages that the kernel cannot take off its lists: it tells of them, and goes on.
    pinned: BTreeSet<usize>,
    /// Pages in use by a device: with them the call ends, and tells nothing of what it took together.
    held: BTreeSet<usize>,
    policy: RefCell<(Mode, NodeMask)>,
    /// What policies were set on which ranges.
    bound: RefCell<Vec<(Range<usize>, NodeMask)>>,
}

impl Host {
    fn new(room: &[(u32, usize)], fails: Option<(usize, i32)>) -> Rc<Self> {
        Rc::new(Self {
            room: RefCell::new(room.iter().copied().collect()),
            calls: Cell::new(0),
            fails,
            names: RefCell::default(),
            cancel: RefCell::new(None),
        })
    }

    fn call(&self, name: &'static str) -> Result<(), HostError> {
        let at = self.calls.replace(self.calls.get() + 1);
        self.names.borrow_mut().push(name);
        if let Some((when, flag)) = &*self.cancel.borrow()
            && at == *when
        {
            flag.store(true, Ordering::Relaxed);
        }
        match self.fails {
            Some((which, errno)) if which == at => {
                Err(HostError::new(name, std::io::Error::from_raw_os_error(errno)))
            }
            _ => Ok(()),
        }
    }
}

impl Region {
    fn new(host: &Rc<Host>, pages: usize, on: u32) -> Self {
        let policy = RefCell::new((Mode::Bind, mask(&set(&[on]))));
        let pages = RefCell::new(vec![Some(on); pages]);
        Self {
            host: Rc::clone(host),
            pages,
            pinned: BTreeSet::new(),
            held: BTreeSet::new(),
            policy,
            bound: RefCell::default(),
        }
    }

    fn on(&self) -> BTreeMap<u32, usize> {
        let mut on = BTreeMap::new();
        self.pages.borrow().iter().flatten().for_each(|node| *on.entry(*node).or_default() += 1);
        on
    }
}

impl Pages for Region {
    fn size(&self) -> usize {
        self.pages.borrow().len() * PAGE
    }

    fn page(&self) -> usize {
        PAGE
    }

    fn in_blocks(&self) -> bool {
        self.pages.borrow().len() >= 64
    }

    fn set_policy(&self, range: Range<usize>, mode: Mode, nodes: &NodeMask) -> Result<(), HostError> {
        self.host.call("mbind")?;
        self.bound.borrow_mut().push((range, nodes.clone()));
        *self.policy.borrow_mut() = (mode, nodes.clone());
        Ok(())
    }

    fn policy_nodes(&self, _: usize) -> Option<NodeSet> {
        Some(self.policy.borrow().1.nodes())
    }

    fn locate(&self, offsets: &[usize]) -> Result<Vec<PageStatus>, HostError> {
        self.host.call("locate")?;
        let pages = self.pages.borrow();
        let status =
            |offset: &usize| pages[offset / PAGE].map_or(PageStatus::Absent, |n| PageStatus::On(PnodeId(n)));
        Ok(offsets.iter().map(status).collect())
    }

    fn relocate(&self, offsets: &[usize], nodes: &[PnodeId]) -> Result<Vec<PageStatus>, HostError> {
        self.host.call("move_pages")?;
        let (mut pages, mut room) = (self.pages.borrow_mut(), self.host.room.borrow_mut());
        let mut status = vec![PageStatus::Unknown(libc::EINPROGRESS); offsets.len()];
        let mut together = 0;
        let mut in_use = false;
        for (at, (offset, node)) in offsets.iter().zip(nodes).enumerate() {
            let page = &mut pages[offset / PAGE];
            let told = match (*page, room.get_mut(&node.0)) {
                (None, _) => Some(PageStatus::Absent),
                _ if self.pinned.contains(&(offset / PAGE)) => Some(PageStatus::Unknown(libc::EBUSY)),
                _ if self.held.contains(&(offset / PAGE)) => {
                    in_use = true;
                    None
                }
                (Some(old), Some(left)) if *left > 0 => {
                    *left -= 1;
                    *room.entry(old).or_default() += 1;
                    *page = Some(node.0);
                    status[at] = PageStatus::On(*node);
                    None
                }
                _ => Some(PageStatus::Unknown(libc::ENOMEM)),
            };
            if let Some(told) = told {
                status[at] = told;
            }
            if told.is_some() || at + 1 == offsets.len() {
                if in_use {
                    let end = if told.is_some() { at } else { at + 1 };
                    status[together..end].fill(PageStatus::Unknown(libc::EBUSY));
                    break;
                }
                together = at + 1;
            }
        }
        Ok(status)
    }
}

fn set(nodes: &[u32]) -> NodeSet {
    nodes.iter().copied().map(PnodeId).collect()
}

fn mask(nodes: &NodeSet) -> NodeMask {
    NodeMask::new(nodes).unwrap()
}

fn ask(vnode: u32, from: &[u32], to: &[u32]) -> MemoryMove {
    MemoryMove {
        vnode: VnodeId(vnode),
        from: set(from),
        to: set(to),
        policy: MemoryPolicy::Bind,
        parts_from: Vec::new(),
        parts_to: Vec::new(),
    }
}

/// Moves the vnodes, each of some regions, together.
fn carry_out(
    vnodes: &[(&[Region], MemoryMove)],
    mode: MigrationMode,
    bandwidth: Option<Bytes>,
    progress: &MoveProgress,
) -> Vec<Moved> {
    let others: Vec<MoveProgress> = vnodes
        .iter()
        .map(|_| MoveProgress { cancel: progress.cancel.clone(), ..MoveProgress::default() })
        .collect();
    let progress = std::iter::once(progress).chain(&others);
    let movers = vnodes.iter().zip(progress);
    let movers = movers.map(|((regions, job), p)| Mover::new(regions.iter().collect(), job, p)).collect();
    Group { movers, mode, bandwidth, started: Instant::now() }.run()
}

fn alone(regions: &[Region], job: &MemoryMove) -> Moved {
    carry_out(&[(regions, job.clone())], MigrationMode::Sequential, None, &MoveProgress::default()).remove(0)
}

fn pages(count: usize) -> Bytes {
    Bytes((count * PAGE) as u64)
}

#[test]
fn every_page_goes_and_the_policy_with_it() {
    let host = Host::new(&[(1, 500)], None);
    let regions = [Region::new(&host, 100, 0), Region::new(&host, 40, 0)];
    let (outcome, error) = alone(&regions, &ask(0, &[0], &[1]));
    assert!(error.is_none());
    let expected = MoveOutcome {
        moved: pages(140),
        moved_to: [(PnodeId(1), pages(140))].into(),
        policy_on: set(&[1]),
        ..MoveOutcome::default()
    };
    assert_eq!(outcome, expected);
    assert!(regions.iter().all(|region| *region.policy.borrow() == (Mode::Bind, mask(&set(&[1])))));
}

#[test]
fn interleaved_pages_go_to_each_pnode_in_turn() {
    let host = Host::new(&[(1, 500), (2, 500)], None);
    let regions = [Region::new(&host, 100, 0)];
    let job = MemoryMove { policy: MemoryPolicy::Interleave, ..ask(0, &[0], &[1, 2]) };
    let (outcome, _) = alone(&regions, &job);
    assert_eq!((outcome.moved, regions[0].on()), (pages(100), [(1, 50), (2, 50)].into()));
    assert_eq!(outcome.moved_to, [(PnodeId(1), pages(50)), (PnodeId(2), pages(50))].into());
    assert_eq!(*regions[0].policy.borrow(), (Mode::Interleave, mask(&set(&[1, 2]))));
}

#[test]
fn pinned_pages_and_a_full_node_are_told_apart() {
    let host = Host::new(&[(1, 50)], None);
    let region = Region { pinned: [3, 4].into(), ..Region::new(&host, 100, 0) };
    let (outcome, error) = alone(&[region], &ask(0, &[0], &[1]));
    assert!(error.is_none());
    let left = [(libc::ENOMEM, pages(48)), (libc::EBUSY, pages(2))];
    assert_eq!((outcome.moved, outcome.left), (pages(50), left.into()));
    assert_eq!(outcome.elsewhere, [(PnodeId(0), pages(50))].into());
    assert_eq!(outcome.moved_to, [(PnodeId(1), pages(50))].into());
}

#[test]
fn pages_in_use_by_devices_hold_up_no_others() {
    let held: BTreeSet<usize> = [0, 1, 7, 40, 41, 99].into();
    for (to, policy) in [(&[1][..], MemoryPolicy::Bind), (&[1, 2], MemoryPolicy::Interleave)] {
        let host = Host::new(&[(0, 0), (1, 100), (2, 100)], None);
        let region =
            Region { held: held.clone(), pinned: [2, 20, 50, 98].into(), ..Region::new(&host, 100, 0) };
        // Nor do pages that are not there.
        [3, 8, 42].iter().for_each(|page| region.pages.borrow_mut()[*page] = None);
        let mut regions = [region];
        let job = MemoryMove { policy, ..ask(0, &[0], to) };
        let (outcome, error) = alone(&regions, &job);
        assert!(error.is_none());
        assert_eq!(
            (outcome.moved, outcome.left),
            (pages(87), [(libc::EBUSY, pages(10))].into()),
            "{policy:?}"
        );
        assert_eq!((outcome.elsewhere, outcome.policy_on), ([(PnodeId(0), pages(10))].into(), set(to)));
        // Later they are free, and follow.
        regions[0].held.clear();
        regions[0].pinned.clear();
        let (outcome, _) = alone(&regions, &MemoryMove { from: set(to), ..job });
        assert_eq!((outcome.moved, outcome.left_behind()), (pages(10), Bytes::ZERO));
        assert_eq!(regions[0].on().get(&0), None);
    }
}

#[test]
fn whichever_call_fails_the_outcome_is_what_the_host_has() {
    for errno in [libc::ENOMEM, libc::ENODEV, libc::EBUSY, libc::EPERM, libc::EINTR] {
        let mut which = 0;
        loop {
            let host = Host::new(&[(1, 500)], Some((which, errno)));
            let regions = [Region::new(&host, 100, 0), Region::new(&host, 40, 0)];
            let (outcome, error) = alone(&regions, &ask(0, &[0], &[1]));
            let Some(error) = error else {
                assert!(which > 10, "no call failed but {which}");
                break;
            };
            assert_eq!((error.errno(), outcome.cancelled), (errno, false));
            let names = host.names.borrow();
            assert_eq!(error.call, names[which], "call {which}");
            // The policy that is told is the one that is there, on all regions alike.
            for region in &regions {
                assert_eq!(*region.policy.borrow(), (Mode::Bind, mask(&outcome.policy_on)), "call {which}");
            }
            let on = |node: u32| {
                regions.iter().map(|region| region.on().get(&node).copied().unwrap_or(0)).sum::<usize>()
            };
            // Only the last measurement itself can fail to tell what is elsewhere.
            if which + 2 < names.len() {
                let away = on(1 - outcome.policy_on.first().unwrap().0);
                let told: u64 = outcome.elsewhere.values().map(|bytes| bytes.get()).sum();
                assert_eq!(Bytes(told), pages(away), "call {which}: {names:?}");
            }
            assert!(outcome.moved <= pages(on(1)), "call {which}");
            // What was refused can be moved on, or back.
            for to in [1, 0] {
                let host = Host::new(&[(0, 500), (1, 500)], None);
                let again: Vec<Region> = regions
                    .iter()
                    .map(|region| Region {
                        host: Rc::clone(&host),
                        pages: region.pages.clone(),
                        pinned: BTreeSet::new(),
                        held: BTreeSet::new(),
                        policy: region.policy.clone(),
                        bound: RefCell::default(),
                    })
                    .collect();
                let job = MemoryMove { from: outcome.policy_on.clone(), ..ask(0, &[], &[to]) };
                let (end, error) = alone(&again, &job);
                assert!(error.is_none() && end.elsewhere.is_empty());
                assert_eq!(again.iter().map(|r| r.on().values().sum::<usize>()).sum::<usize>(), 140);
                assert!(again.iter().all(|region| region.on().keys().eq([&to])));
            }
            which += 1;
        }
    }
}

#[test]
fn a_cancel_is_heard_between_chunks_and_the_rest_can_follow_or_come_back() {
    let host = Host::new(&[(0, 0), (1, 500)], None);
    let regions = [Region::new(&host, 100, 0)];
    let progress = MoveProgress::default();
    *host.cancel.borrow_mut() = Some((3, progress.cancel.clone()));
    let job = ask(0, &[0], &[1]);
    let (outcome, error) =
        carry_out(&[(&regions, job.clone())], MigrationMode::Sequential, None, &progress).remove(0);
    // A chunk of 64 MiB is 32 of these pages.
    assert!(error.is_none() && outcome.cancelled);
    assert_eq!((outcome.moved, outcome.policy_on.clone()), (pages(32), set(&[1])));
    assert_eq!(progress.seen.load(Ordering::Relaxed), pages(32).get());
    assert_eq!(outcome.elsewhere, [(PnodeId(0), pages(68))].into());
    *host.cancel.borrow_mut() = None;
    let (outcome, _) = alone(&regions, &ask(0, &[1], &[1]));
    assert_eq!((outcome.moved, outcome.elsewhere), (pages(68), BTreeMap::new()));
    let (outcome, _) = alone(&regions, &ask(0, &[1], &[0]));
    assert_eq!((outcome.moved, outcome.elsewhere), (pages(100), BTreeMap::new()));
}

#[test]
fn a_vm_that_ends_does_not_wait_for_its_memory_to_be_measured() {
    let host = Host::new(&[(0, 0), (1, 500)], None);
    let regions = [Region::new(&host, 100, 0)];
    let progress = MoveProgress::default();
    progress.abandoned.store(true, Ordering::Relaxed);
    // From the first look at pages on.
    *host.cancel.borrow_mut() = Some((1, progress.cancel.clone()));
    let (outcome, error) =
        carry_out(&[(&regions, ask(0, &[0], &[1]))], MigrationMode::Sequential, None, &progress).remove(0);
    assert!(error.is_none() && outcome.cancelled);
    assert_eq!((outcome.moved, outcome.elsewhere), (pages(32), BTreeMap::new()));
    // The chunk under way is looked at before and after, and that is all.
    assert_eq!(*host.names.borrow(), ["mbind", "locate", "move_pages", "locate"]);
}

#[test]
fn the_bandwidth_limit_is_kept() {
    let host = Host::new(&[(1, 500)], None);
    let regions = [Region::new(&host, 96, 0)];
    let started = Instant::now();
    // 192 MiB at 960 MiB/s.
    let limit = Some(Bytes::mib(960));
    carry_out(&[(&regions, ask(0, &[0], &[1]))], MigrationMode::Sequential, limit, &MoveProgress::default());
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(199), "{took:?}");
}

#[test]
fn vnodes_on_full_nodes_change_places_through_what_little_room_there_is() {
    for (a, b, room) in [(100, 100, 1), (100, 40, 3), (1, 90, 1), (64, 64, 32)] {
        let host = Host::new(&[(0, room), (1, room + a.max(b) - b)], None);
        host.room.borrow_mut().insert(0, room + a.max(b) - a);
        let (one, two) = ([Region::new(&host, a, 0)], [Region::new(&host, b, 1)]);
        let progress = MoveProgress::default();
        let moved = carry_out(
            &[(&one, ask(0, &[0], &[1])), (&two, ask(1, &[1], &[0]))],
            MigrationMode::Exchange,
            None,
            &progress,
        );
        for ((outcome, error), (regions, to)) in moved.iter().zip([(&one, 1), (&two, 0)]) {
            assert!(error.is_none() && outcome.left.is_empty(), "{outcome:?}");
            assert!(regions[0].on().keys().eq([&to]));
            assert_eq!(*regions[0].policy.borrow(), (Mode::Bind, mask(&set(&[to]))));
        }
    }
}

#[test]
fn an_exchange_without_any_room_moves_nothing_and_says_so() {
    let host = Host::new(&[(0, 0), (1, 0)], None);
    let (one, two) = ([Region::new(&host, 50, 0)], [Region::new(&host, 50, 1)]);
    let jobs = [(&one[..], ask(0, &[0], &[1])), (&two[..], ask(1, &[1], &[0]))];
    for (outcome, error) in carry_out(&jobs, MigrationMode::Exchange, None, &MoveProgress::default()) {
        assert!(error.is_none());
        assert_eq!((outcome.moved, outcome.left), (Bytes::ZERO, [(libc::ENOMEM, pages(50))].into()));
        assert_eq!((outcome.policy_on, outcome.elsewhere), (set(&[0, 1]), BTreeMap::new()));
    }
    assert!(
        [&one, &two].iter().all(|regions| *regions[0].policy.borrow() == (Mode::Bind, mask(&set(&[0, 1]))))
    );
}

#[test]
fn an_exchange_that_fails_at_any_call_leaves_both_vnodes_told_truly() {
    let mut which = 0;
    loop {
        let host = Host::new(&[(0, 5), (1, 5)], Some((which, libc::ENODEV)));
        let (one, two) = ([Region::new(&host, 50, 0)], [Region::new(&host, 50, 1)]);
        let jobs = [(&one[..], ask(0, &[0], &[1])), (&two[..], ask(1, &[1], &[0]))];
        let moved = carry_out(&jobs, MigrationMode::Exchange, None, &MoveProgress::default());
        if moved.iter().all(|(_, error)| error.is_none()) {
            break;
        }
        for ((outcome, error), regions) in moved.iter().zip([&one, &two]) {
            assert!(error.is_some() || outcome.cancelled || outcome.left.is_empty());
            let (mode, nodes) = regions[0].policy.borrow().clone();
            // Unless mbind itself failed last, the vnode is bound again, to what is told.
            if host.names.borrow()[which] != "mbind" {
                assert_eq!((mode, nodes), (Mode::Bind, mask(&outcome.policy_on)), "call {which}");
            }
            assert_eq!(regions[0].on().values().sum::<usize>(), 50);
        }
        which += 1;
    }
    assert!(which > 20, "{which}");
}

#[test]
fn parts_of_a_bound_vnode_go_each_to_its_pnode_and_back() {
    let host = Host::new(&[(0, 0), (1, 20), (2, 20)], None);
    let regions = [Region::new(&host, 6, 0), Region::new(&host, 4, 0)];
    let part = |pnode, pages: usize| MemoryPart { pnode: PnodeId(pnode), size: Bytes((pages * PAGE) as u64) };
    let parts = vec![part(1, 7), part(2, 3)];
    let there = MemoryMove { parts_to: parts.clone(), ..ask(0, &[0], &[1, 2]) };
    let (outcome, error) = alone(&regions, &there);
    assert!(error.is_none() && outcome.left.is_empty() && outcome.elsewhere.is_empty());
    assert_eq!(
        regions.each_ref().map(Region::on),
        [BTreeMap::from([(1, 6)]), BTreeMap::from([(1, 1), (2, 3)])]
    );
    let bound = |region: &Region| region.bound.borrow_mut().drain(..).collect::<Vec<_>>();
    assert_eq!(bound(&regions[0]), [(0..6 * PAGE, mask(&set(&[1])))]);
    assert_eq!(bound(&regions[1]), [(0..PAGE, mask(&set(&[1]))), (PAGE..4 * PAGE, mask(&set(&[2])))]);
    // Parts of other sizes: what is on a pnode of the vnode, but not on that of its part, moves too.
    let other = vec![part(1, 2), part(2, 8)];
    let shift = MemoryMove { parts_from: parts.clone(), parts_to: other.clone(), ..ask(0, &[1, 2], &[1, 2]) };
    let (outcome, _) = alone(&regions, &shift);
    assert_eq!(outcome.moved, Bytes((5 * PAGE) as u64));
    assert_eq!(
        regions.each_ref().map(Region::on),
        [BTreeMap::from([(1, 2), (2, 4)]), BTreeMap::from([(2, 4)])]
    );
    // Together again.
    let back = MemoryMove { parts_from: other, ..ask(0, &[1, 2], &[0]) };
    let (outcome, _) = alone(&regions, &back);
    assert_eq!((outcome.moved, outcome.policy_on), (Bytes((10 * PAGE) as u64), set(&[0])));
}
