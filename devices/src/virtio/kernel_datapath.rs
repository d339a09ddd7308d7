//! A datapath in the kernel that serves queues in a worker's place (vhost).
//! Which kernel interface that is, and whether there is one, is left to `vmm`.

use std::io;

use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

/// A queue for the kernel to serve.
pub struct KernelQueue<'a> {
    /// Its rings; the kernel goes on where `next_avail` says.
    pub queue: &'a Queue,
    /// Signalled by the driver.
    pub kick: &'a EventFd,
    /// Interrupts the driver.
    pub call: EventFd,
}

/// Something in the kernel that serves queues of guest memory `M`.
pub trait KernelDatapath<M>: Send {
    /// Hands the queues over. Called in the worker's thread, whose CPUs the kernel's thread inherits. On an error
    /// the kernel has none of the queues and nothing of them was used.
    fn start(&mut self, memory: &M, features: u64, queues: &[KernelQueue<'_>]) -> io::Result<()>;

    /// Takes the queues back: when it returns the kernel does not touch guest memory any more. Says for each queue
    /// which available entry comes next.
    fn stop(&mut self) -> io::Result<Vec<u16>>;
}
