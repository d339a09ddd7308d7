//! How long a plan takes, from the sysfs tree on. The aim: 64 vnodes on a host with 64 nodes in less than 10 ms.
#![expect(clippy::unwrap_used, reason = "a benchmark may stop")]

use criterion::{Criterion, criterion_group, criterion_main};
use resources::test_host::HostShape;
use resources::{Bytes, HostRoot, HostTopology, Plan, VmSpec};
use std::hint::black_box;

fn plan(c: &mut Criterion) {
    let root = tempfile::tempdir().unwrap();
    HostShape::new(64).write(root.path()).unwrap();
    let spec = VmSpec {
        vnodes: Some(64.into()),
        vcpus: Some(256),
        memory: Some(Bytes::gib(64)),
        ..VmSpec::default()
    };
    c.bench_function("read a host of 64 nodes", |b| {
        b.iter(|| HostTopology::read(black_box(&HostRoot::of(root.path()))).unwrap())
    });
    let host = HostTopology::read(&HostRoot::of(root.path())).unwrap();
    c.bench_function("plan 64 vnodes on 64 nodes", |b| {
        b.iter(|| Plan::new(black_box(&spec), &host).unwrap())
    });
    c.bench_function("read and plan", |b| {
        b.iter(|| {
            Plan::new(black_box(&spec), &HostTopology::read(&HostRoot::of(root.path())).unwrap()).unwrap()
        });
    });
}

criterion_group!(benches, plan);
criterion_main!(benches);
