//! What plans cost on hosts of 64 to 1,024 nodes, as they are built and awkward ones: work, bytes, and milliseconds on the
//! CPU. Work and bytes are counted, and it fails when one plan takes more than they may; time is only told.
#![expect(clippy::unwrap_used, reason = "a benchmark may stop")]

use criterion::{Criterion, criterion_group, criterion_main};
use peak_alloc::PeakAlloc;
use resources::placement::{MAX_BYTES, MAX_WORK};
use resources::test_host::{HostShape, Pattern};
use resources::{Bytes, HostTopology, Plan, VmSpec, VnodeCount};
use std::hint::black_box;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// What is done in any case is counted and not bounded by [`MAX_WORK`].
const MOST_WORK: u64 = MAX_WORK + MAX_WORK / 2;
/// All that a plan has on the heap at a time.
const MOST_HEAP: usize = 64 << 20;

/// Milliseconds that this thread has run so far, whatever else the machine does.
fn on_cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e6
}

fn hosts(nodes: u32) -> Vec<(&'static str, HostShape)> {
    let host = |pattern| HostShape::new(nodes).pattern(pattern);
    vec![
        ("all alike", host(Pattern::Alike)),
        ("sockets of 8", host(Pattern::Sockets(8))),
        ("sockets of 4", host(Pattern::Sockets(4))),
        ("sockets of 2", host(Pattern::Sockets(2))),
        ("ring", host(Pattern::Ring(nodes))),
        ("mesh", host(Pattern::Mesh(8))),
        ("hypercube", host(Pattern::Cube)),
        ("at random", host(Pattern::Random)),
        ("uneven", host(Pattern::Alike).uneven()),
        ("uneven, sockets of 4", host(Pattern::Sockets(4)).uneven()),
        ("uneven, at random", host(Pattern::Random).uneven()),
    ]
}

/// Vnodes that fill a node, vnodes that share one, and as many as it takes.
fn wishes(vnodes: u32) -> [(&'static str, VmSpec); 3] {
    let vm = |mib: u64, vcpus: u32| VmSpec {
        memory: Some(Bytes::mib(mib * u64::from(vnodes))),
        vcpus: Some(vcpus * vnodes),
        ..VmSpec::default()
    };
    [
        ("fill", VmSpec { vnodes: Some(vnodes.into()), ..vm(3072, 2) }),
        ("share", VmSpec { vnodes: Some(vnodes.into()), ..vm(1408, 1) }),
        ("auto", VmSpec { vnodes: Some(VnodeCount::Auto), ..vm(3072, 2) }),
    ]
}

fn plan_once(name: &str, spec: &VmSpec, host: &HostTopology) {
    HEAP.reset_peak_usage();
    let (before, start) = (HEAP.current_usage(), on_cpu());
    let plan = Plan::new(black_box(spec), host);
    let (ms, heap) = (on_cpu() - start, HEAP.peak_usage() - before);
    let Ok(plan) = plan else {
        println!("{name:<56} no room, {ms:>7.1} ms, {:>6.1} MiB", heap as f64 / f64::from(1 << 20));
        assert!(heap <= MOST_HEAP, "{name}: {heap} bytes on the heap");
        return;
    };
    let proven = plan.placement.decision.as_ref().is_some_and(|decision| decision.proven);
    println!(
        "{name:<56} {:>3} vnodes, proven: {proven:<5} {:>9} work, {:>6.1} MiB counted, {:>6.1} MiB heap, {ms:>7.1} ms",
        plan.topology.vnodes().len(),
        plan.effort.work,
        plan.effort.bytes as f64 / f64::from(1 << 20),
        heap as f64 / f64::from(1 << 20),
    );
    assert!(plan.effort.work <= MOST_WORK, "{name}: {:?}", plan.effort);
    assert!(plan.effort.bytes <= MAX_BYTES, "{name}: {:?}", plan.effort);
    assert!(heap <= MOST_HEAP, "{name}: {heap} bytes on the heap");
}

fn placement(c: &mut Criterion) {
    for nodes in [64, 128, 256, 1024] {
        for (shape, host) in hosts(nodes) {
            let host = host.topology();
            for vnodes in [16, 64, 256] {
                for (wish, spec) in wishes(vnodes) {
                    plan_once(&format!("{nodes} nodes, {shape}, {vnodes} vnodes, {wish}"), &spec, &host);
                }
            }
        }
    }
    let mut group = c.benchmark_group("plan");
    group.sample_size(10);
    for (shape, host) in hosts(64) {
        let host = host.topology();
        for (wish, spec) in wishes(16) {
            group.bench_function(format!("16 vnodes on 64 nodes, {shape}, {wish}"), |b| {
                b.iter(|| Plan::new(black_box(&spec), &host));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, placement);
criterion_main!(benches);
