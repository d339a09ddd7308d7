//! HMAT values and pins, and each error.

use super::VmTopology;
use crate::spec::{
    AttributeSpec, AttributesFrom, CacheAssociativity, CacheSpec, CacheWritePolicy, DistancesFrom,
};
use crate::spec::{PinSpec, VmSpec, VnodeSpec};
use crate::test_host::HostShape;
use crate::{AccessAttributes, Bytes, ErrorKind, PairAttributes, Plan, VnodeId};

fn vnode(id: u32, vcpus: &str) -> VnodeSpec {
    VnodeSpec { memory: Some(Bytes::mib(64)), vcpus: Some(vcpus.parse().unwrap()), ..VnodeSpec::new(id) }
}

/// Vnodes 0 and 1 with two vCPUs each, vnode 2 with memory only, vnode 3 with a vCPU only.
fn four() -> VmSpec {
    let no_memory = VnodeSpec { memory: Some(Bytes::ZERO), ..vnode(3, "4") };
    VmSpec { numa: vec![vnode(0, "0-1"), vnode(1, "2-3"), vnode(2, ""), no_memory], ..VmSpec::default() }
}

fn pair(initiator: u32, target: u32) -> AttributeSpec {
    AttributeSpec { latency: Some(90), ..AttributeSpec::new(initiator, target) }
}

fn cache(vnode: u32, level: u8) -> CacheSpec {
    CacheSpec {
        vnode,
        size: Bytes::gib(1),
        level,
        associativity: CacheAssociativity::Direct,
        policy: CacheWritePolicy::WriteBack,
        line: 64,
    }
}

fn pin(vcpus: &str, cpus: &str) -> PinSpec {
    PinSpec { vcpus: vcpus.parse().unwrap(), cpus: cpus.parse().unwrap() }
}

#[test]
fn a_pair_beats_what_distance_says_and_each_figure_stands_alone() {
    let mut spec = four();
    spec.numa[2].latency = Some(100);
    spec.numa[2].bandwidth = Some(Bytes::gib(1));
    spec.attributes = vec![
        AttributeSpec { write_latency: Some(250), ..AttributeSpec::new(0, 2) },
        AttributeSpec { latency: Some(80), bandwidth: Some(Bytes::gib(4)), ..AttributeSpec::new(1, 0) },
        AttributeSpec { read_bandwidth: Some(Bytes::mib(7)), ..AttributeSpec::new(3, 1) },
    ];
    let topology = VmTopology::try_from(&spec).unwrap();
    let known = |initiator, target| topology.attributes().unwrap().get(initiator, target);
    let far = PairAttributes {
        read_latency_ns: Some(100),
        write_latency_ns: Some(250),
        read_bandwidth_mib: Some(1024),
        write_bandwidth_mib: Some(1024),
    };
    assert_eq!(known(0, 2), Some(far));
    let both = AccessAttributes {
        read_latency_ns: 80,
        write_latency_ns: 80,
        read_bandwidth_mib: 4096,
        write_bandwidth_mib: 4096,
    };
    assert_eq!(known(1, 0), Some(both.into()));
    let little = PairAttributes { read_bandwidth_mib: Some(7), ..PairAttributes::default() };
    assert_eq!(known(3, 1), Some(little));
    assert_eq!((known(0, 1), known(2, 0)), (None, None));
}

#[test]
fn caches_are_told_by_vnode_and_level_with_their_count() {
    let spec = VmSpec { caches: vec![cache(1, 2), cache(0, 1), cache(1, 1)], ..four() };
    let topology = VmTopology::try_from(&spec).unwrap();
    let told: Vec<_> = topology.caches().iter().map(|c| (c.vnode.0, c.level, c.levels)).collect();
    assert_eq!(told, [(0, 1, 1), (1, 1, 2), (1, 2, 2)]);
    assert!(topology.has_hmat());
}

