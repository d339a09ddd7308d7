//! No interleaving of two VMs that release, take back, reset, end and start overbooks a pnode.

use super::{Lease, room_for};
use crate::host::HostTopology;
use crate::ids::PnodeId;
use crate::ledger::{Claim, Ledger, NodeClaim};
use crate::reclaim::BALLOON_PAGE;
use crate::spec::{PageSize, VmSpec, VnodeSpec};
use crate::test_host::HostShape;
use crate::topology::{VmTopology, Vnode};
use crate::units::Bytes;
use proptest::prelude::*;

const P: PnodeId = PnodeId(0);
const POOL: Bytes = Bytes::mib(2);
/// What the pnode has to promise.
const ALL: Bytes = Bytes::mib(64);

#[test]
fn what_the_guest_may_use_is_claimed() {
    let mib = Bytes::mib;
    let mut lease = Lease::default();
    assert_eq!((lease.release(mib(9)), lease.releasable()), (mib(0), mib(0)));
    lease.came_out(mib(10));
    assert_eq!((lease.release(mib(8)), lease.released(), lease.releasable()), (mib(8), mib(8), mib(2)));
    // What is out and was not released is the guest's for the asking.
    assert!(lease.go_back(mib(2)));
    assert!(!lease.go_back(mib(1)));
    assert_eq!((lease.wanted(), lease.releasable()), (mib(1), mib(0)));
    lease.claimed(mib(3));
    assert_eq!((lease.wanted(), lease.released()), (mib(0), mib(5)));
    assert!(lease.go_back(mib(1)));
    // All but 7 MiB of 7 is released: with the driver gone those are wanted too.
    assert!(!lease.all_back());
    assert_eq!((lease.wanted(), lease.release(mib(1))), (mib(5), mib(0)));
    lease.claimed(mib(5));
    assert!(lease.all_back());
    assert_eq!((lease.released(), lease.releasable()), (mib(0), mib(0)));
}

#[test]
fn what_was_out_of_a_driver_that_is_reset_is_owed_until_it_is_claimed_or_out_again() {
    let mib = Bytes::mib;
    let mut lease = Lease::default();
    lease.came_out(mib(10));
    lease.release(mib(8));
    assert_eq!(lease.owed(), mib(0));
    lease.forget();
    assert_eq!((lease.owed(), lease.wanted(), lease.release(mib(1))), (mib(8), mib(8), mib(0)));
    lease.claimed(mib(3));
    assert_eq!((lease.owed(), lease.released()), (mib(5), mib(5)));
    // The next driver gives some of it again, and waits for what it wants back of that.
    lease.came_out(mib(4));
    assert_eq!(lease.owed(), mib(1));
    assert!(!lease.go_back(mib(2)));
    assert_eq!(lease.wanted(), mib(3));
    lease.claimed(mib(3));
    assert!(lease.go_back(mib(2)));
    assert_eq!((lease.owed(), lease.wanted(), lease.released()), (mib(0), mib(0), mib(2)));
}

#[test]
fn what_a_vnode_booted_without_stays_released() {
    let mib = Bytes::mib;
    let mut lease = Lease::new(mib(6), mib(8));
    lease.came_out(mib(4));
    assert!(lease.go_back(mib(4)));
    assert_eq!((lease.releasable(), lease.release(mib(9))), (mib(2), mib(2)));
}

fn vnode(pages: PageSize) -> Vnode {
    let vnode =
        VnodeSpec { memory: Some(ALL), vcpus: "0".parse().ok(), pages: Some(pages), ..VnodeSpec::new(0) };
    let spec = VmSpec { numa: vec![vnode], ..VmSpec::default() };
    VmTopology::try_from(&spec).unwrap().vnodes()[0].clone()
}

