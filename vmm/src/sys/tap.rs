//! A queue of a tap interface: opened, told what frames are like, read and written in place in guest memory.
//! Which interface and which offloads is `net`'s decision.

use super::errno::HostError;
use devices::virtio::net::{HEADER_BYTES, MAX_SLICES, Offloads, Tap};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

const TUN: &str = "/dev/net/tun";
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
/// Pieces of a frame for which no memory has to be taken.
const FEW_SLICES: usize = 64;

/// One queue of a tap.
#[derive(Debug)]
pub struct TapQueue {
    fd: OwnedFd,
    multi_queue: bool,
    enabled: AtomicBool,
    supported: Offloads,
}

/// A name that an interface can have, NUL-terminated and padded.
fn request(name: &str) -> Option<libc::ifreq> {
    // SAFETY: the structure has integers, arrays and pointers only, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays NUL.
    let last = request.ifr_name.len() - 1;
    let room = request.ifr_name.get_mut(..last)?;
    if name.is_empty() || name.len() > room.len() || name.contains('\0') {
        return None;
    }
    for (to, from) in room.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Some(request)
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

/// An ioctl that takes the address of `argument`, which has the type that `number` asks for.
fn ioctl<T>(fd: &OwnedFd, number: libc::Ioctl, argument: &mut T) -> io::Result<()> {
    // SAFETY: every caller in this file passes what the kernel expects for that number; the kernel reads or writes
    // only within it.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), number, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl TapQueue {
    /// Opens a queue of the interface `name`, which the kernel makes if it is not there; it goes with its last
    /// descriptor unless somebody made it persistent. With `%d` in the name the kernel puts a number there. Says the
    /// interface's name.
    pub fn open(name: &str, multi_queue: bool) -> Result<(Self, String), HostError> {
        let mut request = request(name).ok_or_else(|| HostError::new("TUNSETIFF", invalid()).of(name))?;
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(TUN)
            .map_err(|e| HostError::new("open", e).of(TUN))?;
        let fd = OwnedFd::from(file);
        let flags = if multi_queue { FLAGS | libc::IFF_MULTI_QUEUE } else { FLAGS };
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap_or(0);
        ioctl(&fd, libc::TUNSETIFF, &mut request).map_err(|e| HostError::new("TUNSETIFF", e).of(name))?;
        let name = name_of(&request);
        Ok((Self::new(fd, multi_queue, true).map_err(|error| error.of(&name))?, name))
    }

    /// Takes over a descriptor of a tap that somebody else opened, by a copy of its own. Says the interface's name.
    pub fn adopt(number: RawFd) -> Result<(Self, String), HostError> {
        let (fd, flags, name) = inspect(number)?;
        let fail = |e| HostError::new("fcntl", e).of(format!("descriptor {number}"));
        set_nonblocking(&fd).map_err(fail)?;
        // A queue that is detached is attached by the device, and one that is attached is left so.
        let detached = flags & libc::IFF_DETACH_QUEUE != 0;
        let queue = Self::new(fd, flags & libc::IFF_MULTI_QUEUE != 0, !detached);
        Ok((queue.map_err(|error| error.of(&name))?, name))
    }

    /// Why [`adopt`](Self::adopt) would refuse a descriptor; else the interface's name. Whoever uses it notices nothing.
    pub fn check(number: RawFd) -> Result<String, HostError> {
        inspect(number).map(|(_, _, name)| name)
    }

    fn new(fd: OwnedFd, multi_queue: bool, enabled: bool) -> Result<Self, HostError> {
        let mut header = libc::c_int::try_from(HEADER_BYTES).unwrap_or(0);
        ioctl(&fd, libc::TUNSETVNETHDRSZ, &mut header).map_err(|e| HostError::new("TUNSETVNETHDRSZ", e))?;
        let mut little_endian: libc::c_int = 1;
        ioctl(&fd, libc::TUNSETVNETLE, &mut little_endian).map_err(|e| HostError::new("TUNSETVNETLE", e))?;
        let mut queue =
            Self { fd, multi_queue, enabled: AtomicBool::new(enabled), supported: Offloads::NONE };
        queue.supported = queue.probe();
        Ok(queue)
    }

    /// What the kernel takes, best first: UDP segmentation came with Linux 6.2, UFO was gone for a while. Leaves
    /// nothing switched on.
    fn probe(&self) -> Offloads {
        let tcp = Offloads::CHECKSUM | Offloads::TSO4 | Offloads::TSO6 | Offloads::ECN;
        let usable = [
            tcp | Offloads::UFO | Offloads::USO4 | Offloads::USO6,
            tcp | Offloads::USO4 | Offloads::USO6,
            tcp | Offloads::UFO,
            tcp,
            Offloads::CHECKSUM,
        ];
        let best = usable.into_iter().find(|offloads| self.set_offloads(*offloads).is_ok());
        match self.set_offloads(Offloads::NONE) {
            Ok(()) => best.unwrap_or(Offloads::NONE),
            Err(_) => Offloads::NONE,
        }
    }

    /// The descriptor, for a datapath in the kernel.
    pub fn try_clone(&self) -> io::Result<std::fs::File> {
        self.fd.try_clone().map(std::fs::File::from)
    }
}

/// A copy of a descriptor of a tap, the interface's flags and its name.
fn inspect(number: RawFd) -> Result<(OwnedFd, libc::c_int, String), HostError> {
    let fail = |call| move |e| HostError::new(call, e).of(format!("descriptor {number}"));
    let fd = duplicate(number).map_err(fail("fcntl"))?;
    // SAFETY: as in `request`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    ioctl(&fd, libc::TUNGETIFF, &mut request)
        .map_err(|e| fail("TUNGETIFF")(e).hint("it must be the descriptor of a tap interface"))?;
    // SAFETY: the kernel wrote this member; any bits are a valid integer.
    let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    if flags & FLAGS != FLAGS {
        return Err(fail("TUNGETIFF")(invalid())
            .hint("the tap must have been opened with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR"));
    }
    Ok((fd, flags, name_of(&request)))
}

fn name_of(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.iter().map(|c| c.cast_unsigned()).take_while(|c| *c != 0);
    String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
}

/// A copy of a descriptor that this process was started with, by its number.
fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: any number may be asked for, one that is no open descriptor is refused; the original is not touched.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the copy was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

const EMPTY: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// Calls `f` with the vector of these slices, `rest` behind them.
fn with_vector<B: BitmapSlice, R>(
    slices: &[VolatileSlice<'_, B>],
    rest: Option<libc::iovec>,
    f: impl FnOnce(&[libc::iovec]) -> R,
) -> R {
    let vectors = slices
        .iter()
        .map(|slice| libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() });
    let vectors = vectors.chain(rest);
    let count = slices.len() + usize::from(rest.is_some());
    if count > FEW_SLICES {
        return f(&vectors.collect::<Vec<_>>());
    }
    let mut few = [EMPTY; FEW_SLICES];
    for (to, from) in few.iter_mut().zip(vectors) {
        *to = from;
    }
    f(few.get(..count).unwrap_or_default())
}

fn count(vectors: &[libc::iovec]) -> libc::c_int {
    libc::c_int::try_from(vectors.len()).unwrap_or(libc::c_int::MAX)
}

/// Reads into these pieces of guest memory, and what is more into `rest`; together no more than the kernel takes
/// (`IOV_MAX`).
pub fn read_pieces<B: BitmapSlice>(
    fd: BorrowedFd<'_>,
    into: &[VolatileSlice<'_, B>],
    rest: &mut [u8],
) -> io::Result<usize> {
    let behind = libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() };
    let result = with_vector(into, Some(behind).filter(|behind| behind.iov_len > 0), |vectors| {
        // SAFETY: the vectors are mapped guest memory, that the guest may write too and nothing refers to, and
        // `rest`, which is borrowed for it.
        unsafe { libc::readv(fd.as_raw_fd(), vectors.as_ptr(), count(vectors)) }
    });
    let bytes = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    let mut left = bytes;
    for slice in into {
        let part = left.min(slice.len());
        slice.bitmap().mark_dirty(0, part);
        left -= part;
    }
    Ok(bytes)
}

impl Tap for TapQueue {
    fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    fn receive<B: BitmapSlice>(&self, into: &[VolatileSlice<'_, B>], rest: &mut [u8]) -> io::Result<usize> {
        debug_assert!(into.len() <= MAX_SLICES);
        read_pieces(self.fd.as_fd(), into, rest)
    }

    fn send<B: BitmapSlice>(&self, frame: &[VolatileSlice<'_, B>]) -> io::Result<usize> {
        debug_assert!(frame.len() <= MAX_SLICES);
        let result = with_vector(frame, None, |vectors| {
            // SAFETY: the vectors are mapped guest memory, which the kernel only reads.
            unsafe { libc::writev(self.fd.as_raw_fd(), vectors.as_ptr(), count(vectors)) }
        });
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    fn supported(&self) -> Offloads {
        self.supported
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        let udp = Offloads::USO4 | Offloads::USO6;
        let bits = [
            (Offloads::CHECKSUM, libc::TUN_F_CSUM),
            (Offloads::TSO4, libc::TUN_F_TSO4),
            (Offloads::TSO6, libc::TUN_F_TSO6),
            (Offloads::UFO, libc::TUN_F_UFO),
            // The kernel takes both or none.
            (udp, libc::TUN_F_USO4 | libc::TUN_F_USO6),
        ];
        let mut argument =
            bits.into_iter().filter(|(one, _)| offloads.has(*one)).fold(0, |all, (_, bit)| all | bit);
        // Alone it is refused.
        if offloads.has(Offloads::ECN) && argument & (libc::TUN_F_TSO4 | libc::TUN_F_TSO6) != 0 {
            argument |= libc::TUN_F_TSO_ECN;
        }
        // SAFETY: the argument is an integer.
        let result =
            unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(argument)) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn set_enabled(&self, enabled: bool) -> io::Result<()> {
        if !self.multi_queue || self.enabled.load(Ordering::Relaxed) == enabled {
            return Ok(());
        }
        // SAFETY: as in `request`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        let flag = if enabled { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(flag).unwrap_or(0);
        ioctl(&self.fd, libc::TUNSETQUEUE, &mut request)?;
        self.enabled.store(enabled, Ordering::Relaxed);
        Ok(())
    }
}

/// What is asked of or told to an interface by its name, through any socket.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    name: String,
}

impl Link {
    /// The interface `name`, which need not be there.
    pub fn new(name: &str) -> Result<Self, HostError> {
        // SAFETY: makes a descriptor, takes no address.
        let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(HostError::last("socket"));
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        Ok(Self { socket, name: name.to_owned() })
    }

    fn ask(
        &self,
        call: &'static str,
        number: libc::Ioctl,
        fill: impl FnOnce(&mut libc::ifreq),
    ) -> Result<libc::ifreq, HostError> {
        let fail = |e| HostError::new(call, e).of(&self.name);
        let mut request = request(&self.name).ok_or_else(|| fail(invalid()))?;
        fill(&mut request);
        ioctl(&self.socket, number, &mut request).map_err(fail)?;
        Ok(request)
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.ask("SIOCGIFINDEX", libc::SIOCGIFINDEX, |_| {}).is_ok()
    }

    /// Its MTU.
    pub fn mtu(&self) -> Result<u32, HostError> {
        let answer = self.ask("SIOCGIFMTU", libc::SIOCGIFMTU, |_| {})?;
        // SAFETY: the kernel wrote this member; any bits are a valid integer.
        let mtu = unsafe { answer.ifr_ifru.ifru_mtu };
        Ok(u32::try_from(mtu).unwrap_or(0))
    }

    /// Sets its MTU.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), HostError> {
        let fill = |request: &mut libc::ifreq| request.ifr_ifru.ifru_mtu = mtu.into();
        self.ask("SIOCSIFMTU", libc::SIOCSIFMTU, fill).map(drop)
    }

    /// Brings it up.
    pub fn set_up(&self) -> Result<(), HostError> {
        let now = self.ask("SIOCGIFFLAGS", libc::SIOCGIFFLAGS, |_| {})?;
        // SAFETY: the kernel wrote this member; any bits are a valid integer.
        let flags = unsafe { now.ifr_ifru.ifru_flags };
        let up = libc::c_short::try_from(libc::IFF_UP).unwrap_or(0);
        let fill = |request: &mut libc::ifreq| request.ifr_ifru.ifru_flags = flags | up;
        self.ask("SIOCSIFFLAGS", libc::SIOCSIFFLAGS, fill).map(drop)
    }
}
