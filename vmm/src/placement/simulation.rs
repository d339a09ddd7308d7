//! Changes of where vnodes are, against a host that is a table and fails at any of its calls, also while a change is undone.
//! Afterwards owner, kernel, claim and view say the same.

use super::claim::{ClaimRecord, Page, Record};
use super::{HostThreads, Made, MoveEnd, PlacementOwner, Seen, Turn, memory_of};
use crate::claims::{ClaimsError, Survey};
use crate::handle::{Shared, VmState};
use crate::memory::{MemoryMove, MigrationMode, MoveProgress, Pages, move_regions};
use crate::sys::{HostError, Mode, NodeMask, PageStatus};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use resources::replacement::{Mover, ReplacementError, rehome, replace};
use resources::test_host::HostShape;
use resources::{
    Affinity, Bytes, Claim, CpuSet, HostTopology, Ledger, NodeClaim, NodeSet, Plan, PnodeId, VcpuId, VmSpec,
    VnodeId, VnodePlacement, VnodeSpec,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

const PNODES: u32 = 4;
const VNODES: u32 = 3;
const PAGE: usize = 2 << 20;
/// Of each vnode.
const PAGES: usize = 4;
const ERRNOS: [i32; 4] = [libc::EPERM, libc::EINVAL, libc::ENOMEM, libc::ESRCH];

/// What the kernel and the claims directory have.
#[derive(Debug, Default)]
struct Table {
    vcpus: BTreeMap<VcpuId, CpuSet>,
    workers: BTreeMap<VnodeId, CpuSet>,
    policies: BTreeMap<VnodeId, Option<NodeMask>>,
    pages: BTreeMap<VnodeId, Vec<PnodeId>>,
    /// What is claimed and released, as others read it.
    record: (Claim, Claim),
    calls: usize,
    /// Which calls fail, counted from 0, and how.
    faults: BTreeMap<usize, i32>,
    /// Those that did.
    failed: Vec<&'static str>,
}

#[derive(Debug, Clone)]
struct Host(Arc<Mutex<Table>>);

impl Host {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap()
    }

    /// The table for a call, unless that fails.
    fn call(&self, name: &'static str) -> Result<MutexGuard<'_, Table>, HostError> {
        let mut table = self.table();
        table.calls += 1;
        let Some(errno) = table.faults.get(&(table.calls - 1)).copied() else { return Ok(table) };
        table.failed.push(name);
        Err(HostError::new(name, io::Error::from_raw_os_error(errno)))
    }
}

impl HostThreads for Host {
    fn set_vcpu(&self, vcpu: VcpuId, cpus: &CpuSet) -> Result<(), HostError> {
        self.call("sched_setaffinity")?.vcpus.insert(vcpu, cpus.clone());
        Ok(())
    }

    fn vcpu(&self, vcpu: VcpuId) -> Result<CpuSet, HostError> {
        Ok(self.table().vcpus[&vcpu].clone())
    }

    fn set_workers(&self, vnode: VnodeId, cpus: &CpuSet) -> Result<(), HostError> {
        self.call("sched_setaffinity")?.workers.insert(vnode, cpus.clone());
        Ok(())
    }

    fn workers(&self, vnode: VnodeId) -> CpuSet {
        self.table().workers[&vnode].clone()
    }
}

fn refused(error: HostError) -> ClaimsError {
    ClaimsError::Io { path: "claims".into(), call: error.call, source: error.source }
}

impl ClaimRecord for Host {
    fn others(&self, _: &Survey) -> Ledger {
        Ledger::new()
    }

    fn open(&mut self, _: &Survey) -> Result<Box<dyn Page + '_>, ClaimsError> {
        self.call("fcntl").map(drop).map_err(refused)?;
        Ok(Box::new(self.clone()))
    }
}

impl Page for Host {
    fn changed(&self) -> Option<Ledger> {
        None
    }

    fn write(self: Box<Self>, claim: &Claim, released: &Claim) -> Result<(), ClaimsError> {
        self.call("rename").map_err(refused)?.record = (claim.clone(), released.clone());
        Ok(())
    }
}

/// The memory of a vnode.
struct Region {
    host: Host,
    vnode: VnodeId,
}

