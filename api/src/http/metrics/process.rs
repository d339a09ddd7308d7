//! Figures of this process, under the names that Prometheus' own libraries use, and of its threads that do the guest's
//! work: what `/proc` says of them.

use super::text::{Text, seconds};
use crate::http::procfs::{self, Ran};
use nix::unistd::{SysconfVar, sysconf};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;
use vmm::VmHandle;

/// How long vCPUs and workers ran, and waited for a CPU.
pub fn threads(text: &mut Text, handle: &VmHandle) {
    let view = handle.view();
    let vcpus = view.vcpus.iter().filter_map(|vcpu| Some((vcpu.id, procfs::ran(vcpu.thread)?)));
    let vcpus: Vec<_> = vcpus.collect();
    let mut each = |name: &str, help: &str, value: fn(&Ran) -> Duration| {
        text.family(name, "counter", help);
        for (vcpu, ran) in &vcpus {
            text.line(name, &[("vcpu", vcpu)], seconds(value(ran)));
        }
    };
    each(
        "numavisor_vcpu_cpu_seconds_total",
        "Time that the vCPU's thread ran, in the guest and outside.",
        |ran| ran.on_cpu,
    );
    each(
        "numavisor_vcpu_wait_seconds_total",
        "Time that the vCPU's thread could run and waited for a CPU: what the guest sees as stolen.",
        |ran| ran.waited,
    );
    let devices = handle.devices();
    // A worker is named after its device; one that has several has one name for all.
    let mut workers: BTreeMap<String, Duration> = BTreeMap::new();
    for (name, ran) in procfs::threads() {
        *workers.entry(name).or_default() += ran.on_cpu;
    }
    let name = "numavisor_device_cpu_seconds_total";
    text.family(name, "counter", "Time that the device's threads ran, without those of the kernel (vhost).");
    for device in &devices {
        let labels: [(&str, &dyn Display); 2] = [("device", &device.name), ("vnode", &device.vnode)];
        if let Some(ran) = workers.get(&device.name) {
            text.line(name, &labels, seconds(*ran));
        }
    }
}

/// The process as a whole. The resident memory has the guest's in it.
pub fn process(text: &mut Text) {
    let figure = |variable| sysconf(variable).ok().flatten().and_then(|value| u64::try_from(value).ok());
    let page = figure(SysconfVar::PAGE_SIZE);
    let ticks = figure(SysconfVar::CLK_TCK).filter(|ticks| *ticks > 0);
    if let Some((stat, (page, ticks))) = procfs::process().zip(page.zip(ticks)) {
        let time = |count: u64| {
            Duration::from_secs(count / ticks)
                + Duration::from_nanos((count % ticks).saturating_mul(1_000_000_000) / ticks)
        };
        let cpu = time(stat.cpu_ticks);
        let help = "Time that all threads of this process ran, in the guest and outside.";
        text.one("process_cpu_seconds_total", "counter", help, seconds(cpu));
        if let Some(booted) = procfs::booted() {
            let started = Duration::from_secs(booted) + time(stat.started_ticks);
            let help = "When this process started, in seconds since 1970.";
            text.one("process_start_time_seconds", "gauge", help, seconds(started));
        }
        let help = "Resident memory of this process, with the guest's.";
        let resident = stat.resident_pages.saturating_mul(page);
        text.one("process_resident_memory_bytes", "gauge", help, resident);
        text.one(
            "process_virtual_memory_bytes",
            "gauge",
            "Addresses of this process in use.",
            stat.virtual_bytes,
        );
        text.one("process_threads", "gauge", "Threads of this process.", stat.threads);
    }
    if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
        text.one("process_open_fds", "gauge", "Open file descriptors.", fds.count().saturating_sub(1));
    }
    if let Ok((most, _)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
        text.one("process_max_fds", "gauge", "Most open file descriptors.", most);
    }
}
