//! Queues served by the kernel: vhost-net for frames, vhost-vsock for sockets.
//! When they are handed over and taken back is the devices' business.

use super::kernel_thread;
use crate::sys::HostError;
use devices::virtio::{GuestMemoryHandle, KernelDatapath, KernelQueue};
use std::fs::File;
use std::io;
use vhost::net::VhostNet as _;
use vhost::vhost_kern::VhostKernBackend;
use vhost::vhost_kern::net::Net;
use vhost::vhost_kern::vsock::Vsock;
use vhost::vsock::VhostVsock as _;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

const NET: &str = "/dev/vhost-net";
const VSOCK: &str = "/dev/vhost-vsock";

/// Features that change what the rings, or the headers in them, look like: the kernel must know those that the
/// driver was given. Merging buffers, indirect descriptors, event indexes, version 1.
const RING_FEATURES: u64 = 1 << 15 | 1 << 28 | 1 << 29 | VERSION_1;
const VERSION_1: u64 = 1 << 32;

fn check(path: &'static str, instead: &str) -> Result<(), HostError> {
    let opened = File::options().read(true).write(true).open(path);
    opened.map(drop).map_err(|e| HostError::new("open", e).of(path).hint(format!("without it, {instead}")))
}

fn vhost_error(error: vhost::Error) -> io::Error {
    match error {
        vhost::Error::VhostOpen(e) | vhost::Error::IoctlError(e) | vhost::Error::IOError(e) => e,
        other => io::Error::other(other.to_string()),
    }
}

/// Serves a pair of queues of a network device.
pub struct VhostNet<M: GuestMemoryHandle<M: GuestMemoryBackend + Sized>> {
    tap: File,
    running: Option<(Net<M>, usize)>,
}

impl VhostNet<std::sync::Arc<vm_memory::GuestMemoryMmap>> {
    /// Whether this process may use it.
    pub fn check() -> Result<(), HostError> {
        check(NET, "choose vhost=off")
    }
}

impl<M: GuestMemoryHandle<M: GuestMemoryBackend + Sized>> VhostNet<M> {
    /// For this queue of a tap.
    pub fn new(tap: File) -> Self {
        Self { tap, running: None }
    }
}

