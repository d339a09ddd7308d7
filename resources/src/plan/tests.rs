//! Any configuration gives a plan that keeps the invariants, or an error; never a panic.

use crate::distance::DistanceSpec;
use crate::memory_map::{HOLE_END, HOLE_START};
use crate::spec::{Affinity, DistancesFrom, MemoryPolicy, PageSize, Switch, VmSpec, VnodeCount, VnodeSpec};
use crate::test_host::HostShape;
use crate::{Bytes, PcpuId, Plan, PnodeId, VcpuId, VnodeId};
use proptest::option::of;
use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use proptest::sample::select;
use std::collections::{BTreeMap, BTreeSet};

fn any_size() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        30 => (0u64..256).prop_map(|mib| Bytes::mib(mib * 2)),
        2 => (0u64..5).prop_map(Bytes::gib),
        1 => any::<u64>().prop_map(Bytes),
    ]
}

/// Mostly not there.
fn rarely<T: std::fmt::Debug + Clone>(some: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    proptest::option::weighted(0.1, some)
}

fn any_vnode() -> impl Strategy<Value = VnodeSpec> {
    let first = (
        prop_oneof![9 => 0u32..6, 1 => any::<u32>()],
        of(any_size()),
        rarely(proptest::collection::vec(0u32..12, 0..4)),
        rarely(proptest::collection::vec(prop_oneof![9 => select(vec![0u32, 1, 3]), 1 => 0u32..5], 0..3)),
        of(select(vec![MemoryPolicy::Bind, MemoryPolicy::Preferred, MemoryPolicy::Interleave])),
    );
    let second = (
        of(select(vec![Affinity::Hard, Affinity::Soft, Affinity::None])),
        rarely(select(vec![PageSize::Small, PageSize::Thp, PageSize::Huge2M, PageSize::Huge1G])),
        of(any::<bool>().prop_map(Switch)),
        rarely((any::<u32>(), any_size())),
        rarely(any::<u32>()),
    );
    (first, second).prop_map(
        |((id, memory, vcpus, pnode, policy), (affinity, pages, prefault, figures, latency))| VnodeSpec {
            id,
            memory,
            vcpus: vcpus.map(|list| list.into_iter().map(VcpuId).collect()),
            pnode: pnode.map(|list| list.into_iter().map(PnodeId).collect()),
            policy,
            affinity,
            pages,
            prefault,
            shared: latency.filter(|n| n % 7 == 0).map(|n| Switch(n % 2 == 0)),
            latency: figures.map(|(ns, _)| ns).or(latency.filter(|ns| ns.is_multiple_of(4))),
            bandwidth: figures.map(|(_, bandwidth)| bandwidth),
            initiator: latency.filter(|n| n % 5 == 0).map(|n| n % 4),
        },
    )
}

/// Mostly something that can be a VM, often with one thing wrong.
fn any_spec() -> impl Strategy<Value = VmSpec> {
    let distance =
        (any::<u32>(), any::<u32>(), prop_oneof![30 => 11u64..=255, 1 => 8u64..260, 1 => any::<u64>()]);
    (
        of(prop_oneof![9 => 6u32..20, 1 => any::<u32>()]),
        rarely(any_size()),
        prop_oneof![9 => 0u32..7, 1 => any::<u32>()],
        proptest::collection::vec(any_vnode(), 0..6),
        proptest::bool::weighted(0.1),
        proptest::collection::vec(distance, 0..4),
        of(select(vec![DistancesFrom::Host])),
    )
        .prop_map(|(vcpus, memory, vnodes, mut numa, typed_ids, distances, distances_from)| {
            let count = u32::try_from(numa.len()).unwrap().max(1);
            if !typed_ids {
                (0..).zip(&mut numa).for_each(|(id, vnode)| vnode.id = id);
            }
            let wild = |node: u32| if node.is_multiple_of(29) { node } else { node % count };
            let distances = distances
                .into_iter()
                .map(|(from, to, value)| DistanceSpec { from: wild(from), to: wild(to), value })
                .filter(|d| d.from != d.to || d.value.is_multiple_of(7))
                .collect();
            let vnodes = Some(vnodes).filter(|vnodes| numa.is_empty() || vnodes.is_multiple_of(5));
            let vnodes = vnodes.map(VnodeCount::Exactly);
            VmSpec { vcpus, memory, vnodes, numa, distances, distances_from, ..VmSpec::default() }
        })
}

fn host() -> HostShape {
    let figures = crate::AccessAttributes {
        read_latency_ns: 80,
        write_latency_ns: 80,
        read_bandwidth_mib: 1000,
        write_bandwidth_mib: 1000,
    };
    HostShape::with_ids([0, 1, 3])
        .memory(1, Bytes::gib(8))
        .cpus(3, "")
        .distance(0, 3, 255)
        .pool(0, Bytes::mib(2), 1024, 1024)
        .attributes(0, figures)
        .attributes(1, figures)
        .attributes(3, figures)
}

