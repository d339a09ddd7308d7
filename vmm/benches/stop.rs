//! How long it takes from the request to stop until a VM is gone whose 64 vCPUs all run, and until it is paused. Needs
//! hardware KVM for figures that mean something; on a machine with fewer CPUs most of it is the wait for them.

use criterion::{Criterion, criterion_group, criterion_main};
use resources::{HostRoot, HostTopology, OnReset, Plan, SerialSpec, VmSpec};
use std::time::{Duration, Instant};
use vmm::test_kernel::{pvh_elf, spin_on_all_vcpus};
use vmm::{Options, Payload, Request, Vm, VmState};

const VCPUS: u32 = 64;
/// For all vCPUs to have started.
const STARTED: Duration = Duration::from_millis(300);

/// How long it takes to carry out `request`, and, if that ends the VM, until it is gone.
fn time(request: &dyn Fn() -> Request) -> Duration {
    let dir = tempfile::tempdir().expect("a directory");
    let kernel = dir.path().join("kernel");
    std::fs::write(&kernel, pvh_elf(&spin_on_all_vcpus(), true)).expect("the kernel");
    let spec = VmSpec { vcpus: Some(VCPUS), ..VmSpec::default() };
    let host = HostTopology::read(&HostRoot::this()).expect("the host");
    let plan = Plan::new(&spec, &host).expect("a plan");
    let payload = Payload { kernel, initramfs: None, cmdline: String::new() };
    let options = Options { serial: SerialSpec::None, on_reset: OnReset::Exit, ..Options::default() };
    let vm = Vm::new(plan, payload, options).expect("a VM");
    let handle = vm.handle();
    let thread = std::thread::spawn(move || vm.run().expect("it ends as asked"));
    while handle.view().state == VmState::Starting {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(STARTED);
    let started = Instant::now();
    handle.ask(request()).expect("carried out");
    let asked = started.elapsed();
    let _ = handle.ask(Request::Stop);
    thread.join().expect("no panic");
    if matches!(request(), Request::Stop) { started.elapsed() } else { asked }
}

fn stop(bench: &mut Criterion) {
    if kvm_ioctls::Kvm::new().is_err() {
        eprintln!("skipped: no /dev/kvm");
        return;
    }
    let mut group = bench.benchmark_group("64_running_vcpus");
    group.sample_size(10);
    group.bench_function("stop", |b| b.iter_custom(|n| (0..n).map(|_| time(&|| Request::Stop)).sum()));
    group.bench_function("pause", |b| b.iter_custom(|n| (0..n).map(|_| time(&|| Request::Pause)).sum()));
    group.finish();
}

criterion_group!(benches, stop);
criterion_main!(benches);
