//! The rules of placement from end to end: a sysfs tree that is written, the words of a user, and where everything must
//! come to lie. A line per host and wish.
#![expect(clippy::unwrap_used, reason = "a test may stop")]

use resources::test_host::HostShape;
use resources::{
    Bytes, Fit, HostRoot, HostTopology, Ledger, PlacementPolicy, Plan, VmSpec, VnodeCount, VnodeSpec,
};

/// A host of the table, and what is expected of it.
struct Rule {
    name: &'static str,
    host: HostShape,
    /// CPUs and nodes that the cpuset leaves; empty: all.
    allowed: (&'static str, &'static str),
    spec: VmSpec,
    /// Pnodes by vnode, or a part of the refusal.
    expected: Result<&'static [&'static str], &'static str>,
}

fn gib(count: u64) -> Bytes {
    Bytes::gib(count)
}

/// Vnodes of `memory` with `vcpus` vCPUs each.
fn each(count: u32, memory: Bytes, vcpus: u32) -> VmSpec {
    VmSpec {
        memory: Some(Bytes(memory.get() * u64::from(count))),
        vcpus: Some(vcpus * count),
        vnodes: Some(count.into()),
        ..VmSpec::default()
    }
}

fn auto(memory: Bytes, vcpus: u32) -> VmSpec {
    VmSpec { memory: Some(memory), vcpus: Some(vcpus), vnodes: Some(VnodeCount::Auto), ..VmSpec::default() }
}

fn by(policy: PlacementPolicy, spec: VmSpec) -> VmSpec {
    VmSpec { placement: policy, ..spec }
}

fn strict(spec: VmSpec) -> VmSpec {
    VmSpec { fit: Fit::Strict, ..spec }
}

/// Two sockets of two nodes: near inside, far between.
fn sockets() -> HostShape {
    let far = [(0, 2), (0, 3), (1, 2), (1, 3)];
    far.into_iter()
        .fold(HostShape::new(4).distance(0, 1, 12).distance(2, 3, 12), |host, (a, b)| host.distance(a, b, 32))
}

/// Nodes in groups: near inside, far between.
fn grouped(nodes: u32, group: u32) -> HostShape {
    let pairs = (0..nodes).flat_map(|a| (0..a).map(move |b| (a, b)));
    pairs.fold(HostShape::new(nodes), |host, (a, b)| {
        host.distance(a, b, if a / group == b / group { 16 } else { 32 })
    })
}

/// Nodes 0 and 1 have CPUs, node 2 is memory alone.
fn memory_alone() -> HostShape {
    HostShape::new(3).cpus(2, "").memory(2, gib(32)).distance(0, 2, 17).distance(1, 2, 28)
}

fn rule(
    name: &'static str,
    host: HostShape,
    spec: VmSpec,
    expected: Result<&'static [&'static str], &'static str>,
) -> Rule {
    Rule { name, host, allowed: ("", ""), spec, expected }
}

fn within(allowed: (&'static str, &'static str), rule: Rule) -> Rule {
    Rule { allowed, ..rule }
}

