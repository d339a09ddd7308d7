//! A server that outlives its VMs: nothing of them stays behind.

use crate::support::{Server, kvm};

const CYCLES: usize = 200;
/// After these everything that is made once has been made.
const WARM: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
    kib: u64,
}

fn held(pid: u32) -> Held {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib = rss.trim().split(' ').next().unwrap().parse().unwrap();
    Held { descriptors: count("fd"), threads: count("task"), kib }
}

#[test]
fn two_hundred_vms_leave_no_descriptor_thread_or_memory_behind() {
    if !kvm() {
        return;
    }
    let server = Server::serve();
    let pid = server.child.id();
    let mut warm = held(pid);
    for cycle in 0..CYCLES {
        assert_eq!(server.define().status, 201);
        assert_eq!(server.ask("POST", "/v1/vm/boot").status, 202);
        // Some are ended while they start.
        if cycle % 3 != 0 {
            server.wait_state("running");
            assert_eq!(server.ask("GET", "/v1/vnodes").status, 200);
        }
        assert_eq!(server.ask("DELETE", "/v1/vm").status, 204);
        if cycle == WARM {
            warm = held(pid);
        }
    }
    let end = held(pid);
    eprintln!("after {WARM}: {warm:?}, after {CYCLES}: {end:?}");
    // Threads for slow work come and go; a connection of the last request may still be there.
    assert!(end.descriptors <= warm.descriptors + 2, "{warm:?} {end:?}");
    assert!(end.threads <= warm.threads + 8, "{warm:?} {end:?}");
    assert!(end.kib <= warm.kib + 2048, "{warm:?} {end:?}");
}
