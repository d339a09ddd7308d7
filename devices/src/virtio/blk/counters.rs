//! What a block device counts. Who shows it, and how, is left to `vmm` and `api`.

use crate::virtio::counter::Counter;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the device was made.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct BlkFigures { $($(#[$doc])* pub $name: u64,)* }

        /// The counters behind [`BlkFigures`].
        #[derive(Debug, Default)]
        pub(super) struct Counters { $(pub $name: Counter,)* }

        impl Counters {
            pub fn figures(&self) -> BlkFigures {
                BlkFigures { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Reads that succeeded.
    reads,
    /// Writes that succeeded.
    writes,
    /// Flushes that succeeded.
    flushes,
    /// Discards that succeeded.
    discards,
    /// Write-zeroes that succeeded.
    write_zeroes,
    /// Serial numbers given.
    ids,
    /// Bytes read.
    read_bytes,
    /// Bytes written.
    written_bytes,
    /// Bytes discarded.
    discarded_bytes,
    /// Bytes zeroed.
    zeroed_bytes,
    /// Requests that the host failed, except for the next two.
    host_errors,
    /// Requests that failed because the host's storage is full.
    no_space,
    /// Requests that the host or this device does not know.
    unsupported,
    /// Requests past the end of the disk.
    out_of_range,
    /// Writes to a disk that may only be read.
    read_only,
    /// Requests that make no sense: a short header, no room for the status, a length that is no multiple.
    malformed,
    /// Rounds of the worker.
    rounds,
    /// Batches handed to the engine.
    batches,
}