#[test]
fn room_is_what_is_free_and_promised_to_nobody() {
    let host = HostShape::new(1).free(0, Bytes::gib(1), Bytes::ZERO).pool(0, POOL, 9, 5).topology();
    let available = host.pnodes()[0].available();
    let mut ledger = Ledger::new();
    let promised = NodeClaim {
        memory: available.saturating_sub(Bytes::mib(3)),
        huge_pages: [(POOL, 3)].into(),
        ..NodeClaim::default()
    };
    ledger.add(&Claim { pnodes: [(P, promised)].into() }, &Claim::default());
    let room = |pages, most| room_for(&vnode(pages), P, &host, &ledger, most);
    let page = BALLOON_PAGE.get();
    assert_eq!(room(PageSize::Small, Bytes::mib(9)), Bytes(Bytes::mib(3).get() / page * page));
    assert_eq!(room(PageSize::Thp, Bytes::mib(1)), Bytes::mib(1));
    assert_eq!(room(PageSize::Huge2M, Bytes::mib(9)), Bytes::mib(4));
    assert_eq!(room(PageSize::Huge2M, Bytes::mib(3)), Bytes::mib(2));
}

/// One VM with one vnode, as its device, its control and the host see it.
#[derive(Debug)]
struct Vm {
    memory: Bytes,
    claim: Bytes,
    /// What the host has given it.
    resident: Bytes,
    out: Bytes,
    lease: Lease,
    /// Released by the lease, not taken off the claim yet.
    lowering: Bytes,
    /// Claimed, and the lease does not know.
    grown: Bytes,
    resetting: bool,
}

impl Vm {
    /// What is owed is watched over.
    fn usable(&self) -> Bytes {
        self.memory.saturating_sub(self.out).saturating_sub(self.lease.owed())
    }

    fn as_claim(bytes: Bytes) -> Claim {
        Claim { pnodes: [(P, NodeClaim { memory: bytes, ..NodeClaim::default() })].into() }
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Start(u64),
    Touch(u64),
    /// Pages come out; of the second part of them the host had memory.
    Inflate(u64, u64),
    Deflate(u64),
    Release(u64),
    Lower,
    ClaimBack(u64),
    Learn,
    /// Of a pool: it waits.
    ResetDevice,
    /// Of other memory.
    Forget,
    Kill,
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let pages = || 0_u64..24;
    let step = prop_oneof![
        2 => pages().prop_map(Step::Start),
        3 => pages().prop_map(Step::Touch),
        4 => (pages(), pages()).prop_map(|(some, had)| Step::Inflate(some, had)),
        4 => pages().prop_map(Step::Deflate),
        4 => pages().prop_map(Step::Release),
        4 => Just(Step::Lower),
        4 => pages().prop_map(Step::ClaimBack),
        4 => Just(Step::Learn),
        1 => Just(Step::ResetDevice),
        1 => Just(Step::Forget),
        1 => Just(Step::Kill),
    ];
    (0_usize..2, step)
}

#[derive(Default)]
struct World {
    vms: [Option<Vm>; 2],
}

impl World {
    fn sum(&self, of: impl Fn(&Vm) -> Bytes) -> Bytes {
        self.vms.iter().flatten().fold(Bytes::ZERO, |sum, vm| sum.saturating_add(of(vm)))
    }

    /// The host as its kernel tells it.
    fn host(&self) -> HostTopology {
        let reserve = HostShape::new(1).topology().pnodes()[0].memory_kept;
        let free = ALL.saturating_add(reserve).saturating_sub(self.sum(|vm| vm.resident));
        HostShape::new(1).free(0, free, Bytes::ZERO).topology()
    }

    fn room(&self, most: Bytes) -> Bytes {
        let mut ledger = Ledger::new();
        let vms = self.vms.iter().flatten();
        vms.for_each(|vm| ledger.add(&Vm::as_claim(vm.claim), &Vm::as_claim(vm.resident)));
        room_for(&vnode(PageSize::Small), P, &self.host(), &ledger, most)
    }

