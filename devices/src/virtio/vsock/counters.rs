//! What a socket device counts.

crate::figures! {
    /// Connections and bytes of one device.
    pub struct VsockCounters: "vsock" {
        guest_connects: Counter = "Connections that the guest opened.",
        host_connects: Counter = "Connections that host processes opened.",
        refused: Counter = "Connections that were refused by the other side, or because there were too many.",
        broken: Counter = "Connections ended by an error.",
        to_host_bytes: Counter = "Bytes from guest to host.",
        to_guest_bytes: Counter = "Bytes from host to guest.",
        malformed: Counter = "Malformed packets from the guest.",
        lost_resets: Counter = "Resets for unknown connections that were not sent because too many were waiting.",
        connections: Gauge = "Connections now, including those that are being opened or closed.",
    }
}
