//! Takes a vnode's memory at start, by threads that run on the pnode's own CPUs, several in parallel.
//! The policy is in force already, so the pages come from where it says.

use super::ram::{GuestRam, RamRegion};
use crate::sys::{HostError, pin_this_thread};
use resources::{Bytes, CpuSet, Plan, VnodeId};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::Scope;
use std::time::Duration;
use vm_memory::Bytes as _;

/// A thread takes this much at a time: large against a system call, and no more, since a call keeps every other thread
/// of the process from mapping memory.
const CHUNK: usize = 4 << 20;
/// Threads per set of CPUs, which is a pnode's: beyond a few, zeroing pages waits for the node's memory and not for a CPU.
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

/// Who starts a thread; the system may refuse.
trait Spawn {
    fn spawn<'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        body: impl FnOnce() + Send + 'scope,
    ) -> io::Result<()>;
}

struct System;

impl Spawn for System {
    fn spawn<'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        body: impl FnOnce() + Send + 'scope,
    ) -> io::Result<()> {
        std::thread::Builder::new().name("prefault".into()).spawn_scoped(scope, body).map(drop)
    }
}

/// A piece of a vnode's memory.
#[derive(Clone, Copy)]
struct Chunk<'a> {
    vnode: VnodeId,
    /// Its number in the vnode.
    number: usize,
    region: &'a RamRegion,
    offset: usize,
    length: usize,
}

/// What the threads on one set of CPUs have to take.
struct Work<'a> {
    cpus: &'a CpuSet,
    chunks: Vec<Chunk<'a>>,
    next: AtomicUsize,
}

/// Takes the memory of every vnode that asked for it. All vnodes at once. Ends early once `abandon` is set.
pub fn prefault(
    plan: &Plan,
    ram: &GuestRam,
    abandon: &AtomicBool,
    progress: Option<&mut dyn Progress>,
) -> Result<(), PrefaultError> {
    prefault_by(&System, plan, ram, abandon, progress)
}

fn prefault_by(
    threads: &impl Spawn,
    plan: &Plan,
    ram: &GuestRam,
    abandon: &AtomicBool,
    mut progress: Option<&mut dyn Progress>,
) -> Result<(), PrefaultError> {
    let works = works(plan, ram);
    let total = works.iter().flat_map(|work| &work.chunks).map(|chunk| chunk.length as u64).sum();
    if total == 0 {
        return Ok(());
    }
    let done = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let go_on = || !failed.load(Ordering::Relaxed) && !abandon.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        let (sender, results) = mpsc::channel();
        for work in &works {
            for started in 0..work.threads() {
                let (sender, done, failed) = (sender.clone(), &done, &failed);
                let body = move || {
                    work.pin();
                    let result = work.run(ram, done, go_on);
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    let _ = sender.send(result);
                };
                if let Err(error) = threads.spawn(scope, body) {
                    tracing::warn!(%error, started, cpus = %work.cpus, "started fewer prefault threads than planned");
                    break;
                }
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
        // What no thread was there for. Where it runs changes how fast it is, not where the pages come from.
        let rest = works.iter().map(|work| work.run(ram, &done, go_on)).find_map(Result::err);
        first_error.or(rest).map_or(Ok(()), |error| Err(error.into()))
    })
}

/// The work of each set of CPUs: vnodes that share a pnode share its threads, and take turns chunk by chunk.
fn works<'a>(plan: &'a Plan, ram: &'a GuestRam) -> Vec<Work<'a>> {
    let mut works: Vec<Work<'a>> = Vec::new();
    let vnodes = plan.topology.vnodes().iter().filter(|vnode| vnode.prefault);
    for (vnode, place) in vnodes.filter_map(|v| Some((v.id, plan.placement.vnodes.get(v.id.index())?))) {
        let chunks = chunks(vnode, ram);
        match works.iter_mut().find(|work| *work.cpus == place.cpus) {
            Some(work) => work.chunks.extend(chunks),
            None => {
                works.push(Work { cpus: &place.cpus, chunks: chunks.collect(), next: AtomicUsize::new(0) });
            }
        }
    }
    works.iter_mut().for_each(|work| work.chunks.sort_by_key(|chunk| chunk.number));
    works
}

fn chunks<'a>(vnode: VnodeId, ram: &'a GuestRam) -> impl Iterator<Item = Chunk<'a>> {
    let places = ram.of(vnode).flat_map(|region| {
        let size = region.mapping.size();
        let page = region.pages.pool().and_then(|page| usize::try_from(page.get()).ok());
        let chunk = CHUNK.max(page.unwrap_or(0));
        (0..size).step_by(chunk).map(move |offset| (region, offset, chunk.min(size - offset)))
    });
    places.enumerate().map(move |(number, (region, offset, length))| Chunk {
        vnode,
        number,
        region,
        offset,
        length,
    })
}

