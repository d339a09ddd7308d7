//! A host interface for a network device: opened once per process, so that it outlives resets of the guest.
//! Frames are the device's business.

mod check;

use super::NetError;
use super::vhost::VhostNet;
use crate::sys::{HostError, Link, TapQueue};
use devices::virtio::net::{MAX_QUEUE_PAIRS, MIN_MTU, MacAddress, Net, NetConfig, NetQueues};
use devices::virtio::{GuestMemoryHandle, KernelDatapath};
use std::io::Read;
use std::os::fd::RawFd;
use std::sync::Arc;
use vm_memory::{GuestAddressSpace, GuestMemoryBackend};

/// The MTU that a driver expects of a device that says nothing.
const USUAL_MTU: u32 = 1500;
/// Longest name of an interface (`IFNAMSIZ` less the NUL).
const MAX_NAME_BYTES: usize = 15;

/// Which interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapSource {
    /// By name: one that is there, or a new one that goes with this process. With `%d` the kernel numbers it.
    Name(String),
    /// By descriptors of its queues that this process was started with.
    Descriptors(Vec<RawFd>),
}

/// Whether the kernel serves the queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Vhost {
    /// Where it can.
    #[default]
    Auto,
    /// Or no start.
    On,
    /// Never.
    Off,
}

/// What a network device is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceOptions {
    /// Its host side.
    pub tap: TapSource,
    /// Its address; made up if `None`, the same until the process ends.
    pub mac: Option<MacAddress>,
    /// Advice to the driver; a new interface has it as well. `None` takes over what an interface has that is not
    /// 1,500.
    pub mtu: Option<u16>,
    /// Pairs of queues.
    pub queues: u16,
    /// Whether the kernel serves them.
    pub vhost: Vhost,
    /// Guest memory lies in so many ranges.
    pub ranges: usize,
}

/// An open interface.
#[derive(Debug)]
pub struct Interface {
    name: String,
    created: bool,
    config: NetConfig,
    queues: Vec<Arc<TapQueue>>,
    vhost: bool,
}

impl Interface {
    /// Opens it; makes it if there is none by that name, and brings it up then.
    pub fn open(options: &InterfaceOptions) -> Result<Self, NetError> {
        require_possible(options)?;
        let vhost = match options.vhost {
            Vhost::Off => false,
            Vhost::Auto => VhostNet::check(options.ranges)
                .inspect_err(|error| tracing::info!(%error, "vhost is not available"))
                .is_ok(),
            Vhost::On => VhostNet::check(options.ranges).map(|()| true)?,
        };
        let (queues, name, created) = match &options.tap {
            TapSource::Name(name) => by_name(name, options.queues)?,
            TapSource::Descriptors(numbers) => by_descriptors(numbers, options.queues)?,
        };
        let link = Link::new(&name)?;
        if created {
            if let Some(mtu) = options.mtu {
                link.set_mtu(mtu)?;
            }
            link.set_up()?;
        }
        // In another network namespace than the interface's, nobody knows its MTU by its name.
        let found = link.mtu().ok().filter(|mtu| *mtu != USUAL_MTU);
        let mtu = options.mtu.or_else(|| found.and_then(|mtu| u16::try_from(mtu).ok()));
        let mac = match options.mac {
            Some(mac) => mac,
            None => random_mac()?,
        };
        let config = NetConfig { mac, mtu: mtu.filter(|mtu| *mtu >= MIN_MTU) };
        tracing::info!(interface = name, created, queues = queues.len(), %mac, ?mtu, vhost, "net");
        Ok(Self { name, created, config, queues: queues.into_iter().map(Arc::new).collect(), vhost })
    }

