//! Kicks: how a vCPU thread is brought out of KVM_RUN. A signal interrupts the guest, and `immediate_exit` makes the next
//! KVM_RUN return at once, so a kick that comes just before KVM_RUN is not lost. What the thread does then is `cpu`'s
//! decision.

use super::errno::HostError;
use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::signal::SigSet;
use std::num::NonZero;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::thread::JoinHandleExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

/// The part of `kvm_run` that is mapped: its first page, where `immediate_exit` is.
const PAGE: NonZero<usize> = NonZero::new(4096).unwrap();
const _: () = assert!(std::mem::offset_of!(kvm_run, immediate_exit) < PAGE.get());

/// The signal: the first real-time one that the C library leaves to programs. SIGUSR1 may be the user's.
fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// `nix` has no type for real-time signals.
fn kick_set() -> SigSet {
    let mut set = *SigSet::empty().as_ref();
    // SAFETY: the set is initialized and nobody else's.
    unsafe { libc::sigaddset(&raw mut set, kick_signal()) };
    // SAFETY: it holds what `sigemptyset` and `sigaddset` wrote.
    unsafe { SigSet::from_sigset_t_unchecked(set) }
}

extern "C" fn ignore(_: libc::c_int) {}

/// Makes the signal interrupt system calls and do nothing else, and blocks it in this thread and those it starts: only
/// vCPU threads take it, see [`accept_kicks`]. Call before the first vCPU thread.
pub fn prepare_kicks() -> Result<(), HostError> {
    let action = libc::sigaction {
        sa_sigaction: ignore as extern "C" fn(libc::c_int) as usize,
        sa_mask: *SigSet::empty().as_ref(),
        sa_flags: 0,
        sa_restorer: None,
    };
    // SAFETY: the handler does nothing, so it is safe in any context; the action outlives the call.
    let result = unsafe { libc::sigaction(kick_signal(), &raw const action, std::ptr::null_mut()) };
    if result != 0 {
        return Err(HostError::last("sigaction"));
    }
    kick_set().thread_block().map_err(|e| HostError::new("pthread_sigmask", e))
}

/// Lets kicks reach this thread, whatever signal mask it inherited.
pub fn accept_kicks() -> Result<(), HostError> {
    kick_set().thread_unblock().map_err(|e| HostError::new("pthread_sigmask", e))
}

/// Interrupts the thread; false if the signal could not be queued (`RLIMIT_SIGPENDING`).
pub fn interrupt<T>(thread: &JoinHandle<T>) -> bool {
    // SAFETY: the thread is neither joined nor detached while its handle exists, so the identifier is valid.
    let result = unsafe { libc::pthread_kill(thread.as_pthread_t(), kick_signal()) };
    // ESRCH: it has ended.
    result == 0 || result == libc::ESRCH
}

/// A vCPU's `immediate_exit` byte, in a mapping of its own that lives as long as whoever kicks needs it.
pub struct ImmediateExit {
    run: NonNull<kvm_run>,
}

// SAFETY: the only access is to one byte, and atomic.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    /// Maps it.
    pub fn of(vcpu: &VcpuFd) -> Result<Self, HostError> {
        // SAFETY: the descriptor is the vCPU's, which stays borrowed for the call.
        let fd = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new range of the kernel's choice; nothing existing changes.
        let run = unsafe { mmap(None, PAGE, access, MapFlags::MAP_SHARED, fd, 0) };
        let run = run.map_err(|e| HostError::new("mmap", e).of("kvm_run"))?;
        Ok(Self { run: run.cast() })
    }

    /// From now on KVM_RUN finishes what the last exit began and returns EINTR without entering the guest.
    pub fn set(&self) {
        self.byte().store(1, Ordering::SeqCst);
    }

    /// KVM_RUN enters the guest again.
    pub fn clear(&self) {
        self.byte().store(0, Ordering::SeqCst);
    }

    fn byte(&self) -> &AtomicU8 {
        let byte = self.run.as_ptr().cast::<u8>().wrapping_add(std::mem::offset_of!(kvm_run, immediate_exit));
        // SAFETY: the byte lies in this mapping, which lives as long as `self`; in this process it is accessed through
        // it only, and always as an atomic.
        unsafe { AtomicU8::from_ptr(byte) }
    }
}

impl Drop for ImmediateExit {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        let _ = unsafe { munmap(self.run.cast(), PAGE.get()) };
    }
}
