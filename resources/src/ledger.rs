//! The claims of running VMs by pnode, and the part that they have not touched yet. `vmm` knows which VMs are
//! running; `placement` assigns the rest.

use crate::ids::PnodeId;
use crate::set::CpuSet;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::iter::Sum;

/// The claim of one VM, by pnode.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Claim {
    /// Pnodes of which it has something.
    pub pnodes: BTreeMap<PnodeId, NodeClaim>,
}

/// What one VM claims of one pnode, or has touched there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeClaim {
    /// Ordinary memory.
    pub memory: Bytes,
    /// Huge pages by page size.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub huge_pages: BTreeMap<Bytes, u64>,
    /// vCPUs at home there.
    pub vcpus: u64,
    /// CPUs that have a vCPU of this VM pinned to them.
    #[serde(skip_serializing_if = "CpuSet::is_empty")]
    pub pinned: CpuSet,
}

impl NodeClaim {
    /// Adds another claim on the same pnode; amounts stop at 2^64 - 1.
    pub fn add(&mut self, other: &Self) {
        self.memory = self.memory.saturating_add(other.memory);
        self.vcpus = self.vcpus.saturating_add(other.vcpus);
        self.pinned = self.pinned.union(&other.pinned);
        for (size, pages) in &other.huge_pages {
            let sum = self.huge_pages.entry(*size).or_default();
            *sum = sum.saturating_add(*pages);
        }
    }

    /// Whichever claim on the same pnode is larger, amount by amount.
    fn at_least(&mut self, other: &Self) {
        self.memory = self.memory.max(other.memory);
        self.vcpus = self.vcpus.max(other.vcpus);
        self.pinned = self.pinned.union(&other.pinned);
        for (size, pages) in &other.huge_pages {
            let most = self.huge_pages.entry(*size).or_default();
            *most = (*most).max(*pages);
        }
    }

    /// Less what another claim has of the same pnode; nothing stays nothing. CPUs that vCPUs are pinned to stay.
    fn less(&self, other: &Self) -> Self {
        let vcpus = self.vcpus.saturating_sub(other.vcpus);
        Self { vcpus, ..self.untouched(other) }
    }

    /// What is promised here and not in `touched` yet, for memory and huge pages. vCPUs and CPUs stay as promised:
    /// no kernel counter falls when they are taken.
    fn untouched(&self, touched: &Self) -> Self {
        let left = |(size, pages): (&Bytes, &u64)| {
            let taken = touched.huge_pages.get(size).copied().unwrap_or(0);
            (*size, pages.saturating_sub(taken))
        };
        Self {
            memory: self.memory.saturating_sub(touched.memory),
            huge_pages: self.huge_pages.iter().map(left).collect(),
            vcpus: self.vcpus,
            pinned: self.pinned.clone(),
        }
    }
}

impl Claim {
    /// Adds to the claim on one pnode.
    pub fn add(&mut self, pnode: PnodeId, more: &NodeClaim) {
        self.pnodes.entry(pnode).or_default().add(more);
    }

    /// What holds both this and another claim of the same vnode, of which one is to take the place of the other:
    /// enough for either, by pnode, and not for both at once.
    #[must_use]
    pub fn at_least(mut self, other: &Self) -> Self {
        for (pnode, node) in &other.pnodes {
            self.pnodes.entry(*pnode).or_default().at_least(node);
        }
        self
    }

    /// Less what another has, pnode by pnode.
    #[must_use]
    pub fn less(&self, other: &Self) -> Self {
        let nothing = NodeClaim::default();
        let less = |(pnode, node): (&PnodeId, &NodeClaim)| {
            (*pnode, node.less(other.pnodes.get(pnode).unwrap_or(&nothing)))
        };
        Self { pnodes: self.pnodes.iter().map(less).collect() }
    }

    /// Nothing of any pnode.
    pub fn is_empty(&self) -> bool {
        self.pnodes.values().all(|node| *node == NodeClaim::default())
    }

    /// All of it, wherever.
    pub fn total(&self) -> NodeClaim {
        let mut total = NodeClaim::default();
        self.pnodes.values().for_each(|node| total.add(node));
        total
    }
}

impl<'a> Sum<&'a Claim> for Claim {
    fn sum<I: Iterator<Item = &'a Claim>>(claims: I) -> Self {
        let mut sum = Self::default();
        for claim in claims {
            claim.pnodes.iter().for_each(|(pnode, node)| sum.add(*pnode, node));
        }
        sum
    }
}

/// The claims of all running VMs.
///
/// Free memory of a node is what the kernel says minus what living claims have not yet touched: so the ledger keeps
/// two sums, all that is claimed and the part of it that the kernel still counts as free.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Ledger {
    claimed: BTreeMap<PnodeId, NodeClaim>,
    untouched: BTreeMap<PnodeId, NodeClaim>,
}

impl Ledger {
    /// Nobody lives.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a living VM: what it was promised, and what of that the kernel has handed to it by now. `touched` has
    /// to be from before the kernel's figures of free memory were read, else memory taken in between is counted as
    /// free by both.
    pub fn add(&mut self, claim: &Claim, touched: &Claim) {
        let nothing = NodeClaim::default();
        for (pnode, promised) in &claim.pnodes {
            let has = touched.pnodes.get(pnode).unwrap_or(&nothing);
            self.claimed.entry(*pnode).or_default().add(promised);
            self.untouched.entry(*pnode).or_default().add(&promised.untouched(has));
        }
    }

