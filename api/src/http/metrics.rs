//! Metrics for Prometheus, in base units. Apart from the request counters, the values are collected elsewhere
//! and only formatted here.

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

/// The server's own counters.
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
    /// Counts a response.
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

/// All metrics as text.
pub fn text(
    commands: &CommandQueue,
    events: &EventLog,
    requests: &Requests,
    samples: &BTreeMap<VnodeId, Sample>,
) -> String {
    let mut text = Text::default();
    text.family("numavisor_build_info", "gauge", "Version of the running program, with its commit if known.");
    text.line("numavisor_build_info", &[("version", &crate::args::VERSION)], 1);
    let state = commands.vm().ok().map(|vm| vm.state);
    text.family("numavisor_vm_state", "gauge", "State of the VM: 1 for the current state, else 0.");
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
    text.family(name, "counter", "VM exits of the vCPU since boot, by reason.");
    for (vcpu, counters) in handle.exits() {
        for reason in ExitReason::ALL {
            text.line(name, &[("vcpu", &vcpu), ("reason", &reason.name())], counters.of(reason));
        }
    }
}

fn board(text: &mut Text, handle: &VmHandle) {
    let Some(board) = handle.board() else { return };
    let name = "numavisor_unclaimed_accesses_total";
    text.family(name, "counter", "Guest accesses to unassigned addresses since the VM started.");
    for (space, of) in [("port", &board.ports), ("memory", &board.memory)] {
        text.line(name, &[("space", &space), ("kind", &"read")], of.reads.get());
        text.line(name, &[("space", &space), ("kind", &"write")], of.writes.get());
    }
    let name = "numavisor_lost_interrupts_total";
    text.family(name, "counter", "Interrupts that KVM rejected since the VM started.");
    text.line(name, &[("from", &"ioapic")], board.lost_pin_interrupts.get());
    text.line(name, &[("from", &"serial")], board.serial.lost_interrupts.get());
    let help = "Bytes of serial output that were dropped since the VM started.";
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
    each("numavisor_vnode_memory_bytes", "Memory of the vnode at boot.", &|v| Some(v.memory));
    each("numavisor_vnode_target_bytes", "Balloon target: memory that the vnode keeps.", &|v| Some(v.target));
    each("numavisor_vnode_actual_bytes", "Memory that the vnode has now.", &|v| Some(v.actual));
    each("numavisor_vnode_absent_bytes", "Memory of the vnode that the guest has not touched.", &|v| {
        of(v, |residency| residency.absent)
    });
    each("numavisor_vnode_local_bytes", "Memory of the vnode on its own pnodes.", &|v| of(v, |r| r.local));
    each(
        "numavisor_vnode_misplaced_bytes",
        "Memory of the vnode on pnodes that its policy does not name.",
        &|v| of(v, |residency| residency.misplaced),
    );
    each(
        "numavisor_vnode_interleaved_bytes",
        "Local memory of the vnode, if its policy is interleave.",
        &|v| v.residency.as_ref().and_then(|residency| residency.interleave_hit),
    );
    let name = "numavisor_vnode_residency_age_seconds";
    text.family(name, "gauge", "Age of the residency measurement of the vnode.");
    for (vnode, age) in vnodes.iter().flat_map(|v| Some((v.id, v.residency.as_ref()?.age_ms))) {
        text.line(name, &[("vnode", &vnode)], seconds(Duration::from_millis(age)));
    }
    type Figure = fn(&wire::PnodeUse) -> u64;
    let figures: [(&str, &str, Figure); 4] = [
        ("hit", "numa_hit: memory of the VM on the pnode as its policy intends.", |p| p.hit),
        ("miss", "numa_miss: memory of the VM on the pnode that was intended for another pnode.", |p| p.miss),
        ("foreign", "numa_foreign: memory of the VM intended for the pnode that is on another pnode.", |p| {
            p.foreign
        }),
        (
            "interleave_hit",
            "interleave_hit: memory of the VM placed on the pnode by an interleave policy.",
            |p| p.interleave_hit,
        ),
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
    text.family(name, "gauge", "Touched memory of the vnode on each pnode.");
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
    each("numavisor_vnode_moved_bytes_total", "Memory of the vnode migrated by moves.", |c| c.moved.get());
    each("numavisor_vnode_left_bytes_total", "Memory of the vnode that the kernel did not migrate.", |c| {
        c.left.get()
    });
    each("numavisor_vnode_moves_done_total", "Completed moves of the vnode.", |c| c.done);
    each("numavisor_vnode_moves_cancelled_total", "Cancelled moves of the vnode.", |c| c.cancelled);
    each("numavisor_vnode_moves_failed_total", "Failed moves of the vnode.", |c| c.failed);
    let mut on = |name: &str, help: &str, value: fn(&(Bytes, Bytes)) -> Bytes| {
        text.family(name, "counter", help);
        for vnode in vnodes {
            for (pnode, bytes) in &handle.move_counts(vnode.id).by_pnode {
                text.line(name, &[("vnode", &vnode.id), ("pnode", pnode)], value(bytes).get());
            }
        }
    };
    let (came, stayed) =
        ("Memory of the vnode migrated to the pnode.", "Memory of the vnode left behind on the pnode.");
    on("numavisor_vnode_pnode_moved_bytes_total", came, |(came, _)| *came);
    on("numavisor_vnode_pnode_left_bytes_total", stayed, |(_, stayed)| *stayed);
}

fn moves(text: &mut Text, handle: &VmHandle) {
    move_totals(text, handle);
    let jobs: Vec<wire::Job> = handle.jobs().iter().map(crate::http::convert::job).collect();
    let count = |state| jobs.iter().filter(|job| job.state == state).count();
    let name = "numavisor_moves";
    text.family(name, "gauge", "Running and recent moves of vnodes, by state.");
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
    each("numavisor_balloon_on_node_bytes", gauge, "Memory of the vnode in its balloon.", |m| {
        m.on_node.get()
    });
    each("numavisor_balloon_off_node_bytes", gauge, "Memory of other vnodes in the balloon.", |m| {
        m.off_node.get()
    });
    each("numavisor_balloon_returned_bytes", gauge, "Balloon memory that was returned to the host.", |m| {
        m.returned.get()
    });
    each("numavisor_released_bytes", gauge, "Memory of the vnode released from the VM's claim.", |m| {
        m.released.get()
    });
    each(
        "numavisor_balloon_short_bytes",
        gauge,
        "Memory that the guest is waiting for because the pnode has no room.",
        |m| m.short.get(),
    );
    each("numavisor_balloon_requests_total", counter, "Balloon requests.", |m| m.request);
}

fn server(text: &mut Text, events: &EventLog, requests: &Requests) {
    let read = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let (connections, streams) = (read(&requests.connections), read(&requests.streams));
    text.one("numavisor_events_total", "counter", "Events since process start.", events.last());
    text.one("numavisor_http_connections", "gauge", "Open connections.", connections);
    text.one("numavisor_http_event_streams", "gauge", "Open event streams.", streams);
    let name = "numavisor_http_request_duration_seconds";
    text.family(name, "histogram", "Time from request head to response head, by operation and status.");
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
