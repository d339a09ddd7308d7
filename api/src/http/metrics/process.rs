//! Metrics of this process, under the names of Prometheus' client libraries, and of vCPU and worker threads: from
//! `/proc`.

use super::text::{Text, seconds};
use crate::http::procfs::{self, Ran};
use nix::unistd::{SysconfVar, sysconf};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;
use vmm::VmHandle;

/// CPU and wait times of vCPU and worker threads.
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
    each("numavisor_vcpu_cpu_seconds_total", "CPU time of the vCPU thread, in guest and host.", |ran| {
        ran.on_cpu
    });
    each(
        "numavisor_vcpu_wait_seconds_total",
        "Run queue wait time of the vCPU thread: steal time of the guest.",
        |ran| ran.waited,
    );
    let devices = handle.devices();
    // A worker is named after its device; one that has several has one name for all.
    let mut workers: BTreeMap<String, Duration> = BTreeMap::new();
    for (name, ran) in procfs::threads() {
        *workers.entry(name).or_default() += ran.on_cpu;
    }
    let name = "numavisor_device_cpu_seconds_total";
    text.family(
        name,
        "counter",
        "CPU time of the device's worker threads, excluding kernel threads (vhost).",
    );
    for device in &devices {
        let labels: [(&str, &dyn Display); 2] = [("device", &device.name), ("vnode", &device.vnode)];
        if let Some(ran) = workers.get(&device.name) {
            text.line(name, &labels, seconds(*ran));
        }
    }
}

/// The process as a whole. Resident memory includes guest memory.
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
        let help = "CPU time of all threads of this process, in guest and host.";
        text.one("process_cpu_seconds_total", "counter", help, seconds(cpu));
        if let Some(booted) = procfs::booted() {
            let started = Duration::from_secs(booted) + time(stat.started_ticks);
            let help = "Start time of this process in seconds since the Unix epoch.";
            text.one("process_start_time_seconds", "gauge", help, seconds(started));
        }
        let help = "Resident memory of this process, including guest memory.";
        let resident = stat.resident_pages.saturating_mul(page);
        text.one("process_resident_memory_bytes", "gauge", help, resident);
        text.one(
            "process_virtual_memory_bytes",
            "gauge",
            "Virtual memory size of this process.",
            stat.virtual_bytes,
        );
        text.one("process_threads", "gauge", "Number of threads of this process.", stat.threads);
    }
    if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
        text.one("process_open_fds", "gauge", "Open file descriptors.", fds.count().saturating_sub(1));
    }
    if let Ok((most, _)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
        text.one("process_max_fds", "gauge", "Maximum number of open file descriptors.", most);
    }
}
