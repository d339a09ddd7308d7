//! A mapping of host memory: made, given a policy, advised, touched, asked where its pages lie.
//! Which policy and which advice is `memory`'s decision.

mod resident;

use super::errno::HostError;
use super::nodes::{Mode, NodeMask};
use resources::{Bytes, NodeSet, PnodeId};
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// Unmapped bytes kept behind every mapping, so that no two of them can become one.
const GUARD: usize = 4096;

/// What memory stands behind a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Private anonymous memory.
    Anonymous,
    /// Ordinary memory through a memfd, for other processes to map; its length is fixed.
    Shared,
    /// Pages of this size from the host's pools, through a memfd.
    HugePages(Bytes),
}

/// Advice about a mapping, before its first touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Use transparent huge pages.
    HugePages,
    /// Do not.
    SmallPages,
    /// Leave it out of core dumps.
    DontDump,
    /// Do not give it to a forked child.
    DontFork,
}

/// Where a page lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageStatus {
    /// On this node.
    On(PnodeId),
    /// Not touched yet.
    Absent,
    /// The kernel would not tell; its errno.
    Unknown(i32),
}

/// Owned, mapped memory. Writable by whoever holds its address, the guest among them: nothing here makes a reference
/// into it.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<libc::c_void>,
    size: usize,
    reserved: NonNull<libc::c_void>,
    reserved_size: usize,
    file: Option<OwnedFd>,
    /// Whether the file is of ordinary memory, and not of a pool.
    ordinary_file: bool,
    /// Whether the kernel has nodes and memory policies.
    numa: bool,
}

