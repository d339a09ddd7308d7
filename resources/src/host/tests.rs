//! Hosts read from valid and invalid sysfs trees.

use crate::host::{HostError, HostRoot, HostTopology};
use crate::spec::{DistancesFrom, VmSpec, VnodeSpec};
use crate::test_host::HostShape;
use crate::{AccessAttributes, Bytes, Plan};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

pub(super) fn written(shape: &HostShape) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    shape.write(root.path()).unwrap();
    root
}

pub(super) fn figures(latency: u32, bandwidth: u32) -> AccessAttributes {
    AccessAttributes {
        read_latency_ns: latency,
        write_latency_ns: latency + 5,
        read_bandwidth_mib: bandwidth,
        write_bandwidth_mib: bandwidth / 2,
    }
}

#[test]
fn every_kind_of_host_is_read_as_it_is() {
    let uneven = HostShape::new(4).memory(1, Bytes::gib(1)).memory(2, Bytes::gib(64)).distance(0, 3, 31);
    let holes = HostShape::with_ids([0, 2, 5, 9]).distance(2, 9, 17);
    let cpuless = HostShape::new(3).cpus(2, "").attributes(2, figures(300, 8_000));
    let memoryless = HostShape::new(3).memory(1, Bytes::ZERO);
    let offline = HostShape::new(2).offline("1-2");
    let pools = HostShape::new(2).pool(1, Bytes::mib(2), 512, 500).pool(0, Bytes::gib(1), 2, 1);
    for shape in [HostShape::new(1), HostShape::new(64), uneven, holes, cpuless, memoryless, offline, pools] {
        let root = written(&shape);
        assert_eq!(HostTopology::read(&HostRoot::of(root.path())), Ok(shape.topology()));
    }
}

#[test]
fn a_cpu_that_a_node_lists_but_that_is_offline_does_not_count() {
    let root = written(&HostShape::new(2));
    fs::write(root.path().join("devices/system/cpu/online"), "0,2-3\n").unwrap();
    let host = HostTopology::read(&HostRoot::of(root.path())).unwrap();
    assert_eq!(host.pnodes()[0].cpus.to_string(), "0");
}

#[test]
fn what_cpus_see_beats_what_the_best_initiator_sees() {
    let root = written(&HostShape::new(1).attributes(0, figures(80, 1000)));
    let node = root.path().join("devices/system/node/node0");
    let seen = || HostTopology::read(&HostRoot::of(root.path())).unwrap().pnodes()[0].attributes;
    fs::create_dir_all(node.join("access1")).unwrap();
    fs::create_dir_all(node.join("access1/initiators")).unwrap();
    for file in ["read_latency", "write_latency", "read_bandwidth", "write_bandwidth"] {
        fs::write(node.join("access1/initiators").join(file), "7\n").unwrap();
    }
    assert_eq!(seen().unwrap().read_latency_ns, 7);
    fs::write(node.join("access1/initiators/read_latency"), "0\n").unwrap();
    assert_eq!(seen(), Some(figures(80, 1000)));
}

#[test]
fn emulated_nodes_may_be_ten_apart() {
    let root = written(&HostShape::new(2).distance(0, 1, 10));
    let host = HostTopology::read(&HostRoot::of(root.path())).unwrap();
    assert_eq!(host.distances().get(0, 1).unwrap().get(), 10);
}

/// What a host says once `file` below `devices/system` has another content.
fn with(file: &str, content: &str) -> String {
    let root = written(&HostShape::new(2));
    let path = root.path().join("devices/system").join(file);
    fs::write(&path, content).unwrap();
    said(root.path())
}

fn said(root: &Path) -> String {
    let error = HostTopology::read(&HostRoot::of(root)).unwrap_err();
    error.to_string().replace(root.join("devices/system/").to_str().unwrap(), "")
}

