//! How long a plan of 16 vnodes on 64 nodes takes, on hosts as they are built and on awkward ones. The aim: 50 ms, ever.
//! Prints for each host whether the answer is proven to be the best, and the time that it took on the CPU.
#![expect(clippy::unwrap_used, reason = "a benchmark may stop")]

use criterion::{Criterion, criterion_group, criterion_main};
use resources::test_host::HostShape;
use resources::{Bytes, Plan, VmSpec, VnodeCount};
use std::hint::black_box;

const NODES: u32 = 64;

/// Distances by a rule of both nodes.
fn apart(host: HostShape, value: impl Fn(u32, u32) -> u8) -> HostShape {
    let pairs = (0..NODES).flat_map(|a| (0..a).map(move |b| (a, b)));
    pairs.fold(host, |host, (a, b)| host.distance(a, b, value(a, b)))
}

/// The same numbers on every run.
fn scattered(a: u32, b: u32) -> u32 {
    let mixed = (a * 64 + b).wrapping_mul(0x9E37_79B9) ^ (a + 7 * b).wrapping_mul(0x85EB_CA6B);
    (mixed >> 13) ^ mixed
}

fn uneven(host: HostShape) -> HostShape {
    (0..NODES).fold(host, |host, id| {
        let memory = Bytes::mib(2048 + 512 * u64::from(scattered(id, 99) % 12));
        let first = id * 8;
        host.memory(id, memory).cpus(id, &format!("{first}-{}", first + scattered(id, 3) % 4))
    })
}

/// Milliseconds that this thread has run so far, whatever else the machine does.
fn on_cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e6
}

fn hosts() -> Vec<(&'static str, HostShape)> {
    let socket = |size: u32| move |a: u32, b: u32| if a / size == b / size { 12 } else { 32 };
    let ring = |a: u32, b: u32| {
        let steps = a.abs_diff(b).min(NODES - a.abs_diff(b));
        u8::try_from(10 + 4 * steps).unwrap()
    };
    let mesh =
        |a: u32, b: u32| u8::try_from(10 + 10 * ((a / 8).abs_diff(b / 8) + (a % 8).abs_diff(b % 8))).unwrap();
    let cube = |a: u32, b: u32| u8::try_from(10 + 10 * (a ^ b).count_ones()).unwrap();
    let random = |a: u32, b: u32| u8::try_from(11 + scattered(a, b) % 240).unwrap();
    vec![
        ("all alike", HostShape::new(NODES)),
        ("8 sockets of 8", apart(HostShape::new(NODES), socket(8))),
        ("16 sockets of 4", apart(HostShape::new(NODES), socket(4))),
        ("32 sockets of 2", apart(HostShape::new(NODES), socket(2))),
        ("ring", apart(HostShape::new(NODES), ring)),
        ("mesh of 8 by 8", apart(HostShape::new(NODES), mesh)),
        ("hypercube", apart(HostShape::new(NODES), cube)),
        ("at random", apart(HostShape::new(NODES), random)),
        ("uneven", uneven(HostShape::new(NODES))),
        ("uneven, 16 sockets of 4", uneven(apart(HostShape::new(NODES), socket(4)))),
        ("uneven, at random", uneven(apart(HostShape::new(NODES), random))),
    ]
}

fn placement(c: &mut Criterion) {
    let mut group = c.benchmark_group("16 vnodes on 64 nodes");
    for (name, shape) in hosts() {
        let host = shape.topology();
        // Vnodes that fill a node, vnodes that share one, and as many as it takes.
        let memory =
            |gib: u64| VmSpec { memory: Some(Bytes::gib(gib)), vcpus: Some(32), ..VmSpec::default() };
        let wishes = [
            ("fill", VmSpec { vnodes: Some(16.into()), ..memory(48) }),
            ("share", VmSpec { vnodes: Some(16.into()), vcpus: Some(16), ..memory(22) }),
            ("auto", VmSpec { vnodes: Some(VnodeCount::Auto), ..memory(48) }),
        ];
        for (wish, spec) in wishes {
            let plan = Plan::new(&spec, &host).unwrap();
            let proven = plan.placement.decision.as_ref().is_some_and(|decision| decision.proven);
            let least = (0..5)
                .map(|_| {
                    let before = on_cpu();
                    Plan::new(black_box(&spec), &host).unwrap();
                    on_cpu() - before
                })
                .fold(f64::INFINITY, f64::min);
            let vnodes = plan.topology.vnodes().len();
            eprintln!("{name}, {wish}: {vnodes} vnodes, proven: {proven}, {least:.1} ms on the CPU");
            group.bench_function(format!("{name}, {wish}"), |b| {
                b.iter(|| Plan::new(black_box(&spec), &host).unwrap());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, placement);
criterion_main!(benches);
