//! Which pnodes are device memory (CXL, a GPU): decided from sysfs. `placement` decides whether a VM may use it.

use crate::distance::{Distance, DistanceMatrix};
use crate::host::cpus::node_list as list;
use crate::host::files::names;
use crate::host::{HostError, Pnode};
use crate::set::NodeSet;
use std::path::Path;

/// The farthest that memory of the machine is from its CPUs where no two pnodes with CPUs tell another distance.
const FARTHEST: Distance = Distance::REMOTE;

/// Marks pnodes without CPUs that have one of these:
///
/// - another memory tier than all pnodes with CPUs (`memory_tiering/memory_tierN/nodelist`, Linux 6.1);
/// - memory, but none that the kernel may use for itself (`has_memory`, `has_normal_memory`): it was plugged in by a
///   driver;
/// - an initiator that is not a CPU (`has_generic_initiator`);
/// - another read latency than any pnode with CPUs (HMAT);
/// - no pnode with CPUs as near as two of these are to each other.
///
/// Pnodes without CPUs that have none, such as those of `numa=fake` or of a partition, are memory of the machine.
pub fn mark(root: &Path, pnodes: &mut [Pnode], distances: &DistanceMatrix) -> Result<(), HostError> {
    let with_cpus: Vec<usize> = (0..pnodes.len()).filter(|at| !pnodes[*at].cpus.is_empty()).collect();
    if with_cpus.is_empty() || with_cpus.len() == pnodes.len() {
        return Ok(());
    }
    let told = Told::read(root)?;
    let of_cpus: NodeSet = with_cpus.iter().map(|at| pnodes[*at].id).collect();
    let between = |a: usize, b: usize| distances.get(a, b).unwrap_or(Distance::REMOTE);
    let pairs =
        with_cpus.iter().flat_map(|a| with_cpus.iter().map(move |b| (*a, *b))).filter(|(a, b)| a != b);
    let farthest = pairs.map(|(a, b)| between(a, b)).max().unwrap_or(FARTHEST).max(FARTHEST);
    let latencies: Vec<u32> =
        with_cpus.iter().filter_map(|at| Some(pnodes[*at].attributes?.read_latency_ns)).collect();
    let is_device = |(at, pnode): (usize, &Pnode)| {
        let latency = pnode.attributes.map(|attributes| attributes.read_latency_ns);
        let nearest = with_cpus.iter().map(|cpu| between(*cpu, at)).min().unwrap_or(FARTHEST);
        pnode.cpus.is_empty()
            && pnode.has_memory()
            && (told.of_a_device(pnode.id, &of_cpus)
                || latency.is_some_and(|latency| !latencies.is_empty() && !latencies.contains(&latency))
                || nearest > farthest)
    };
    let marks: Vec<bool> = pnodes.iter().enumerate().map(is_device).collect();
    pnodes.iter_mut().zip(marks).for_each(|(pnode, mark)| pnode.device_memory = mark);
    Ok(())
}

/// What the kernel's lists of nodes say.
struct Told {
    tiers: Vec<NodeSet>,
    memory: Option<NodeSet>,
    normal_memory: Option<NodeSet>,
    generic_initiators: Option<NodeSet>,
}

impl Told {
    fn read(root: &Path) -> Result<Self, HostError> {
        let node = root.join("devices/system/node");
        let tiering = root.join("devices/virtual/memory_tiering");
        let mut tiers = Vec::new();
        for name in names(&tiering)?.iter().filter(|name| name.starts_with("memory_tier")) {
            tiers.extend(list(&tiering.join(name).join("nodelist"))?);
        }
        Ok(Self {
            tiers,
            memory: list(&node.join("has_memory"))?,
            normal_memory: list(&node.join("has_normal_memory"))?,
            generic_initiators: list(&node.join("has_generic_initiator"))?,
        })
    }

    fn of_a_device(&self, id: crate::PnodeId, of_cpus: &NodeSet) -> bool {
        let is_in = |list: &Option<NodeSet>| list.as_ref().map(|list| list.contains(id));
        let own_tier = self.tiers.iter().any(|tier| tier.contains(id) && !tier.meets(of_cpus))
            && self.tiers.iter().any(|tier| tier.meets(of_cpus));
        let movable = is_in(&self.memory) == Some(true) && is_in(&self.normal_memory) == Some(false);
        own_tier || movable || is_in(&self.generic_initiators) == Some(true)
    }
}

#[cfg(test)]
mod tests {
    use crate::host::{HostRoot, HostTopology};
    use crate::test_host::HostShape;
    use crate::{AccessAttributes, Bytes};
    use std::fs;

    /// Which pnodes are marked on a host of two pnodes with CPUs and one without, with more files in its tree.
    fn marked(shape: &HostShape, files: &[(&str, &str)]) -> Vec<bool> {
        let root = tempfile::tempdir().unwrap();
        shape.write(root.path()).unwrap();
        for (file, content) in files {
            let path = root.path().join("devices").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        HostTopology::read(&HostRoot::of(root.path()))
            .unwrap()
            .pnodes()
            .iter()
            .map(|pnode| pnode.device_memory)
            .collect()
    }

    #[test]
    fn memory_of_a_device_is_known_by_tier_kind_initiator_latency_or_distance() {
        let host = HostShape::new(3).cpus(2, "");
        let tier = |nodes: &'static str| ("virtual/memory_tiering/memory_tier22/nodelist", nodes);
        let dram = ("virtual/memory_tiering/memory_tier4/nodelist", "0-1\n");
        let (has, normal) = (("system/node/has_memory", "0-2\n"), "system/node/has_normal_memory");
        let latency = |ns| AccessAttributes {
            read_latency_ns: ns,
            write_latency_ns: ns,
            read_bandwidth_mib: 1000,
            write_bandwidth_mib: 1000,
        };
        let told = |ns| {
            host.clone().attributes(0, latency(80)).attributes(1, latency(80)).attributes(2, latency(ns))
        };
        let device = [false, false, true];
        assert_eq!(marked(&host, &[dram, tier("2\n")]), device);
        assert_eq!(marked(&host, &[has, (normal, "0-1\n")]), device);
        assert_eq!(marked(&host, &[("system/node/has_generic_initiator", "2\n")]), device);
        assert_eq!(marked(&told(250), &[]), device);
        assert_eq!(marked(&host.clone().distance(0, 2, 80).distance(1, 2, 80), &[]), device);
        // Of the machine: nothing is told, the same is told of all, or it has CPUs.
        let machine = [false; 3];
        assert_eq!(marked(&host, &[]), machine);
        assert_eq!(marked(&host, &[tier("0-2\n"), has, (normal, "0-2\n")]), machine);
        assert_eq!(marked(&told(80), &[]), machine);
        assert_eq!(marked(&host.clone().distance(0, 1, 32).distance(0, 2, 32), &[]), machine);
        assert_eq!(marked(&HostShape::new(3), &[dram, tier("2\n")]), machine);
        assert_eq!(
            marked(&HostShape::new(3).cpus(2, "").memory(2, Bytes::ZERO), &[dram, tier("2\n")]),
            machine
        );
    }
}
