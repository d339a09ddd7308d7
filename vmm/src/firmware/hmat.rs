//! What the topology knows of latencies, bandwidths and caches, as HMAT's rows and columns. Which figures those are is
//! decided in `resources`, their encoding is `acpi`'s work.

use super::domain;
use acpi::{
    Associativity, MemoryAttachment, MemoryPerformance, MemorySideCache, Performance, PerformanceKind,
    PerformanceMatrix, WritePolicy,
};
use resources::spec::{CacheAssociativity, CacheWritePolicy};
use resources::{Bytes, Distance, PairAttributes, VmTopology, VnodeId};

/// A figure of a pair in the unit of its matrix.
type Figure = fn(&PairAttributes) -> Option<u64>;

/// What a matrix has in it.
type Kind = (PerformanceKind, Figure);

/// HMAT: rows are vnodes with vCPUs, columns vnodes with memory. Linux does not tell apart an access matrix and two
/// equal ones for reads and writes, so there is one where all pairs have the same for both.
pub fn performance(topology: &VmTopology) -> MemoryPerformance {
    let ids = |keep: fn(&resources::Vnode) -> bool| -> Vec<VnodeId> {
        topology.vnodes().iter().filter(|vnode| keep(vnode)).map(|vnode| vnode.id).collect()
    };
    let initiators = ids(|vnode| !vnode.vcpus.is_empty());
    let targets = ids(|vnode| vnode.memory > Bytes::ZERO);
    let mut matrices = Vec::new();
    for (access, read, write) in KINDS {
        let figures = |(_, figure): Kind| rows(topology, &initiators, &targets, figure);
        let (reads, writes) = (figures(read), figures(write));
        let mut push = |kind, rows: Vec<Vec<Performance>>| {
            if rows.iter().flatten().any(|cell| matches!(cell, Performance::Value(_))) {
                matrices.push(PerformanceMatrix { kind, rows });
            }
        };
        if reads == writes {
            push(access, reads);
        } else {
            push(read.0, reads);
            push(write.0, writes);
        }
    }
    let attachments = topology.vnodes().iter().filter(|vnode| vnode.memory > Bytes::ZERO);
    MemoryPerformance {
        attachments: attachments
            .map(|vnode| MemoryAttachment {
                memory: domain(vnode.id),
                initiator: vnode.initiator.map(domain),
            })
            .collect(),
        initiators: initiators.iter().map(|i| domain(*i)).collect(),
        targets: targets.iter().map(|t| domain(*t)).collect(),
        matrices,
        caches: topology.caches().iter().map(cache).collect(),
    }
}

/// Latencies in picoseconds and bandwidths in MB/s: the kind for any access, then reads, then writes.
const KINDS: [(PerformanceKind, Kind, Kind); 2] = [
    (
        PerformanceKind::AccessLatency,
        (PerformanceKind::ReadLatency, |a| Some(u64::from(a.read_latency_ns?) * 1000)),
        (PerformanceKind::WriteLatency, |a| Some(u64::from(a.write_latency_ns?) * 1000)),
    ),
    (
        PerformanceKind::AccessBandwidth,
        (PerformanceKind::ReadBandwidth, |a| a.read_bandwidth_mib.map(u64::from)),
        (PerformanceKind::WriteBandwidth, |a| a.write_bandwidth_mib.map(u64::from)),
    ),
];

fn rows(
    topology: &VmTopology,
    initiators: &[VnodeId],
    targets: &[VnodeId],
    figure: Figure,
) -> Vec<Vec<Performance>> {
    let cell = |i: VnodeId, t: VnodeId| {
        let known = topology.attributes().and_then(|all| all.get(i.index(), t.index()));
        match known.as_ref().and_then(figure) {
            Some(value) => Performance::Value(value),
            None if topology.distances().get(i.index(), t.index()) == Some(Distance::UNREACHABLE) => {
                Performance::Unreachable
            }
            None => Performance::NotProvided,
        }
    };
    initiators.iter().map(|i| targets.iter().map(|t| cell(*i, *t)).collect()).collect()
}

