//! Unix sockets behind a socket device: one where host processes connect, `SOCKET_PORT` for what the guest connects
//! to. What goes over them is the device's business.

use super::NetError;
use super::vhost::VhostVsock;
use crate::socket_file::{Access, Janitor, SocketFile, connect_to, is_hung_up};
use crate::sys::{HostError, read_pieces};
use devices::virtio::vsock::{GuestCid, HostSockets, HostStream, KernelVsock, Vsock};
use devices::virtio::{GuestMemoryHandle, KernelDatapath, VirtioDevice};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{GuestAddressSpace, GuestMemoryBackend, VolatileMemoryError, VolatileSlice, WriteVolatile};

/// `sun_path` less the NUL, and less `_4294967295`.
const MAX_PATH_BYTES: usize = 107 - 11;

/// A connection to a host process.
pub struct UnixSocket(UnixStream);

fn io_error(error: VolatileMemoryError) -> io::Error {
    match error {
        VolatileMemoryError::IOError(error) => error,
        error => io::Error::other(error),
    }
}

impl HostStream for UnixSocket {
    fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    fn receive<B: BitmapSlice>(&mut self, into: &[VolatileSlice<'_, B>]) -> io::Result<usize> {
        read_pieces(self.0.as_fd(), into, &mut [])
    }

    fn send<B: BitmapSlice>(&mut self, from: &VolatileSlice<'_, B>) -> io::Result<usize> {
        self.0.write_volatile(from).map_err(io_error)
    }

    fn shutdown(&mut self, how: Shutdown) {
        // Fails only if the other end is gone, and then there is nothing to end.
        let _ = self.0.shutdown(how);
    }

    fn is_hung_up(&self) -> bool {
        is_hung_up(&self.0)
    }
}

/// The sockets of one device. The listening one goes with it.
#[derive(Debug)]
pub struct Sockets {
    listener: UnixListener,
    file: SocketFile,
}

impl Sockets {
    /// Listens at `path`, for this user alone. What a dead process left there is replaced.
    pub fn bind(path: &Path, janitor: &Janitor) -> Result<Self, NetError> {
        require_room_for_ports(path)?;
        let (listener, file) = SocketFile::listen(path, Access::OWNER, janitor)?;
        listener.set_nonblocking(true).map_err(|error| HostError::new("ioctl(FIONBIO)", error))?;
        Ok(Self { listener, file })
    }

    /// Where host processes connect.
    pub fn path(&self) -> &Path {
        self.file.path()
    }
}

fn require_room_for_ports(path: &Path) -> Result<(), NetError> {
    match path.as_os_str().len() > MAX_PATH_BYTES {
        true => Err(NetError::SocketPath { path: path.to_owned(), max: MAX_PATH_BYTES }),
        false => Ok(()),
    }
}

impl HostSockets for Sockets {
    type Stream = UnixSocket;

    fn listener(&self) -> RawFd {
        self.listener.as_raw_fd()
    }

    fn accept(&self) -> io::Result<UnixSocket> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok(UnixSocket(stream))
    }

    fn connect(&self, port: u32) -> io::Result<UnixSocket> {
        let mut path = self.path().as_os_str().to_owned();
        path.push(format!("_{port}"));
        connect_to(Path::new(&path)).map(|fd| UnixSocket(UnixStream::from(fd)))
    }
}

/// The host side of a socket device: made once per process, so that it outlives resets of the guest.
#[derive(Debug)]
pub enum SocketHost {
    /// Unix sockets.
    Unix(GuestCid, Arc<Sockets>),
    /// The kernel: host processes use `AF_VSOCK`.
    Kernel(GuestCid),
}

/// A guest's context id out of a number.
fn guest_cid(cid: u64) -> Result<GuestCid, NetError> {
    GuestCid::new(cid).ok_or(NetError::Cid(cid))
}

impl SocketHost {
    /// With unix sockets: host processes connect to `path` and write `CONNECT PORT`, the guest reaches `path_PORT`.
    pub fn unix(cid: u64, path: &Path, janitor: &Janitor) -> Result<Self, NetError> {
        Ok(Self::Unix(guest_cid(cid)?, Arc::new(Sockets::bind(path, janitor)?)))
    }

    /// Why [`unix`](Self::unix) would refuse now.
    pub fn check_unix(cid: u64, path: &Path) -> Result<(), NetError> {
        guest_cid(cid)?;
        require_room_for_ports(path)?;
        Ok(SocketFile::check(path)?)
    }

    /// With vhost-vsock, which the host must have, for guest memory in so many ranges.
    pub fn kernel(cid: u64, ranges: usize) -> Result<Self, NetError> {
        let cid = guest_cid(cid)?;
        VhostVsock::check(cid.get(), ranges)?;
        Ok(Self::Kernel(cid))
    }

    /// A device, one at a time.
    pub fn device<M>(&self) -> SocketDevice<M>
    where
        M: GuestMemoryHandle + GuestAddressSpace<M: GuestMemoryBackend + Sized>,
        VhostVsock<M>: KernelDatapath<M> + 'static,
    {
        match self {
            Self::Unix(cid, sockets) => SocketDevice::Unix(Vsock::new(*cid, Arc::clone(sockets))),
            Self::Kernel(cid) => {
                SocketDevice::Kernel(KernelVsock::new(*cid, Box::new(VhostVsock::new(cid.get()))))
            }
        }
    }
}

/// A socket device of either kind.
pub enum SocketDevice<M> {
    /// That serves its connections itself.
    Unix(Vsock<Sockets>),
    /// That the kernel serves.
    Kernel(KernelVsock<M>),
}

impl<M: GuestMemoryHandle> SocketDevice<M> {
    /// As a transport takes it.
    pub fn boxed(self) -> Box<dyn VirtioDevice<M>> {
        match self {
            Self::Unix(device) => Box::new(device),
            Self::Kernel(device) => Box::new(device),
        }
    }
}
