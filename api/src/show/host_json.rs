//! A host for programs: the schema of `numavisor host --json`, version 1. Fields are added, never changed.

use resources::{AccessAttributes, Bytes, Claim, CpuSet, DistanceMatrix, HostTopology, NodeClaim, PnodeId};
use serde::Serialize;
use vmm::claims::Living;

/// The host.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    /// 1.
    version: u32,
    /// Online nodes, ascending by id.
    pnodes: Vec<Pnode<'a>>,
    /// SLIT distances by position in `pnodes`, from row to column.
    distances: &'a DistanceMatrix,
    /// Why no Linux can be started on this host, if that is known; of the host that this runs on alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_linux: Option<&'static str>,
    /// Running VMs, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    claims: Option<Vec<Vm<'a>>>,
}

/// A running VM.
#[derive(Debug, Serialize)]
struct Vm<'a> {
    /// Its process.
    pid: u32,
    /// Its claim, by pnode.
    claim: &'a Claim,
    /// What it released from its claim for other VMs, by pnode.
    released: &'a Claim,
    /// What of its claim it has touched, by pnode; null where that cannot be known.
    touched: Option<&'a Claim>,
}

/// What running VMs have of one host node together.
#[derive(Debug, Serialize)]
struct Claimed {
    #[serde(flatten)]
    promised: NodeClaim,
    /// Bytes of `memory` that were not touched, so that the kernel counts them as free.
    memory_untouched: Bytes,
    /// `numa_hit`: bytes of running VMs that are here as their policies intend.
    memory_hit: Bytes,
    /// `numa_miss`: bytes that are here but were intended for another pnode.
    memory_miss: Bytes,
    /// `numa_foreign`: bytes intended for this pnode that are elsewhere.
    memory_foreign: Bytes,
    /// Of `memory_hit`, what interleaving policies put here.
    memory_interleave_hit: Bytes,
    /// What a new VM can have: `memory_available` less `memory_untouched`.
    memory_left: Bytes,
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
    /// What the kernel keeps free: its watermarks and what they protect.
    memory_kept: Bytes,
    /// What a VM can have: free and reclaimable less what the kernel keeps; 0 where memory is not allowed.
    memory_available: Bytes,
    /// Whether this process may have memory here.
    memory_allowed: bool,
    /// Whether it is memory of a device, which no rule chooses unless it is asked for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    device_memory: bool,
    huge_pages: Vec<Pool>,
    /// What the nearest CPUs see, where firmware tells all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<AccessAttributes>,
    /// The claims of all running VMs here, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed: Option<Claimed>,
}

/// Huge pages of one size.
#[derive(Debug, Serialize)]
struct Pool {
    /// Bytes of a page.
    size: Bytes,
    /// Pages in the pool.
    total: u64,
    /// Free pages.
    free: u64,
    /// Of these, what mappings have reserved and not touched, as far as it must be of this node.
    reserved: u64,
}

/// The document of a host, with the reason why Linux cannot boot, and with its running VMs if requested.
pub fn document<'a>(
    host: &'a HostTopology,
    no_linux: Option<&'static str>,
    running: Option<&'a [Living]>,
) -> Document<'a> {
    let ledger = running.map(Living::ledger);
    let claimed = |pnode: &resources::Pnode| {
        let ledger = ledger.as_ref()?;
        let untouched = ledger.untouched_memory(pnode.id);
        let stat = Living::stat(running?, pnode.id);
        Some(Claimed {
            promised: ledger.claimed(pnode.id).cloned().unwrap_or_default(),
            memory_untouched: untouched,
            memory_hit: stat.hit,
            memory_miss: stat.miss,
            memory_foreign: stat.foreign,
            memory_interleave_hit: stat.interleave_hit,
            memory_left: pnode.available().saturating_sub(untouched),
        })
    };
    let pnodes = host.pnodes().iter().map(|pnode| Pnode {
        id: pnode.id,
        cpus: &pnode.cpus,
        memory_total: pnode.memory_total,
        memory_free: pnode.memory_free,
        memory_reclaimable: pnode.memory_reclaimable,
        memory_kept: pnode.memory_kept,
        memory_available: pnode.available(),
        memory_allowed: pnode.memory_allowed,
        device_memory: pnode.device_memory,
        huge_pages: pnode
            .huge_pages
            .iter()
            .map(|(size, pool)| Pool {
                size: *size,
                total: pool.total,
                free: pool.free,
                reserved: pool.reserved,
            })
            .collect(),
        attributes: pnode.attributes,
        claimed: claimed(pnode),
    });
    let pnodes = pnodes.collect();
    let vm = |vm: &'a Living| Vm {
        pid: vm.pid,
        claim: &vm.claim,
        released: &vm.released,
        touched: vm.touched.as_ref().map(|touched| &touched.has),
    };
    let claims = running.map(|running| running.iter().map(vm).collect());
    Document { version: 1, pnodes, distances: host.distances(), no_linux, claims }
}