fn cache(cache: &resources::MemorySideCache) -> MemorySideCache {
    MemorySideCache {
        memory: domain(cache.vnode),
        size: cache.size.get(),
        levels: cache.levels,
        level: cache.level,
        associativity: match cache.associativity {
            CacheAssociativity::None => Associativity::Unknown,
            CacheAssociativity::Direct => Associativity::DirectMapped,
            CacheAssociativity::Complex => Associativity::Complex,
        },
        write_policy: match cache.policy {
            CacheWritePolicy::None => WritePolicy::Unknown,
            CacheWritePolicy::WriteBack => WritePolicy::WriteBack,
            CacheWritePolicy::WriteThrough => WritePolicy::WriteThrough,
        },
        line_size: cache.line,
    }
}

#[cfg(test)]
mod tests {
    use super::performance;
    use acpi::{Performance, PerformanceKind, ProximityDomain};
    use resources::distance::DistanceSpec;
    use resources::spec::{CacheAssociativity, CacheWritePolicy};
    use resources::{AttributeSpec, Bytes, CacheSpec, VmSpec, VmTopology, VnodeSpec};

    /// Vnode 0 and 1 with vCPUs and memory, vnode 2 with memory that is attached to vnode 1, vnode 3 with a vCPU.
    fn machine(attributes: Vec<AttributeSpec>) -> VmTopology {
        let vnode = |id, memory, vcpus: &str| VnodeSpec {
            memory: Some(Bytes::mib(memory)),
            vcpus: Some(vcpus.parse().unwrap()),
            ..VnodeSpec::new(id)
        };
        let tier = VnodeSpec { initiator: Some(1), ..vnode(2, 64, "") };
        let cache = CacheSpec {
            vnode: 2,
            size: Bytes::gib(1),
            level: 1,
            associativity: CacheAssociativity::Direct,
            policy: CacheWritePolicy::WriteBack,
            line: 64,
        };
        let spec = VmSpec {
            numa: vec![vnode(0, 64, "0"), vnode(1, 64, "1"), tier, vnode(3, 0, "2")],
            distances: vec![DistanceSpec { from: 3, to: 2, value: 255 }],
            attributes,
            caches: vec![cache],
            ..VmSpec::default()
        };
        VmTopology::try_from(&spec).unwrap()
    }

    #[test]
    fn rows_are_vnodes_with_vcpus_and_columns_vnodes_with_memory() {
        let pair = AttributeSpec { latency: Some(70), ..AttributeSpec::new(3, 1) };
        let hmat = performance(&machine(vec![pair]));
        let domains = |list: &[ProximityDomain]| list.iter().map(|d| d.0).collect::<Vec<_>>();
        assert_eq!((domains(&hmat.initiators), domains(&hmat.targets)), (vec![0, 1, 3], vec![0, 1, 2]));
        let [matrix] = hmat.matrices.as_slice() else { panic!("one matrix: {:?}", hmat.matrices) };
        use Performance::{NotProvided as None, Unreachable as Never, Value};
        assert_eq!(matrix.kind, PerformanceKind::AccessLatency);
        assert_eq!(matrix.rows, [[None, None, None], [None, None, None], [None, Value(70_000), Never]]);
        let attached: Vec<_> =
            hmat.attachments.iter().map(|a| (a.memory.0, a.initiator.map(|i| i.0))).collect();
        assert_eq!(attached, [(0, Some(0)), (1, Some(1)), (2, Some(1))]);
        assert_eq!((hmat.caches[0].memory.0, hmat.caches[0].line_size), (2, 64));
    }

    #[test]
    fn reads_and_writes_that_differ_have_a_matrix_each() {
        let pair = AttributeSpec {
            latency: Some(70),
            read_bandwidth: Some(Bytes::gib(2)),
            write_bandwidth: Some(Bytes::gib(1)),
            ..AttributeSpec::new(0, 0)
        };
        let hmat = performance(&machine(vec![pair]));
        let told: Vec<_> = hmat.matrices.iter().map(|matrix| (matrix.kind, matrix.rows[0][0])).collect();
        let expected = [
            (PerformanceKind::AccessLatency, Performance::Value(70_000)),
            (PerformanceKind::ReadBandwidth, Performance::Value(2048)),
            (PerformanceKind::WriteBandwidth, Performance::Value(1024)),
        ];
        assert_eq!(told, expected);
        assert_eq!(performance(&machine(vec![])).matrices, []);
    }
}