impl Pages for Region {
    fn size(&self) -> usize {
        PAGES * PAGE
    }

    fn page(&self) -> usize {
        PAGE
    }

    fn in_blocks(&self) -> bool {
        false
    }

    fn set_policy(&self, _: Range<usize>, _: Mode, nodes: &NodeMask) -> Result<(), HostError> {
        self.host.call("mbind")?.policies.insert(self.vnode, Some(nodes.clone()));
        Ok(())
    }

    fn policy_nodes(&self, _: usize) -> Option<NodeSet> {
        self.host.table().policies[&self.vnode].as_ref().map(NodeMask::nodes)
    }

    fn locate(&self, offsets: &[usize]) -> Result<Vec<PageStatus>, HostError> {
        let table = self.host.call("move_pages")?;
        let pages = &table.pages[&self.vnode];
        Ok(offsets.iter().map(|offset| PageStatus::On(pages[offset / PAGE])).collect())
    }

    fn relocate(&self, offsets: &[usize], nodes: &[PnodeId]) -> Result<Vec<PageStatus>, HostError> {
        let mut table = self.host.call("move_pages")?;
        for (offset, node) in offsets.iter().zip(nodes) {
            if let Some(pages) = table.pages.get_mut(&self.vnode) {
                pages[offset / PAGE] = *node;
            }
        }
        Ok(nodes.iter().copied().map(PageStatus::On).collect())
    }
}

/// Something that is asked of a VM.
#[derive(Debug, Clone)]
enum Change {
    Affinity(u32, u32),
    Rehome(u32, u32, Affinity),
    /// Vnodes and where they go. What is cancelled is so before the first page.
    Move {
        to: Vec<(u32, u32)>,
        mode: MigrationMode,
        cancelled: bool,
        guest_ends: bool,
    },
    Release(u32),
    ClaimBack(u32),
}

#[derive(Debug)]
enum Refused {
    Host,
    Claims,
    Nowhere,
}

impl From<ClaimsError> for Refused {
    fn from(_: ClaimsError) -> Self {
        Self::Claims
    }
}

impl From<HostError> for Refused {
    fn from(_: HostError) -> Self {
        Self::Host
    }
}

impl From<ReplacementError> for Refused {
    fn from(_: ReplacementError) -> Self {
        Self::Nowhere
    }
}

/// A VM on it.
struct World {
    host: Host,
    topology: HostTopology,
    plan: Arc<Plan>,
    shared: Arc<Shared>,
}

impl World {
    fn new() -> Self {
        let topology = HostShape::new(PNODES).topology();
        let vnode = |id: u32| VnodeSpec {
            memory: Some(Bytes((PAGES * PAGE) as u64)),
            vcpus: format!("{}-{}", 2 * id, 2 * id + 1).parse().ok(),
            pnode: id.to_string().parse().ok(),
            ..VnodeSpec::new(id)
        };
        let spec = VmSpec { numa: (0..VNODES).map(vnode).collect(), ..VmSpec::default() };
        let plan = Arc::new(Plan::new(&spec, &topology).unwrap());
        let mut table =
            Table { record: (plan.placement.claim.clone(), Claim::default()), ..Table::default() };
        for at in &plan.placement.vnodes {
            table.vcpus.extend(at.vcpus.clone());
            table.workers.insert(at.vnode, at.cpus.clone());
            table.policies.insert(at.vnode, NodeMask::new(&at.pnodes));
            table.pages.insert(at.vnode, vec![at.pnodes.first().unwrap(); PAGES]);
        }
        let host = Host(Arc::new(Mutex::new(table)));
        let written = host.table().record.clone();
        let record = Record { file: Some(Box::new(host.clone())), written };
        let owner = PlacementOwner::with_record(record, None, plan.placement.clone());
        let shared = Shared::new(&plan, None, owner);
        let threads = plan.topology.vcpus().map(|(vcpu, _)| (vcpu, 100)).collect();
        shared.show(VmState::Running, threads);
        Self { host, topology, plan, shared }
    }

    fn owner(&self) -> &PlacementOwner {
        &self.shared.placement
    }

