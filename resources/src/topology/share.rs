//! Splits unassigned memory and vCPUs of the VM over its vnodes.

use crate::ids::{VcpuId, VnodeId};
use crate::set::VcpuSet;
use crate::spec::{VmSpec, VnodeSpec};
use crate::topology::{DEFAULT_MEMORY, MAX_VCPUS, MEMORY_UNIT, SpecError};
use crate::units::Bytes;

/// Memory of each vnode: what it names, else an even share of what the VM's total leaves.
pub fn share_memory(spec: &VmSpec, vnodes: &[VnodeSpec]) -> Result<Vec<Bytes>, SpecError> {
    let named = vnodes.iter().filter_map(|v| v.memory).try_fold(Bytes::ZERO, Bytes::checked_add);
    let named = named.ok_or(SpecError::TooMuchMemory)?;
    let unnamed = vnodes.iter().filter(|v| v.memory.is_none()).count() as u64;
    let nothing_named = unnamed == vnodes.len() as u64;
    let total = match spec.memory {
        Some(total) => total,
        None if nothing_named => DEFAULT_MEMORY,
        None => named,
    };
    if total < named || (unnamed == 0 && total != named) {
        return Err(SpecError::MemoryConflict { total, named });
    }
    let left = total.saturating_sub(named);
    if unnamed > 0 && !left.is_multiple_of(MEMORY_UNIT) {
        return Err(SpecError::TotalUnit(total));
    }
    let units = left.get() / MEMORY_UNIT.get();
    let mut shares = (0..unnamed).map(|i| {
        let extra = u64::from(i < units % unnamed.max(1));
        Bytes((units / unnamed.max(1) + extra) * MEMORY_UNIT.get())
    });
    Ok(vnodes.iter().map(|v| v.memory.or_else(|| shares.next()).unwrap_or(Bytes::ZERO)).collect())
}

/// vCPUs of each vnode: those it names, else an even share, in order, of those that no vnode names.
pub fn share_vcpus(spec: &VmSpec, vnodes: &[VnodeSpec]) -> Result<Vec<VcpuSet>, SpecError> {
    let named =
        vnodes.iter().filter_map(|v| v.vcpus.as_ref()).fold(VcpuSet::new(), |all, set| all.union(set));
    let unnamed = vnodes.iter().filter(|v| v.vcpus.is_none()).count();
    let count = match (spec.vcpus, named.last()) {
        (Some(count), _) => u64::from(count),
        (None, Some(last)) => u64::from(last.0) + 1,
        (None, None) => unnamed as u64,
    };
    let Some(count) = u32::try_from(count).ok().filter(|count| (1..=MAX_VCPUS).contains(count)) else {
        return Err(SpecError::VcpuCount(count));
    };
    for (id, vnode) in (0..).zip(vnodes) {
        if let Some(vcpu) = vnode.vcpus.as_ref().and_then(VcpuSet::last).filter(|vcpu| vcpu.0 >= count) {
            return Err(SpecError::NoSuchVcpu { vnode: VnodeId(id), vcpu, last: count - 1 });
        }
    }
    let mut free = (0..count).map(VcpuId).filter(|vcpu| !named.contains(*vcpu));
    let free_count = count as usize - named.len();
    let mut shares = (0..unnamed).map(|i| {
        let extra = usize::from(i < free_count % unnamed.max(1));
        free.by_ref().take(free_count / unnamed.max(1) + extra).collect::<VcpuSet>()
    });
    let vcpus =
        vnodes.iter().map(|v| v.vcpus.clone().or_else(|| shares.next()).unwrap_or_default()).collect();
    match free.next() {
        Some(vcpu) => Err(SpecError::VcpuMissing { vcpu, count }),
        None => Ok(vcpus),
    }
}