/// Invariants 1 to 4 of the design, on the plan's own words.
fn assert_holds(spec: &VmSpec, plan: &Plan) {
    let topology = &plan.topology;
    let mut homes = BTreeMap::new();
    for vnode in topology.vnodes() {
        assert!(vnode.memory > Bytes::ZERO || !vnode.vcpus.is_empty());
        for vcpu in vnode.vcpus.iter() {
            assert_eq!(homes.insert(vcpu, vnode.id), None, "a vCPU on two vnodes");
        }
        let mapped: u64 = plan.memory_map.of(vnode.id).map(|range| range.size.get()).sum();
        assert_eq!(mapped, vnode.memory.get());
    }
    let dense: Vec<_> = (0..).map(VcpuId).take(homes.len()).collect();
    assert_eq!(homes.keys().copied().collect::<Vec<_>>(), dense);
    assert_eq!(topology.vcpus().collect::<Vec<_>>(), homes.into_iter().collect::<Vec<_>>());
    if let Some(vcpus) = spec.vcpus {
        assert_eq!(topology.vcpu_count(), vcpus as usize);
    }
    if let Some(memory) = spec.memory {
        assert_eq!(topology.memory(), memory);
    }
    for pair in plan.memory_map.ram().windows(2) {
        assert!(pair[0].end() == pair[1].start || (pair[0].end(), pair[1].start) == (HOLE_START, HOLE_END));
    }
    for (from, row) in topology.distances().rows().iter().enumerate() {
        assert_eq!(row.len(), topology.vnodes().len());
        for (to, distance) in row.iter().enumerate() {
            assert!(if from == to { distance.get() == 10 } else { distance.get() > 10 });
        }
    }
    let apic_ids: BTreeSet<_> = topology.vcpus().map(|(vcpu, _)| plan.cpus.apic_id(vcpu)).collect();
    assert_eq!(apic_ids.len(), topology.vcpu_count());
    assert_eq!(plan.cpus.apic_id(VcpuId(0)).0, 0);
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 2000, ..Default::default() })]
    #[test]
    fn whatever_is_typed_is_a_sound_plan_or_an_error(spec in any_spec()) {
        match Plan::new(&spec, &host().topology()) {
            Ok(plan) => assert_holds(&spec, &plan),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(": ") && !text.contains('\n'), "{text}");
            }
        }
    }
}

#[test]
fn sixty_four_vnodes_lie_on_as_few_of_sixty_four_pnodes_as_have_cpus_for_them() {
    let spec = VmSpec {
        vnodes: Some(64.into()),
        vcpus: Some(64),
        memory: Some(Bytes::gib(32)),
        ..VmSpec::default()
    };
    let plan = Plan::new(&spec, &HostShape::new(64).topology()).unwrap();
    let pnodes: BTreeSet<_> = plan.placement.vnodes.iter().map(|v| v.pnodes.first()).collect();
    assert_eq!(pnodes.len(), 32);
    let first = plan.placement.vnodes[0].cpus.first();
    assert_eq!(first, Some(PcpuId(0)));
}

#[test]
fn two_hundred_and_fifty_six_vcpus_are_planned_with_their_apic_ids() {
    let spec =
        VmSpec { vnodes: Some(4.into()), vcpus: Some(300), memory: Some(Bytes::gib(1)), ..VmSpec::default() };
    let plan = Plan::new(&spec, &HostShape::new(4).topology()).unwrap();
    assert_eq!(plan.cpus.max_apic_id().0, (3 << 7) + 74);
}

#[test]
fn a_vm_with_less_memory_is_laid_out_anew_and_lies_where_it_was() {
    let numa = vec![
        VnodeSpec { memory: Some(Bytes::gib(1)), vcpus: "0".parse().ok(), ..VnodeSpec::new(0) },
        VnodeSpec { memory: Some(Bytes::gib(1)), vcpus: "1".parse().ok(), ..VnodeSpec::new(1) },
    ];
    let spec = VmSpec { numa, ..VmSpec::default() };
    let plan = Plan::new(&spec, &HostShape::new(2).topology()).unwrap();
    let less = plan.without(&[(VnodeId(0), Bytes::mib(300))].into());
    let memory: Vec<Bytes> = less.topology.vnodes().iter().map(|vnode| vnode.memory).collect();
    assert_eq!(memory, [Bytes::mib(724), Bytes::gib(1)]);
    let ram =
        |plan: &Plan, vnode| plan.memory_map.of(VnodeId(vnode)).map(|range| range.size.get()).sum::<u64>();
    assert_eq!([ram(&less, 0), ram(&less, 1)].map(Bytes), [Bytes::mib(724), Bytes::gib(1)]);
    assert_eq!((&less.placement, less.memory_map == plan.memory_map), (&plan.placement, false));
    assert_eq!(plan.without(&[].into()), plan);
}