impl<M: GuestMemoryHandle<M: GuestMemoryBackend + Sized>> KernelDatapath<M> for VhostNet<M> {
    fn start(&mut self, memory: &M, features: u64, queues: &[KernelQueue<'_>]) -> io::Result<()> {
        // A new one each time: closing it is the one sure way back.
        let net = Net::new(memory.clone()).map_err(vhost_error)?;
        set_up(&net, memory, features, queues)?;
        for index in 0..queues.len() {
            if let Err(error) = net.set_backend(index, Some(&self.tap)) {
                for index in 0..index {
                    net.set_backend(index, None).map_err(vhost_error)?;
                }
                return Err(vhost_error(error));
            }
        }
        self.running = Some((net, queues.len()));
        kick(queues);
        Ok(())
    }

    fn stop(&mut self) -> io::Result<Vec<u16>> {
        let Some((net, queues)) = self.running.take() else { return Ok(Vec::new()) };
        for index in 0..queues {
            net.set_backend(index, None).map_err(vhost_error)?;
        }
        positions(&net, queues)
    }
}

/// Serves the queues of a socket device, except its event queue.
pub struct VhostVsock<M: GuestMemoryHandle<M: GuestMemoryBackend + Sized>> {
    cid: u32,
    running: Option<(Vsock<M>, usize)>,
}

impl VhostVsock<std::sync::Arc<vm_memory::GuestMemoryMmap>> {
    /// Whether this process may use it, and no other guest has this context id now.
    pub fn check(cid: u32) -> Result<(), HostError> {
        check(VSOCK, "give a socket=PATH")?;
        let refused = |call| move |error| HostError::new(call, vhost_error(error)).of(format!("cid {cid}"));
        let no_memory = std::sync::Arc::<vm_memory::GuestMemoryMmap>::default();
        let vsock = Vsock::new(no_memory).map_err(refused("open"))?;
        vsock.set_guest_cid(cid.into()).map_err(refused("VHOST_VSOCK_SET_GUEST_CID"))
    }
}

impl<M: GuestMemoryHandle<M: GuestMemoryBackend + Sized>> VhostVsock<M> {
    /// For a guest with this context id.
    pub fn new(cid: u32) -> Self {
        Self { cid, running: None }
    }
}

impl<M: GuestMemoryHandle<M: GuestMemoryBackend + Sized>> KernelDatapath<M> for VhostVsock<M> {
    fn start(&mut self, memory: &M, features: u64, queues: &[KernelQueue<'_>]) -> io::Result<()> {
        let vsock = Vsock::new(memory.clone()).map_err(vhost_error)?;
        set_up(&vsock, memory, features, queues)?;
        vsock.set_guest_cid(self.cid.into()).map_err(vhost_error)?;
        vsock.start().map_err(vhost_error)?;
        self.running = Some((vsock, queues.len()));
        kick(queues);
        Ok(())
    }

    fn stop(&mut self) -> io::Result<Vec<u16>> {
        let Some((vsock, queues)) = self.running.take() else { return Ok(Vec::new()) };
        vsock.stop().map_err(vhost_error)?;
        positions(&vsock, queues)
    }
}

/// Everything but the last step.
fn set_up<V, M>(vhost: &V, memory: &M, features: u64, queues: &[KernelQueue<'_>]) -> io::Result<()>
where
    V: VhostKernBackend<AS = M>,
    M: GuestMemoryHandle<M: GuestMemoryBackend + Sized>,
{
    vhost.set_owner().map_err(vhost_error)?;
    let wanted = features & RING_FEATURES | VERSION_1;
    if vhost.get_features().map_err(vhost_error)? & wanted != wanted {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "vhost lacks features that the driver was given",
        ));
    }
    vhost.set_features(wanted).map_err(vhost_error)?;
    vhost.set_mem_table(&regions(&*memory.memory())?).map_err(vhost_error)?;
    for (index, KernelQueue { queue, kick, call }) in queues.iter().enumerate() {
        check_rings(&*memory.memory(), *queue)?;
        let rings = VringConfigData {
            queue_max_size: queue.max_size(),
            queue_size: queue.size(),
            flags: 0,
            desc_table_addr: queue.desc_table(),
            used_ring_addr: queue.used_ring(),
            avail_ring_addr: queue.avail_ring(),
            log_addr: None,
        };
        vhost.set_vring_num(index, queue.size()).map_err(vhost_error)?;
        vhost.set_vring_addr(index, &rings).map_err(vhost_error)?;
        vhost.set_vring_base(index, queue.next_avail()).map_err(vhost_error)?;
        vhost.set_vring_call(index, call).map_err(vhost_error)?;
        vhost.set_vring_kick(index, kick).map_err(vhost_error)?;
    }
    // The kernel has had a thread for us since it has had an owner.
    kernel_thread::join_me();
    Ok(())
}

/// Of buffers that were there before, the kernel hears only now.
fn kick(queues: &[KernelQueue<'_>]) {
    for queue in queues {
        // Cannot block; a full counter says the same.
        let _ = queue.kick.write(1);
    }
}

/// The kernel takes each ring by the host address of its first byte, and trusts us that the rest lies behind it: so
/// none may lie across the border of two regions, whose host memory is not one piece.
fn check_rings<G: GuestMemoryBackend>(memory: &G, queue: &impl QueueT) -> io::Result<()> {
    let size = usize::from(queue.size());
    let rings = [
        (queue.desc_table(), size * 16),
        (queue.avail_ring(), size * 2 + 6),
        (queue.used_ring(), size * 8 + 6),
    ];
    for (address, length) in rings {
        memory
            .get_slice(GuestAddress(address), length)
            .map_err(|_| io::Error::new(io::ErrorKind::Unsupported, "a ring lies across memory regions"))?;
    }
    Ok(())
}

fn regions<G: GuestMemoryBackend>(memory: &G) -> io::Result<Vec<VhostUserMemoryRegionInfo>> {
    let region = |region: &G::R| {
        let host = region.get_host_address(MemoryRegionAddress(0)).map_err(io::Error::other)?;
        Ok(VhostUserMemoryRegionInfo {
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: host as u64,
            mmap_offset: 0,
            mmap_handle: -1,
        })
    };
    memory.iter().map(region).collect()
}

/// Which available entry comes next in each queue.
fn positions(vhost: &impl VhostBackend, queues: usize) -> io::Result<Vec<u16>> {
    let base = |index| -> io::Result<u16> {
        let base = vhost.get_vring_base(index).map_err(vhost_error)?;
        // Split rings: the index alone.
        u16::try_from(base & 0xffff).map_err(io::Error::other)
    };
    (0..queues).map(base).collect()
}
