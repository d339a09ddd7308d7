//! Queues served by the kernel: vhost-net for frames, vhost-vsock for sockets.
//! When they are handed over and taken back is the devices' business.

use super::kernel_thread;
use crate::sys::HostError;
use devices::virtio::{KernelDatapath, KernelQueue};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use vhost::net::VhostNet as _;
use vhost::vhost_kern::VhostKernBackend;
use vhost::vhost_kern::net::Net;
use vhost::vhost_kern::vsock::Vsock;
use vhost::vsock::VhostVsock as _;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_queue::QueueT;
use vm_memory::{
    GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress,
};

const NET: &str = "/dev/vhost-net";
const VSOCK: &str = "/dev/vhost-vsock";

/// Features that change what the rings, or the headers in them, look like: the kernel must know those that the
/// driver was given. Merging buffers, indirect descriptors, event indexes, version 1.
const RING_FEATURES: u64 = 1 << 15 | 1 << 28 | 1 << 29 | VERSION_1;
const VERSION_1: u64 = 1 << 32;

/// The most ranges of memory that the kernel takes of one process.
const MAX_REGIONS: &str = "/sys/module/vhost/parameters/max_mem_regions";
/// What it is where nobody changed it.
const USUAL_MAX_REGIONS: usize = 64;
/// The most that the `vhost` crate takes, whatever the kernel does.
const CRATE_MAX_REGIONS: usize = 255;

/// Whether this process may use `path`, and the kernel takes guest memory in so many `ranges`.
fn check(path: &'static str, ranges: usize, instead: &str) -> Result<(), HostError> {
    let opened = File::options().read(true).write(true).open(path);
    opened.map_err(|e| HostError::new("open", e).of(path).hint(format!("without it, {instead}")))?;
    // Once it is open the module is there.
    check_ranges(ranges, max_regions(Path::new(MAX_REGIONS)), instead)
}

fn max_regions(at: &Path) -> usize {
    let given = std::fs::read_to_string(at).ok().and_then(|text| text.trim().parse().ok());
    given.unwrap_or(USUAL_MAX_REGIONS).min(CRATE_MAX_REGIONS)
}

fn check_ranges(ranges: usize, most: usize, instead: &str) -> Result<(), HostError> {
    if ranges <= most {
        return Ok(());
    }
    let more = if most < CRATE_MAX_REGIONS { "raise vhost.max_mem_regions, or " } else { "" };
    Err(HostError::new("VHOST_SET_MEM_TABLE", io::Error::from_raw_os_error(libc::E2BIG))
        .of(format!("{ranges} ranges of guest memory"))
        .hint(format!("vhost supports {most}; {more}{instead}")))
}

fn vhost_error(error: vhost::Error) -> io::Error {
    match error {
        vhost::Error::VhostOpen(e) | vhost::Error::IoctlError(e) | vhost::Error::IOError(e) => e,
        other => io::Error::other(other.to_string()),
    }
}

/// Serves a pair of queues of a network device.
pub struct VhostNet<M: GuestAddressSpace<M: GuestMemoryBackend + Sized>> {
    tap: File,
    running: Option<(Net<M>, usize)>,
}

impl VhostNet<Arc<vm_memory::GuestMemoryMmap>> {
    /// Whether this process may use it, for guest memory in so many ranges.
    pub fn check(ranges: usize) -> Result<(), HostError> {
        check(NET, ranges, "choose vhost=off")
    }
}

impl<M: GuestAddressSpace<M: GuestMemoryBackend + Sized>> VhostNet<M> {
    /// For this queue of a tap.
    pub fn new(tap: File) -> Self {
        Self { tap, running: None }
    }
}

