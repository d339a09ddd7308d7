//! Placement case by case, and its invariants.

use crate::placement::{Free, Placement, PlacementError, Reason, Shortfall, Terms, Workspace};
use crate::spec::{Affinity, Fit, MemoryPolicy, PageSize, PlacementPolicy, VmSpec, VnodeSpec};
use crate::test_host::HostShape;
use crate::{Bytes, ErrorKind, Ledger, NodeSet, PnodeId, VmTopology, VnodeId};
use proptest::prelude::{Strategy, proptest};
use proptest::sample::select;
use std::collections::BTreeMap;

fn vnode(id: u32, memory: &str, vcpus: &str) -> VnodeSpec {
    VnodeSpec {
        memory: Some(memory.parse().unwrap()),
        vcpus: Some(vcpus.parse().unwrap()),
        ..VnodeSpec::new(id)
    }
}

fn on(pnode: &str, spec: VnodeSpec) -> VnodeSpec {
    VnodeSpec { pnode: Some(pnode.parse().unwrap()), ..spec }
}

fn chosen(free: Free) -> Reason {
    Reason::Chosen { policy: PlacementPolicy::Auto, free }
}

fn terms(ledger: &Ledger) -> Terms<'_> {
    Terms { policy: PlacementPolicy::Auto, fit: Fit::Prefer, ledger }
}

fn place(host: &HostShape, numa: Vec<VnodeSpec>) -> Result<Placement, PlacementError> {
    let topology = VmTopology::try_from(&VmSpec { numa, ..VmSpec::default() }).unwrap();
    Placement::new(&topology, &host.topology(), &terms(&Ledger::new()), &Workspace::default())
}

fn pnodes(placement: &Placement) -> Vec<String> {
    placement.vnodes.iter().map(|v| v.pnodes.to_string()).collect()
}

fn cpus(placement: &Placement) -> Vec<Vec<String>> {
    placement.vnodes.iter().map(|v| v.vcpus.values().map(ToString::to_string).collect()).collect()
}

/// A node that has exactly this much available, whatever the kernel keeps.
fn with_room(host: HostShape, id: u32, room: Bytes) -> HostShape {
    let kept = host.topology().pnode(PnodeId(id)).unwrap().memory_kept;
    host.free(id, room.saturating_add(kept), Bytes::ZERO)
}

#[test]
fn vnodes_lie_where_they_were_asked_to_lie() {
    let host = HostShape::with_ids([0, 3]);
    let placed = place(&host, vec![on("3", vnode(0, "1G", "0-1")), on("0", vnode(1, "1G", "2"))]).unwrap();
    assert_eq!(pnodes(&placed), ["3", "0"]);
    assert_eq!(cpus(&placed), [vec!["2-3", "2-3"], vec!["0-1"]]);
    assert!(placed.vnodes.iter().all(|v| v.why == Reason::Asked && v.shortfalls.is_empty()));
}