// SAFETY: the address is only passed to system calls, which are thread-safe.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method makes a reference into the memory.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `size` bytes so that the host address is congruent to `guest_address` modulo `align`, a power of two:
    /// only then can huge pages back the guest's huge pages. Nothing is touched. `name` is shown in `/proc/PID/maps`.
    pub fn new(
        size: Bytes,
        guest_address: u64,
        align: Bytes,
        backing: Backing,
        name: &str,
    ) -> Result<Self, HostError> {
        let fail = |call, source| HostError::new(call, source).of(name).length(size);
        let bytes = usize::try_from(size.get())
            .map_err(|_| fail("mmap", std::io::Error::from_raw_os_error(libc::ENOMEM)))?;
        if bytes == 0 {
            return Err(fail("mmap", std::io::Error::from_raw_os_error(libc::EINVAL)));
        }
        let align = usize::try_from(align.get()).unwrap_or(GUARD).max(GUARD);
        let reserved_size = bytes
            .checked_add(align)
            .and_then(|n| n.checked_add(GUARD))
            .ok_or_else(|| fail("mmap", std::io::Error::from_raw_os_error(libc::ENOMEM)))?;
        let reserved = reserve(reserved_size).map_err(|e| fail("mmap", e))?;
        let offset = usize::try_from(guest_address).unwrap_or(0) % align;
        let base = reserved.as_ptr() as usize;
        let skip = (offset + align - base % align) % align;
        let start = reserved.map_addr(|a| a.saturating_add(skip));
        let mut mapping = Self {
            start,
            size: bytes,
            reserved,
            reserved_size,
            file: None,
            ordinary_file: false,
            numa: true,
        };
        match backing {
            Backing::Anonymous => mapping.map_over(None, 0).map_err(|e| fail("mmap", e))?,
            Backing::Shared => {
                let file = memfd(name, 0).map_err(|e| fail("memfd_create", e))?;
                mapping.map_file(file, bytes).map_err(|(call, e)| fail(call, e))?;
                mapping.ordinary_file = true;
            }
            Backing::HugePages(page) => {
                let shift = page.get().trailing_zeros() << libc::MAP_HUGE_SHIFT;
                let file = memfd(name, libc::MFD_HUGETLB | shift).map_err(|e| fail("memfd_create", e))?;
                mapping.map_file(file, bytes).map_err(|(call, e)| fail(call, e))?;
            }
        }
        mapping.set_name(name);
        Ok(mapping)
    }

    /// Gives a new file its length for good and maps it.
    fn map_file(&mut self, file: OwnedFd, bytes: usize) -> Result<(), (&'static str, std::io::Error)> {
        truncate(&file, bytes).map_err(|error| ("ftruncate", error))?;
        seal(&file).map_err(|error| ("fcntl", error))?;
        self.map_over(Some(&file), libc::MAP_SHARED).map_err(|error| ("mmap", error))?;
        self.file = Some(file);
        Ok(())
    }

    /// The same on a kernel without NUMA, which has none of the calls for policies and nodes: all memory lies on node 0.
    #[must_use]
    pub fn without_numa(mut self) -> Self {
        self.numa = false;
        self
    }

    /// Replaces the reservation by memory.
    fn map_over(&mut self, file: Option<&OwnedFd>, flags: libc::c_int) -> Result<(), std::io::Error> {
        let flags = libc::MAP_FIXED
            | match file {
                Some(_) => flags,
                None => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            };
        let fd = file.map_or(-1, AsRawFd::as_raw_fd);
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range lies inside this mapping's own reservation, so nothing else is replaced.
        let result = unsafe { libc::mmap(self.start.as_ptr(), self.size, prot, flags, fd, 0) };
        if result == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Names an anonymous mapping `[anon:NAME]` where the kernel can (`CONFIG_ANON_VMA_NAME`); else nothing happens.
    fn set_name(&self, name: &str) {
        const PR_SET_VMA: libc::c_int = 0x5356_4d41;
        const PR_SET_VMA_ANON_NAME: libc::c_ulong = 0;
        if let Ok(name) = std::ffi::CString::new(name) {
            // SAFETY: the kernel copies the NUL-terminated name; the range is this mapping's own.
            unsafe {
                libc::prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, self.start.as_ptr(), self.size, name.as_ptr())
            };
        }
    }

    /// The first byte's address in this process.
    pub fn address(&self) -> *mut u8 {
        self.start.as_ptr().cast()
    }

    /// Length in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// A view for volatile access, which is all that memory shared with a guest allows; `None` past the end.
    pub fn slice(&self, offset: usize, length: usize) -> Option<VolatileSlice<'_>> {
        self.noted_slice(offset, length, ())
    }

    /// The same; `writes` notes what is written to it.
    pub fn noted_slice<B: BitmapSlice>(
        &self,
        offset: usize,
        length: usize,
        writes: B,
    ) -> Option<VolatileSlice<'_, B>> {
        offset.checked_add(length).filter(|end| *end <= self.size)?;
        let start = self.address().wrapping_add(offset);
        // SAFETY: the range was checked to lie in this mapping, which outlives the slice; accesses are volatile.
        Some(unsafe { VolatileSlice::with_bitmap(start, length, writes, None) })
    }

    /// Sets where pages of this mapping may lie, or of some whole pages of it; pages that are there already stay where
    /// they are. The kernel leaves out nodes that the process' cpuset does not allow and says nothing; here that is an
    /// error.
    pub fn set_policy(&self, range: Range<usize>, mode: Mode, nodes: &NodeMask) -> Result<(), HostError> {
        let length = range.len();
        let refused = |error: HostError| error.length(Bytes(length as u64));
        let invalid = || HostError::new("mbind", std::io::Error::from_raw_os_error(libc::EINVAL));
        if range.end > self.size {
            return Err(refused(invalid()));
        }
        if !self.numa {
            return if nodes.is_only_node_0() { Ok(()) } else { Err(refused(invalid())) };
        }
        let start = self.start.map_addr(|a| a.saturating_add(range.start));
        let (words, bits) = nodes.words();
        // SAFETY: the range was checked to lie in this mapping and the mask is as long as told.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                start.as_ptr(),
                length,
                mode.number(),
                words,
                // The kernel reads one bit less than it is told.
                bits + 1,
                0,
            )
        };
        if result != 0 {
            return Err(refused(HostError::last("mbind")));
        }
        let left_out = nodes.without(&NodeMask::allowed().map_err(refused)?);
        if left_out.is_empty() {
            return Ok(());
        }
        Err(refused(invalid()).hint(format!("the cpuset of this process does not allow node {left_out}")))
    }

    /// The nodes that the policy at `offset` names; `None` if it has none or the kernel does not tell.
    pub fn policy_nodes(&self, offset: usize) -> Option<NodeSet> {
        const ADDRESS: libc::c_ulong = 1 << 1;
        if offset >= self.size {
            return None;
        }
        if !self.numa {
            return Some(NodeSet::one(PnodeId(0)));
        }
        let mut mask = NodeMask::empty();
        let (words, bits) = mask.words_mut();
        let mut mode: libc::c_int = 0;
        let address = self.start.map_addr(|a| a.saturating_add(offset));
        // SAFETY: the address lies in this mapping, the mask is as long as said, and the kernel writes nothing else.
        let result = unsafe {
            libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, words, bits, address.as_ptr(), ADDRESS)
        };
        let nodes = mask.nodes();
        Some(nodes).filter(|nodes| result == 0 && !nodes.is_empty())
    }

    /// Gives the kernel advice; `Err` carries the errno.
    pub fn advise(&self, advice: Advice) -> Result<(), std::io::Error> {
        let advice = match advice {
            Advice::HugePages => libc::MADV_HUGEPAGE,
            Advice::SmallPages => libc::MADV_NOHUGEPAGE,
            Advice::DontDump => libc::MADV_DONTDUMP,
            Advice::DontFork => libc::MADV_DONTFORK,
        };
        // SAFETY: the range is this mapping's own, and none of these advices changes its content.
        let result = unsafe { libc::madvise(self.start.as_ptr(), self.size, advice) };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }

    /// Has the kernel back `length` bytes from `offset` with memory, content unchanged (`MADV_POPULATE_WRITE`,
    /// Linux 5.14). A shortage is an errno and not a signal.
    pub fn populate(&self, offset: usize, length: usize) -> Result<(), std::io::Error> {
        let end = offset.checked_add(length).filter(|end| *end <= self.size);
        if end.is_none() {
            return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
        }
        let start = self.start.map_addr(|a| a.saturating_add(offset));
        // SAFETY: the range was checked to lie in this mapping; populating keeps its content.
        let result = unsafe { libc::madvise(start.as_ptr(), length, libc::MADV_POPULATE_WRITE) };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }

    /// Lets the memory of `length` bytes from `offset` go (`MADV_DONTNEED`; of a file, `MADV_REMOVE`): they read as
    /// zeros, and the next touch brings new memory under the policy that the mapping has. Of a pool, whole pages only.
    pub fn discard(&self, offset: usize, length: usize) -> Result<(), std::io::Error> {
        let end = offset.checked_add(length).filter(|end| *end <= self.size);
        if end.is_none() {
            return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
        }
        let start = self.start.map_addr(|a| a.saturating_add(offset));
        let advice = if self.file.is_some() { libc::MADV_REMOVE } else { libc::MADV_DONTNEED };
        // SAFETY: the range was checked to lie in this mapping, of whose content nothing in this process depends.
        let result = unsafe { libc::madvise(start.as_ptr(), length, advice) };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }

    /// Has the kernel take the transparent huge page apart that the page at `offset` is of, if some of it was let go; what
    /// was is free then. A hint that the page is not needed soon (`MADV_COLD`, Linux 5.4) does that; its content stays.
    pub fn split(&self, offset: usize) -> Result<(), std::io::Error> {
        if offset >= self.size {
            return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
        }
        let start = self.start.map_addr(|a| a.saturating_add(offset / GUARD * GUARD));
        // SAFETY: the page lies in this mapping; its content does not change.
        let result = unsafe { libc::madvise(start.as_ptr(), GUARD, libc::MADV_COLD) };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }

    /// Where the pages at these offsets lie, from `move_pages(2)`; nothing is moved.
    pub fn locate(&self, offsets: &[usize]) -> Result<Vec<PageStatus>, HostError> {
        if !self.numa {
            return self.in_memory(offsets);
        }
        let mut status = self.move_pages(offsets, None)?;
        if self.ordinary_file {
            self.locate_unmapped(offsets, &mut status)?;
        }
        Ok(status)
    }

    /// Moves the page at each offset to the node beside it, and says where each lies afterwards. A huge page moves as a
    /// whole when any of its offsets is named; name one only, as the kernel stumbles over the others. If a page is in use
    /// the call ends early: [`PageStatus::Unknown`] is EBUSY for that page and for those tried together with it, some of
    /// which may have moved, and EINPROGRESS for those behind, which were not looked at.
    pub fn relocate(&self, offsets: &[usize], nodes: &[PnodeId]) -> Result<Vec<PageStatus>, HostError> {
        let number = |node: &PnodeId| libc::c_int::try_from(node.0).unwrap_or(libc::c_int::MAX);
        let nodes: Vec<libc::c_int> = nodes.iter().map(number).collect();
        if nodes.len() != offsets.len() {
            return Err(HostError::new("move_pages", std::io::Error::from_raw_os_error(libc::EINVAL)));
        }
        // Without NUMA they are where they can be.
        if self.numa { self.move_pages(offsets, Some(&nodes)) } else { self.in_memory(offsets) }
    }

    fn move_pages(
        &self,
        offsets: &[usize],
        nodes: Option<&[libc::c_int]>,
    ) -> Result<Vec<PageStatus>, HostError> {
        const MPOL_MF_MOVE: libc::c_int = 1 << 1;
        // No mapping is empty.
        let last = self.size - 1;
        let pages: Vec<*mut libc::c_void> =
            offsets.iter().map(|offset| self.start.as_ptr().wrapping_byte_add((*offset).min(last))).collect();
        let mut status: Vec<libc::c_int> = vec![UNTOLD; pages.len()];
        let nodes = nodes.map_or(std::ptr::null(), <[libc::c_int]>::as_ptr);
        // SAFETY: all arrays have `pages.len()` entries; the pages' content does not change wherever they go.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                0,
                pages.len(),
                pages.as_ptr(),
                nodes,
                status.as_mut_ptr(),
                MPOL_MF_MOVE,
            )
        };
        match (result, last_errno()) {
            // The node is full, and so it is for what the call did not get to.
            (..0, libc::ENOMEM) => tell(&mut status, libc::ENOMEM, libc::ENOMEM),
            // Every page was where it should be, or absent.
            (..0, libc::ENOENT) => {}
            (..0, _) => return Err(HostError::last("move_pages")),
            // Some are in use.
            (1.., _) => tell(&mut status, libc::EBUSY, libc::EINPROGRESS),
            (0, _) => {}
        }
        Ok(status.into_iter().map(page_status).collect())
    }
}