fn rules() -> Vec<Rule> {
    use PlacementPolicy::{Auto, BestFit, FirstFit, WorstFit};
    let partly = |spec: VmSpec| VmSpec {
        numa: vec![
            VnodeSpec {
                memory: Some(gib(1)),
                vcpus: Some("0".parse().unwrap()),
                pnode: Some("2".parse().unwrap()),
                ..VnodeSpec::new(0)
            },
            VnodeSpec { memory: Some(gib(2)), vcpus: Some("1".parse().unwrap()), ..VnodeSpec::new(1) },
        ],
        memory: None,
        vcpus: None,
        vnodes: None,
        ..spec
    };
    let sizes = || HostShape::new(3).memory(0, gib(16)).memory(1, gib(4)).memory(2, gib(8));
    vec![
        // The four rules.
        rule("one node is enough", HostShape::new(2), each(1, gib(1), 2), Ok(&["0"])),
        rule("fewest nodes first", HostShape::new(4), each(2, gib(1), 1), Ok(&["0", "0"])),
        rule("near nodes first", sockets(), each(2, gib(2), 2), Ok(&["0", "1"])),
        rule(
            "near nodes first, wherever they are",
            sockets().free(1, Bytes::mib(100), Bytes::ZERO),
            each(2, gib(2), 2),
            Ok(&["2", "3"]),
        ),
        rule("most free among equals", HostShape::new(3).memory(1, gib(8)), each(1, gib(1), 1), Ok(&["1"])),
        rule("auto by name", sizes(), by(Auto, each(1, gib(2), 1)), Ok(&["0"])),
        rule("first fit", sizes(), by(FirstFit, each(1, gib(2), 1)), Ok(&["0"])),
        rule("best fit", sizes(), by(BestFit, each(1, gib(2), 1)), Ok(&["1"])),
        rule("worst fit", sizes(), by(WorstFit, each(1, gib(2), 1)), Ok(&["0"])),
        rule(
            "worst fit goes wide",
            HostShape::new(3),
            by(WorstFit, each(3, gib(1), 1)),
            Ok(&["0", "1", "2"]),
        ),
        // Ids, CPUs and memory with holes.
        rule(
            "holes in the numbering",
            HostShape::with_ids([1, 5, 63]),
            each(3, gib(2), 2),
            Ok(&["1", "5", "63"]),
        ),
        rule(
            "holes in the numbering of CPUs",
            HostShape::with_ids([0, 7]).cpus(0, "0,64").cpus(7, "1-2,4"),
            each(1, gib(1), 3),
            Ok(&["7"]),
        ),
        rule("offline CPUs are none", HostShape::new(2).offline("0-1"), each(1, gib(1), 2), Ok(&["1"])),
        rule("one CPU left", HostShape::new(2).offline("1,3"), each(2, gib(1), 1), Ok(&["0", "1"])),
        rule("memory alone is no place for vCPUs", memory_alone(), each(1, gib(2), 1), Ok(&["0"])),
        rule("no node has so much", HostShape::new(2), strict(each(1, gib(5), 1)), Err("no pnode has room")),
        rule("too much for it and memory alone", HostShape::new(2), each(1, gib(9), 1), Err("memory")),
        rule("spread over two", HostShape::new(2), each(1, gib(5), 1), Ok(&["0-1"])),
        rule("uneven sizes", sizes(), each(2, gib(5), 1), Ok(&["0", "0"])),
        rule(
            "uneven sizes, each where it fits",
            HostShape::new(3).memory(1, gib(8)).memory(2, gib(8)),
            each(2, gib(5), 1),
            Ok(&["1", "2"]),
        ),
        // Machines as they are built.
        rule(
            "two processors, and accelerators with memory of their own",
            [(0, 8, 40), (0, 252, 80), (0, 253, 80), (8, 252, 80), (8, 253, 80), (252, 253, 80)]
                .into_iter()
                .fold(HostShape::with_ids([0, 8, 252, 253]), |host, (a, b, far)| host.distance(a, b, far))
                .cpus(252, "")
                .cpus(253, ""),
            each(2, gib(2), 2),
            Ok(&["0", "8"]),
        ),
        rule(
            "fast memory beside each processor",
            [(0, 1, 21), (0, 2, 13), (1, 3, 13), (0, 3, 23), (1, 2, 23), (2, 3, 23)]
                .into_iter()
                .fold(HostShape::new(4), |host, (a, b, far)| host.distance(a, b, far))
                .cpus(2, "")
                .cpus(3, ""),
            each(2, gib(2), 2),
            Ok(&["0", "1"]),
        ),
        rule("eight sockets in two halves", grouped(8, 4), each(4, gib(2), 2), Ok(&["0", "1", "2", "3"])),
        rule(
            "64 nodes, 4 a socket, the first sockets busy",
            grouped(64, 4).offline("0-1,10"),
            each(4, gib(2), 2),
            Ok(&["8", "9", "10", "11"]),
        ),
        // Cpusets: what cgroup v1 and v2 leave comes as lists of the process.
        within(("2-3", "1"), rule("a cpuset of one node", HostShape::new(2), each(1, gib(1), 2), Ok(&["1"]))),
        within(
            ("0-3", "1"),
            rule("memory of one node, CPUs of both", HostShape::new(2), each(1, gib(1), 1), Ok(&["1"])),
        ),
        within(
            ("4", "0-2"),
            rule("one CPU", HostShape::new(3), strict(each(1, gib(1), 2)), Err("short of 1 unclaimed CPU")),
        ),
        within(
            ("0-1,6-7", "0-3"),
            rule("CPUs at both ends", HostShape::new(4), each(2, gib(2), 2), Ok(&["0", "3"])),
        ),
        // Pools.
        rule(
            "pages where the pool has them",
            HostShape::new(3).pool(2, Bytes::mib(2), 600, 512),
            VmSpec {
                numa: vec![VnodeSpec {
                    memory: Some(gib(1)),
                    vcpus: Some("0".parse().unwrap()),
                    pages: Some("2M".parse().unwrap()),
                    ..VnodeSpec::new(0)
                }],
                ..VmSpec::default()
            },
            Ok(&["2"]),
        ),
        // Partly given.
        rule("the other joins the given", HostShape::new(4), partly(VmSpec::default()), Ok(&["2", "2"])),
        rule(
            "the other is near the given",
            sockets().free(2, Bytes::mib(2000), Bytes::ZERO),
            partly(VmSpec::default()),
            Ok(&["2", "3"]),
        ),
        // As many vnodes as it needs nodes.
        rule("auto: one is enough", HostShape::new(4), auto(gib(2), 2), Ok(&["0"])),
        rule("auto: memory of two", HostShape::new(4), auto(gib(6), 2), Ok(&["0", "1"])),
        rule("auto: CPUs of three", HostShape::new(4), auto(gib(3), 6), Ok(&["0", "1", "2"])),
        rule("auto: near ones", sockets().offline("0-1"), auto(gib(6), 4), Ok(&["2", "3"])),
        rule("auto: the whole host", HostShape::new(4), auto(gib(12), 8), Ok(&["0", "1", "2", "3"])),
        rule("auto: too large", HostShape::new(2), auto(gib(12), 2), Err("memory")),
        rule("auto: holes", HostShape::with_ids([3, 9]), auto(gib(6), 2), Ok(&["3", "9"])),
        within(
            ("0-3", "0-1"),
            rule("auto: inside a cpuset", HostShape::new(8), auto(gib(6), 4), Ok(&["0", "1"])),
        ),
    ]
}