#[test]
fn memory_is_attached_to_its_own_vcpus_or_to_those_named() {
    let mut spec = four();
    spec.numa[2].initiator = Some(1);
    let topology = VmTopology::try_from(&spec).unwrap();
    let initiators: Vec<_> = topology.vnodes().iter().map(|v| v.initiator.map(|i| i.0)).collect();
    assert_eq!(initiators, [Some(0), Some(1), Some(1), None]);
    assert!(topology.has_hmat());
    assert!(!VmTopology::try_from(&four()).unwrap().has_hmat());
}

#[test]
fn what_hmat_cannot_tell_is_refused() {
    let refused = |spec: VmSpec| VmTopology::try_from(&spec).unwrap_err().to_string();
    let pairs = |attributes: Vec<AttributeSpec>| refused(VmSpec { attributes, ..four() });
    assert_eq!(
        pairs(vec![pair(0, 0), pair(0, 9)]),
        "attributes[1]: vnode 9 does not exist, vnodes are 0 to 3"
    );
    assert_eq!(pairs(vec![pair(2, 0)]), "attributes[0]: vnode 2 has no vCPUs, an initiator must have some");
    assert_eq!(pairs(vec![pair(0, 3)]), "attributes[0]: vnode 3 has no memory, a target must have some");
    assert_eq!(pairs(vec![pair(0, 1), pair(0, 1)]), "attributes[1]: 0:1 is given twice, must be given once");
    assert_eq!(
        pairs(vec![AttributeSpec::new(0, 1)]),
        "attributes[0]: 0:1 has no value, must have a latency or a bandwidth"
    );
    let zero = AttributeSpec { read_latency: Some(0), ..AttributeSpec::new(0, 1) };
    assert_eq!(pairs(vec![zero]), "attributes[0]: 0 is no latency, must be at least 1 ns");
    let both = AttributeSpec { read_latency: Some(1), ..pair(0, 1) };
    assert_eq!(
        pairs(vec![both]),
        "attributes[0]: latency is for reads and writes, cannot be combined with one of them"
    );
    let slow = AttributeSpec { bandwidth: Some(Bytes(1000)), ..AttributeSpec::new(0, 1) };
    assert_eq!(
        pairs(vec![slow]),
        "attributes[0]: 1000 is no bandwidth, must be 1M to 4095T bytes per second"
    );

    let caches = |caches: Vec<CacheSpec>| refused(VmSpec { caches, ..four() });
    assert_eq!(caches(vec![cache(9, 1)]), "caches[0]: vnode 9 does not exist, vnodes are 0 to 3");
    assert_eq!(caches(vec![cache(3, 1)]), "caches[0]: vnode 3 has no memory, must have some");
    assert_eq!(caches(vec![cache(0, 0)]), "caches[0]: 0 is no level, must be 1 to 3");
    assert_eq!(caches(vec![cache(0, 4)]), "caches[0]: 4 is no level, must be 1 to 3");
    assert_eq!(
        caches(vec![cache(0, 1), cache(0, 1)]),
        "caches[1]: level 1 of vnode 0 is given twice, must be given once"
    );
    assert_eq!(
        caches(vec![cache(0, 1), cache(0, 3)]),
        "caches[1]: level 3 of vnode 0 has no level 2 before it, levels must have no hole"
    );
    let empty = CacheSpec { size: Bytes::ZERO, ..cache(0, 1) };
    assert_eq!(caches(vec![empty]), "caches[0]: 0 is no size, must be at least 1 byte");

    let initiator = |vnode: usize, initiator| {
        let mut spec = four();
        spec.numa[vnode].initiator = Some(initiator);
        refused(spec)
    };
    assert_eq!(initiator(2, 9), "vnodes[2].initiator: 9 does not exist, must be a vnode with vCPUs");
    assert_eq!(initiator(2, 2), "vnodes[2].initiator: 2 has no vCPUs, must have some");
    assert_eq!(
        initiator(1, 0),
        "vnodes[1].initiator: 0 is another vnode, must be itself or left out for a vnode with vCPUs"
    );
    assert_eq!(
        initiator(3, 0),
        "vnodes[3].initiator: 0 is given, must be left out for a vnode without memory"
    );
}