    fn residency(&self, vnode: VnodeId) -> BTreeMap<PnodeId, Bytes> {
        let mut on = BTreeMap::new();
        for pnode in &self.host.table().pages[&vnode] {
            let bytes: &mut Bytes = on.entry(*pnode).or_default();
            *bytes = bytes.saturating_add(Bytes(PAGE as u64));
        }
        on
    }

    fn carry_out(&self, change: &Change) -> Result<(), Refused> {
        let vnode = VnodeId;
        match change {
            Change::Affinity(vcpu, cpu) => {
                let cpus = CpuSet::one((*cpu).into());
                Ok(self.owner().set_affinity(&self.host, VcpuId(*vcpu), cpus).unwrap()?)
            }
            Change::Rehome(id, home, affinity) => {
                let (now, home) = (self.owner().at(vnode(*id)).unwrap(), NodeSet::one(PnodeId(*home)));
                let decide = |ledger: &Ledger| {
                    let wanted = (*affinity, &home);
                    let to = rehome(&self.plan.topology, &self.topology, &now, wanted, ledger)?;
                    Ok(vec![(to.clone(), to.claim)])
                };
                let make = |to: Vec<VnodePlacement>| {
                    to.into_iter().try_for_each(|to| self.owner().rehome(&self.host, to))?;
                    Ok(Made::Done(()))
                };
                let moving = BTreeMap::from([(vnode(*id), Vec::new())]);
                self.owner().turn().change(Seen::default(), &moving, decide, make)
            }
            Change::Move { to, mode, cancelled, guest_ends } => {
                let moves = self.start(to)?;
                let moved = self.move_memory(&moves, *mode, *cancelled);
                let end = |((_, to), (outcome, error)): (&(MemoryMove, VnodePlacement), _)| {
                    let error: &Option<HostError> = error;
                    let vnode = self.plan.topology.vnode(to.vnode);
                    MoveEnd::new(vnode, to.clone(), outcome, error.is_none())
                };
                let ends = moves.iter().zip(moved.iter().map(|(o, e)| (o, e))).map(end).collect();
                let note =
                    |ends: Vec<MoveEnd>| (!guest_ends).then(|| self.owner().memory_moved(&self.host, &ends));
                self.owner().turn().end_moves(ends, note);
                if *guest_ends {
                    self.reset();
                }
                Ok(())
            }
            Change::Release(id) => {
                let mut turn = self.owner().turn();
                let (own, released) = (turn.of(vnode(*id)), turn.released(vnode(*id)));
                let mut on = own.pnodes.iter().filter(|(_, node)| node.memory > Bytes::ZERO);
                match (on.next(), on.next()) {
                    (Some((pnode, _)), None) if released.total().memory == Bytes::ZERO => {
                        Ok(turn.release(vnode(*id), &self.some_pages(*pnode))?)
                    }
                    _ => Err(Refused::Nowhere),
                }
            }
            Change::ClaimBack(id) => {
                let mut turn = self.owner().turn();
                let released = turn.released(vnode(*id));
                let Some(pnode) = released.pnodes.keys().next().copied() else {
                    return Err(Refused::Nowhere);
                };
                Self::claim_back(&mut turn, vnode(*id), pnode)
            }
        }
    }

    fn claim_back(turn: &mut Turn<'_>, vnode: VnodeId, pnode: PnodeId) -> Result<(), Refused> {
        let all = turn.released(vnode).pnodes.remove(&pnode).unwrap_or_default();
        turn.claim_back(Seen::default(), (vnode, pnode), |_| {
            Ok(NodeClaim { memory: all.memory, ..all.clone() })
        })
    }

    fn some_pages(&self, pnode: PnodeId) -> Claim {
        let vnode = &self.plan.topology.vnodes()[0];
        Claim { pnodes: [(pnode, memory_of(vnode, Bytes(PAGE as u64)))].into() }
    }

