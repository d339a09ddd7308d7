//! Real taps, in network namespaces that the tests make: nothing of the host's network is touched. Skipped, and said
//! so, without the right or the device; `NUMAVISOR_NO_SKIPS=1` makes that a failure.

use super::{Interface, InterfaceOptions, NetError, TapSource, Vhost};
use crate::pci::NodeSpawner;
use crate::sys::Link;
use devices::pci::{WorkerHandle, WorkerSpawner};
use devices::virtio::VirtioDevice;
use devices::virtio::net::{Datapath, MacAddress, NetHandle, bits};
use devices::virtio::test_driver::{BUFFERS, TestInterrupt, TestMemory, TestQueue, activation, memory};
use nix::sched::{CloneFlags, unshare};
use std::net::UdpSocket;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};

const HOST: [u8; 4] = [10, 99, 0, 1];
const GUEST: [u8; 4] = [10, 99, 0, 2];
const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const HEADER: usize = 12;
const NEEDS_CSUM: u8 = 1;

/// Runs `test` in a network namespace of its own, which ends with it.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let body = move || {
        let tun = std::fs::File::options().read(true).write(true).open("/dev/net/tun");
        match (unshare(CloneFlags::CLONE_NEWNET), tun) {
            (Err(error), _) => testing::skip(format_args!("no network namespace: {error}")),
            (_, Err(error)) => testing::skip(format_args!("no /dev/net/tun: {error}")),
            (Ok(()), Ok(_)) => test(),
        }
    };
    // The name tells whose skip it is.
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    std::thread::Builder::new().name(name).spawn(body).unwrap().join().unwrap();
}

