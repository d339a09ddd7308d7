//! A plan for programs: the schema of `numavisor plan --json`, version 1. Fields are added, never changed.

use resources::placement::{Decision, Reason, Shortfall};
use resources::topology::Note;
use resources::{
    Affinity, ApicId, Bytes, Claim, CpuSet, DistanceMatrix, Gpa, MemoryAttributes, MemoryPart, MemoryPolicy,
    MemorySideCache, NodeSet, PageSize, Plan, VcpuId, VmDevices, VnodeId,
};
use serde::Serialize;

/// The plan.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    /// 1.
    version: u32,
    /// Bytes of all vnodes.
    memory: Bytes,
    /// vCPUs of all vnodes.
    vcpus: usize,
    /// Ascending by id, from 0 without holes.
    vnodes: Vec<Vnode<'a>>,
    /// How pnodes were chosen for vnodes that named none, and the same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    placement: Option<Choice<'a>>,
    /// What the VM takes of each pnode.
    claim: &'a Claim,
    /// SLIT distances, from row to column.
    distances: &'a DistanceMatrix,
    /// HMAT figures that the guest is told, `[initiator][target]`, null where there are none; nanoseconds, MiB/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<&'a MemoryAttributes>,
    /// HMAT caches in front of the vnodes' memory, by vnode and level.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    caches: &'a [MemorySideCache],
    /// The devices, each with its vnode.
    devices: &'a VmDevices,
    /// Remarks on the configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<Noted<'a>>,
}

/// What may surprise: `note`, its figures, and the same in words.
#[derive(Debug, Serialize)]
struct Noted<'a> {
    #[serde(flatten)]
    note: &'a Note,
    text: String,
}

/// One vnode. Sizes and addresses are in bytes, sets are Linux lists.
#[derive(Debug, Serialize)]
struct Vnode<'a> {
    id: VnodeId,
    memory: Bytes,
    /// Its guest-physical ranges, ascending.
    ram: Vec<Ram>,
    vcpus: Vec<Vcpu<'a>>,
    /// The pnodes that hold its memory.
    pnodes: &'a NodeSet,
    /// How much of it lies on each of these, in the order of its addresses, if it is bound to several.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    parts: &'a [MemoryPart],
    /// The pnodes that its vCPUs are at home on.
    cpu_pnodes: &'a NodeSet,
    /// The CPUs of those.
    cpus: &'a CpuSet,
    policy: MemoryPolicy,
    affinity: Affinity,
    pages: PageSize,
    prefault: bool,
    shared: bool,
    /// HMAT: for a vnode with memory only, the vnode that it is attached to.
    #[serde(skip_serializing_if = "Option::is_none")]
    initiator: Option<VnodeId>,
    why: Why<'a>,
    /// What is not as wished.
    shortfalls: Vec<Missing<'a>>,
}

/// A range of guest-physical addresses.
#[derive(Debug, Serialize)]
struct Ram {
    start: Gpa,
    size: Bytes,
}

/// A vCPU and the host CPUs it may run on.
#[derive(Debug, Serialize)]
struct Vcpu<'a> {
    id: VcpuId,
    apic_id: ApicId,
    cpus: &'a CpuSet,
}

/// Why the vnode is placed there: `reason`, its values, and the same as text.
#[derive(Debug, Serialize)]
struct Why<'a> {
    #[serde(flatten)]
    reason: &'a Reason,
    text: String,
}

/// What is missing: `shortfall`, its figures, and the same in words.
#[derive(Debug, Serialize)]
struct Missing<'a> {
    #[serde(flatten)]
    shortfall: &'a Shortfall,
    text: String,
}

/// How pnodes were chosen: the figures, and the same in words.
#[derive(Debug, Serialize)]
struct Choice<'a> {
    #[serde(flatten)]
    decision: &'a Decision,
    text: Vec<String>,
}

/// The document of a plan.
pub fn document(plan: &Plan) -> Document<'_> {
    let vnodes = plan.topology.vnodes().iter().zip(&plan.placement.vnodes).map(|(vnode, at)| Vnode {
        id: vnode.id,
        memory: vnode.memory,
        ram: plan.memory_map.of(vnode.id).map(|range| Ram { start: range.start, size: range.size }).collect(),
        vcpus: at
            .vcpus
            .iter()
            .map(|(vcpu, cpus)| Vcpu { id: *vcpu, apic_id: plan.cpus.apic_id(*vcpu), cpus })
            .collect(),
        pnodes: &at.pnodes,
        parts: &at.parts,
        cpu_pnodes: &at.cpu_pnodes,
        cpus: &at.cpus,
        policy: vnode.policy,
        affinity: vnode.affinity,
        pages: vnode.pages,
        prefault: vnode.prefault,
        shared: vnode.shared,
        initiator: vnode.initiator.filter(|initiator| *initiator != vnode.id),
        why: Why { reason: &at.why, text: at.why.to_string() },
        shortfalls: at
            .shortfalls
            .iter()
            .map(|shortfall| Missing { shortfall, text: shortfall.to_string() })
            .collect(),
    });
    Document {
        version: 1,
        memory: plan.topology.memory(),
        vcpus: plan.topology.vcpu_count(),
        vnodes: vnodes.collect(),
        placement: plan
            .placement
            .decision
            .as_ref()
            .map(|decision| Choice { decision, text: decision.lines() }),
        claim: &plan.placement.claim,
        distances: plan.topology.distances(),
        attributes: plan.topology.attributes(),
        caches: plan.topology.caches(),
        devices: &plan.devices,
        notes: plan.topology.notes().iter().map(|note| Noted { note, text: note.to_string() }).collect(),
    }
}