#[test]
fn wrong_values_are_refused_with_path_value_and_rule() {
    let cases = [
        ("node/online", "", "node/online: `` must name 1 to 1024 nodes"),
        ("node/online", "0-1024", "node/online: `0-1024` must name 1 to 1024 nodes"),
        ("node/online", "x", "node/online: `x` is not a list of nodes"),
        ("node/online", "2", "node/node2/meminfo: does not exist, must be there"),
        ("cpu/online", "0-", "cpu/online: `0-` is not a list of CPUs"),
        ("node/node1/cpulist", "1-3", "node/node1: `cpu1` is on another node already"),
        ("node/node1/cpulist", "0-99999999", "node/node1/cpulist: `0-99999999` is not a list of CPUs"),
        ("node/node0/distance", "10", "node/node0/distance: `10` must have one distance per online node"),
        (
            "node/node0/distance",
            "10 20 20",
            "node/node0/distance: `10 20 20` must have one distance per online node",
        ),
        ("node/node0/distance", "10 9", "node/node0/distance: `9` must be 10 to 255"),
        ("node/node0/distance", "10 256", "node/node0/distance: `256` must be 10 to 255"),
        ("node/node0/distance", "11 20", "node/node0/distance: `11 20` must be 10 to the node itself"),
        ("node/node0/meminfo", "", "node/node0/meminfo: `the file` must have lines MemTotal and MemFree"),
        (
            "node/node0/meminfo",
            "Node 0 MemTotal: 99999999999999999999 kB",
            "node/node0/meminfo: `Node 0 MemTotal: 99999999999999999999 kB` is not a number of kB",
        ),
        (
            "node/node0/hugepages/hugepages-2048kB/nr_hugepages",
            "-1",
            "node/node0/hugepages/hugepages-2048kB/nr_hugepages: `-1` is not a number of pages",
        ),
    ];
    for (file, content, expected) in cases {
        assert_eq!(with(file, content), expected, "{file} {content}");
    }
    let large = with("node/node0/meminfo", &"x".repeat(100_000));
    assert_eq!(large, "node/node0/meminfo: `the file` must not be larger than 64K");
}

#[test]
fn a_directory_that_is_not_sysfs_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let missing = |file: &str| HostError::Missing { path: root.path().join("devices/system").join(file) };
    let read = || HostTopology::read(&HostRoot::of(root.path()));
    assert_eq!(read(), Err(missing("cpu/online")));
    fs::create_dir_all(root.path().join("devices/system/cpu")).unwrap();
    fs::write(root.path().join("devices/system/cpu/online"), "0\n").unwrap();
    fs::create_dir_all(root.path().join("devices/system/node")).unwrap();
    assert_eq!(read(), Err(missing("node/online")));
    fs::create_dir_all(root.path().join("devices/system/node/online")).unwrap();
    assert_eq!(said(root.path()), "node/online: `something else` must be a regular file");
}

#[test]
fn the_estimate_covers_the_watermarks_of_small_and_large_nodes() {
    let kept = |total| HostShape::new(1).memory(0, total).topology().pnodes()[0].memory_kept;
    assert_eq!(kept(Bytes::gib(1)), Bytes((1 << 30) / 25));
    assert_eq!(kept(Bytes::gib(64)), Bytes::mib(128 + 256));
    assert_eq!(kept(Bytes::ZERO), Bytes::ZERO);
}

#[test]
fn a_restricted_host_keeps_its_nodes_but_not_what_is_forbidden() {
    let host = HostShape::new(2).topology();
    let host = host.restricted_to(&"1-2".parse().unwrap(), &"1".parse().unwrap());
    let seen: Vec<_> = host
        .pnodes()
        .iter()
        .map(|p| (p.id.0, p.cpus.to_string(), p.available() > Bytes::ZERO, p.has_memory()))
        .collect();
    assert_eq!(seen, [(0, "1".into(), false, true), (1, "2".into(), true, true)]);
}

#[test]
fn the_nearest_node_is_the_one_with_the_least_distance_then_the_lowest_id() {
    let host = HostShape::new(4).distance(3, 1, 12).distance(3, 2, 12).topology();
    let nearest = |from: &str, not: u32| {
        host.nearest(&from.parse().unwrap(), |pnode| pnode.id.0 != not).map(|pnode| pnode.id.0)
    };
    assert_eq!(nearest("3", 3), Some(1));
    assert_eq!(nearest("0", 9), Some(0));
    assert_eq!(nearest("0,3", 9), Some(0));
}

/// A VM with a vnode of one vCPU and 64 MiB per list of pnodes, with the host's distances.
fn mirrored(host: &HostShape, pnodes: &[&str]) -> Plan {
    let vnode = |(id, pnode): (u32, &&str)| VnodeSpec {
        memory: Some(Bytes::mib(64)),
        vcpus: Some(id.to_string().parse().unwrap()),
        pnode: Some(pnode.parse().unwrap()),
        ..VnodeSpec::new(id)
    };
    let numa = (0..).zip(pnodes).map(vnode).collect();
    let spec = VmSpec { numa, distances_from: Some(DistancesFrom::Host), ..VmSpec::default() };
    Plan::new(&spec, &host.topology()).unwrap()
}

fn bytes(plan: &Plan) -> Vec<Vec<u8>> {
    plan.topology.distances().rows().iter().map(|row| row.iter().map(|d| d.get()).collect()).collect()
}

