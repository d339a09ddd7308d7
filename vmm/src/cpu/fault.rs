//! Where in guest memory the host had no page for a vCPU, in words: the address, its vnode, and the pool that should have
//! had one. That this ends the VM is `vcpu`'s decision.

use crate::memory::{GuestRam, RamRegion};
use resources::{Bytes, Gpa, NodeSet, VnodeId};
use std::fmt;

/// An address and the memory behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultPlace {
    /// As reported by the kernel; older ones do not.
    gpa: Option<Gpa>,
    /// The memory there; where the address is not known, all that comes from pools.
    candidates: Vec<Candidate>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    vnode: VnodeId,
    /// The size of a pool's pages.
    pool: Option<Bytes>,
    /// The nodes of its policy.
    pnodes: Option<NodeSet>,
}

impl FaultPlace {
    /// Looks the address up, and asks the kernel for the policy.
    pub fn of(ram: &GuestRam, gpa: Option<Gpa>) -> Self {
        let there = |region: &&RamRegion| match gpa {
            Some(gpa) => region.range.start <= gpa && gpa < region.range.end(),
            None => region.pages.pool().is_some(),
        };
        // A vnode that is bound to several nodes has a policy for each part.
        let pnodes = |region: &RamRegion| match gpa {
            Some(gpa) => {
                let offset = usize::try_from(gpa.0.saturating_sub(region.range.start.0)).ok()?;
                region.mapping.policy_nodes(offset)
            }
            None => {
                let pages = (0..region.mapping.size()).step_by(region.page());
                let all: Option<Vec<NodeSet>> =
                    pages.map(|offset| region.mapping.policy_nodes(offset)).collect();
                all.map(|all| NodeSet::of_all(&all))
            }
        };
        let candidate = |region: &RamRegion| Candidate {
            vnode: region.range.vnode,
            pool: region.pages.pool(),
            pnodes: pnodes(region),
        };
        let mut candidates: Vec<_> = ram.regions().filter(there).map(candidate).collect();
        candidates.dedup();
        Self { gpa, candidates }
    }

    /// Whether a pool may have run dry.
    pub fn may_be_pool(&self) -> bool {
        self.candidates.iter().any(|candidate| candidate.pool.is_some())
    }
}

impl fmt::Display for FaultPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.gpa {
            Some(gpa) => write!(f, "guest address {gpa}")?,
            None => write!(f, "a guest address that this kernel does not report")?,
        }
        let mut before = if self.gpa.is_some() { " in " } else { ", perhaps in " };
        for Candidate { vnode, pool, pnodes } in &self.candidates {
            write!(f, "{before}vnode {vnode}")?;
            match (pool, pnodes) {
                (Some(size), Some(pnodes)) => write!(f, " ({size} pages of pnode {pnodes})")?,
                (Some(size), None) => write!(f, " ({size} pages)")?,
                (None, Some(pnodes)) => write!(f, " (pnode {pnodes})")?,
                (None, None) => {}
            }
            before = " or ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Candidate, FaultPlace};
    use crate::memory::GuestRam;
    use resources::{Bytes, Gpa, HostRoot, HostTopology, Plan, VmSpec, VnodeId};

    #[test]
    fn the_address_names_its_vnode_and_the_nodes_of_its_policy() {
        let spec = VmSpec { memory: Some(Bytes::mib(8)), vnodes: Some(2.into()), ..VmSpec::default() };
        let plan = Plan::new(&spec, &HostTopology::read(&HostRoot::this()).unwrap()).unwrap();
        let ram = GuestRam::new(&plan).unwrap();
        let at = |gpa| FaultPlace::of(&ram, Some(Gpa(gpa))).to_string();
        let on = |vnode: usize| format!("(pnode {})", plan.placement.vnodes[vnode].pnodes);
        assert_eq!(at(0x40_0000), format!("guest address 0x400000 in vnode 1 {}", on(1)));
        assert_eq!(at(0x3f_ffff), format!("guest address 0x3fffff in vnode 0 {}", on(0)));
        assert_eq!(at(0x80_0000), "guest address 0x800000");
        assert!(!FaultPlace::of(&ram, None).may_be_pool());
    }

    #[test]
    fn pools_are_named() {
        let candidate = |vnode, size| Candidate {
            vnode: VnodeId(vnode),
            pool: Some(size),
            pnodes: Some("1".parse().unwrap()),
        };
        let two = vec![candidate(0, Bytes::mib(2)), candidate(3, Bytes::gib(1))];
        let place = FaultPlace { gpa: None, candidates: two };
        assert_eq!(
            place.to_string(),
            "a guest address that this kernel does not report, perhaps in vnode 0 (2M pages of pnode 1) or vnode 3 \
             (1G pages of pnode 1)"
        );
        let place = FaultPlace { gpa: Some(Gpa(0)), candidates: vec![candidate(0, Bytes::mib(2))] };
        assert_eq!(place.to_string(), "guest address 0x0 in vnode 0 (2M pages of pnode 1)");
        assert!(place.may_be_pool());
    }
}
