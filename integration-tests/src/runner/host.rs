//! What a host offers the tests, and whether that is what a test needs.

use std::fs::{self, OpenOptions};

use anyhow::{Context, Result};

use crate::guest::report;
use crate::rangelist;

/// One node of the host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct HostNode {
    pub(crate) node: u32,
    pub(crate) cpus: Vec<u32>,
    pub(crate) total_mib: u64,
    pub(crate) free_mib: u64,
}

/// What is known of a host, by looking (`HostFacts::look`) or by its description (`HostShape::facts`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct HostFacts {
    pub(crate) nodes: Vec<HostNode>,
    pub(crate) root: bool,
    /// Why stock guests cannot run here, if so.
    pub(crate) kvm: Result<(), String>,
}

/// What a test asks of its host.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Needs {
    /// Nodes with CPUs and memory.
    pub(crate) nodes: usize,
    /// Free MiB on each of these nodes.
    pub(crate) mib: u64,
    /// CPUs on each of these nodes.
    pub(crate) cpus: usize,
    /// At least one of the nodes has so many MiB free.
    pub(crate) big_mib: u64,
    /// One more node has memory but no CPUs.
    pub(crate) cpuless: bool,
    /// The smallest node has at most half the memory of the biggest.
    pub(crate) uneven: bool,
    /// Huge page pools are set up, so root.
    pub(crate) root: bool,
}

impl HostFacts {
    /// Looks at this host.
    pub(crate) fn look() -> Result<Self> {
        let root = nix::unistd::geteuid().is_root();
        let mut nodes = Vec::new();
        for node in report::online_nodes() {
            let path = format!("/sys/devices/system/node/node{node}/cpulist");
            let cpus = fs::read_to_string(&path).context(path)?;
            let (total, free) = report::node_memory(node);
            nodes.push(HostNode {
                node,
                cpus: rangelist::parse(&cpus)?,
                total_mib: total / 1024,
                free_mib: free / 1024,
            });
        }
        Ok(Self { nodes, root, kvm: kvm() })
    }

    /// The first thing a test needs that is not here.
    pub(crate) fn lacks(&self, needs: &Needs) -> Option<String> {
        if let Err(reason) = &self.kvm {
            return Some(reason.clone());
        }
        let ordinary = self.ordinary(needs);
        if ordinary.len() < needs.nodes {
            return Some(format!(
                "needs {} nodes with {} CPUs and {} MiB free each, this host has {}",
                needs.nodes,
                needs.cpus.max(1),
                needs.mib,
                ordinary.len()
            ));
        }
        if needs.big_mib > 0
            && !self.nodes.iter().any(|node| !node.cpus.is_empty() && node.free_mib >= needs.big_mib)
        {
            return Some(format!("needs a node with {} MiB free", needs.big_mib));
        }
        if needs.cpuless && self.cpuless(needs.mib).is_none() {
            return Some(format!("needs a node without CPUs and with {} MiB free", needs.mib));
        }
        if needs.uneven && !self.is_uneven() {
            return Some("needs a node with at most half the memory of another".to_owned());
        }
        (needs.root && !self.root).then(|| "needs root to set up pools of huge pages".to_owned())
    }

    /// The nodes with the memory and CPUs that are asked for.
    pub(crate) fn ordinary(&self, needs: &Needs) -> Vec<&HostNode> {
        let fits = |node: &&HostNode| node.cpus.len() >= needs.cpus.max(1) && node.free_mib >= needs.mib;
        self.nodes.iter().filter(fits).collect()
    }

    /// A node with memory only.
    pub(crate) fn cpuless(&self, mib: u64) -> Option<&HostNode> {
        self.nodes.iter().find(|node| node.cpus.is_empty() && node.free_mib >= mib.max(1))
    }

    fn is_uneven(&self) -> bool {
        let with_cpus = || self.nodes.iter().filter(|node| !node.cpus.is_empty() && node.total_mib > 0);
        let (least, most) =
            (with_cpus().map(|node| node.total_mib).min(), with_cpus().map(|node| node.total_mib).max());
        least.zip(most).is_some_and(|(least, most)| least * 2 <= most)
    }
}

/// Whether a stock guest can run on this host's KVM, else why not.
pub(crate) fn kvm() -> Result<(), String> {
    let device = "/dev/kvm";
    OpenOptions::new().read(true).write(true).open(device).map_err(|error| format!("{device}: {error}"))?;
    if fs::exists("/sys/module/kvm_pvm").unwrap_or(false) {
        return Err(format!("{device} is of kvm_pvm, which cannot boot a stock kernel"));
    }
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let hardware = flags.split_whitespace().any(|word| word == "vmx" || word == "svm");
    if hardware { Ok(()) } else { Err("the processor has neither VMX nor SVM".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::Needs;
    use crate::lab::shape::HostShape;

    fn lacks(shape: &str, needs: Needs) -> Option<String> {
        HostShape::called(shape).unwrap().facts().lacks(&needs)
    }

    #[test]
    fn a_host_with_a_node_without_cpus_is_told_from_one_without() {
        let needs = Needs { nodes: 2, cpuless: true, ..Needs::default() };
        assert_eq!(lacks("cpuless", needs), None);
        assert!(lacks("two", needs).unwrap().contains("without CPUs"));
    }

    #[test]
    fn only_the_uneven_host_is_uneven_and_has_a_big_node() {
        let needs = Needs { nodes: 1, uneven: true, big_mib: 4096, ..Needs::default() };
        assert_eq!(lacks("uneven", needs), None);
        assert!(lacks("four", needs).is_some());
    }
}