    /// The total claimed of a pnode.
    pub fn claimed(&self, pnode: PnodeId) -> Option<&NodeClaim> {
        self.claimed.get(&pnode)
    }

    /// Memory claimed of a pnode that the kernel still counts as free.
    pub fn untouched_memory(&self, pnode: PnodeId) -> Bytes {
        self.untouched.get(&pnode).map_or(Bytes::ZERO, |node| node.memory)
    }

    /// Huge pages claimed of a pnode that its pool still counts as free.
    pub fn untouched_pages(&self, pnode: PnodeId, size: Bytes) -> u64 {
        self.untouched.get(&pnode).and_then(|node| node.huge_pages.get(&size)).copied().unwrap_or(0)
    }

    /// vCPUs at home on a pnode.
    pub fn vcpus(&self, pnode: PnodeId) -> u64 {
        self.claimed(pnode).map_or(0, |node| node.vcpus)
    }

    /// CPUs, wherever, that some vCPU is pinned to.
    pub fn pinned(&self) -> CpuSet {
        self.claimed.values().fold(CpuSet::new(), |all, node| all.union(&node.pinned))
    }
}

#[cfg(test)]
mod tests {
    use super::{Claim, Ledger, NodeClaim};
    use crate::{Bytes, PnodeId};
    use proptest::prelude::proptest;

    fn claim(pnode: u32, memory: u64, pages: u64, vcpus: u64, pinned: &str) -> Claim {
        let node = NodeClaim {
            memory: Bytes::mib(memory),
            huge_pages: [(Bytes::mib(2), pages)].into(),
            vcpus,
            pinned: pinned.parse().unwrap(),
        };
        Claim { pnodes: [(PnodeId(pnode), node)].into() }
    }

    #[test]
    fn what_a_vm_has_touched_is_no_longer_subtracted() {
        let mut ledger = Ledger::new();
        ledger.add(&claim(1, 512, 100, 2, "4"), &claim(1, 200, 30, 0, ""));
        ledger.add(&claim(1, 256, 0, 1, "5"), &Claim::default());
        assert_eq!(ledger.untouched_memory(PnodeId(1)), Bytes::mib(312 + 256));
        assert_eq!(ledger.untouched_pages(PnodeId(1), Bytes::mib(2)), 70);
        assert_eq!(ledger.claimed(PnodeId(1)).unwrap().memory, Bytes::mib(768));
        assert_eq!((ledger.vcpus(PnodeId(1)), ledger.pinned().to_string()), (3, "4-5".into()));
        assert_eq!((ledger.untouched_memory(PnodeId(0)), ledger.vcpus(PnodeId(0))), (Bytes::ZERO, 0));
    }

    #[test]
    fn a_vm_with_more_than_it_was_promised_owes_nothing_to_others() {
        let mut ledger = Ledger::new();
        ledger.add(&claim(0, 100, 1, 0, ""), &claim(0, 500, 5, 0, ""));
        ledger.add(&claim(0, 100, 1, 0, ""), &claim(2, 500, 5, 0, ""));
        assert_eq!(ledger.untouched_memory(PnodeId(0)), Bytes::mib(100));
    }

    #[test]
    fn a_claim_on_two_sides_is_enough_for_either_and_not_for_both() {
        let both =
            claim(0, 500, 2, 3, "0-2").at_least(&claim(0, 200, 4, 3, "1")).at_least(&claim(1, 9, 0, 1, ""));
        let expected: Claim = [&claim(0, 500, 4, 3, "0-2"), &claim(1, 9, 0, 1, "")].into_iter().sum();
        assert_eq!(both, expected);
        assert_eq!(
            both.less(&claim(0, 600, 1, 1, "")).pnodes[&PnodeId(0)],
            claim(0, 0, 3, 2, "0-2").pnodes[&PnodeId(0)]
        );
    }

    #[test]
    fn claims_read_back_as_written_and_later_fields_are_no_obstacle() {
        let claim = claim(3, 7, 8, 9, "0-3,8");
        let text = serde_json::to_string(&claim).unwrap();
        assert_eq!(serde_json::from_str::<Claim>(&text).unwrap(), claim);
        let later = r#"{"0": {"memory": 1, "colour": "red"}}"#;
        assert_eq!(serde_json::from_str::<Claim>(later).unwrap().total().memory, Bytes(1));
    }

    proptest! {
        #[test]
        fn untouched_is_never_more_than_claimed(amounts in proptest::collection::vec((0u32..3, 0u64..u64::MAX, 0u64..u64::MAX), 0..8)) {
            let mut ledger = Ledger::new();
            for (pnode, promised, has) in amounts {
                let of = |memory| Claim { pnodes: [(PnodeId(pnode), NodeClaim { memory: Bytes(memory), ..NodeClaim::default() })].into() };
                ledger.add(&of(promised), &of(has));
            }
            for id in (0..3).map(PnodeId) {
                assert!(ledger.untouched_memory(id) <= ledger.claimed(id).map_or(Bytes::ZERO, |node| node.memory));
            }
        }
    }
}