    /// Claims room at the new places.
    fn start(&self, to: &[(u32, u32)]) -> Result<Vec<(MemoryMove, VnodePlacement)>, Refused> {
        let vnodes: Vec<VnodeId> = to.iter().map(|(vnode, _)| VnodeId(*vnode)).collect();
        let moving = vnodes.iter().map(|vnode| (*vnode, Vec::new())).collect();
        let decide = |ledger: &Ledger| {
            let place = |(vnode, pnode): &(u32, u32)| {
                let (vnode, pnode) = (VnodeId(*vnode), NodeSet::one(PnodeId(*pnode)));
                let affinity = self.owner().at(vnode).unwrap().affinity;
                let residency = &self.residency(vnode);
                let mover = Mover { vnode, affinity, residency, ledger };
                let to = replace(&self.plan.topology, &self.topology, &mover, &pnode)?;
                Ok((to.clone(), to.claim))
            };
            to.iter().map(place).collect()
        };
        self.owner().turn().change(Seen::default(), &moving, decide, |to| {
            let planned = |to: VnodePlacement| {
                let from = self.owner().at(to.vnode).unwrap();
                let vnode = self.plan.topology.vnode(to.vnode).unwrap();
                (MemoryMove::between(&from, &to, vnode.policy), to)
            };
            Ok(Made::Started(to.into_iter().map(planned).collect()))
        })
    }

    fn move_memory(
        &self,
        moves: &[(MemoryMove, VnodePlacement)],
        mode: MigrationMode,
        cancelled: bool,
    ) -> Vec<crate::memory::Moved> {
        let jobs: Vec<MemoryMove> = moves.iter().map(|(job, _)| job.clone()).collect();
        let regions: Vec<Region> =
            jobs.iter().map(|job| Region { host: self.host.clone(), vnode: job.vnode }).collect();
        let progress: Vec<Arc<MoveProgress>> = jobs.iter().map(|_| Arc::default()).collect();
        for progress in &progress {
            progress.cancel.store(cancelled, std::sync::atomic::Ordering::Relaxed);
        }
        move_regions(regions.iter().map(|region| vec![region]).collect(), &jobs, mode, None, &progress)
    }

    /// The guest starts again: memory is let go, and taken under the policies of the places.
    fn reset(&self) {
        let placement = self.owner().placement();
        let vnodes: Vec<VnodeId> = placement.vnodes.iter().map(|at| at.vnode).collect();
        self.owner().turn().give_back(&vnodes);
        let mut table = self.host.table();
        for at in placement.vnodes {
            table.policies.insert(at.vnode, NodeMask::new(&at.pnodes));
            table.pages.insert(at.vnode, vec![at.pnodes.first().unwrap(); PAGES]);
        }
    }

    /// Everything says the same. A claim that could not be written may be larger than what is needed, never smaller.
    fn check(&self) {
        let view = self.shared.view();
        let turn = self.owner().turn();
        let table = self.host.table();
        let threads: BTreeMap<VcpuId, CpuSet> =
            view.vcpus.iter().map(|vcpu| (vcpu.id, vcpu.affinity.clone())).collect();
        assert_eq!(threads, table.vcpus);
        let (mut claimed, mut released) = (Vec::new(), Vec::new());
        for at in &view.placement.vnodes {
            assert!(at.vcpus.iter().all(|(vcpu, cpus)| table.vcpus[vcpu] == *cpus), "{at:?}");
            assert_eq!(at.cpus, table.workers[&at.vnode]);
            assert_eq!(table.policies[&at.vnode], NodeMask::new(&at.pnodes), "{at:?}");
            let own = turn.of(at.vnode);
            for pnode in table.pages[&at.vnode].iter().copied().chain(at.pnodes.iter()) {
                assert!(own.pnodes.get(&pnode).is_some_and(|node| node.memory > Bytes::ZERO), "{at:?}");
            }
            assert_eq!(own, at.claim, "nothing is under way");
            released.push(turn.released(at.vnode));
            claimed.push(at.claim.less(&turn.released(at.vnode)));
        }
        assert_eq!(view.placement.claim, view.placement.vnodes.iter().map(|at| &at.claim).sum());
        let (claimed, released): (Claim, Claim) = (claimed.iter().sum(), released.iter().sum());
        if table.failed.iter().any(|call| ["fcntl", "rename"].contains(call)) {
            assert_eq!(table.record.0.clone().at_least(&claimed), table.record.0);
        } else {
            assert_eq!(table.record, (claimed, released));
        }
    }
}

