//! The lab's hosts, as data.

use crate::runner::host::{HostFacts, HostNode};

/// One node of a lab host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShapeNode {
    pub(crate) mib: u64,
    /// How many CPUs it has; they are numbered through the nodes.
    pub(crate) cpus: u32,
}

/// A lab host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostShape {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) nodes: &'static [ShapeNode],
    /// From, to, SLIT distance; pairs that are not named are 20 apart.
    pub(crate) distances: &'static [(u32, u32, u32)],
}

const fn node(mib: u64, cpus: u32) -> ShapeNode {
    ShapeNode { mib, cpus }
}

/// All lab hosts, cheapest first: a test runs on the first that has what it needs.
pub(crate) const SHAPES: [HostShape; 5] = [
    HostShape {
        name: "two",
        about: "two nodes of two CPUs",
        nodes: &[node(3072, 2), node(3072, 2)],
        distances: &[(0, 1, 21), (1, 0, 21)],
    },
    HostShape {
        name: "uneven",
        about: "a big, a middling and a small node",
        nodes: &[node(5120, 2), node(1536, 1), node(768, 1)],
        distances: &[(0, 1, 16), (1, 0, 16), (0, 2, 28), (2, 0, 28), (1, 2, 22), (2, 1, 22)],
    },
    HostShape {
        name: "cpuless",
        about: "two ordinary nodes and one with memory only",
        nodes: &[node(2048, 2), node(2048, 2), node(1536, 0)],
        distances: &[(0, 1, 21), (1, 0, 21), (0, 2, 17), (2, 0, 17), (1, 2, 28), (2, 1, 28)],
    },
    HostShape {
        name: "four",
        about: "four nodes in a ring",
        nodes: &[node(1536, 1), node(1536, 1), node(1536, 1), node(1536, 1)],
        distances: &[
            (0, 1, 16),
            (1, 2, 16),
            (2, 3, 16),
            (3, 0, 16),
            (1, 0, 16),
            (2, 1, 16),
            (3, 2, 16),
            (0, 3, 16),
            (0, 2, 22),
            (2, 0, 22),
            (1, 3, 22),
            (3, 1, 22),
        ],
    },
    HostShape {
        name: "eight",
        about: "eight small nodes",
        nodes: &[
            node(768, 1),
            node(768, 1),
            node(768, 1),
            node(768, 1),
            node(768, 1),
            node(768, 1),
            node(768, 1),
            node(768, 1),
        ],
        distances: &[],
    },
];

/// For benchmarks whose clock counts instructions: that is usable with one CPU only.
pub(crate) const COUNTED: HostShape = HostShape {
    name: "counted",
    about: "one CPU, and a node with memory only",
    nodes: &[node(2048, 1), node(1024, 0)],
    distances: &[],
};

impl HostShape {
    /// The host called `name`.
    pub(crate) fn called(name: &str) -> Option<&'static Self> {
        SHAPES.iter().find(|shape| shape.name == name)
    }

    /// All CPUs.
    pub(crate) fn cpus(&self) -> u32 {
        self.nodes.iter().map(|node| node.cpus).sum()
    }

    /// All memory in MiB.
    pub(crate) fn mib(&self) -> u64 {
        self.nodes.iter().map(|node| node.mib).sum()
    }

    /// What the runner would find there.
    pub(crate) fn facts(&self) -> HostFacts {
        let mut first = 0;
        let nodes = self.nodes.iter().zip(0..).map(|(node, id)| {
            let cpus = (first..first + node.cpus).collect();
            first += node.cpus;
            // The kernel, its page structures and the images take a share; node 0 bears most of it.
            let free_mib = node.mib.saturating_sub(node.mib / 16 + if id == 0 { 256 } else { 32 });
            HostNode { node: id, cpus, total_mib: node.mib, free_mib }
        });
        HostFacts { nodes: nodes.collect(), root: true, kvm: Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::SHAPES;

    #[test]
    fn distances_name_nodes_that_are_there_and_are_remote() {
        for shape in SHAPES {
            for &(from, to, value) in shape.distances {
                let count = u32::try_from(shape.nodes.len()).unwrap();
                assert!(
                    from < count && to < count && from != to && value > 10,
                    "{} {from} {to} {value}",
                    shape.name
                );
            }
        }
    }
}