impl Work<'_> {
    fn threads(&self) -> usize {
        self.chunks.len().min(self.cpus.len().max(1)).min(MAX_THREADS)
    }

    fn pin(&self) {
        if let Err(error) = pin_this_thread(self.cpus) {
            tracing::info!(%error, "cannot pin prefault thread");
        }
    }

    fn run(&self, ram: &GuestRam, done: &AtomicU64, go_on: impl Fn() -> bool) -> Result<(), HostError> {
        while go_on() {
            let Some(chunk) = self.chunks.get(self.next.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            take(ram, chunk.region, chunk.offset, chunk.length).map_err(|error| {
                let hint = hint(error.raw_os_error(), chunk.region.pages.pool().is_some());
                let error = HostError::new("madvise(MADV_POPULATE_WRITE)", error)
                    .of(format!("vnode {}", chunk.vnode))
                    .because_of(format_args!("vnodes[{}].memory", chunk.vnode))
                    .length(Bytes(chunk.length as u64));
                match hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                }
            })?;
            done.fetch_add(chunk.length as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// What an errno of `MADV_POPULATE_WRITE` means (madvise(2)).
fn hint(errno: Option<i32>, pool: bool) -> Option<&'static str> {
    match errno {
        Some(libc::ENOMEM) if !pool => Some("the node is full"),
        Some(libc::ENOMEM | libc::EFAULT) if pool => Some("the pool has no free page there"),
        Some(libc::EHWPOISON) => Some("hardware memory error on the host"),
        _ => None,
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

#[cfg(test)]
mod tests {
    use super::{MAX_THREADS, Spawn, System, hint, prefault_by, works};
    use crate::memory::{GuestRam, Residency};
    use resources::{Bytes, HostRoot, HostTopology, Plan, VmSpec, VnodeId};
    use std::cell::Cell;
    use std::io;
    use std::sync::atomic::AtomicBool;
    use std::thread::Scope;

    /// Has so many threads to give.
    struct Few(Cell<usize>);

    impl Spawn for Few {
        fn spawn<'scope>(
            &self,
            scope: &'scope Scope<'scope, '_>,
            body: impl FnOnce() + Send + 'scope,
        ) -> io::Result<()> {
            let left = self.0.get().checked_sub(1).ok_or(io::Error::from_raw_os_error(libc::EAGAIN))?;
            self.0.set(left);
            System.spawn(scope, body)
        }
    }

    fn machine(vnodes: u32) -> (Plan, GuestRam) {
        let vnode = |id| format!(r#"{{"id": {id}, "memory": "6M", "prefault": "on"}}"#);
        let numa: Vec<String> = (0..vnodes).map(vnode).collect();
        let spec = format!(r#"{{"vcpus": {vnodes}, "numa": [{}]}}"#, numa.join(","));
        let spec: VmSpec = serde_json::from_str(&spec).unwrap();
        let plan = Plan::new(&spec, &HostTopology::read(&HostRoot::this()).unwrap()).unwrap();
        let ram = GuestRam::new(&plan).unwrap();
        (plan, ram)
    }

    #[test]
    fn all_memory_is_taken_by_however_few_threads_there_are() {
        for threads in [0, 1, 100] {
            let (plan, ram) = machine(3);
            prefault_by(&Few(Cell::new(threads)), &plan, &ram, &AtomicBool::new(false), None).unwrap();
            for vnode in (0..3).map(VnodeId) {
                assert_eq!(Residency::measure(&ram, vnode).unwrap().absent, Bytes::ZERO, "{threads} threads");
            }
        }
    }

    #[test]
    fn vnodes_on_the_same_cpus_share_their_threads_and_take_turns() {
        let (plan, ram) = machine(40);
        let works = works(&plan, &ram);
        let places: std::collections::HashSet<_> = plan.placement.vnodes.iter().map(|at| &at.cpus).collect();
        assert_eq!(works.len(), places.len());
        for work in &works {
            assert!(work.threads() <= MAX_THREADS.min(work.cpus.len()));
            let first: Vec<u32> = work.chunks.iter().map(|chunk| chunk.vnode.0).collect();
            let vnodes = first.len() / 2;
            assert_eq!(first[..vnodes], first[vnodes..]);
        }
        assert_eq!(works.iter().map(|work| work.chunks.len()).sum::<usize>(), 80);
    }

    #[test]
    fn only_a_shortage_is_called_one() {
        assert_eq!(hint(Some(libc::ENOMEM), false), Some("the node is full"));
        assert_eq!(hint(Some(libc::EFAULT), true), Some("the pool has no free page there"));
        for errno in [libc::EPERM, libc::EFAULT, libc::EIO] {
            assert_eq!(hint(Some(errno), false), None);
        }
        assert_eq!(hint(None, false), None);
    }
}