impl<G: GuestMemoryBackend + Send + Sync + 'static> KernelDatapath<Arc<G>> for VhostNet<Arc<G>> {
    fn start(&mut self, memory: &Arc<G>, features: u64, queues: &[KernelQueue<'_>]) -> io::Result<()> {
        // A new one each time: closing it is the one sure way back.
        let net = Net::new(Arc::clone(memory)).map_err(vhost_error)?;
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
pub struct VhostVsock<M: GuestAddressSpace<M: GuestMemoryBackend + Sized>> {
    cid: u32,
    running: Option<(Vsock<M>, usize)>,
}

impl VhostVsock<Arc<vm_memory::GuestMemoryMmap>> {
    /// Whether this process may use it, for guest memory in so many ranges, and no other guest has this context id now.
    pub fn check(cid: u32, ranges: usize) -> Result<(), HostError> {
        check(VSOCK, ranges, "give a socket=PATH")?;
        let refused = |call| move |error| HostError::new(call, vhost_error(error)).of(format!("cid {cid}"));
        let no_memory = Arc::<vm_memory::GuestMemoryMmap>::default();
        let vsock = Vsock::new(no_memory).map_err(refused("open"))?;
        vsock.set_guest_cid(cid.into()).map_err(refused("VHOST_VSOCK_SET_GUEST_CID"))
    }
}

impl<M: GuestAddressSpace<M: GuestMemoryBackend + Sized>> VhostVsock<M> {
    /// For a guest with this context id.
    pub fn new(cid: u32) -> Self {
        Self { cid, running: None }
    }
}

impl<G: GuestMemoryBackend + Send + Sync + 'static> KernelDatapath<Arc<G>> for VhostVsock<Arc<G>> {
    fn start(&mut self, memory: &Arc<G>, features: u64, queues: &[KernelQueue<'_>]) -> io::Result<()> {
        let vsock = Vsock::new(Arc::clone(memory)).map_err(vhost_error)?;
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
fn set_up<V, G>(vhost: &V, memory: &G, features: u64, queues: &[KernelQueue<'_>]) -> io::Result<()>
where
    V: VhostKernBackend<AS = Arc<G>>,
    G: GuestMemoryBackend,
{
    vhost.set_owner().map_err(vhost_error)?;
    let wanted = features & RING_FEATURES | VERSION_1;
    if vhost.get_features().map_err(vhost_error)? & wanted != wanted {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "vhost lacks features that the driver negotiated",
        ));
    }
    vhost.set_features(wanted).map_err(vhost_error)?;
    vhost.set_mem_table(&regions(memory)?).map_err(vhost_error)?;
    for (index, KernelQueue { queue, kick, call }) in queues.iter().enumerate() {
        check_rings(memory, *queue)?;
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
            .map_err(|_| io::Error::new(io::ErrorKind::Unsupported, "a ring crosses memory regions"))?;
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

#[cfg(test)]
mod tests {
    use super::{CRATE_MAX_REGIONS, USUAL_MAX_REGIONS, check_ranges, max_regions};
    use std::fs;

    #[test]
    fn more_ranges_than_the_kernel_takes_are_refused_with_what_to_do() {
        assert!(check_ranges(64, 64, "give a socket=PATH").is_ok());
        let error = check_ranges(65, 64, "give a socket=PATH").unwrap_err();
        assert_eq!(error.errno(), libc::E2BIG);
        let text = error.to_string();
        for part in ["65 ranges", "vhost supports 64", "raise vhost.max_mem_regions, or give a socket=PATH"] {
            assert!(text.contains(part), "{text}");
        }
        let text = check_ranges(257, CRATE_MAX_REGIONS, "choose vhost=off").unwrap_err().to_string();
        assert!(text.contains("vhost supports 255; choose vhost=off"), "{text}");
    }

    #[test]
    fn the_kernels_limit_is_read_where_it_shows_one() {
        let at = tempfile::tempdir().unwrap();
        let file = at.path().join("max_mem_regions");
        assert_eq!(max_regions(&file), USUAL_MAX_REGIONS);
        for (text, most) in [("509\n", CRATE_MAX_REGIONS), ("128\n", 128), ("many\n", USUAL_MAX_REGIONS)] {
            fs::write(&file, text).unwrap();
            assert_eq!(max_regions(&file), most);
        }
    }
}