#[test]
fn every_rule_holds_from_the_sysfs_tree_on() {
    let mut wrong = Vec::new();
    for Rule { name, host, allowed: (cpus, nodes), spec, expected } in rules() {
        let root = tempfile::tempdir().unwrap();
        host.write(root.path()).unwrap();
        let mut host = HostTopology::read(&HostRoot::of(root.path())).unwrap();
        if !cpus.is_empty() {
            host = host.restricted_to(&cpus.parse().unwrap(), &nodes.parse().unwrap());
        }
        let found = Plan::beside(&spec, &host, &Ledger::new());
        let found = found
            .map(|plan| plan.placement.vnodes.iter().map(|at| at.pnodes.to_string()).collect::<Vec<_>>())
            .map_err(|error| error.to_string());
        let right = match (&found, expected) {
            (Ok(pnodes), Ok(expected)) => pnodes == expected,
            (Err(error), Err(expected)) => error.contains(expected),
            _ => false,
        };
        if !right {
            wrong.push(format!("{name}: {found:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every vnode of a plan that `--vnodes auto` makes has a pnode of its own, and one less would not have done.
#[test]
fn as_many_vnodes_as_nodes_are_needed_and_no_more() {
    for nodes in [1u32, 2, 3, 5, 8, 16, 64] {
        let root = tempfile::tempdir().unwrap();
        HostShape::new(nodes).write(root.path()).unwrap();
        let host = HostTopology::read(&HostRoot::of(root.path())).unwrap();
        for parts in 1..=u64::from(nodes) {
            let spec = auto(Bytes::gib(3 * parts), u32::try_from(parts).unwrap());
            let plan = Plan::new(&spec, &host).unwrap();
            let mut pnodes: Vec<String> =
                plan.placement.vnodes.iter().map(|at| at.pnodes.to_string()).collect();
            pnodes.sort();
            pnodes.dedup();
            // All nodes are alike, and have CPUs enough.
            let available = host.pnodes().iter().map(|pnode| pnode.available().get()).min().unwrap();
            let needed = Bytes::gib(3 * parts).get().div_ceil(available);
            assert_eq!(pnodes.len() as u64, needed, "{nodes} nodes, {parts} parts");
            assert_eq!(plan.topology.vnodes().len() as u64, needed);
        }
    }
}
