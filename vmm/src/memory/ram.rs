//! All guest RAM of a VM: mapped per vnode range, policy first. Prefault and residency build on it.

use super::dirty::{DirtyBitmap, DirtySlice};
use super::parts::{Piece, pieces};
use super::policy::kernel_policy;
use crate::sys::{Advice, Backing, HostError, Mapping, Mode};
use resources::{Bytes, PageSize, Plan, RamRange, Vnode, VnodeId};
use std::sync::Arc;
use vm_memory::bitmap::Bitmap;
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes,
    GuestRegionCollection, MemoryRegionAddress, VolatileSlice,
};

/// Guest RAM. Dropping it unmaps everything.
#[derive(Debug)]
pub struct GuestRam {
    memory: GuestRegionCollection<RamRegion>,
}

/// One range of guest-physical addresses and the host memory behind it.
#[derive(Debug)]
pub struct RamRegion {
    /// Whose memory, and where the guest sees it.
    pub range: RamRange,
    /// The pages asked for.
    pub pages: PageSize,
    /// The host memory.
    pub mapping: Arc<Mapping>,
    /// What of it this process has written.
    pub dirty: DirtyBitmap,
}

/// Why there is no guest RAM.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The plan contradicts itself.
    #[error("guest memory: {0}")]
    Plan(String),
}

impl GuestRam {
    /// Maps every range of the plan and sets its policy; touches nothing.
    pub fn new(plan: &Plan) -> Result<Self, RamError> {
        let mut regions: Vec<RamRegion> = Vec::with_capacity(plan.memory_map.ram().len());
        for range in plan.memory_map.ram() {
            regions.push(RamRegion::new(plan, *range)?);
        }
        let memory =
            GuestRegionCollection::from_regions(regions).map_err(|e| RamError::Plan(e.to_string()))?;
        let ram = Self { memory };
        ram.set_policies(plan)?;
        Ok(ram)
    }

    /// The same memory for a guest that starts again: nothing of it is touched, and all of it is under the policies of the
    /// plan, whose memory map is that of the one before.
    pub fn renew(&self, plan: &Plan) -> Result<(), RamError> {
        for region in self.regions() {
            let let_go = region.discard(0, region.mapping.size());
            let refused =
                |error| HostError::new("madvise", error).of(format!("vnode {}", region.range.vnode));
            let_go.map_err(refused)?;
        }
        self.set_policies(plan)
    }

    /// Whether it lies for the guest as the plan says, on the same pages.
    pub fn fits(&self, plan: &Plan) -> bool {
        let is_of = |region: &RamRegion| {
            let vnode = plan.topology.vnode(region.range.vnode);
            vnode.is_some_and(|vnode| vnode.pages == region.pages)
        };
        self.regions().map(|region| region.range).eq(plan.memory_map.ram().iter().copied())
            && self.regions().all(is_of)
    }

    /// Sets policies, and gives advice.
    fn set_policies(&self, plan: &Plan) -> Result<(), RamError> {
        for vnode in plan.topology.vnodes() {
            let unknown = || RamError::Plan(format!("vnode {} has no place", vnode.id));
            let at = plan.placement.vnodes.get(vnode.id.index()).ok_or_else(unknown)?;
            let of: Vec<&RamRegion> = self.of(vnode.id).collect();
            let sizes = of.iter().map(|region| region.mapping.size());
            for piece in pieces(sizes, vnode.policy, &at.pnodes, &at.parts) {
                of[piece.region].bind(vnode, &piece)?;
            }
            of.into_iter().for_each(RamRegion::advise);
        }
        Ok(())
    }

    /// Of regions that a test made, ascending.
    #[cfg(any(test, feature = "test-kernel"))]
    pub fn of_regions(regions: Vec<RamRegion>) -> Self {
        Self { memory: GuestRegionCollection::from_regions(regions).expect("regions ascend") }
    }

    /// For reading and writing guest memory by guest-physical address.
    pub fn memory(&self) -> &GuestRegionCollection<RamRegion> {
        &self.memory
    }

    /// The ranges, ascending.
    pub fn regions(&self) -> impl Iterator<Item = &RamRegion> {
        self.memory.iter()
    }

    /// The ranges of one vnode.
    pub fn of(&self, vnode: VnodeId) -> impl Iterator<Item = &RamRegion> {
        self.regions().filter(move |region| region.range.vnode == vnode)
    }
}