fn options(name: &str) -> InterfaceOptions {
    let mac = Some(MacAddress::new(GUEST_MAC).unwrap());
    InterfaceOptions {
        tap: TapSource::Name(name.into()),
        mac,
        mtu: None,
        queues: 1,
        vhost: Vhost::Off,
        ranges: 1,
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Whether it comes true in 10 s.
fn soon(mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// A driver of a device whose worker runs in a thread.
struct Driver {
    memory: TestMemory,
    queues: Vec<TestQueue>,
    handle: Arc<NetHandle>,
    interrupt: Arc<TestInterrupt>,
    worker: Option<Box<dyn WorkerHandle>>,
}

impl Driver {
    fn new(interface: &Interface, features: u64) -> Self {
        let mut device = interface.device::<TestMemory>().unwrap();
        assert_eq!(features & !device.features(), 0, "{:#x}", device.features());
        let memory = memory();
        let queues: Vec<_> = (0..3).map(|index| TestQueue::new(&memory, index, 64)).collect();
        let interrupt = Arc::<TestInterrupt>::default();
        interrupt.has_calls.store(true, Ordering::Relaxed);
        let refs: Vec<_> = queues.iter().collect();
        let worker = device.activate(activation(&memory, features, &refs, &interrupt)).unwrap();
        let handle = device.handle();
        let worker = NodeSpawner::new("0".parse().unwrap()).spawn("net", worker, Box::new(|_| ())).unwrap();
        Self { memory, queues, handle, interrupt, worker: Some(worker) }
    }

    fn send(&mut self, frame: &[u8]) {
        self.memory.write_slice(frame, GuestAddress(BUFFERS)).unwrap();
        let length = u32::try_from(frame.len() - HEADER).unwrap();
        self.queues[1].add(&[(BUFFERS, 12, false), (BUFFERS + 12, length, false)]).unwrap();
        self.queues[1].kick();
    }

    fn post(&mut self, count: u64) {
        for i in 0..count {
            self.queues[0].add(&[(BUFFERS + 0x10_0000 + i * 0x1000, 4096, true)]).unwrap();
        }
        self.queues[0].kick();
    }

    /// The next frame of a UDP datagram for the guest.
    fn receive(&mut self) -> Vec<u8> {
        loop {
            let mut used = None;
            let came = soon(|| {
                used = self.queues[0].used();
                used.is_some()
            });
            let Some((head, written)) = used.filter(|_| came) else {
                panic!("no frame came: {:?}", self.handle.counters());
            };
            let mut frame = vec![0; written as usize];
            let address = self.queues[0].address_of(head);
            self.memory.read_slice(&mut frame, GuestAddress(address)).unwrap();
            let ip = frame.get(HEADER + 14..).unwrap_or_default();
            if frame[HEADER + 12..HEADER + 14] == [8, 0] && ip.get(16..20) == Some(&GUEST) && ip[9] == 17 {
                return frame;
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.worker.take().and_then(|worker| worker.stop()));
    }
}

fn ones_sum(bytes: &[u8]) -> u16 {
    let sum: u32 =
        bytes.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}

/// A frame with a UDP datagram from guest to host whose checksum is left to the host.
fn datagram(interface: &str, port: u16, payload: &[u8]) -> Vec<u8> {
    let text = std::process::Command::new("ip").args(["link", "show", interface]).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    let mac = text.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
    let mac: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let udp_length = u16::try_from(8 + payload.len()).unwrap();
    let total = udp_length + 20;
    // csum_start and csum_offset.
    let mut frame = vec![NEEDS_CSUM, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0];
    frame.extend(mac);
    frame.extend(GUEST_MAC);
    frame.extend([8, 0]);
    let mut header = vec![0x45, 0];
    header.extend(total.to_be_bytes());
    header.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    header.extend(GUEST);
    header.extend(HOST);
    let sum = !ones_sum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(&header);
    // The pseudo header's sum stands where the checksum goes.
    let pseudo = [&GUEST[..], &HOST, &[0, 17], &udp_length.to_be_bytes()].concat();
    frame.extend(4321_u16.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend(udp_length.to_be_bytes());
    frame.extend(ones_sum(&pseudo).to_be_bytes());
    frame.extend(payload);
    frame
}

#[test]
fn an_interface_that_was_made_goes_with_the_process_and_one_that_was_there_stays() {
    in_namespace(|| {
        let link = Link::new("nvtest0").unwrap();
        assert!(!link.exists());
        let made = Interface::open(&InterfaceOptions { mtu: Some(4000), ..options("nvtest0") }).unwrap();
        assert!(made.is_created() && link.exists());
        assert_eq!((link.mtu().unwrap(), made.config().mtu), (4000, Some(4000)));
        // Two devices on one interface, and two processes, cannot be.
        let error = Interface::open(&options("nvtest0")).unwrap_err();
        assert!(error.to_string().contains("another process uses it"), "{error}");
        drop(made);
        // A process that another test starts has our descriptors until it runs its own program.
        assert!(soon(|| !link.exists()));

        ip("tuntap add mode tap multi_queue vnet_hdr name nvtest0");
        ip("link set nvtest0 mtu 1400 up");
        let found = Interface::open(&options("nvtest0")).unwrap();
        assert_eq!((found.is_created(), found.config().mtu), (false, Some(1400)));
        drop(found);
        let found = Interface::open(&InterfaceOptions { queues: 4, ..options("nvtest0") }).unwrap();
        assert_eq!(found.device::<TestMemory>().unwrap().queue_sizes().len(), 9);
        drop(found);
        assert!(link.exists());
    });
}

#[test]
fn what_cannot_be_opened_is_refused_with_a_reason() {
    in_namespace(|| {
        ip("link add nvdummy type bridge");
        let error = Interface::open(&options("nvdummy")).unwrap_err();
        assert!(error.to_string().contains("must be a tap"), "{error}");
        ip("tuntap add mode tap name nvsingle");
        let error = Interface::open(&InterfaceOptions { queues: 2, ..options("nvsingle") }).unwrap_err();
        assert!(error.to_string().contains("multi_queue"), "{error}");
        let numbered = Interface::open(&options("nv%d")).unwrap();
        assert_eq!(numbered.name(), "nv0");
    });
    for name in ["", "a name", "a/b", "..", "sixteen-bytes-xx"] {
        assert!(matches!(Interface::open(&options(name)), Err(NetError::Name(_))), "{name:?}");
    }
    for queues in [0, 257] {
        let error = Interface::open(&InterfaceOptions { queues, ..options("x") }).unwrap_err();
        assert!(matches!(error, NetError::Queues(q) if q == queues));
    }
    let descriptors = |numbers: Vec<i32>| {
        Interface::open(&InterfaceOptions { tap: TapSource::Descriptors(numbers), ..options("x") })
    };
    assert!(matches!(descriptors(vec![]), Err(NetError::Descriptors { queues: 1, descriptors: 0 })));
    for number in [-1, 1_000_000, 2] {
        let error = descriptors(vec![number]).unwrap_err();
        assert!(matches!(&error, NetError::Host(_)), "{error}");
    }
}

#[test]
fn datagrams_pass_both_ways_through_a_real_tap() {
    in_namespace(|| {
        let interface = Interface::open(&options("nvtest0")).unwrap();
        ip("addr add 10.99.0.1/24 dev nvtest0");
        ip("neigh add 10.99.0.2 lladdr 52:54:00:12:34:56 dev nvtest0");
        let socket = UdpSocket::bind((std::net::Ipv4Addr::from(HOST), 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let port = socket.local_addr().unwrap().port();
        let features = bits::CSUM | bits::GUEST_CSUM | bits::GUEST_TSO4 | bits::MRG_RXBUF;
        let mut driver = Driver::new(&interface, features);
        assert!(soon(|| driver.handle.datapath() == Datapath::Own));

        driver.post(32);
        socket.send_to(b"to the guest", (std::net::Ipv4Addr::from(GUEST), 7)).unwrap();
        let frame = driver.receive();
        assert_eq!(&frame[HEADER + 42..], b"to the guest");
        assert_eq!((frame[0], frame[10]), (NEEDS_CSUM, 1), "checksum left to the driver, one buffer");

        for payload in ["first", "second"] {
            driver.send(&datagram("nvtest0", port, payload.as_bytes()));
            let mut data = [0; 64];
            let (length, from) = socket.recv_from(&mut data).unwrap();
            assert_eq!(&data[..length], payload.as_bytes());
            assert_eq!(from.ip(), std::net::Ipv4Addr::from(GUEST));
        }
        // Down: the host refuses, the frame is lost, the queue goes on.
        ip("link set nvtest0 down");
        driver.send(&datagram("nvtest0", port, b"lost"));
        assert!(soon(|| driver.handle.counters().sent_dropped.get() > 0));
        let counters = driver.handle.counters();
        assert_eq!((counters.sent_frames.get(), counters.sent_dropped.get()), (2, 1));
        assert!(!driver.interrupt.take().is_empty());
    });
}

#[test]
fn descriptors_of_a_tap_are_taken_over() {
    use std::os::fd::AsRawFd;
    in_namespace(|| {
        let (first, name) = crate::sys::TapQueue::open("nvtest0", true).unwrap();
        let (second, _) = crate::sys::TapQueue::open("nvtest0", true).unwrap();
        let files = [first.try_clone().unwrap(), second.try_clone().unwrap()];
        drop((first, second));
        let numbers = files.iter().map(|file| file.as_raw_fd()).collect();
        let tap = TapSource::Descriptors(numbers);
        let interface = Interface::open(&InterfaceOptions { tap, queues: 2, ..options("") }).unwrap();
        assert_eq!((interface.name(), interface.is_created()), (name.as_str(), false));
        let mut device = interface.device::<TestMemory>().unwrap();
        // Detaches the second queue; a reset leaves it so.
        device.reset(None);
        device.reset(None);
    });
}

#[test]
fn with_vhost_on_the_host_must_have_it() {
    in_namespace(|| {
        let there = std::path::Path::new("/dev/vhost-net").exists();
        let interface = Interface::open(&InterfaceOptions { vhost: Vhost::On, ..options("nvtest0") });
        if !there {
            testing::skip("no /dev/vhost-net");
            assert!(
                matches!(interface, Err(NetError::Host(error)) if error.to_string().contains("vhost=off"))
            );
            return;
        }
        let interface = interface.unwrap();
        assert!(interface.wants_vhost());
        ip("addr add 10.99.0.1/24 dev nvtest0");
        ip("neigh add 10.99.0.2 lladdr 52:54:00:12:34:56 dev nvtest0");
        let socket = UdpSocket::bind((std::net::Ipv4Addr::from(HOST), 0)).unwrap();
        let mut driver = Driver::new(&interface, bits::CSUM | bits::MRG_RXBUF);
        driver.post(32);
        socket.send_to(b"to the guest", (std::net::Ipv4Addr::from(GUEST), 7)).unwrap();
        assert_eq!(&driver.receive()[HEADER + 42..], b"to the guest");
        assert_eq!(driver.handle.datapath(), Datapath::Kernel);
    });
}
