//! What a network device asks of the host: a queue of an interface that takes and gives whole frames.
//! Opening, naming and removing interfaces is left to `vmm`.

use std::io;
use std::os::fd::RawFd;

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

use super::features::Offloads;

/// Bytes of the header before each frame: `struct virtio_net_hdr_v1`, with `num_buffers` (virtio 1.3, 5.1.6).
pub const HEADER_BYTES: usize = 12;
/// The largest frame with its header: an IP packet of 65,535 bytes after an Ethernet header with two VLAN tags.
pub const MAX_FRAME_BYTES: usize = HEADER_BYTES + 14 + 8 + 65_535;
/// Most slices of a frame: one less than the kernel takes at once (`UIO_MAXIOV`).
pub const MAX_SLICES: usize = 1023;

/// One queue of a host interface. Each frame has a header of [`HEADER_BYTES`] before it, little-endian. Never blocks:
/// where there is nothing to do, calls fail with [`io::ErrorKind::WouldBlock`].
pub trait Tap: Send + Sync + 'static {
    /// The descriptor to wait on.
    fn fd(&self) -> RawFd;

    /// Takes the next frame into `into`, one slice after the other, then into `rest`, and says how many bytes it had;
    /// what fits in neither is lost. `num_buffers` may be left as it was. At most [`MAX_SLICES`].
    fn receive<B: BitmapSlice>(&self, into: &[VolatileSlice<'_, B>], rest: &mut [u8]) -> io::Result<usize>;

    /// Sends the bytes of all slices as one frame and says how many the host took. At most
    /// [`MAX_SLICES`].
    fn send<B: BitmapSlice>(&self, frame: &[VolatileSlice<'_, B>]) -> io::Result<usize>;

    /// What the interface can do.
    fn supported(&self) -> Offloads;

    /// What frames from now on may be like; holds for all queues of the interface.
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()>;

    /// Whether the host may choose this queue for frames to the guest. An interface with one queue has nothing to do.
    fn set_enabled(&self, enabled: bool) -> io::Result<()>;
}
