//! What a dirty bitmap costs the writes of devices to guest memory: beside memory without one, while it is off, and while it is
//! on.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use resources::Bytes as Size;
use std::hint::black_box;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};
use vmm::test_memory::TestMemory;

const MEMORY: usize = 16 << 20;
/// A used ring's entry, a header, a page, the data of a large request.
const LENGTHS: [usize; 4] = [8, 64, 4096, 65536];

/// Writes at addresses that are some pages from each other.
fn writes(memory: &impl GuestMemory, data: &[u8], at: &mut usize) {
    *at = (*at + 5 * 4096) % (MEMORY - data.len());
    memory.write_slice(black_box(data), GuestAddress(*at as u64)).expect("it is there");
}

fn dirty(bench: &mut Criterion) {
    let plain = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
    let ours = TestMemory::new(Size(MEMORY as u64)).expect("memory");
    let mut group = bench.benchmark_group("write");
    for length in LENGTHS {
        let (data, mut at) = (vec![1; length], 0);
        group.throughput(Throughput::Bytes(length as u64));
        let name = |what| BenchmarkId::new(what, length);
        group.bench_function(name("no bitmap"), |b| b.iter(|| writes(&plain, &data, &mut at)));
        group.bench_function(name("off"), |b| b.iter(|| writes(ours.memory(), &data, &mut at)));
        ours.log_writes(true);
        group.bench_function(name("on"), |b| b.iter(|| writes(ours.memory(), &data, &mut at)));
        ours.log_writes(false);
    }
    group.finish();
}

criterion_group!(benches, dirty);
criterion_main!(benches);
