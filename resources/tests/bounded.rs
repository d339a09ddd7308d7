//! What plans cost on large hosts, counted: work by the plan itself, bytes by the allocator. One test, because the
//! allocator counts for the whole process. `benches/placement.rs` asks more, and tells the time.

use peak_alloc::PeakAlloc;
use resources::placement::{MAX_BYTES, MAX_WORK};
use resources::test_host::{HostShape, Pattern};
use resources::{Bytes, Plan, VmSpec, VnodeCount, VnodeSpec};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

fn vm(vnodes: VnodeCount, mib: u64, vcpus: u32) -> VmSpec {
    VmSpec { vnodes: Some(vnodes), memory: Some(Bytes::mib(mib)), vcpus: Some(vcpus), ..VmSpec::default() }
}

/// Vnodes with distances between them, all of which have to be laid.
fn with_distances(vnodes: u32) -> VmSpec {
    let distance = |from: u32| resources::distance::DistanceSpec {
        from,
        to: (from + 1) % vnodes,
        value: 11 + u64::from(from % 5),
    };
    VmSpec {
        distances: (0..vnodes).map(distance).collect(),
        ..vm(vnodes.into(), 3072 * u64::from(vnodes), vnodes)
    }
}

/// Vnodes that each lie on every other node, beside one that has to be chosen for.
fn on_many(vnodes: u32) -> VmSpec {
    let vnode = |id: u32| VnodeSpec {
        memory: Some(Bytes::mib(2)),
        pnode: (id + 1 < vnodes).then(|| (0..1024).step_by(2).map(resources::PnodeId).collect()),
        ..VnodeSpec::new(id)
    };
    VmSpec {
        numa: (0..vnodes).map(vnode).collect(),
        distances_from: Some(resources::spec::DistancesFrom::Host),
        ..VmSpec::default()
    }
}

#[test]
fn a_plan_on_a_large_host_stays_within_its_work_and_bytes() {
    let host = |nodes, pattern| HostShape::new(nodes).pattern(pattern);
    let hosts = [
        ("sockets of 8", host(1024, Pattern::Sockets(8))),
        ("ring", host(1024, Pattern::Ring(1024))),
        ("at random", host(1024, Pattern::Random)),
        ("uneven", host(1024, Pattern::Random).uneven()),
        ("64 at random", host(64, Pattern::Random)),
    ];
    for (shape, host) in hosts {
        let host = host.topology();
        let questions = [
            ("256 fill", vm(256.into(), 256 * 3072, 512)),
            ("256 share", vm(256.into(), 256 * 1408, 256)),
            ("auto", vm(VnodeCount::Auto, 200 * 3072, 500)),
            ("auto of more than there is room for", vm(VnodeCount::Auto, 600 * 3072, 1024)),
            ("distances", with_distances(256)),
            ("on many", on_many(128)),
        ];
        for (question, spec) in questions {
            HEAP.reset_peak_usage();
            let before = HEAP.current_usage();
            let plan = Plan::new(&spec, &host);
            let heap = HEAP.peak_usage() - before;
            let name =
                format!("{shape}, {question}: {heap} bytes, {:?}", plan.as_ref().map(|plan| plan.effort));
            assert!(heap <= 64 << 20, "{name}");
            let Ok(plan) = plan else { continue };
            assert!(plan.effort.work <= MAX_WORK + MAX_WORK / 2, "{name}");
            assert!(plan.effort.bytes <= MAX_BYTES, "{name}");
            // What is counted is what is there: searches are most of it.
            assert!(plan.effort.bytes <= heap as u64 + (2 << 20), "{name}");
        }
    }
}
