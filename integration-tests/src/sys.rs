//! The few raw system calls of the test tools that have no safe wrapper: memory bound to a node, `move_pages`,
//! an accepted connection, a network block device, a kernel started by another, and children that die with their parent or may not do all. What to do with the answers is the callers' business.
#![expect(
    unsafe_code,
    reason = "mmap, mbind, move_pages, accept, kexec and ioctls of nbd have no safe wrapper"
)]

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

const PAGE: usize = 4096;

/// Anonymous memory that may only come from one node.
pub(crate) struct BoundMemory {
    start: NonNull<libc::c_void>,
    length: usize,
    touched: usize,
}

impl BoundMemory {
    /// Maps `length` bytes bound to `node`, none of them touched yet.
    pub(crate) fn map(length: usize, node: u32) -> io::Result<Self> {
        let size = NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            mmap_anonymous(
                None,
                size,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
            )
        }?;
        let memory = Self { start, length, touched: 0 };
        memory.bind(node)?;
        Ok(memory)
    }

    fn bind(&self, node: u32) -> io::Result<()> {
        let mut mask = [0u64; 16];
        let (word, bit) = (usize::try_from(node / 64).unwrap_or(usize::MAX), node % 64);
        *mask.get_mut(word).ok_or(io::ErrorKind::InvalidInput)? = 1 << bit;
        // SAFETY: the range is our own mapping and `mask` has the 1024 bits that are announced.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.start.as_ptr(),
                self.length,
                libc::MPOL_BIND,
                mask.as_ptr(),
                mask.len() * 64,
                0,
            )
        };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Writes one byte to each page of the next `bytes`, and says how many bytes are touched so far.
    pub(crate) fn touch(&mut self, bytes: usize) -> usize {
        let end = self.length.min(self.touched.saturating_add(bytes));
        while self.touched < end {
            let byte = self.start.as_ptr().cast::<u8>().wrapping_add(self.touched);
            // SAFETY: `touched` is below `length`, so the byte lies in our own writable mapping.
            unsafe { byte.write_volatile(1) };
            self.touched += PAGE;
        }
        self.touched.min(self.length)
    }

    /// The words of the page at `offset`, which is a multiple of the page size.
    pub(crate) fn page(&mut self, offset: usize) -> Option<&mut [u64; PAGE / size_of::<u64>()]> {
        let fits = offset.is_multiple_of(PAGE) && offset.checked_add(PAGE)? <= self.length;
        let page = self.start.as_ptr().wrapping_byte_add(offset).cast();
        // SAFETY: the page lies in our own writable mapping, is aligned, and nothing else refers into it while `self` is
        // borrowed. Any bytes are words.
        fits.then(|| unsafe { &mut *page })
    }

    /// Its address.
    pub(crate) fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }

    /// Small pages from now on, so that each is a page of the kernel's own choice.
    pub(crate) fn small_pages(&self) -> io::Result<()> {
        // SAFETY: the range is our own mapping, and the advice changes no content.
        Ok(unsafe { madvise(self.start, self.length, MmapAdvise::MADV_NOHUGEPAGE) }?)
    }

    /// Gives every second page back.
    pub(crate) fn drop_every_second(&self) -> io::Result<()> {
        let at = |offset| NonNull::new(self.start.as_ptr().wrapping_byte_add(offset));
        for page in (0..self.length).step_by(2 * PAGE).filter_map(at) {
            // SAFETY: the page lies in our own mapping, nothing refers into it, and it reads as zeroes when it is touched.
            unsafe { madvise(page, PAGE, MmapAdvise::MADV_DONTNEED) }?;
        }
        Ok(())
    }
}

// SAFETY: the mapping belongs to this value alone, and every thread of the process may access it.
unsafe impl Send for BoundMemory {}

impl Drop for BoundMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing refers into it any more.
        let _ = unsafe { munmap(self.start, self.length) };
    }
}

