//! A host for programs: the schema of `numavisor host --json`, version 1. Fields are added, never changed.

use resources::{AccessAttributes, Bytes, CpuSet, DistanceMatrix, HostTopology, PnodeId};
use serde::Serialize;

/// The host.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    /// 1.
    version: u32,
    /// Online nodes, ascending by id.
    pnodes: Vec<Pnode<'a>>,
    /// SLIT distances by position in `pnodes`, from row to column.
    distances: &'a DistanceMatrix,
}

/// One host node. Memory is in bytes.
#[derive(Debug, Serialize)]
struct Pnode<'a> {
    id: PnodeId,
    /// CPUs that are online and allowed, as a Linux list.
    cpus: &'a CpuSet,
    memory_total: Bytes,
    memory_free: Bytes,
    /// Page cache and slab that the kernel gives up when asked for more.
    memory_reclaimable: Bytes,
    /// What a VM can have: free and reclaimable less the kernel's reserve; 0 where memory is not allowed.
    memory_available: Bytes,
    /// Whether this process may have memory here.
    memory_allowed: bool,
    huge_pages: Vec<Pool>,
    /// What the nearest CPUs see, where firmware tells all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<AccessAttributes>,
}

/// Huge pages of one size.
#[derive(Debug, Serialize)]
struct Pool {
    /// Bytes of a page.
    size: Bytes,
    /// Pages in the pool.
    total: u64,
    /// Pages that nobody has.
    free: u64,
}

/// The document of a host.
pub fn document(host: &HostTopology) -> Document<'_> {
    let pnodes = host.pnodes().iter().map(|pnode| Pnode {
        id: pnode.id,
        cpus: &pnode.cpus,
        memory_total: pnode.memory_total,
        memory_free: pnode.memory_free,
        memory_reclaimable: pnode.memory_reclaimable,
        memory_available: pnode.available(),
        memory_allowed: pnode.memory_allowed,
        huge_pages: pnode
            .huge_pages
            .iter()
            .map(|(size, pool)| Pool { size: *size, total: pool.total, free: pool.free })
            .collect(),
        attributes: pnode.attributes,
    });
    Document { version: 1, pnodes: pnodes.collect(), distances: host.distances() }
}
