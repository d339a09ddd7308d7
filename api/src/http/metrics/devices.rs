//! Figures of devices: what their transport counts, and what each kind counts itself.

use super::text::Text;
use std::fmt::Display;
use vmm::{BlkFigures, ConsoleCounters, Datapath, DeviceFigures, DeviceView};
use vmm::{NetCounters, RngCounters, VirtioCounters, VsockCounters};

/// Name, what it counts, and where that is.
type Family<T> = (&'static str, &'static str, fn(&T) -> u64);

const TRANSPORT: [Family<VirtioCounters>; 8] = [
    ("activations", "Times that the driver started the device.", |c| c.activations),
    ("resets", "Times that the driver reset the device.", |c| c.resets),
    ("refused_features", "Times that the driver asked for unsupported features.", |c| c.refused_features),
    ("failed_activations", "Times that the device could not start.", |c| c.failed_activations),
    ("queue_faults", "Queues that the driver broke.", |c| c.queue_faults),
    ("ignored_accesses", "Malformed register accesses.", |c| c.ignored_accesses),
    ("slow_notifications", "Notifications that came through an exit.", |c| c.slow_notifications),
    ("host_failures", "Interrupts, routes and addresses that the host refused.", |c| c.host_failures),
];

const DISK: [Family<BlkFigures>; 15] = [
    ("reads", "Reads that succeeded.", |c| c.reads),
    ("writes", "Writes that succeeded.", |c| c.writes),
    ("flushes", "Flushes that succeeded.", |c| c.flushes),
    ("discards", "Discards that succeeded.", |c| c.discards),
    ("write_zeroes", "Write-zeroes that succeeded.", |c| c.write_zeroes),
    ("read_bytes", "Bytes read.", |c| c.read_bytes),
    ("written_bytes", "Bytes written.", |c| c.written_bytes),
    ("discarded_bytes", "Bytes discarded.", |c| c.discarded_bytes),
    ("zeroed_bytes", "Bytes zeroed.", |c| c.zeroed_bytes),
    ("host_errors", "Requests that the host failed, but for want of space.", |c| c.host_errors),
    ("no_space", "Requests that failed because the host's storage is full.", |c| c.no_space),
    ("unsupported", "Requests that the host or the device does not support.", |c| c.unsupported),
    ("out_of_range", "Requests past the end of the disk.", |c| c.out_of_range),
    ("refused_writes", "Writes to a disk that may only be read.", |c| c.read_only),
    ("malformed", "Malformed requests.", |c| c.malformed),
];

const NET: [Family<NetCounters>; 12] = [
    ("received_frames", "Frames that the guest received.", |c| c.received_frames),
    ("received_bytes", "Their bytes.", |c| c.received_bytes),
    ("received_dropped", "Frames that the guest had no room for, or while the link was down.", |c| {
        c.received_dropped
    }),
    ("received_copied", "Frames that were copied once more.", |c| c.received_copied),
    ("receive_starved", "Times that the guest had no buffers left.", |c| c.receive_starved),
    ("receive_errors", "Reads from the interface that failed.", |c| c.receive_errors),
    ("sent_frames", "Frames that the guest sent.", |c| c.sent_frames),
    ("sent_bytes", "Their bytes.", |c| c.sent_bytes),
    ("sent_dropped", "Frames that the host refused, or while the link was down.", |c| c.sent_dropped),
    ("send_blocked", "Times that the host took no more for now.", |c| c.send_blocked),
    ("commands", "Commands on the control queue.", |c| c.commands),
    ("malformed", "Buffers that cannot be a frame's or a command's.", |c| c.malformed),
];

const VSOCK: [Family<VsockCounters>; 8] = [
    ("guest_connects", "Connections that the guest opened.", |c| c.guest_connects),
    ("host_connects", "Connections that host processes opened.", |c| c.host_connects),
    ("refused", "Connections that were refused.", |c| c.refused),
    ("broken", "Connections that an error ended.", |c| c.broken),
    ("to_host_bytes", "Bytes from guest to host.", |c| c.to_host_bytes),
    ("to_guest_bytes", "Bytes from host to guest.", |c| c.to_guest_bytes),
    ("malformed", "Buffers that cannot be a packet's.", |c| c.malformed),
    ("lost_resets", "Answers that were left out, as too many waited.", |c| c.lost_resets),
];

