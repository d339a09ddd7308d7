//! The balloon device (virtio 1.3, 5.5): takes pages from a guest and gives them back, and knows for each page which
//! vnode it is of. One such device sits behind each vnode's host bridge.
//!
//! How much to ask for, and when, is the controller's decision in `vmm`; what becomes of the host's memory is the
//! host's, behind [`BalloonHost`].

mod config;
mod counters;
mod device;
mod handle;
mod hints;
mod host;
mod pages;
mod stack;
mod state;
mod stats;
#[cfg(any(test, feature = "test-driver"))]
#[allow(dead_code, clippy::unwrap_used, reason = "a test's own mistakes end the test; fuzzers use a part")]
pub(in crate::virtio) mod test_host;
mod view;
mod worker;

#[cfg(test)]
mod tests;

pub use counters::BalloonCounters;
pub use device::{Balloon, BalloonOptions};
pub use handle::{BalloonHandle, NotReady};
pub use host::{BalloonHost, PagePlace, Sweep};
pub use pages::{PageRun, compact};
pub use state::{BalloonDriverState, BalloonState, PagesOut};
pub use stats::GuestStats;
pub use view::{BalloonView, Steering};
pub use worker::MAX_ARRAY_PAGES;

/// Bytes of a page of the balloon, whatever the guest's own are (virtio 1.3, 5.5.6).
pub const PAGE_BYTES: u64 = 4096;