#[test]
fn mirrored_distances_are_those_of_the_nearest_pnodes() {
    let host = HostShape::new(3).distance(0, 1, 17).distance(0, 2, 28).distance(1, 2, 31);
    assert_eq!(bytes(&mirrored(&host, &["2", "0"])), [[10, 28], [28, 10]]);
    assert_eq!(bytes(&mirrored(&host, &["0-1", "2"])), [[10, 28], [28, 10]]);
    assert_eq!(mirrored(&host, &["0", "1"]).topology.attributes(), None);
}

#[test]
fn a_pnode_that_has_no_part_of_a_vnode_is_no_end_of_its_distances() {
    let host = HostShape::new(3).distance(0, 1, 17).distance(0, 2, 28).distance(1, 2, 31);
    let full = host.clone().free(0, Bytes::ZERO, Bytes::ZERO);
    // Of two parts the nearest counts; of pnode 0, which is full, there is none.
    assert_eq!(bytes(&mirrored(&host, &["2", "0-1"]))[0], [10, 28]);
    assert_eq!(bytes(&mirrored(&full, &["2", "0-1"]))[0], [10, 31]);
}

#[test]
fn a_vnode_without_vcpus_is_as_far_from_others_as_its_memory() {
    let host = HostShape::new(3).cpus(2, "").distance(0, 1, 21).distance(0, 2, 14).distance(1, 2, 24);
    let vnode = |id: u32, vcpus: &str| VnodeSpec {
        memory: Some(Bytes::mib(64)),
        vcpus: Some(vcpus.parse().unwrap()),
        pnode: Some(id.to_string().parse().unwrap()),
        ..VnodeSpec::new(id)
    };
    let numa = vec![vnode(0, "0"), vnode(1, "1"), vnode(2, "")];
    let spec = VmSpec { numa, distances_from: Some(DistancesFrom::Host), ..VmSpec::default() };
    let plan = Plan::new(&spec, &host.topology()).unwrap();
    assert_eq!(bytes(&plan), [[10, 21, 14], [21, 10, 24], [14, 24, 10]]);
}

#[test]
fn vnodes_on_one_pnode_are_eleven_apart_as_linux_refuses_ten() {
    assert_eq!(bytes(&mirrored(&HostShape::new(2), &["1", "1"])), [[10, 11], [11, 10]]);
    let emulated = HostShape::new(2).distance(0, 1, 10);
    assert_eq!(bytes(&mirrored(&emulated, &["0", "1"])), [[10, 11], [11, 10]]);
}

#[test]
fn mirrored_figures_grow_with_the_distance_from_whoever_is_nearest() {
    let host = HostShape::new(3)
        .distance(0, 2, 30)
        .distance(1, 2, 40)
        .cpus(2, "")
        .attributes(0, figures(80, 1000))
        .attributes(1, figures(80, 1000))
        .attributes(2, figures(300, 400));
    let plan = mirrored(&host, &["0", "1", "2"]);
    let latency =
        |initiator, target| Some(plan.topology.attributes()?.get(initiator, target)?.read_latency_ns);
    let rows: Vec<_> = (0..3).map(|i| (0..3).map(|t| latency(i, t)).collect::<Vec<_>>()).collect();
    // The vCPUs of vnode 2 run on pnode 0, the nearest with CPUs.
    let expected = [[80, 160, 300], [160, 80, 400], [80, 160, 300]];
    assert_eq!(rows, expected.map(|row| row.map(|ns| Some(Some(ns)))));
}

#[test]
fn figures_are_not_mirrored_when_a_pnode_has_none() {
    let host = HostShape::new(2).attributes(0, figures(80, 1000));
    assert_eq!(mirrored(&host, &["0", "1"]).topology.attributes(), None);
    assert!(mirrored(&host, &["0", "0"]).topology.attributes().is_some());
}

#[test]
fn what_became_free_meanwhile_does_not_count() {
    let shape = |free, pages| {
        HostShape::new(2)
            .free(0, Bytes::mib(free), Bytes::mib(64))
            .pool(0, Bytes::mib(2), 9, pages)
            .topology()
    };
    let (before, after) = (shape(1000, 3), shape(1300, 5));
    assert_eq!(after.clone().no_more_than(&before), before);
    assert_eq!(before.clone().no_more_than(&after), before);
    // Page cache that became free memory is no more than it was.
    let cache =
        HostShape::new(2).free(0, Bytes::mib(1064), Bytes::ZERO).pool(0, Bytes::mib(2), 9, 3).topology();
    assert_eq!(cache.clone().no_more_than(&before), cache);
}