const CONSOLE: [Family<ConsoleCounters>; 5] = [
    ("printed_bytes", "Bytes that the guest printed.", |c| c.printed_bytes),
    ("lost_bytes", "Bytes of those that nobody took in time.", |c| c.lost_bytes),
    ("typed_bytes", "Bytes that the guest was typed.", |c| c.typed_bytes),
    ("attached", "Clients that attached.", |c| c.attached),
    ("malformed", "Buffers that cannot be a console's.", |c| c.malformed),
];

const RNG: [Family<RngCounters>; 4] = [
    ("bytes", "Bytes of entropy given.", |c| c.bytes),
    ("requests", "Requests served.", |c| c.requests),
    ("waits", "Times that the rate limit made the driver wait.", |c| c.waits),
    ("failures", "Times that the source gave nothing.", |c| c.failures),
];

/// All of them. A kind that the guest has no device of has no figures.
pub fn all(text: &mut Text, devices: &[DeviceView]) {
    totals(text, "device", devices, &TRANSPORT, |device| Some(device.counters));
    totals(text, "disk", devices, &DISK, |device| match device.figures {
        Some(DeviceFigures::Disk(figures)) => Some(figures),
        _ => None,
    });
    totals(text, "net", devices, &NET, |device| net(device).map(|(_, counters)| counters));
    datapaths(text, devices);
    totals(text, "vsock", devices, &VSOCK, vsock);
    for counters in devices.iter().filter_map(vsock) {
        let help = "Connections that there are now.";
        text.one("numavisor_vsock_connections", "gauge", help, counters.connections);
    }
    totals(text, "console", devices, &CONSOLE, |device| match device.figures {
        Some(DeviceFigures::Console(counters)) => Some(counters),
        _ => None,
    });
    totals(text, "rng", devices, &RNG, |device| match device.figures {
        Some(DeviceFigures::Rng(counters)) => Some(counters),
        _ => None,
    });
}

/// Each way, as the states of a VM are shown: a series does not go and come.
fn datapaths(text: &mut Text, devices: &[DeviceView]) {
    const ALL: [(Datapath, &str); 3] =
        [(Datapath::Stopped, "stopped"), (Datapath::Own, "own"), (Datapath::Kernel, "kernel")];
    let name = "numavisor_net_datapath";
    let nets: Vec<_> =
        devices.iter().filter_map(|device| net(device).map(|(now, _)| (device, now))).collect();
    if nets.is_empty() {
        return;
    }
    text.family(name, "gauge", "1 for the way that frames go; those by the kernel are not counted here.");
    for (device, now) in nets {
        for (path, word) in ALL {
            let labels: [(&str, &dyn Display); 3] =
                [("device", &device.name), ("vnode", &device.vnode), ("path", &word)];
            text.line(name, &labels, u8::from(path == now));
        }
    }
}

fn net(device: &DeviceView) -> Option<(Datapath, NetCounters)> {
    match device.figures {
        Some(DeviceFigures::Net(path, counters)) => Some((path, counters)),
        _ => None,
    }
}

fn vsock(device: &DeviceView) -> Option<VsockCounters> {
    match device.figures {
        Some(DeviceFigures::Vsock(counters)) => Some(counters),
        _ => None,
    }
}

/// A line for each figure of each device that has them.
fn totals<T>(
    text: &mut Text,
    kind: &str,
    devices: &[DeviceView],
    families: &[Family<T>],
    of: impl Fn(&DeviceView) -> Option<T>,
) {
    let all: Vec<(&DeviceView, T)> =
        devices.iter().filter_map(|device| of(device).map(|figures| (device, figures))).collect();
    if all.is_empty() {
        return;
    }
    for (name, help, value) in families {
        let name = format!("numavisor_{kind}_{name}_total");
        text.family(&name, "counter", help);
        for (device, figures) in &all {
            text.line(&name, &[("device", &device.name), ("vnode", &device.vnode)], value(figures));
        }
    }
}
