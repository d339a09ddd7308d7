//! What another VM's process has of its memory by now, out of `/proc/PID/numa_maps`, or `smaps` on a kernel without NUMA.
//! Where that may not be read, as it is another user's, nothing is known, and all of the claim counts as not yet touched.

mod areas;

use resources::{Bytes, Claim, NodeClaim, NodeSet, PnodeId};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

/// Most bytes of a process' `numa_maps` or `smaps`: 256 vnodes and all the rest of a process need less.
const MAX_MAPS: u64 = 4 << 20;
/// Most bytes of its `stat`.
const MAX_STAT: u64 = 4 << 10;

/// What a process has of memory that has a policy, which is guest memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Touched {
    /// By pnode.
    pub has: Claim,
    /// The same beside what its policies wanted.
    pub stat: BTreeMap<PnodeId, NumaStat>,
}

/// Memory on a pnode beside what policies wanted: the words of numastat(8), for what is there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NumaStat {
    /// Here, as wanted.
    pub hit: Bytes,
    /// Here, though wanted elsewhere.
    pub miss: Bytes,
    /// Wanted here, and elsewhere; of several pnodes that were wanted on the first.
    pub foreign: Bytes,
    /// Of `hit`, what an interleaving policy put here.
    pub interleave_hit: Bytes,
}

impl NumaStat {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: &Self) -> Self {
        Self {
            hit: self.hit.saturating_add(other.hit),
            miss: self.miss.saturating_add(other.miss),
            foreign: self.foreign.saturating_add(other.foreign),
            interleave_hit: self.interleave_hit.saturating_add(other.interleave_hit),
        }
    }
}

impl Touched {
    fn count(&mut self, pnode: PnodeId, more: NumaStat) {
        let stat = self.stat.entry(pnode).or_default();
        *stat = stat.plus(&more);
    }
}

/// Where the kernel shows processes.
pub const PROCFS: &str = "/proc";

/// What the process has. `None` if it cannot be asked, or is not the process that it was.
pub fn of(procfs: &Path, pid: u32, started: u64) -> Option<Touched> {
    let proc = procfs.join(pid.to_string());
    let same = || start_of(&proc) == Some(started);
    if !same() {
        return None;
    }
    let mut touched = Touched::default();
    match lines(&proc.join("numa_maps"), |line| add(&mut touched, line)) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut area = areas::Area::default();
            lines(&proc.join("smaps"), |line| area.read(line, &mut touched)).ok()?;
        }
        Err(_) => return None,
    }
    same().then_some(touched)
}

fn lines(path: &Path, mut each: impl FnMut(&str)) -> io::Result<()> {
    for line in BufReader::new(File::open(path)?.take(MAX_MAPS)).lines() {
        each(&line?);
    }
    Ok(())
}

/// What this process has.
pub fn own(procfs: &Path) -> Touched {
    of(procfs, std::process::id(), own_start()).unwrap_or_default()
}

/// When this process started, in clock ticks since the host did.
pub fn own_start() -> u64 {
    start_of(&Path::new(PROCFS).join("self")).unwrap_or(0)
}

/// Whether a process still runs that started then.
pub fn is_alive(pid: u32, started: u64) -> bool {
    start_of(&Path::new(PROCFS).join(pid.to_string())) == Some(started)
}

fn start_of(proc: &Path) -> Option<u64> {
    let mut text = String::new();
    File::open(proc.join("stat")).ok()?.take(MAX_STAT).read_to_string(&mut text).ok()?;
    start_in(&text)
}