/// A status that the kernel did not tell.
const UNTOLD: libc::c_int = libc::c_int::MIN;

/// The kernel tells no status of the pages that it took together with one that would not move, though some may have
/// moved, and none of those behind, which it did not look at. It takes together what lies between two pages of which it
/// tells.
fn tell(status: &mut [libc::c_int], tried: i32, behind: i32) {
    let told = status.iter().rposition(|status| *status != UNTOLD).unwrap_or(0);
    let end = if status[..told].contains(&UNTOLD) { told } else { status.len() };
    for (at, status) in status.iter_mut().enumerate().filter(|(_, status)| **status == UNTOLD) {
        *status = -if at < end { tried } else { behind };
    }
}

fn last_errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn page_status(status: libc::c_int) -> PageStatus {
    match u32::try_from(status) {
        Ok(node) => PageStatus::On(PnodeId(node)),
        Err(_) if status == -libc::ENOENT || status == -libc::EFAULT => PageStatus::Absent,
        Err(_) => PageStatus::Unknown(-status),
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the reservation is this mapping's own and its owner is going away.
        unsafe { libc::munmap(self.reserved.as_ptr(), self.reserved_size) };
    }
}

fn reserve(size: usize) -> Result<NonNull<libc::c_void>, std::io::Error> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new range of the kernel's choice, not accessible; nothing existing changes.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    NonNull::new(start).ok_or_else(|| std::io::Error::from_raw_os_error(libc::ENOMEM))
}

fn memfd(name: &str, flags: libc::c_uint) -> Result<OwnedFd, std::io::Error> {
    let name = std::ffi::CString::new(name).map_err(|_| std::io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the name is NUL-terminated and outlives the call.
    let fd =
        unsafe { libc::memfd_create(name.as_ptr(), flags | libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn truncate(file: &OwnedFd, size: usize) -> Result<(), std::io::Error> {
    let size = i64::try_from(size).map_err(|_| std::io::Error::from_raw_os_error(libc::EFBIG))?;
    nix::unistd::ftruncate(file, size).map_err(std::io::Error::from)
}

/// Nobody who has the file can take memory from under the guest.
fn seal(file: &OwnedFd) -> Result<(), std::io::Error> {
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: the descriptor is valid as long as its owner, and the argument is a number.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(test)]
#[path = "mapping_tests.rs"]
mod tests;