fn changes() -> impl Strategy<Value = Change> {
    let (vnode, pnode) = (0..VNODES, 0..PNODES);
    let affinity = prop_oneof![Just(Affinity::Hard), Just(Affinity::Soft), Just(Affinity::None)];
    let mode = prop_oneof![Just(MigrationMode::Sequential), Just(MigrationMode::Exchange)];
    let to = proptest::collection::btree_map(vnode.clone(), pnode.clone(), 1..=VNODES as usize);
    let to = to.prop_map(|to| to.into_iter().collect());
    let ends = prop_oneof![3 => Just((false, false)), 1 => Just((true, false)), 1 => Just((true, true))];
    prop_oneof![
        (0..2 * VNODES, 0..2 * PNODES).prop_map(|(vcpu, cpu)| Change::Affinity(vcpu, cpu)),
        (vnode.clone(), pnode, affinity).prop_map(|(vnode, pnode, how)| Change::Rehome(vnode, pnode, how)),
        (to, mode, ends).prop_map(|(to, mode, (cancelled, guest_ends))| Change::Move {
            to,
            mode,
            cancelled,
            guest_ends
        }),
        vnode.clone().prop_map(Change::Release),
        vnode.prop_map(Change::ClaimBack),
    ]
}

/// Carries out the last change after the others, with these calls of it failing; whether there were so many calls.
fn with_faults(before: &[Change], change: &Change, faults: &[usize], errno: i32) -> bool {
    let world = World::new();
    for change in before {
        let _ = world.carry_out(change);
        world.check();
    }
    {
        let mut table = world.host.table();
        table.calls = 0;
        table.faults = faults.iter().map(|call| (*call, errno)).collect();
    }
    let _ = world.carry_out(change);
    let reached = {
        let mut table = world.host.table();
        table.faults.clear();
        faults.iter().any(|call| *call < table.calls)
    };
    world.check();
    // With the next change all is told to others.
    world.reset();
    world.host.table().failed.clear();
    world.check();
    reached
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whichever_calls_fail_owner_kernel_claim_and_view_say_the_same(
        before in proptest::collection::vec(changes(), 0..4),
        change in changes(),
        errno in (0..ERRNOS.len()).prop_map(|at| ERRNOS[at]),
        further in any::<u8>(),
    ) {
        let mut first = 0;
        // Each call alone, then with the next ones, which undo what was done.
        while with_faults(&before, &change, &[first], errno) {
            for length in 2..4 {
                with_faults(&before, &change, &(first..first + length).collect::<Vec<_>>(), errno);
            }
            let far = first + 2 + usize::from(further % 16);
            with_faults(&before, &change, &[first, far], errno);
            first += 1;
        }
    }
}

#[test]
fn a_change_that_is_undone_leaves_nothing_behind() {
    let rehome = Change::Rehome(0, 3, Affinity::Hard);
    let world = World::new();
    world.carry_out(&rehome).unwrap();
    let calls = world.host.table().calls;
    // Claim: lock and write; two vCPUs and the workers; lock and write.
    assert_eq!(calls, 7);
    for fails in 0..5 {
        let world = World::new();
        let before = world.shared.view();
        world.host.table().faults = [(fails, libc::EPERM)].into();
        assert!(world.carry_out(&rehome).is_err(), "call {fails}");
        let after = world.shared.view();
        assert_eq!((after.placement, after.vcpus), (before.placement, before.vcpus), "call {fails}");
        world.check();
    }
}

#[test]
fn a_thread_that_cannot_go_back_is_said_to_be_where_it_is_and_claimed_on_both_sides() {
    let world = World::new();
    // The second vCPU cannot go, and the first not back.
    world.host.table().faults = BTreeMap::from([(3, libc::EINVAL), (5, libc::EPERM)]);
    assert!(world.carry_out(&Change::Rehome(0, 3, Affinity::Hard)).is_err());
    world.check();
    let at = world.owner().at(VnodeId(0)).unwrap();
    let cpu = at.vcpus[&VcpuId(0)].clone();
    assert_eq!(cpu, CpuSet::one(6.into()));
    assert!(at.claim.pnodes[&PnodeId(3)].pinned.meets(&cpu));
    let seen: BTreeSet<PnodeId> = world.host.table().record.0.pnodes.keys().copied().collect();
    assert!(seen.contains(&PnodeId(3)));
}
