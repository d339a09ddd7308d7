//! Whether a plan made a moment ago still fits, for callers that plan before they take the lock. They plan again if
//! it does not.

use crate::host::HostTopology;
use crate::ledger::{Claim, Ledger};
use crate::placement::room::Room;

/// Whether the host has room for a claim beside the claims of others: memory and pages of pools on each of its pnodes
/// and, if `cpus`, an unclaimed CPU for each of its vCPUs and none that somebody else is pinned to.
pub fn still_fits(claim: &Claim, host: &HostTopology, others: &Ledger, cpus: bool) -> bool {
    let room = Room::new(host, others);
    claim.pnodes.iter().all(|(pnode, node)| {
        let pages = node.huge_pages.iter().all(|(size, pages)| *pages <= room.huge_pages(*pnode, *size));
        let free = || node.vcpus <= room.cpus(*pnode) && room.unpinned(&node.pinned) == node.pinned;
        node.memory <= room.memory(*pnode) && pages && (!cpus || free())
    })
}

#[cfg(test)]
mod tests {
    use super::still_fits;
    use crate::test_host::HostShape;
    use crate::{Bytes, Claim, Ledger, NodeClaim, PnodeId};

    #[test]
    fn a_claim_fits_up_to_the_last_byte_page_and_cpu() {
        let host = HostShape::new(2).pool(0, Bytes::mib(2), 8, 8).topology();
        let available = host.pnodes()[0].available();
        let cpus = host.pnodes()[0].cpus.clone();
        let node = |memory: Bytes, pages: u64, vcpus: u64, pinned: &str| NodeClaim {
            memory,
            huge_pages: [(Bytes::mib(2), pages)].into(),
            vcpus,
            pinned: pinned.parse().unwrap(),
        };
        let claim = |node| Claim { pnodes: [(PnodeId(0), node)].into() };
        let mut others = Ledger::new();
        others.add(&claim(node(Bytes::mib(100), 3, 1, "0")), &claim(node(Bytes::mib(40), 1, 0, "")));
        let left = available.saturating_sub(Bytes::mib(60));
        let last = node(left, 6, cpus.len() as u64 - 1, "1");
        assert!(still_fits(&claim(last.clone()), &host, &others, true));
        let more_memory = NodeClaim { memory: left.saturating_add(Bytes(1)), ..last.clone() };
        let more_pages = NodeClaim { huge_pages: [(Bytes::mib(2), 7)].into(), ..last.clone() };
        for (short, what) in [(more_memory, "memory"), (more_pages, "pages")] {
            assert!(!still_fits(&claim(short), &host, &others, false), "{what}");
        }
        let more_cpus = NodeClaim { vcpus: last.vcpus + 1, ..last.clone() };
        let same_cpu = NodeClaim { pinned: "0-1".parse().unwrap(), ..last };
        for (short, what) in [(more_cpus, "CPUs"), (same_cpu, "a pinned CPU")] {
            assert!(!still_fits(&claim(short.clone()), &host, &others, true), "{what}");
            assert!(still_fits(&claim(short), &host, &others, false), "{what}");
        }
        let elsewhere = Claim { pnodes: [(PnodeId(7), node(Bytes(1), 0, 0, ""))].into() };
        assert!(!still_fits(&elsewhere, &host, &others, false), "a pnode that is gone");
    }
}
