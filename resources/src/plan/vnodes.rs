//! The number of vnodes for `--vnodes auto`. `placement` places them.

use crate::host::{HostTopology, Pnode};
use crate::ids::PnodeId;
use crate::ledger::Ledger;
use crate::placement::explain::Compromise;
use crate::placement::room::Room;
use crate::placement::{Placement, Terms, Workspace};
use crate::plan::PlanError;
use crate::spec::{Fit, VmSpec, VnodeSpec};
use crate::topology::{DEFAULT_MEMORY, MEMORY_UNIT, VmTopology};
use crate::units::Bytes;
use crate::{VcpuSet, VnodeCount};
use std::collections::{BTreeMap, BTreeSet};

/// Places the vnodes by the rules that were typed.
pub fn place(
    spec: &VmSpec,
    topology: &VmTopology,
    host: &HostTopology,
    ledger: &Ledger,
    workspace: &Workspace,
) -> Result<Placement, PlanError> {
    let terms = Terms { policy: spec.placement, fit: spec.fit, ledger };
    Ok(Placement::new(topology, host, &terms, workspace)?)
}

fn as_typed(
    spec: &VmSpec,
    host: &HostTopology,
    ledger: &Ledger,
    workspace: &Workspace,
) -> Result<(VmTopology, Placement), PlanError> {
    let topology = VmTopology::try_from(spec)?;
    let placement = place(spec, &topology, host, ledger, workspace)?;
    Ok((topology, placement))
}

/// As many vnodes as the VM needs pnodes: it is cut into 1, 2, 3 ... equal parts until they fit, and the parts that
/// lie on one pnode make up one vnode. If they never fit, and that is not required, CPUs are shared; if that is not
/// enough, or the work is done before, one vnode is spread.
pub fn as_needed(
    spec: &VmSpec,
    host: &HostTopology,
    ledger: &Ledger,
    workspace: &Workspace,
) -> Result<(VmTopology, Placement), PlanError> {
    let spec = &VmSpec { vcpus: Some(spec.vcpus.unwrap_or(1)), ..spec.clone() };
    let cut = |parts: u32, fit: Fit| {
        let spec = VmSpec { vnodes: Some(VnodeCount::Exactly(parts)), fit, ..spec.clone() };
        as_typed(&spec, host, ledger, workspace)
    };
    let whole = |found: Result<(VmTopology, Placement), PlanError>| match found {
        Ok((_, placed)) if is_cut_up(&placed) => Ok(None),
        Ok((topology, placed)) if has_own_pnodes(&placed) => Ok(Some((topology, placed))),
        Ok((topology, placed)) => joined(spec, &topology, &placed, host, ledger, workspace).map(Some),
        // It may fit in more parts. Distances between vnodes that are not there yet are refused; so is memory that
        // cannot be shared out.
        Err(PlanError::Placement(_) | PlanError::Spec(_)) => Ok(None),
        Err(error @ (PlanError::Device(_) | PlanError::NoAttributes { .. })) => Err(error),
    };
    let most = u32::try_from(host.pnodes().len()).unwrap_or(u32::MAX).min(crate::topology::MAX_VNODES);
    let room = Room::new(host, ledger);
    for parts in (1..=most).filter(|parts| may_fit(spec, *parts, host, &room)) {
        if let Some(found) = whole(cut(parts, Fit::Strict))? {
            return Ok(found);
        }
        if workspace.is_spent() {
            break;
        }
    }
    let one = cut(1, spec.fit);
    // What fits in pieces does so with CPUs of its own, however it is cut.
    let in_pieces = spec.pins.is_empty() && one.as_ref().is_ok_and(|(_, placed)| is_cut_up(placed));
    let most_shared = match spec.fit {
        Fit::Prefer if !in_pieces => most,
        Fit::Prefer | Fit::Strict => 0,
    };
    for parts in 1..=most_shared {
        if workspace.is_spent() {
            break;
        }
        if let Some(found) = whole(cut(parts, Fit::Prefer))? {
            return Ok(found);
        }
    }
    one
}

/// Whether vnodes lie on several pnodes for want of room.
fn is_cut_up(placed: &Placement) -> bool {
    placed.decision.as_ref().is_some_and(|decision| match decision.compromise {
        Compromise::None | Compromise::CpusElsewhere | Compromise::SharedCpus => false,
        Compromise::Spread | Compromise::SpreadAndSharedCpus => true,
    })
}

/// Whether no two vnodes lie on the same pnode: then nothing is to be joined.
fn has_own_pnodes(placed: &Placement) -> bool {
    let pnodes: BTreeSet<Option<PnodeId>> = placed.vnodes.iter().map(|at| at.pnodes.first()).collect();
    pnodes.len() == placed.vnodes.len()
}

/// Whether so many parts could lie whole on pnodes if all were as small as the smallest: a look at each pnode, to spare
/// searches that come to nothing.
fn may_fit(spec: &VmSpec, parts: u32, host: &HostTopology, room: &Room) -> bool {
    if !spec.pins.is_empty() {
        return true;
    }
    let parts = u64::from(parts.max(1));
    let vcpus = u64::from(spec.vcpus.unwrap_or(1)) / parts;
    let memory = spec.memory.unwrap_or(DEFAULT_MEMORY).get() / MEMORY_UNIT.get() / parts * MEMORY_UNIT.get();
    let on = |pnode: &Pnode| {
        let by_memory = room.memory(pnode.id).get().checked_div(memory);
        let by_cpus = room.cpus(pnode.id).checked_div(vcpus);
        by_memory.into_iter().chain(by_cpus).min().unwrap_or(parts)
    };
    host.pnodes().iter().map(on).fold(0, u64::saturating_add) >= parts
}

/// One vnode for each pnode, in the order in which its parts come.
fn joined(
    spec: &VmSpec,
    topology: &VmTopology,
    placement: &Placement,
    host: &HostTopology,
    ledger: &Ledger,
    workspace: &Workspace,
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
    as_typed(&VmSpec { numa, vnodes: None, ..spec.clone() }, host, ledger, workspace)
}

#[cfg(test)]
mod tests {
    use super::{as_typed, has_own_pnodes, joined};
    use crate::VnodeCount;
    use crate::ledger::Ledger;
    use crate::placement::Workspace;
    use crate::spec::{Fit, VmSpec};
    use crate::test_host::{HostShape, Pattern};
    use crate::units::Bytes;

    #[test]
    fn parts_on_pnodes_of_their_own_are_what_joining_them_would_give() {
        let (ledger, mut compared) = (Ledger::new(), 0);
        for pattern in [Pattern::Alike, Pattern::Sockets(2), Pattern::Ring(8), Pattern::Random] {
            for (parts, uneven) in (1..=8).flat_map(|parts| [(parts, false), (parts, true)]) {
                let shape = HostShape::new(8).pattern(pattern);
                let host = if uneven { shape.uneven() } else { shape }.topology();
                let spec = VmSpec {
                    vnodes: Some(VnodeCount::Exactly(parts)),
                    memory: Some(Bytes::mib(3072 * u64::from(parts))),
                    vcpus: Some(parts + 1),
                    fit: Fit::Strict,
                    ..VmSpec::default()
                };
                let Ok((topology, placed)) = as_typed(&spec, &host, &ledger, &Workspace::default()) else {
                    continue;
                };
                if has_own_pnodes(&placed) {
                    let again = joined(&spec, &topology, &placed, &host, &ledger, &Workspace::default());
                    assert_eq!(again, Ok((topology, placed)), "{parts} parts on {host:?}");
                    compared += 1;
                }
            }
        }
        assert!(compared >= 16, "only {compared} were compared");
    }
}
