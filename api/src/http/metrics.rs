//! Figures for Prometheus: names with base units, one line per figure. What they count is counted elsewhere, but for the
//! requests themselves.

mod devices;
mod process;
mod text;

use crate::http::command_queue::CommandQueue;
use crate::http::convert::Sample;
use crate::http::events::EventLog;
use crate::http::wire;
use resources::{Bytes, VnodeId};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use text::{Text, seconds};
use vmm::balloon::VnodeMemory;
use vmm::{ExitReason, VmHandle};

/// Upper bounds of the buckets of a latency, in microseconds; beyond the last is the bucket of the rest.
const BUCKETS_US: [u64; 10] = [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 100_000, 1_000_000, 10_000_000];

#[derive(Debug, Default, Clone)]
struct Histogram {
    buckets: [u64; BUCKETS_US.len()],
    count: u64,
    sum: Duration,
}

/// What the server counts of its own.
#[derive(Default)]
pub struct Requests {
    /// By operation and status. Both are few: an operation is one of the table's, a status one of ours.
    latencies: Mutex<BTreeMap<(&'static str, u16), Histogram>>,
    /// Connections that are open.
    pub connections: AtomicUsize,
    /// Event streams that are open.
    pub streams: AtomicUsize,
}

impl Requests {
    /// One more was answered.
    pub fn count(&self, operation: &'static str, status: u16, took: Duration) {
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        let histogram = latencies.entry((operation, status)).or_default();
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        for (bucket, bound) in histogram.buckets.iter_mut().zip(BUCKETS_US) {
            *bucket += u64::from(micros <= bound);
        }
        histogram.count += 1;
        histogram.sum += took;
    }
}

/// All figures as text.
pub fn text(
    commands: &CommandQueue,
    events: &EventLog,
    requests: &Requests,
    samples: &BTreeMap<VnodeId, Sample>,
) -> String {
    let mut text = Text::default();
    text.family(
        "numavisor_build_info",
        "gauge",
        "The version that runs, with its commit where that is known.",
    );
    text.line("numavisor_build_info", &[("version", &crate::args::VERSION)], 1);
    let state = commands.vm().ok().map(|vm| vm.state);
    text.family("numavisor_vm_state", "gauge", "1 for the state that the VM is in.");
    for each in wire::VmState::ALL {
        let here = u8::from(state == Some(each));
        text.line("numavisor_vm_state", &[("state", &each.name())], here);
    }
    if let Some(handle) = commands.last_handle() {
        exits(&mut text, &handle);
        process::threads(&mut text, &handle);
        board(&mut text, &handle);
        vnodes(&mut text, &handle, samples);
        moves(&mut text, &handle);
        devices::all(&mut text, &handle.devices());
        balloons(&mut text, &handle);
    }
    server(&mut text, events, requests);
    process::process(&mut text);
    text.finish()
}

fn exits(text: &mut Text, handle: &VmHandle) {
    let name = "numavisor_vcpu_exits_total";
    text.family(name, "counter", "Exits of a vCPU since the VM started, by reason.");
    for (vcpu, counters) in handle.exits() {
        for reason in ExitReason::ALL {
            text.line(name, &[("vcpu", &vcpu), ("reason", &reason.name())], counters.of(reason));
        }
    }
}

fn board(text: &mut Text, handle: &VmHandle) {
    let Some(board) = handle.board() else { return };
    let name = "numavisor_unclaimed_accesses_total";
    text.family(name, "counter", "Guest accesses that no device answered, since the VM started.");
    for (space, of) in [("port", &board.ports), ("memory", &board.memory)] {
        text.line(name, &[("space", &space), ("kind", &"read")], of.reads.get());
        text.line(name, &[("space", &space), ("kind", &"write")], of.writes.get());
    }
    let name = "numavisor_lost_interrupts_total";
    text.family(name, "counter", "Interrupts that KVM refused, since the VM started.");
    text.line(name, &[("from", &"ioapic")], board.lost_pin_interrupts.get());
    text.line(name, &[("from", &"serial")], board.serial.lost_interrupts.get());
    let help = "Serial port output that was lost because nobody read it, since the VM started.";
    text.one("numavisor_serial_lost_bytes_total", "counter", help, board.serial.lost_bytes.get());
}

fn vnodes(text: &mut Text, handle: &VmHandle, samples: &BTreeMap<VnodeId, Sample>) {
    let vnodes = crate::http::convert::vnodes(
        handle.plan(),
        &handle.view(),
        &[],
        &handle.memory(),
        samples,
        |vnode| handle.move_counts(vnode),
        |_| None,
    );
    let mut each = |name: &str, help: &str, value: &dyn Fn(&wire::Vnode) -> Option<u64>| {
        text.family(name, "gauge", help);
        for vnode in &vnodes {
            if let Some(value) = value(vnode) {
                text.line(name, &[("vnode", &vnode.id)], value);
            }
        }
    };
    let of = |vnode: &wire::Vnode, field: fn(&wire::Residency) -> u64| vnode.residency.as_ref().map(field);
    each("numavisor_vnode_memory_bytes", "Memory that the vnode was given at start.", &|v| Some(v.memory));
    each("numavisor_vnode_target_bytes", "Memory that the vnode should keep.", &|v| Some(v.target));
    each("numavisor_vnode_actual_bytes", "Memory that the vnode has.", &|v| Some(v.actual));
    each("numavisor_vnode_absent_bytes", "Memory of the vnode that was not touched yet.", &|v| {
        of(v, |residency| residency.absent)
    });
    each("numavisor_vnode_local_bytes", "Memory of the vnode on its own pnodes.", &|v| of(v, |r| r.hit));
    each("numavisor_vnode_misplaced_bytes", "Memory of the vnode on pnodes that are not its own.", &|v| {
        of(v, |residency| residency.foreign)
    });
    each(
        "numavisor_vnode_interleaved_bytes",
        "Memory of the vnode on its own pnodes because its policy interleaves.",
        &|v| v.residency.as_ref().and_then(|residency| residency.interleave_hit),
    );
    let name = "numavisor_vnode_residency_age_seconds";
    text.family(name, "gauge", "Age of the measurement of the vnode's memory.");
    for (vnode, age) in vnodes.iter().flat_map(|v| Some((v.id, v.residency.as_ref()?.age_ms))) {
        text.line(name, &[("vnode", &vnode)], seconds(Duration::from_millis(age)));
    }
    type Figure = fn(&wire::PnodeUse) -> u64;
    let figures: [(&str, &str, Figure); 4] = [
        ("hit", "Memory of the VM on the pnode, as its policy wants it.", |p| p.hit),
        ("miss", "Memory of the VM on the pnode that should lie elsewhere.", |p| p.miss),
        ("foreign", "Memory of the VM that should lie on the pnode and lies elsewhere.", |p| p.foreign),
        ("interleave_hit", "Memory of the VM that an interleaving policy put there.", |p| p.interleave_hit),
    ];
    let pnodes = crate::http::convert::pnodes(&vnodes);
    for (figure, help, value) in figures {
        let name = format!("numavisor_pnode_{figure}_bytes");
        text.family(&name, "gauge", help);
        for pnode in &pnodes {
            text.line(&name, &[("pnode", &pnode.pnode)], value(pnode));
        }
    }
    let name = "numavisor_vnode_resident_bytes";
    text.family(name, "gauge", "Touched memory of the vnode, by the pnode it lies on.");
    for vnode in &vnodes {
        for on in vnode.residency.iter().flat_map(|residency| &residency.on) {
            text.line(name, &[("vnode", &vnode.id), ("pnode", &on.pnode)], on.bytes);
        }
    }
}

fn move_totals(text: &mut Text, handle: &VmHandle) {
    let vnodes = handle.plan().topology.vnodes();
    let mut each = |name: &str, help: &str, value: fn(&vmm::MoveCounts) -> u64| {
        text.family(name, "counter", help);
        for vnode in vnodes {
            text.line(name, &[("vnode", &vnode.id)], value(&handle.move_counts(vnode.id)));
        }
    };
    each("numavisor_vnode_moved_bytes_total", "Memory of the vnode that was moved.", |c| c.moved.get());
    each("numavisor_vnode_left_bytes_total", "Memory that the kernel would not move.", |c| c.left.get());
    each("numavisor_vnode_moves_done_total", "Moves of the vnode that reached their end.", |c| c.done);
    each("numavisor_vnode_moves_cancelled_total", "Moves of the vnode that were cancelled.", |c| c.cancelled);
    each("numavisor_vnode_moves_failed_total", "Moves of the vnode that the host refused.", |c| c.failed);
    let mut on = |name: &str, help: &str, value: fn(&(Bytes, Bytes)) -> Bytes| {
        text.family(name, "counter", help);
        for vnode in vnodes {
            for (pnode, bytes) in &handle.move_counts(vnode.id).by_pnode {
                text.line(name, &[("vnode", &vnode.id), ("pnode", pnode)], value(bytes).get());
            }
        }
    };
    let (came, stayed) =
        ("Memory of the vnode that moves brought to the pnode.", "Memory that should have left the pnode.");
    on("numavisor_vnode_pnode_moved_bytes_total", came, |(came, _)| *came);
    on("numavisor_vnode_pnode_left_bytes_total", stayed, |(_, stayed)| *stayed);
}

fn moves(text: &mut Text, handle: &VmHandle) {
    move_totals(text, handle);
    let jobs: Vec<wire::Job> = handle.jobs().iter().map(crate::http::convert::job).collect();
    let count = |state| jobs.iter().filter(|job| job.state == state).count();
    let name = "numavisor_moves";
    text.family(name, "gauge", "Moves of vnodes that are remembered, by state.");
    text.line(name, &[("state", &"running")], count(wire::JobState::Running));
    text.line(name, &[("state", &"done")], count(wire::JobState::Done));
    text.line(name, &[("state", &"cancelled")], count(wire::JobState::Cancelled));
    text.line(name, &[("state", &"failed")], count(wire::JobState::Failed));
}

fn balloons(text: &mut Text, handle: &VmHandle) {
    let all = handle.memory();
    let mut each = |name: &str, kind: &str, help: &str, value: fn(&VnodeMemory) -> u64| {
        text.family(name, kind, help);
        for memory in &all {
            text.line(name, &[("vnode", &memory.vnode)], value(memory));
        }
    };
    let (gauge, counter) = ("gauge", "counter");
    each("numavisor_balloon_on_node_bytes", gauge, "Memory of the vnode that its balloon holds.", |m| {
        m.on_node.get()
    });
    each("numavisor_balloon_off_node_bytes", gauge, "Memory of other vnodes that the balloon holds.", |m| {
        m.off_node.get()
    });
    each("numavisor_balloon_returned_bytes", gauge, "Memory that the host has back.", |m| m.returned.get());
    each("numavisor_released_bytes", gauge, "Memory that the VM does not claim any more.", |m| {
        m.released.get()
    });
    each(
        "numavisor_balloon_short_bytes",
        gauge,
        "Memory that the guest waits for: the pnode has no room.",
        |m| m.short.get(),
    );
    each("numavisor_balloon_requests_total", counter, "Targets that were asked for.", |m| m.request);
}

fn server(text: &mut Text, events: &EventLog, requests: &Requests) {
    let read = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let (connections, streams) = (read(&requests.connections), read(&requests.streams));
    text.one("numavisor_events_total", "counter", "Events since the process started.", events.last());
    text.one("numavisor_http_connections", "gauge", "Open connections.", connections);
    text.one("numavisor_http_event_streams", "gauge", "Open event streams.", streams);
    let name = "numavisor_http_request_duration_seconds";
    text.family(name, "histogram", "Time from a request's head to its answer's, by operation and status.");
    let latencies = requests.latencies.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for ((operation, status), histogram) in latencies {
        for (count, bound) in histogram.buckets.iter().zip(BUCKETS_US) {
            let bound = seconds(Duration::from_micros(bound));
            let labels: [(&str, &dyn Display); 3] =
                [("operation", &operation), ("status", &status), ("le", &bound)];
            text.line(&format!("{name}_bucket"), &labels, count);
        }
        let labels: [(&str, &dyn Display); 3] =
            [("operation", &operation), ("status", &status), ("le", &"+Inf")];
        text.line(&format!("{name}_bucket"), &labels, histogram.count);
        let labels: [(&str, &dyn Display); 2] = [("operation", &operation), ("status", &status)];
        text.line(&format!("{name}_sum"), &labels, seconds(histogram.sum));
        text.line(&format!("{name}_count"), &labels, histogram.count);
    }
}