impl GuestMemoryRegion for RamRegion {
    type B = DirtyBitmap;

    fn len(&self) -> u64 {
        self.range.size.get()
    }

    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.range.start.0)
    }

    fn bitmap(&self) -> DirtySlice<'_> {
        self.dirty.slice_at(0)
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_, DirtySlice<'_>>, GuestMemoryError> {
        let offset = usize::try_from(offset.0).map_err(|_| GuestMemoryError::InvalidBackendAddress)?;
        let writes = self.dirty.slice_at(offset);
        self.mapping.noted_slice(offset, count, writes).ok_or(GuestMemoryError::InvalidBackendAddress)
    }

    fn get_host_address(&self, offset: MemoryRegionAddress) -> Result<*mut u8, GuestMemoryError> {
        self.get_slice(offset, 1).map(|slice| slice.ptr_guard_mut().as_ptr())
    }
}

impl GuestMemoryRegionBytes for RamRegion {}

impl RamRegion {
    /// Of memory that is mapped.
    pub fn of(range: RamRange, pages: PageSize, mapping: Arc<Mapping>) -> Self {
        Self { range, pages, mapping, dirty: DirtyBitmap::default() }
    }

    /// Gives whole pages back to the host; they read as zeroes afterwards.
    pub fn discard(&self, offset: usize, length: usize) -> std::io::Result<()> {
        let discarded = self.mapping.discard(offset, length);
        self.dirty.mark_dirty(offset, length);
        discarded
    }

    fn new(plan: &Plan, range: RamRange) -> Result<Self, RamError> {
        let unknown = || RamError::Plan(format!("vnode {} is not in the plan", range.vnode));
        let vnode = plan.topology.vnode(range.vnode).ok_or_else(unknown)?;
        let ordinary = if range.size >= Bytes::gib(1) { Bytes::gib(1) } else { Bytes::mib(2) };
        let (backing, align) = match vnode.pages.pool() {
            Some(page) => (Backing::HugePages(page), page),
            None if vnode.shared => (Backing::Shared, ordinary),
            None => (Backing::Anonymous, ordinary),
        };
        let name = format!("guest-ram-v{}", range.vnode);
        let mapping = Mapping::new(range.size, range.start.0, align, backing, &name)
            .map_err(|error| error.because_of(format_args!("vnodes[{}].memory", range.vnode)))?;
        let mapping = Arc::new(if plan.host_has_numa { mapping } else { mapping.without_numa() });
        Ok(Self::of(range, vnode.pages, mapping))
    }

    /// Sets the policy of some of it, before anything is touched.
    fn bind(&self, vnode: &Vnode, piece: &Piece) -> Result<(), RamError> {
        let (subject, pnodes) = (format!("vnode {}", vnode.id), &piece.on);
        let (mode, mask) = kernel_policy(vnode.policy, pnodes)
            .ok_or_else(|| RamError::Plan(format!("{subject}: no kernel has a node {pnodes}")))?;
        self.mapping.set_policy(piece.range.clone(), mode, &mask).map_err(|error| {
            let error = error.of(&subject).on(pnodes).because_of(format_args!("vnodes[{}].pnode", vnode.id));
            match (error.errno(), mode) {
                _ if error.hint.is_some() => error,
                (libc::EINVAL, Mode::PreferredMany) => {
                    error.hint("policy=preferred over several nodes needs Linux 5.15, name one node")
                }
                (libc::EINVAL, Mode::Preferred | Mode::Bind | Mode::Interleave) => {
                    error.hint("the node is offline, has no memory, or this process may not use it")
                }
                (libc::EPERM | libc::ENOSYS, _) => error.hint("a container must allow mbind"),
                _ => error,
            }
        })?;
        Ok(())
    }

    /// Advice may be refused by kernels built without the feature: the memory works all the same.
    fn advise(&self) {
        let about_pages = match self.pages {
            PageSize::Small => Some(Advice::SmallPages),
            PageSize::Thp => Some(Advice::HugePages),
            PageSize::Huge2M | PageSize::Huge1G => None,
        };
        for advice in about_pages.into_iter().chain([Advice::DontDump, Advice::DontFork]) {
            if let Err(error) = self.mapping.advise(advice) {
                tracing::info!(vnode = %self.range.vnode, ?advice, %error, "madvise failed");
            }
        }
    }
}