/// Where each 4 KiB page from `start` lies in process `pid`: a node, or `-ENOENT` for a page that is not there.
pub(crate) fn page_nodes(pid: u32, start: u64, pages: usize) -> io::Result<Vec<i32>> {
    let pid = i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut nodes = Vec::with_capacity(pages);
    const BATCH: usize = 32 * 1024;
    while nodes.len() < pages {
        let first = nodes.len();
        let count = BATCH.min(pages - first);
        let addresses: Vec<u64> = (first..first + count).map(|page| start + (page * PAGE) as u64).collect();
        let mut status = vec![0i32; count];
        // SAFETY: both arrays have `count` entries, outlive the call, and a null `nodes` only asks.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                pid,
                count,
                addresses.as_ptr(),
                std::ptr::null::<i32>(),
                status.as_mut_ptr(),
                0,
            )
        };
        if answer < 0 {
            return Err(io::Error::last_os_error());
        }
        nodes.extend(status);
    }
    Ok(nodes)
}

/// The next connection to a listening socket.
pub(crate) fn accept(listener: &OwnedFd) -> io::Result<File> {
    let descriptor = nix::sys::socket::accept(listener.as_raw_fd())?;
    // SAFETY: the kernel has just made the descriptor for us, and nobody else knows it.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

/// What a network block device is told (`linux/nbd.h`).
pub(crate) enum Nbd {
    /// So many blocks of so many bytes.
    SizeInBlocks(u64, u64),
    /// Where requests go to. The kernel keeps the socket until it is cleared.
    Socket(OwnedFd),
    /// Serve the device; returns when it is disconnected.
    Run,
    Disconnect,
    Clear,
}

/// Tells a network block device.
pub(crate) fn nbd(device: &File, what: Nbd) -> io::Result<()> {
    let one = |number: libc::Ioctl, argument: u64| {
        // SAFETY: these requests take a number, and touch no memory of ours.
        match unsafe { libc::ioctl(device.as_raw_fd(), number, argument) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    match what {
        Nbd::SizeInBlocks(count, size) => one(0xab01, size).and_then(|()| one(0xab07, count)),
        Nbd::Socket(socket) => one(0xab00, u64::from(socket.as_raw_fd().cast_unsigned())),
        Nbd::Run => one(0xab03, 0),
        Nbd::Disconnect => one(0xab08, 0),
        Nbd::Clear => one(0xab04, 0),
    }
}

/// Has the kernel refuse these system calls to the child with EPERM.
pub(crate) fn forbid(command: &mut Command, calls: &[i64]) -> anyhow::Result<()> {
    let rules: BTreeMap<i64, Vec<_>> = calls.iter().map(|call| (*call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, TargetArch::x86_64)?;
    let program: BpfProgram = filter.try_into()?;
    // SAFETY: between fork and exec the closure makes two system calls with memory that is already there.
    unsafe {
        command.pre_exec(move || {
            seccompiler::apply_filter(&program).map_err(|_| io::ErrorKind::PermissionDenied.into())
        });
    }
    Ok(())
}

/// Gives a loop device sectors of `bytes` (`linux/loop.h`).
pub(crate) fn loop_block_size(device: &File, bytes: libc::c_ulong) -> io::Result<()> {
    const LOOP_SET_BLOCK_SIZE: libc::c_ulong = 0x4C09;
    // SAFETY: the descriptor is open, and the argument is a number.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_BLOCK_SIZE as _, bytes) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel kill the child when the thread that starts it ends, so that no emulator or VMM is left behind.
pub(crate) fn die_with_parent(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(Into::into)
        })
    }
}

/// Has this kernel ready another to be started by `RB_KEXEC` (`kexec_file_load(2)`).
pub(crate) fn kexec_load(kernel: &File, initramfs: &File, cmdline: &CStr) -> io::Result<()> {
    // SAFETY: the kernel reads both files and the string with its NUL, and writes nothing of ours.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initramfs.as_raw_fd(),
            cmdline.to_bytes_with_nul().len(),
            cmdline.as_ptr(),
            0,
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Pages of 2 MiB of a pool that are reserved and not touched.
pub(crate) struct ReservedPages(NonNull<libc::c_void>, usize);

impl ReservedPages {
    /// So many.
    pub(crate) fn map(pages: usize) -> io::Result<Self> {
        let length = pages << 21;
        let size = NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_HUGETLB | MapFlags::MAP_HUGE_2MB;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { mmap_anonymous(None, size, access, flags) }?;
        Ok(Self(start, length))
    }
}

impl Drop for ReservedPages {
    fn drop(&mut self) {
        // SAFETY: the range is our own mapping, to which nobody has a reference.
        let _ = unsafe { munmap(self.0, self.1) };
    }
}
