//! What a block device counts.

crate::figures! {
    /// Requests and bytes of one disk.
    pub struct BlkCounters: "disk" {
        reads: Counter = "Reads that succeeded.",
        writes: Counter = "Writes that succeeded.",
        flushes: Counter = "Flushes that succeeded.",
        discards: Counter = "Discards that succeeded.",
        write_zeroes: Counter = "Write-zeroes that succeeded.",
        ids: Counter = "Reads of the serial number.",
        read_bytes: Counter = "Bytes read.",
        written_bytes: Counter = "Bytes written.",
        discarded_bytes: Counter = "Bytes discarded.",
        zeroed_bytes: Counter = "Bytes zeroed.",
        host_errors: Counter = "Requests that failed with a host error other than a full storage.",
        no_space: Counter = "Requests that failed because the host's storage is full.",
        unsupported: Counter = "Requests that the host or the device does not support.",
        out_of_range: Counter = "Requests past the end of the disk.",
        refused_writes: Counter = "Writes to a read-only disk.",
        malformed: Counter = "Malformed requests.",
        rounds: Counter = "Times that the disk's thread served its queues.",
        batches: Counter = "Batches of requests submitted to the host.",
    }
}