#[test]
fn a_pnode_that_does_not_exist_is_refused_with_those_that_do() {
    let error = place(&HostShape::with_ids([0, 3]), vec![on("1", vnode(0, "64M", "0"))]).unwrap_err();
    assert_eq!(error.to_string(), "vnodes[0].pnode: 1 does not exist, this host has 0,3");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn a_strict_vnode_on_a_full_node_is_refused_with_the_numbers() {
    let host = with_room(HostShape::new(2), 1, Bytes::mib(1536));
    let error = place(&host, vec![on("1", vnode(0, "1G", "0")), on("1", vnode(1, "1G", "1"))]).unwrap_err();
    assert_eq!(
        error,
        PlacementError::Memory {
            vnode: VnodeId(1),
            pnodes: NodeSet::one(PnodeId(1)),
            policy: MemoryPolicy::Bind,
            asked: Bytes::gib(1),
            available: Bytes::mib(512),
        }
    );
    assert_eq!(
        error.to_string(),
        "vnodes[1].memory: 1G do not fit on pnode 1, which has 512M available for it (policy=bind)"
    );
    assert_eq!(error.kind(), ErrorKind::NoRoom);
}

#[test]
fn bound_memory_may_be_spread_over_its_pnodes() {
    let host = with_room(with_room(HostShape::new(2), 0, Bytes::gib(1)), 1, Bytes::gib(1));
    assert!(place(&host, vec![on("0-1", vnode(0, "2G", "0"))]).is_ok());
    assert!(place(&host, vec![on("0-1", vnode(0, "2050M", "0"))]).is_err());
}

#[test]
fn bound_memory_has_equal_parts_as_far_as_there_is_room() {
    let parts = |rooms: &[u64], memory: &str| {
        let shape =
            (0..).zip(rooms).fold(HostShape::new(3), |host, (id, mib)| with_room(host, id, Bytes::mib(*mib)));
        let placed = place(&shape, vec![on("0-2", vnode(0, memory, "0"))]).unwrap();
        let at = &placed.vnodes[0];
        let claimed: Vec<(u32, Bytes)> = at
            .claim
            .pnodes
            .iter()
            .filter(|(_, n)| n.memory > Bytes::ZERO)
            .map(|(id, n)| (id.0, n.memory))
            .collect();
        let parts: Vec<(u32, Bytes)> = at.parts.iter().map(|part| (part.pnode.0, part.size)).collect();
        assert!(parts == claimed || (parts.is_empty() && claimed.len() == 1));
        assert_eq!(claimed.iter().map(|(id, _)| PnodeId(*id)).collect::<NodeSet>(), at.pnodes);
        claimed.into_iter().map(|(id, bytes)| (id, bytes.get() >> 20)).collect::<Vec<_>>()
    };
    assert_eq!(parts(&[2000, 2000, 2000], "1536M"), [(0, 512), (1, 512), (2, 512)]);
    assert_eq!(parts(&[2000, 101, 2000], "1G"), [(0, 462), (1, 100), (2, 462)]);
    assert_eq!(parts(&[2000, 2000, 1], "1G"), [(0, 512), (1, 512)]);
    assert_eq!(parts(&[2000, 2000, 2000], "2M"), [(0, 2)]);
    assert_eq!(parts(&[2000, 2000, 2000], "4M"), [(0, 2), (1, 2)]);
}

#[test]
fn a_vnode_in_pieces_has_a_part_for_each() {
    let host = with_room(with_room(HostShape::new(2), 0, Bytes(801 << 20)), 1, Bytes(801 << 20));
    let placed = place(&host, vec![vnode(0, "1600M", "0-3")]).unwrap();
    let part = |pnode| crate::MemoryPart { pnode: PnodeId(pnode), size: Bytes::mib(800) };
    assert_eq!(placed.vnodes[0].parts, [part(0), part(1)]);
    assert!(place(&host, vec![vnode(0, "1602M", "0-3")]).is_err());
}

#[test]
fn each_pnode_needs_room_for_its_share_of_interleaved_memory() {
    let host = with_room(with_room(HostShape::new(2), 0, Bytes::gib(2)), 1, Bytes::mib(512));
    let interleaved =
        |memory| VnodeSpec { policy: Some(MemoryPolicy::Interleave), ..on("0-1", vnode(0, memory, "0")) };
    assert!(place(&host, vec![interleaved("1G")]).is_ok());
    let error = place(&host, vec![interleaved("2G")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "vnodes[0].memory: 1G do not fit on pnode 1, which has 512M available for it (policy=interleave)"
    );
}

#[test]
fn preferred_memory_spills_and_says_so() {
    let host = with_room(with_room(HostShape::new(2), 0, Bytes::gib(2)), 1, Bytes::mib(512));
    let preferred =
        |memory| VnodeSpec { policy: Some(MemoryPolicy::Preferred), ..on("1", vnode(0, memory, "0")) };
    let placed = place(&host, vec![preferred("1G"), on("0", vnode(1, "1536M", "1"))]).unwrap();
    let spills = Shortfall::MemorySpills { memory: Bytes::gib(1), available: Bytes::mib(512) };
    assert_eq!(placed.vnodes[0].shortfalls, [spills]);
    assert!(place(&host, vec![preferred("1G"), on("0", vnode(1, "1538M", "1"))]).is_err());
    let error = place(&host, vec![preferred("3G")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "vnodes[0].memory: 3G do not fit on pnode 0-1, which has 2.5G available for it (policy=preferred)"
    );
}

#[test]
fn nodes_without_memory_are_refused_except_as_a_preference() {
    let host = HostShape::new(3).memory(1, Bytes::ZERO).distance(1, 2, 15);
    for policy in [MemoryPolicy::Bind, MemoryPolicy::Interleave] {
        let spec = VnodeSpec { policy: Some(policy), ..on("1-2", vnode(0, "64M", "0")) };
        let expected = PlacementError::NoMemory { vnode: VnodeId(0), pnode: PnodeId(1), policy };
        assert_eq!(place(&host, vec![spec]), Err(expected));
    }
    let preferred =
        |pnode| VnodeSpec { policy: Some(MemoryPolicy::Preferred), ..on(pnode, vnode(0, "64M", "0")) };
    let placed = place(&host, vec![preferred("1")]).unwrap();
    assert_eq!((pnodes(&placed), cpus(&placed)), (vec!["2".into()], vec![vec!["2-3".into()]]));
    let elsewhere = Shortfall::MemoryElsewhere { pnodes: NodeSet::one(PnodeId(1)), nearest: PnodeId(2) };
    assert_eq!(placed.vnodes[0].shortfalls, [elsewhere]);
    assert_eq!(pnodes(&place(&host, vec![preferred("0-1")]).unwrap()), ["0"]);
    let without_memory = place(&host, vec![vnode(0, "64M", "0"), on("1", vnode(1, "0", "1"))]).unwrap();
    assert_eq!(pnodes(&without_memory), ["2", "1"]);
}

#[test]
fn memory_that_the_cpuset_forbids_is_refused() {
    let host = HostShape::new(2).topology().restricted_to(&"0-3".parse().unwrap(), &"0".parse().unwrap());
    let spec = |pnode| VmSpec { numa: vec![on(pnode, vnode(0, "64M", "0"))], ..VmSpec::default() };
    let place = |pnode| {
        Placement::new(
            &VmTopology::try_from(&spec(pnode)).unwrap(),
            &host,
            &terms(&Ledger::new()),
            &Workspace::default(),
        )
    };
    assert!(place("0").is_ok());
    assert_eq!(
        place("1").unwrap_err().to_string(),
        "vnodes[0].pnode: 1 is not among Mems_allowed of this process, must be for policy=bind"
    );
}

#[test]
fn huge_pages_come_from_the_pools_of_the_pnodes_and_from_nowhere_else() {
    let host = HostShape::new(2).pool(1, Bytes::mib(2), 600, 512);
    for policy in [MemoryPolicy::Bind, MemoryPolicy::Preferred, MemoryPolicy::Interleave] {
        let spec = |pnode, id, memory| VnodeSpec {
            pages: Some(PageSize::Huge2M),
            policy: Some(policy),
            ..on(pnode, vnode(id, memory, &id.to_string()))
        };
        assert!(place(&host, vec![spec("1", 0, "1G")]).is_ok());
        let error = place(&host, vec![spec("1", 0, "512M"), spec("1", 1, "514M")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "vnodes[1].pages: 257 pages of 2M do not fit on pnode 1, which has 256 free for it; \
             raise /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages"
        );
    }
    let giga = VnodeSpec { pages: Some(PageSize::Huge1G), ..on("1", vnode(0, "1G", "0")) };
    assert!(matches!(
        place(&host, vec![giga]),
        Err(PlacementError::HugePages { asked: 1, available: 0, .. })
    ));
}

#[test]
fn huge_pages_do_not_need_ordinary_memory() {
    let host = HostShape::new(1).pool(0, Bytes::mib(2), 512, 512).free(0, Bytes::ZERO, Bytes::ZERO);
    let spec = VnodeSpec { pages: Some(PageSize::Huge2M), ..vnode(0, "1G", "0") };
    let placed = place(&host, vec![spec]).unwrap();
    assert_eq!(placed.vnodes[0].why, chosen(Free::HugePages(512)));
}

#[test]
fn vnodes_that_name_no_pnode_share_the_fewest() {
    let host = with_room(with_room(HostShape::new(3), 1, Bytes::mib(3000)), 2, Bytes::mib(2990));
    let host = with_room(host, 0, Bytes::mib(2000));
    let placed = place(&host, (0..2).map(|id| vnode(id, "512M", &id.to_string())).collect()).unwrap();
    assert_eq!(pnodes(&placed), ["1", "1"]);
    assert_eq!(placed.vnodes[1].why, chosen(Free::Memory(Bytes::mib(2488))));
    let three = place(&host, (0..3).map(|id| vnode(id, "512M", &id.to_string())).collect()).unwrap();
    assert_eq!(pnodes(&three), ["1", "1", "2"]);
}

#[test]
fn ties_go_to_the_lowest_id() {
    let placed = place(&HostShape::with_ids([4, 7]), vec![vnode(0, "512M", "0")]).unwrap();
    assert_eq!(pnodes(&placed), ["4"]);
}

#[test]
fn vcpus_draw_a_vnode_to_a_pnode_with_cpus_while_it_fits_there() {
    let host = HostShape::new(2).memory(1, Bytes::gib(64)).cpus(1, "");
    assert_eq!(pnodes(&place(&host, vec![vnode(0, "1G", "0")]).unwrap()), ["0"]);
    // Whole where there are no CPUs, rather than in pieces.
    let large = place(&host, vec![vnode(0, "16G", "0")]).unwrap();
    assert_eq!(pnodes(&large), ["1"]);
    assert_eq!(large.vnodes[0].cpu_pnodes.to_string(), "0");
    let elsewhere = Shortfall::CpusElsewhere { pnodes: NodeSet::one(PnodeId(1)), nearest: PnodeId(0) };
    assert_eq!(large.vnodes[0].shortfalls, [elsewhere]);
    let too_large = place(&host, vec![vnode(0, "57G", "0")]).unwrap();
    assert_eq!(pnodes(&too_large), ["0-1"]);
    assert_eq!(too_large.vnodes[0].shortfalls, [Shortfall::Spread { pnodes: "0-1".parse().unwrap() }]);
    let memory_only = place(&host, vec![vnode(0, "1G", "0"), vnode(1, "8G", "")]).unwrap();
    assert_eq!(pnodes(&memory_only), ["0", "1"]);
    assert_eq!(memory_only.vnodes[1].shortfalls, []);
}

#[test]
fn memory_and_cpus_on_different_pnodes_are_said_to_be_where_they_are() {
    // A partition: all CPUs on one node without memory, the most memory on node 1.
    let cpus = |host: HostShape, id| host.cpus(id, "");
    let host = [0, 1, 3].into_iter().fold(HostShape::new(4).memory(2, Bytes::ZERO), cpus);
    let host = host.cpus(2, "0-7").memory(1, Bytes::gib(16));
    let placed = place(&host, vec![vnode(0, "2G", "0-3")]).unwrap();
    assert_eq!((pnodes(&placed), placed.vnodes[0].cpu_pnodes.to_string()), (vec!["1".into()], "2".into()));
    let elsewhere = Shortfall::CpusElsewhere { pnodes: NodeSet::one(PnodeId(1)), nearest: PnodeId(2) };
    assert_eq!(placed.vnodes[0].shortfalls, [elsewhere]);
    let topology =
        VmTopology::try_from(&VmSpec { numa: vec![vnode(0, "2G", "0-3")], ..VmSpec::default() }).unwrap();
    let ledger = Ledger::new();
    let strict = Terms { fit: Fit::Strict, ..terms(&ledger) };
    let error = Placement::new(&topology, &host.topology(), &strict, &Workspace::default()).unwrap_err();
    // The nearest is the one that is taken without strict.
    assert!(error.to_string().contains("nearest is pnode 1, short of 4 unclaimed CPUs"), "{error}");
}

#[test]
fn memory_of_a_device_is_taken_only_when_asked_for() {
    let host = HostShape::new(2).memory(1, Bytes::gib(64)).device_memory(1);
    let spec = |memory: &str, device| VmSpec {
        numa: vec![vnode(0, memory, "0")],
        device_memory: device,
        ..VmSpec::default()
    };
    let plan = |spec: &VmSpec| crate::Plan::new(spec, &host.topology()).map(|plan| pnodes(&plan.placement));
    assert_eq!(plan(&spec("1G", None)).unwrap(), ["0"]);
    assert_eq!(plan(&spec("16G", None)).unwrap_err().code(), "pnode_memory_short");
    let vnodes =
        VmSpec { vnodes: Some(crate::VnodeCount::Auto), memory: Some(Bytes::gib(16)), ..VmSpec::default() };
    assert!(plan(&vnodes).is_err());
    for policy in [PlacementPolicy::FirstFit, PlacementPolicy::BestFit, PlacementPolicy::WorstFit] {
        assert_eq!(plan(&VmSpec { placement: policy, ..spec("1G", None) }).unwrap(), ["0"]);
    }
    assert_eq!(plan(&spec("16G", Some(crate::spec::Switch(true)))).unwrap(), ["1"]);
    let named = VmSpec { numa: vec![on("1", vnode(0, "16G", "0"))], ..VmSpec::default() };
    assert_eq!(plan(&named).unwrap(), ["1"]);
}

#[test]
fn a_vnode_without_memory_goes_where_cpus_are_left() {
    let host = HostShape::new(2).cpus(1, "2-7");
    let numa = vec![on("1", vnode(0, "64M", "0-4")), vnode(1, "0", "5-6")];
    let placed = place(&host, numa).unwrap();
    assert_eq!(pnodes(&placed), ["1", "0"]);
    assert_eq!(placed.vnodes[1].why, chosen(Free::Cpus(2)));
}

#[test]
fn hard_vcpus_have_a_cpu_each_as_long_as_there_are_enough() {
    let hard = |pnode, spec| VnodeSpec { affinity: Some(Affinity::Hard), ..on(pnode, spec) };
    let host = HostShape::new(2).cpus(0, "0-2").cpus(1, "3-5");
    let numa = vec![
        hard("0", vnode(0, "64M", "0-1")),
        hard("0", vnode(1, "64M", "2-3")),
        hard("0-1", vnode(2, "64M", "4-6")),
    ];
    let placed = place(&host, numa).unwrap();
    assert_eq!(cpus(&placed), [vec!["0", "1"], vec!["0-2", "0-2"], vec!["2", "3", "4"]]);
    assert_eq!(placed.vnodes[1].shortfalls, [Shortfall::SharedCpus { vcpus: 2, left: 1 }]);
    assert_eq!(placed.vnodes[1].cpus.to_string(), "0-2");
    assert_eq!((&placed.vnodes[0].shortfalls, &placed.vnodes[2].shortfalls), (&vec![], &vec![]));
}

#[test]
fn vcpus_without_affinity_may_run_on_all_cpus_of_the_host() {
    let spec = VnodeSpec { affinity: Some(Affinity::None), ..on("1", vnode(0, "64M", "0")) };
    let placed = place(&HostShape::new(2), vec![spec]).unwrap();
    assert_eq!(cpus(&placed), [["0-3"]]);
    assert_eq!(placed.vnodes[0].cpus.to_string(), "2-3");
}

#[test]
fn a_host_without_usable_cpus_is_refused() {
    let error = place(&HostShape::new(1).offline("0-1"), vec![vnode(0, "64M", "0")]).unwrap_err();
    assert_eq!(error, PlacementError::NoCpus { vnode: VnodeId(0) });
}

fn any_vnode() -> impl Strategy<Value = (u64, u32, Option<Vec<u32>>, MemoryPolicy, Affinity, PageSize)> {
    (
        0u64..5,
        0u32..4,
        proptest::option::of(proptest::collection::vec(0u32..4, 1..4)),
        select(vec![MemoryPolicy::Bind, MemoryPolicy::Preferred, MemoryPolicy::Interleave]),
        select(vec![Affinity::Hard, Affinity::Soft, Affinity::None]),
        select(vec![PageSize::Thp, PageSize::Huge2M, PageSize::Small]),
    )
}

proptest! {
    #[test]
    fn strict_wishes_never_take_more_than_a_host_has(
        nodes in proptest::collection::vec((0u64..4, 0u64..300), 1..4),
        vnodes in proptest::collection::vec(any_vnode(), 1..6),
    ) {
        let mut host = HostShape::new(u32::try_from(nodes.len()).unwrap());
        for (id, (gib, pages)) in (0..).zip(&nodes) {
            host = host.memory(id, Bytes::gib(*gib)).pool(id, Bytes::mib(2), 300, *pages);
        }
        let mut next = 0;
        let numa = (0..).zip(&vnodes).map(|(id, (units, vcpus, pnode, policy, affinity, pages))| {
            let first = next;
            next += vcpus;
            VnodeSpec {
                memory: Some(Bytes::mib(units * 256)),
                vcpus: Some((first..next).map(crate::VcpuId).collect()),
                pnode: pnode.as_ref().map(|list| list.iter().copied().map(PnodeId).collect()),
                policy: Some(*policy),
                affinity: Some(*affinity),
                pages: Some(*pages),
                ..VnodeSpec::new(id)
            }
        }).collect();
        let Ok(topology) = VmTopology::try_from(&VmSpec { numa, ..VmSpec::default() }) else { return Ok(()) };
        let host = host.topology();
        let Ok(placement) = Placement::new(&topology, &host, &terms(&Ledger::new()), &Workspace::default()) else { return Ok(()) };
        let mut bound: BTreeMap<PnodeId, u64> = BTreeMap::new();
        let mut pinned = std::collections::BTreeSet::new();
        for (vnode, at) in topology.vnodes().iter().zip(&placement.vnodes) {
            assert_eq!(vnode.id, at.vnode);
            assert_eq!(vnode.vcpus.iter().collect::<Vec<_>>(), at.vcpus.keys().copied().collect::<Vec<_>>());
            assert!(at.vcpus.values().all(|cpus| !cpus.is_empty()));
            assert!(!at.cpus.is_empty() && !at.pnodes.is_empty());
            let shared = at.shortfalls.iter().any(|s| matches!(s, Shortfall::SharedCpus { .. }));
            if vnode.affinity == Affinity::Hard && !shared {
                for cpus in at.vcpus.values() {
                    assert_eq!(cpus.len(), 1);
                    assert!(pinned.insert(cpus.first()));
                }
            }
            if vnode.memory > Bytes::ZERO {
                assert!(at.pnodes.iter().all(|id| host.pnode(id).unwrap().has_memory()));
            }
            if vnode.policy == MemoryPolicy::Bind && at.pnodes.len() == 1 && vnode.pages != PageSize::Huge2M {
                *bound.entry(at.pnodes.first().unwrap()).or_default() += vnode.memory.get();
            }
        }
        for (id, taken) in bound {
            assert!(taken <= host.pnode(id).unwrap().available().get());
        }
        let pages: u64 = topology.vnodes().iter().filter(|v| v.pages == PageSize::Huge2M).map(|v| v.memory.get() >> 21).sum();
        assert!(pages <= nodes.iter().map(|n| n.1).sum());
        let memory = |v: &&crate::Vnode| v.pages != PageSize::Huge2M;
        let ordinary: u64 = topology.vnodes().iter().filter(memory).map(|v| v.memory.get()).sum();
        assert!(ordinary <= host.pnodes().iter().map(|p| p.available().get()).sum());
    }
}