    fn carry_out(&mut self, at: usize, step: Step) {
        let pages = |count: u64| Bytes(count << 20);
        if let Step::Start(count) = step {
            let memory = pages(count * 2);
            if self.vms[at].is_none() && self.room(memory) == memory {
                self.vms[at] = Some(Vm {
                    memory,
                    claim: memory,
                    resident: Bytes::ZERO,
                    out: Bytes::ZERO,
                    lease: Lease::default(),
                    lowering: Bytes::ZERO,
                    grown: Bytes::ZERO,
                    resetting: false,
                });
            }
            return;
        }
        let back = match (step, &self.vms[at]) {
            (Step::ClaimBack(ahead), Some(vm)) => {
                let wanted = vm.lease.wanted();
                let most = wanted.saturating_add(pages(ahead)).min(vm.lease.released());
                // One at a time, and as long as a release is under way nobody claims.
                let idle = vm.grown == Bytes::ZERO && vm.lowering == Bytes::ZERO;
                if wanted > Bytes::ZERO && idle { self.room(most) } else { Bytes::ZERO }
            }
            _ => Bytes::ZERO,
        };
        let Some(vm) = &mut self.vms[at] else { return };
        match step {
            Step::Start(_) => {}
            Step::Touch(count) => {
                vm.resident = vm.resident.saturating_add(pages(count)).min(vm.usable());
            }
            Step::Inflate(some, had) if !vm.resetting => {
                let some = pages(some).min(vm.usable());
                vm.out = vm.out.saturating_add(some);
                vm.resident = vm.resident.saturating_sub(pages(had).min(some)).min(vm.usable());
                vm.lease.came_out(some);
            }
            Step::Deflate(count) if !vm.resetting => {
                let some = pages(count).min(vm.out);
                if vm.lease.go_back(some) {
                    vm.out = vm.out.saturating_sub(some);
                }
            }
            Step::ResetDevice => {
                vm.resetting = !vm.lease.all_back();
                if !vm.resetting {
                    vm.out = Bytes::ZERO;
                }
            }
            Step::Forget if !vm.resetting => {
                vm.lease.forget();
                vm.out = Bytes::ZERO;
            }
            Step::Inflate(..) | Step::Deflate(_) | Step::Forget => {}
            Step::Release(most) if vm.lowering == Bytes::ZERO && vm.grown == Bytes::ZERO => {
                vm.lowering = vm.lease.release(pages(most));
            }
            Step::Release(_) => {}
            Step::Lower => {
                vm.claim = vm.claim.saturating_sub(vm.lowering);
                vm.lowering = Bytes::ZERO;
            }
            Step::ClaimBack(_) => {
                vm.claim = vm.claim.saturating_add(back);
                vm.grown = vm.grown.saturating_add(back);
            }
            Step::Learn => {
                vm.lease.claimed(vm.grown);
                vm.grown = Bytes::ZERO;
                if vm.resetting && vm.lease.all_back() {
                    (vm.out, vm.resetting) = (Bytes::ZERO, false);
                }
            }
            Step::Kill => self.vms[at] = None,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_interleaving_of_two_vms_overbooks_a_pnode(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::default();
        for (at, step) in steps {
            world.carry_out(at, step);
            for vm in world.vms.iter().flatten() {
                prop_assert!(vm.resident <= vm.usable() && vm.usable() <= vm.claim, "{:?} after {:?}", vm, step);
                prop_assert!(vm.claim <= vm.memory, "{:?} after {:?}", vm, step);
            }
            // Whatever its guests do next, the pnode has it.
            prop_assert!(world.sum(|vm| vm.claim) <= ALL, "{:?} after {:?}", world.vms, step);
        }
    }

    /// What was claimed once more than the guest wanted is released again, and a guest that waits goes on as soon as
    /// there is room.
    #[test]
    fn a_guest_that_waits_goes_on_when_there_is_room(out in 1_u64..64, released in 1_u64..64, back in 1_u64..64) {
        let mut lease = Lease::default();
        lease.came_out(Bytes::mib(out));
        let released = lease.release(Bytes::mib(released));
        let back = Bytes::mib(back.min(out));
        if !lease.go_back(back) {
            prop_assert!(lease.wanted() <= released && lease.wanted() <= back);
            lease.claimed(lease.wanted());
            prop_assert!(lease.go_back(back));
        }
        prop_assert!(lease.released() <= Bytes::mib(out).saturating_sub(back));
    }
}