    /// Why [`open`](Self::open) would refuse now. No interface is made, and none is attached to.
    pub fn check(options: &InterfaceOptions) -> Result<(), NetError> {
        require_possible(options)?;
        if options.vhost == Vhost::On {
            VhostNet::check(options.ranges)?;
        }
        match &options.tap {
            TapSource::Name(name) => {
                require_name(name)?;
                Ok(check::by_name(name, options.queues)?)
            }
            TapSource::Descriptors(numbers) => {
                one_interface(numbers, options.queues, |number| Ok(((), TapQueue::check(number)?))).map(drop)
            }
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it goes with this process.
    pub fn is_created(&self) -> bool {
        self.created
    }

    /// The address and MTU that the guest sees.
    pub fn config(&self) -> NetConfig {
        self.config
    }

    /// Whether the kernel will be asked to serve the queues. What came of it, the device's handle tells.
    pub fn wants_vhost(&self) -> bool {
        self.vhost
    }

    /// A device on this interface, one at a time.
    pub fn device<M>(&self) -> Result<Net<M, TapQueue>, NetError>
    where
        M: GuestMemoryHandle + GuestAddressSpace<M: GuestMemoryBackend + Sized>,
        VhostNet<M>: KernelDatapath<M> + 'static,
    {
        let mut queues = Vec::with_capacity(self.queues.len());
        for tap in &self.queues {
            let kernel = if self.vhost {
                let file = tap.try_clone().map_err(|e| HostError::new("fcntl", e).of(&self.name))?;
                Some(Box::new(VhostNet::new(file)) as Box<dyn KernelDatapath<M>>)
            } else {
                None
            };
            queues.push(NetQueues { tap: Arc::clone(tap), kernel });
        }
        Net::new(self.config, queues).ok_or(NetError::Queues(0))
    }
}

type Opened = (Vec<TapQueue>, String, bool);

fn require_possible(options: &InterfaceOptions) -> Result<(), NetError> {
    if options.queues == 0 || options.queues > MAX_QUEUE_PAIRS {
        return Err(NetError::Queues(options.queues));
    }
    match options.mtu.filter(|mtu| *mtu < MIN_MTU) {
        Some(mtu) => Err(NetError::Mtu(mtu)),
        None => Ok(()),
    }
}

fn require_name(name: &str) -> Result<(), NetError> {
    let bad = |c: char| c == '/' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(bad) || [".", ".."].contains(&name) {
        return Err(NetError::Name(name.to_owned()));
    }
    Ok(())
}

fn by_name(name: &str, queues: u16) -> Result<Opened, NetError> {
    require_name(name)?;
    let existed = Link::new(name)?.exists();
    let mut multi_queue = queues > 1;
    let mut first = TapQueue::open(name, multi_queue);
    if existed && !multi_queue && first.as_ref().is_err_and(|error| error.errno() == libc::EINVAL) {
        // One queue of an interface that can have several is as good.
        multi_queue = true;
        first = TapQueue::open(name, multi_queue).or(first);
    }
    let (first, name) = first.map_err(|error| hint(error, existed, queues))?;
    let mut all = vec![first];
    while all.len() < usize::from(queues) {
        all.push(TapQueue::open(&name, multi_queue).map_err(|error| hint(error, true, queues))?.0);
    }
    Ok((all, name, !existed))
}

fn hint(error: HostError, existed: bool, queues: u16) -> HostError {
    let hint = match error.errno() {
        libc::EPERM if existed => "it belongs to another user, or this process needs CAP_NET_ADMIN",
        libc::EPERM => {
            "needs CAP_NET_ADMIN, or an existing interface: ip tuntap add mode tap vnet_hdr name NAME user USER"
        }
        libc::EBUSY => "another process uses it",
        libc::EINVAL if queues > 1 => "an existing interface must be a tap created with multi_queue",
        libc::EINVAL => "an existing interface must be a tap",
        libc::ENOENT | libc::ENODEV | libc::ENXIO => {
            "load the module tun, or allow the device in the container"
        }
        libc::EACCES => "this user is not allowed to open it",
        libc::E2BIG => "too many queues for an interface",
        _ => return error,
    };
    error.hint(hint)
}

fn by_descriptors(numbers: &[RawFd], queues: u16) -> Result<Opened, NetError> {
    let (all, name) = one_interface(numbers, queues, TapQueue::adopt)?;
    Ok((all, name, false))
}

/// Does something to each descriptor, all of which must be of one interface.
fn one_interface<T>(
    numbers: &[RawFd],
    queues: u16,
    take: impl Fn(RawFd) -> Result<(T, String), HostError>,
) -> Result<(Vec<T>, String), NetError> {
    if numbers.len() != usize::from(queues) {
        return Err(NetError::Descriptors { queues, descriptors: numbers.len() });
    }
    let mut all = Vec::with_capacity(numbers.len());
    let mut first: Option<String> = None;
    for number in numbers {
        let (queue, other) = take(*number)?;
        match &first {
            Some(name) if *name != other => {
                return Err(NetError::OtherInterface { descriptor: *number, other, name: name.clone() });
            }
            Some(_) => {}
            None => first = Some(other),
        }
        all.push(queue);
    }
    Ok((all, first.unwrap_or_default()))
}

fn random_mac() -> Result<MacAddress, NetError> {
    const RANDOM: &str = "/dev/urandom";
    let mut seed = [0; 5];
    std::fs::File::open(RANDOM)
        .and_then(|mut file| file.read_exact(&mut seed))
        .map_err(|e| HostError::new("read", e).of(RANDOM))?;
    Ok(MacAddress::local(seed))
}