#[test]
fn pins_beat_affinity_and_lead_the_vnode_to_their_pnode() {
    let host = HostShape::new(2).memory(0, Bytes::gib(64)).topology();
    let pins = vec![pin("0", "3"), pin("1", "node:1,^3")];
    let mut spec = VmSpec { numa: vec![vnode(0, "0-1"), vnode(1, "2")], pins, ..VmSpec::default() };
    spec.numa[1].affinity = Some(crate::Affinity::Hard);
    spec.numa[1].pnode = Some("1".parse().unwrap());
    let plan = Plan::new(&spec, &host).unwrap();
    let at = |vnode: usize| &plan.placement.vnodes[vnode];
    assert_eq!(at(0).pnodes.to_string(), "1");
    let cpus: Vec<_> = at(0).vcpus.values().map(ToString::to_string).collect();
    assert_eq!(cpus, ["3", "2"]);
    // CPU 3 is vCPU 0's and CPU 2 vCPU 1's, so that vCPU 2 has none of its own.
    assert_eq!(at(1).shortfalls.len(), 1);
}

#[test]
fn pins_that_cannot_be_are_refused() {
    let host = HostShape::new(2).topology();
    let refused = |pins| Plan::new(&VmSpec { pins, ..four() }, &host).unwrap_err().to_string();
    assert_eq!(refused(vec![pin("", "0")]), "pins[0].vcpus: the list is empty, must name a vCPU");
    assert_eq!(refused(vec![pin("5", "0")]), "pins[0].vcpus: vCPU 5 does not exist, vCPUs are 0 to 4");
    assert_eq!(
        refused(vec![pin("0", "0"), pin("0", "1")]),
        "pins[1].vcpus: vCPU 0 is pinned already, must be pinned once"
    );
    assert_eq!(
        refused(vec![pin("0", "7-8")]),
        "pins: vCPU 0 is pinned to 7-8, which this host does not have, must be among 0-3"
    );
}

#[test]
fn attributes_of_the_host_are_told_without_its_distances() {
    let figures = AccessAttributes {
        read_latency_ns: 80,
        write_latency_ns: 90,
        read_bandwidth_mib: 9,
        write_bandwidth_mib: 8,
    };
    let shape = HostShape::new(2).distance(0, 1, 40).attributes(0, figures);
    let mut spec = VmSpec { numa: vec![vnode(0, "0"), vnode(1, "1")], ..VmSpec::default() };
    for (id, vnode) in (0..).zip(&mut spec.numa) {
        vnode.pnode = Some(crate::NodeSet::one(crate::PnodeId(id)));
    }
    spec.attributes_from = Some(AttributesFrom::Host);
    spec.attributes = vec![pair(0, 1)];
    let refused = Plan::new(&spec, &shape.clone().topology()).unwrap_err();
    let why =
        "attributes_from: sysfs has no latency and bandwidth of pnode 1, must have them for attributes=host";
    assert_eq!((refused.to_string().as_str(), refused.diagnosis().kind), (why, ErrorKind::Unsupported));
    let host = shape.attributes(1, figures).topology();
    let plan = Plan::new(&spec, &host).unwrap();
    let known = |i, t| plan.topology.attributes().unwrap().get(i, t).unwrap();
    assert_eq!(known(0, 0), figures.into());
    assert_eq!((known(0, 1).read_latency_ns, known(0, 1).read_bandwidth_mib), (Some(90), Some(2)));
    assert_eq!(known(1, 0).write_latency_ns, Some(360));
    assert_eq!(plan.topology.distances().get(0, 1).unwrap().get(), 20);
    let spec = VmSpec { attributes_from: None, distances_from: Some(DistancesFrom::Host), ..spec };
    let plan = Plan::new(&spec, &host).unwrap();
    assert_eq!(plan.topology.distances().get(0, 1).unwrap().get(), 40);
    assert_eq!(plan.topology.vnodes()[0].initiator, Some(VnodeId(0)));
}