/// Field 22 of `stat` (proc(5)); the name in field 2 may have blanks and brackets in it.
fn start_in(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// So many pages of `size` bytes as a claim.
fn pages_of(size: u64, pages: u64) -> Option<NodeClaim> {
    match size {
        0 => None,
        // The page sizes that are no pool's.
        1..=65536 => Some(NodeClaim { memory: Bytes(pages.saturating_mul(size)), ..NodeClaim::default() }),
        _ => Some(NodeClaim { huge_pages: [(Bytes(size), pages)].into(), ..NodeClaim::default() }),
    }
}

/// `7f5c4c000000 bind:1 anon=262144 dirty=262144 active=0 N1=262144 kernelpagesize_kB=4`: pages of that size by node;
/// transparent huge pages are counted as 4 KiB pages.
fn add(touched: &mut Touched, line: &str) {
    let mut words = line.split_whitespace().skip(1);
    let policy = match words.next() {
        None | Some("default" | "local") => return,
        Some(policy) => policy,
    };
    // `prefer (many):0-1` is two words.
    let list = std::iter::once(policy).chain(words.clone()).find_map(|word| word.split_once(':'));
    let wanted: NodeSet = list.and_then(|(_, list)| list.parse().ok()).unwrap_or_default();
    let interleaves = policy.starts_with("interleave");
    let (mut nodes, mut size) = (Vec::new(), 0u64);
    for word in words {
        let Some((key, value)) = word.split_once('=') else { continue };
        if key == "kernelpagesize_kB" {
            size = value.parse::<u64>().unwrap_or(0).saturating_mul(1024);
        } else if let Some(node) = key.strip_prefix('N') {
            nodes.extend(node.parse::<u32>().ok().zip(value.parse::<u64>().ok()));
        }
    }
    for (node, pages) in nodes {
        let Some(more) = pages_of(size, pages) else { continue };
        let (pnode, bytes) = (PnodeId(node), Bytes(pages.saturating_mul(size)));
        touched.has.add(pnode, &more);
        if wanted.contains(pnode) {
            let interleave_hit = if interleaves { bytes } else { Bytes::ZERO };
            touched.count(pnode, NumaStat { hit: bytes, interleave_hit, ..NumaStat::default() });
        } else if let Some(first) = wanted.first() {
            touched.count(pnode, NumaStat { miss: bytes, ..NumaStat::default() });
            touched.count(first, NumaStat { foreign: bytes, ..NumaStat::default() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{NumaStat, PROCFS, Touched, add, is_alive, of, own_start, start_in};
    use resources::{Bytes, Claim, NodeClaim, PnodeId};
    use std::path::Path;

    #[test]
    fn memory_with_a_policy_is_counted_by_node_and_page_size() {
        let mut touched = Touched::default();
        for line in [
            "55d0f0a00000 default file=/usr/bin/numavisor mapped=10 N0=10 kernelpagesize_kB=4",
            "7f5c4c000000 bind:1 anon=262144 dirty=262144 active=0 N1=262144 kernelpagesize_kB=4",
            "7f5c8c000000 prefer (many):0-1 anon=3 dirty=3 N0=1 N1=2 kernelpagesize_kB=4",
            "7f5ccc000000 bind:0 file=/memfd:guest-ram-v0\\040(deleted) huge dirty=5 N0=5 kernelpagesize_kB=2048",
            "7f5ccd000000 interleave:0-1",
            "7f5ccd000000 bind:0 Nx=1 N2=y N3 kernelpagesize_kB=4",
            "",
        ] {
            add(&mut touched, line);
        }
        let node = |memory, pages: u64| NodeClaim {
            memory: Bytes(memory),
            huge_pages: if pages > 0 { [(Bytes::mib(2), pages)].into() } else { [].into() },
            ..NodeClaim::default()
        };
        let expected = [(PnodeId(0), node(4096, 5)), (PnodeId(1), node((1 << 30) + 8192, 0))];
        assert_eq!(touched.has, Claim { pnodes: expected.into() });
    }

    #[test]
    fn what_policies_wanted_is_told_from_what_they_got() {
        let mut touched = Touched::default();
        for line in [
            "7f5c4c000000 prefer:1 anon=10 dirty=10 N0=3 N1=7 kernelpagesize_kB=4",
            "7f5c8c000000 interleave:0-1 anon=5 N0=2 N1=2 N2=1 kernelpagesize_kB=4",
            "7f5ccc000000 bind=static:0 file=/memfd:guest-ram-v0:1\\040(deleted) huge N0=5 N2=1 kernelpagesize_kB=2048",
            "7f5ccd000000 prefer (many):1-2 N2=4 N0=1 kernelpagesize_kB=4",
        ] {
            add(&mut touched, line);
        }
        let stat = |hit: u64, miss: u64, foreign: u64, interleave_hit: u64| NumaStat {
            hit: Bytes(hit << 12),
            miss: Bytes(miss << 12),
            foreign: Bytes(foreign << 12),
            interleave_hit: Bytes(interleave_hit << 12),
        };
        let expected = [
            (PnodeId(0), stat(2 + 5 * 512, 3 + 1, 1 + 512, 2)),
            (PnodeId(1), stat(7 + 2, 0, 3 + 1, 2)),
            (PnodeId(2), stat(4, 1 + 512, 0, 0)),
        ];
        assert_eq!(touched.stat, expected.into());
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let stat = "77 (a) b (c) S 1 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 123456 0 0";
        assert_eq!(start_in(stat), Some(123_456));
        assert_eq!(start_in("77 (x"), None);
        let me = std::process::id();
        let of = |pid, started| of(Path::new(PROCFS), pid, started);
        assert!(of(me, own_start()).is_some() && is_alive(me, own_start()));
        assert!(!is_alive(me, own_start() + 1));
        assert_eq!(of(me, own_start() + 1), None);
        assert_eq!(of(u32::MAX, 0), None);
    }
}
