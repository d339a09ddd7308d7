//! How many vnodes `--vnodes auto` comes to. Where each lies is `placement`'s business.

use crate::host::HostTopology;
use crate::ids::PnodeId;
use crate::ledger::Ledger;
use crate::placement::explain::Compromise;
use crate::placement::{Placement, Terms};
use crate::plan::PlanError;
use crate::spec::{Fit, VmSpec, VnodeSpec};
use crate::topology::VmTopology;
use crate::units::Bytes;
use crate::{VcpuSet, VnodeCount};
use std::collections::BTreeMap;

/// Places the vnodes by the rules that were typed.
pub fn place(
    spec: &VmSpec,
    topology: &VmTopology,
    host: &HostTopology,
    ledger: &Ledger,
) -> Result<Placement, PlanError> {
    let terms = Terms { policy: spec.placement, fit: spec.fit, ledger };
    Ok(Placement::new(topology, host, &terms)?)
}

fn as_typed(
    spec: &VmSpec,
    host: &HostTopology,
    ledger: &Ledger,
) -> Result<(VmTopology, Placement), PlanError> {
    let topology = VmTopology::try_from(spec)?;
    let placement = place(spec, &topology, host, ledger)?;
    Ok((topology, placement))
}

/// As many vnodes as the VM needs pnodes: it is cut into 1, 2, 3 ... equal parts until they fit, and the parts that
/// lie on one pnode make up one vnode. If they never fit, and that is not required, CPUs are shared; if that is not
/// enough, one vnode is spread.
pub fn as_needed(
    spec: &VmSpec,
    host: &HostTopology,
    ledger: &Ledger,
) -> Result<(VmTopology, Placement), PlanError> {
    let vcpus = spec.vcpus.unwrap_or(1);
    let cut = |parts: u32, fit: Fit| {
        let spec =
            VmSpec { vnodes: Some(VnodeCount::Exactly(parts)), vcpus: Some(vcpus), fit, ..spec.clone() };
        as_typed(&spec, host, ledger)
    };
    let one = cut(1, spec.fit);
    let most = u32::try_from(host.pnodes().len()).unwrap_or(u32::MAX).min(crate::topology::MAX_VNODES);
    let attempts: &[Fit] = match spec.fit {
        Fit::Strict => &[Fit::Strict],
        Fit::Prefer => &[Fit::Strict, Fit::Prefer],
    };
    for fit in attempts {
        // Distances between vnodes that are not there yet are refused; so is memory that cannot be shared out.
        for (topology, placement) in (1..=most).filter_map(|parts| cut(parts, *fit).ok()) {
            let compromise =
                placement.decision.as_ref().map_or(Compromise::None, |decision| decision.compromise);
            match compromise {
                Compromise::None | Compromise::SharedCpus => {
                    return joined(
                        &VmSpec { vcpus: Some(vcpus), ..spec.clone() },
                        &topology,
                        &placement,
                        host,
                        ledger,
                    );
                }
                Compromise::Spread | Compromise::SpreadAndSharedCpus => {}
            }
        }
    }
    one
}

/// One vnode for each pnode, in the order in which its parts come.
fn joined(
    spec: &VmSpec,
    topology: &VmTopology,
    placement: &Placement,
    host: &HostTopology,
    ledger: &Ledger,
) -> Result<(VmTopology, Placement), PlanError> {
    let mut numa: Vec<VnodeSpec> = Vec::new();
    let mut of_pnode: BTreeMap<Option<PnodeId>, usize> = BTreeMap::new();
    for (vnode, at) in topology.vnodes().iter().zip(&placement.vnodes) {
        let index = *of_pnode.entry(at.pnodes.first()).or_insert(numa.len());
        if index == numa.len() {
            numa.push(VnodeSpec {
                memory: Some(Bytes::ZERO),
                vcpus: Some(VcpuSet::new()),
                ..VnodeSpec::new(u32::try_from(index).unwrap_or(u32::MAX))
            });
        }
        let VnodeSpec { memory, vcpus, .. } = &mut numa[index];
        *memory = memory.map(|memory| memory.saturating_add(vnode.memory));
        *vcpus = vcpus.as_ref().map(|vcpus| vcpus.union(&vnode.vcpus));
    }
    as_typed(&VmSpec { numa, vnodes: None, ..spec.clone() }, host, ledger)
}
