//! What another VM's process has of its memory by now, out of `/proc/PID/numa_maps`. Where that may not be read, as it
//! is another user's, nothing is known, and all of the claim counts as not yet touched.

use resources::{Bytes, Claim, NodeClaim, PnodeId};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Most bytes of a process' `numa_maps`: 256 vnodes and all the rest of a process need less.
const MAX_MAPS: u64 = 4 << 20;
/// Most bytes of its `stat`.
const MAX_STAT: u64 = 4 << 10;

/// What the process has of memory that has a policy, which is guest memory: by pnode. `None` if it cannot be asked, or
/// is not the process that it was.
pub fn of(pid: u32, started: u64) -> Option<Claim> {
    let proc = Path::new("/proc").join(pid.to_string());
    let same = || start_of(&proc) == Some(started);
    if !same() {
        return None;
    }
    let maps = BufReader::new(File::open(proc.join("numa_maps")).ok()?.take(MAX_MAPS));
    let mut touched = Claim::default();
    for line in maps.lines() {
        add(&mut touched, &line.ok()?);
    }
    same().then_some(touched)
}

/// When this process started, in clock ticks since the host did.
pub fn own_start() -> u64 {
    start_of(Path::new("/proc/self")).unwrap_or(0)
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

/// `7f5c4c000000 bind:1 anon=262144 dirty=262144 active=0 N1=262144 kernelpagesize_kB=4`: pages of that size by node;
/// transparent huge pages are counted as 4 KiB pages.
fn add(touched: &mut Claim, line: &str) {
    let mut words = line.split_whitespace().skip(1);
    if matches!(words.next(), None | Some("default" | "local")) {
        return;
    }
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
        let more = match size {
            0 => continue,
            // The page sizes that are no pool's.
            1..=65536 => NodeClaim { memory: Bytes(pages.saturating_mul(size)), ..NodeClaim::default() },
            _ => NodeClaim { huge_pages: [(Bytes(size), pages)].into(), ..NodeClaim::default() },
        };
        touched.add(PnodeId(node), &more);
    }
}

#[cfg(test)]
mod tests {
    use super::{add, of, own_start, start_in};
    use resources::{Bytes, Claim, NodeClaim, PnodeId};

    #[test]
    fn memory_with_a_policy_is_counted_by_node_and_page_size() {
        let mut touched = Claim::default();
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
        assert_eq!(touched, Claim { pnodes: expected.into() });
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let stat = "77 (a) b (c) S 1 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 123456 0 0";
        assert_eq!(start_in(stat), Some(123_456));
        assert_eq!(start_in("77 (x"), None);
        let me = std::process::id();
        assert!(of(me, own_start()).is_some());
        assert_eq!(of(me, own_start() + 1), None);
        assert_eq!(of(u32::MAX, 0), None);
    }
}
