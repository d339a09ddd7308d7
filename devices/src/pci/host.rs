//! What PCI functions ask of the host: interrupt vectors, notifications that cost no exit, threads.

use std::io;

use vmm_sys_util::eventfd::EventFd;

use crate::interrupt::{InterruptError, MsiMessage};
use crate::virtio::Worker;

/// The MSI-X vectors of one function, numbered from 0. Called with the function locked.
pub trait MsixVectors: Send + Sync {
    /// The message of a vector changed, or the vector was masked (`None`): triggers while masked are lost here, the
    /// function keeps them pending.
    fn set(&self, vector: u16, message: Option<MsiMessage>) -> Result<(), InterruptError>;

    /// Raises an unmasked vector.
    fn trigger(&self, vector: u16) -> Result<(), InterruptError>;

    /// An eventfd that raises the vector without going through the function, for datapaths in the kernel.
    fn eventfd(&self, vector: u16) -> Option<EventFd>;
}

/// Addresses that signal an eventfd when the guest writes there, without an exit to this process.
pub trait IoEvents: Send + Sync {
    /// Any write of 2 bytes to `address` signals `event`.
    fn register(&self, address: u64, event: &EventFd) -> io::Result<()>;

    /// Takes a registration back.
    fn unregister(&self, address: u64, event: &EventFd) -> io::Result<()>;
}

/// Is told why a worker does not serve its sources any more, though nobody has stopped it.
pub type OnFailure = Box<dyn FnOnce(&str) + Send>;

/// Starts threads for workers, on the host node that the function belongs to.
pub trait WorkerSpawner: Send + Sync {
    /// Starts a thread that runs `worker` until it is stopped.
    fn spawn(
        &self,
        name: &str,
        worker: Box<dyn Worker>,
        on_failure: OnFailure,
    ) -> io::Result<Box<dyn WorkerHandle>>;
}

/// A worker that runs, or has been asked to stop and still waits for requests in flight.
pub trait WorkerHandle: Send {
    /// Asks the worker to stop. Does not wait until it has.
    fn request_stop(&self);

    /// Whether the worker has stopped, or died; [`stop`](Self::stop) does not wait then.
    fn has_stopped(&self) -> bool;

    /// Withdraws a request to stop: the worker starts again once its requests have ended. False if it has stopped.
    fn resume(&self) -> bool;

    /// Tells a worker that was asked to stop that nobody waits for its requests any longer.
    fn cancel(&self);

    /// Stops the worker, waits for it and gives it back; `None` if it died.
    fn stop(self: Box<Self>) -> Option<Box<dyn Worker>>;
}
