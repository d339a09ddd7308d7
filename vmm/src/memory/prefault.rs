//! Takes a vnode's memory at start, by threads that run on the pnode's own CPUs, several in parallel.
//! The policy is in force already, so the pages come from where it says.

use super::ram::{GuestRam, RamRegion};
use crate::sys::HostError;
use nix::sched::{CpuSet as KernelCpuSet, sched_setaffinity};
use nix::unistd::Pid;
use resources::{Bytes, CpuSet, Plan, VnodeId};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use vm_memory::Bytes as _;

/// A thread takes this much at a time: large against a system call, and no more, since a call keeps every other thread
/// of the process from mapping memory.
const CHUNK: usize = 4 << 20;
/// Threads per vnode: beyond a few, zeroing pages waits for the node's memory and not for a CPU.
const MAX_THREADS: usize = 8;
/// How often progress is told.
const TICK: Duration = Duration::from_millis(100);

/// Who hears how far it got.
pub trait Progress: Send {
    /// `done` of `total` bytes of all vnodes that are prefaulted; called up to ten times a second, once for each `done`.
    fn prefault(&mut self, done: Bytes, total: Bytes);
}

/// Why memory could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum PrefaultError {
    /// The host had not enough, or refused.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// One vnode's share of the work.
struct Work<'a> {
    vnode: VnodeId,
    cpus: &'a CpuSet,
    chunks: Vec<(&'a RamRegion, usize, usize)>,
    next: AtomicUsize,
}

/// Takes the memory of every vnode that asked for it. All vnodes at once. Ends early once `abandon` is set.
pub fn prefault(
    plan: &Plan,
    ram: &GuestRam,
    abandon: &AtomicBool,
    mut progress: Option<&mut dyn Progress>,
) -> Result<(), PrefaultError> {
    let works: Vec<Work> = plan
        .topology
        .vnodes()
        .iter()
        .filter(|vnode| vnode.prefault)
        .filter_map(|vnode| {
            Some(Work::new(vnode.id, &plan.placement.vnodes.get(vnode.id.index())?.cpus, ram))
        })
        .collect();
    let total = works.iter().flat_map(|w| &w.chunks).map(|(_, _, length)| *length as u64).sum();
    if total == 0 {
        return Ok(());
    }
    let done = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (sender, results) = mpsc::channel();
        for work in &works {
            for _ in 0..work.threads() {
                let (sender, done, failed) = (sender.clone(), &done, &failed);
                scope.spawn(move || {
                    let go_on = || !failed.load(Ordering::Relaxed) && !abandon.load(Ordering::Relaxed);
                    let result = work.run(ram, done, go_on);
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    let _ = sender.send(result);
                });
            }
        }
        drop(sender);
        let (mut first_error, mut told) = (None, None);
        loop {
            match results.recv_timeout(TICK) {
                Ok(result) => first_error = first_error.or(result.err()),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            let done = done.load(Ordering::Relaxed);
            if let Some(progress) = progress.as_deref_mut()
                && told.replace(done) != Some(done)
            {
                progress.prefault(Bytes(done), Bytes(total));
            }
        }
        first_error.map_or(Ok(()), |error| Err(error.into()))
    })
}

impl<'a> Work<'a> {
    fn new(vnode: VnodeId, cpus: &'a CpuSet, ram: &'a GuestRam) -> Self {
        let mut chunks = Vec::new();
        for region in ram.of(vnode) {
            let size = region.mapping.size();
            let chunk = region
                .pages
                .pool()
                .map_or(CHUNK, |page| CHUNK.max(usize::try_from(page.get()).unwrap_or(CHUNK)));
            chunks.extend((0..size).step_by(chunk).map(|offset| (region, offset, chunk.min(size - offset))));
        }
        Self { vnode, cpus, chunks, next: AtomicUsize::new(0) }
    }

    fn threads(&self) -> usize {
        self.chunks.len().min(self.cpus.len().max(1)).min(MAX_THREADS)
    }

    fn run(&self, ram: &GuestRam, done: &AtomicU64, go_on: impl Fn() -> bool) -> Result<(), HostError> {
        if let Err(error) = pin_this_thread(self.cpus) {
            // Where the thread runs changes how fast it is, not where the pages come from.
            tracing::info!(vnode = %self.vnode, %error, "prefault thread not pinned");
        }
        while go_on() {
            let Some((region, offset, length)) = self.chunks.get(self.next.fetch_add(1, Ordering::Relaxed))
            else {
                break;
            };
            take(ram, region, *offset, *length).map_err(|error| {
                let error = HostError::new("madvise(MADV_POPULATE_WRITE)", error);
                error
                    .of(format!("vnode {}", self.vnode))
                    .length(Bytes(*length as u64))
                    .hint("the node is full")
            })?;
            done.fetch_add(*length as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn take(ram: &GuestRam, region: &RamRegion, offset: usize, length: usize) -> Result<(), std::io::Error> {
    loop {
        match region.mapping.populate(offset, length) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {}
            // Before Linux 5.14: the guest does not run yet and its memory reads zero, so writing zeroes is the same.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                for page in (offset..offset + length).step_by(4096) {
                    let address = vm_memory::GuestAddress(region.range.start.0 + page as u64);
                    ram.memory().write_obj(0_u8, address).map_err(std::io::Error::other)?;
                }
                return Ok(());
            }
            result => return result,
        }
    }
}

/// Lets this thread run on `cpus` only.
pub fn pin_this_thread(cpus: &CpuSet) -> Result<(), HostError> {
    let set = kernel_cpus(cpus)?;
    sched_setaffinity(Pid::from_raw(0), &set)
        .map_err(|e| HostError::new("sched_setaffinity", e).of(format!("CPUs {cpus}")))
}

/// A set of CPUs as the kernel takes it.
pub fn kernel_cpus(cpus: &CpuSet) -> Result<KernelCpuSet, HostError> {
    let mut set = KernelCpuSet::new();
    for cpu in cpus.iter() {
        set.set(cpu.index())
            .map_err(|e| HostError::new("sched_setaffinity", e).of(format!("CPUs {cpus}")))?;
    }
    Ok(set)
}
