//! Real unix sockets in temporary directories, and a device's thread between them and a guest of the test's.

use super::{NetError, SocketDevice, SocketHost, Sockets};
use crate::pci::NodeSpawner;
use crate::socket_file::{Janitor, SocketFileError};
use devices::pci::{WorkerHandle, WorkerSpawner};
use devices::virtio::VirtioDevice;
use devices::virtio::test_driver::{BUFFERS, TestInterrupt, TestMemory, TestQueue, activation, memory};
use devices::virtio::vsock::{HostSockets, HostStream, VsockCounters};
use resources::ErrorKind;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};

const CID: u64 = 42;
const HEADER: usize = 44;
const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RESET: u16 = 3;
const SHUTDOWN: u16 = 4;
const DATA: u16 = 5;

/// A guest whose device's worker runs in a thread.
struct Guest {
    memory: TestMemory,
    receive: TestQueue,
    transmit: TestQueue,
    counters: Arc<VsockCounters>,
    worker: Option<Box<dyn WorkerHandle>>,
}

/// A packet: operation, host port, guest port, data.
type Packet = (u16, u32, u32, Vec<u8>);

impl Guest {
    fn new(host: &SocketHost) -> Self {
        let SocketDevice::Unix(mut device) = host.device::<TestMemory>() else { panic!("not unix") };
        let memory = memory();
        let (mut receive, transmit) = (TestQueue::new(&memory, 0, 64), TestQueue::new(&memory, 1, 64));
        for i in 0..64 {
            receive.add(&[(BUFFERS + 0x10_0000 + i * 0x1000, 4096, true)]).unwrap();
        }
        let interrupt = Arc::<TestInterrupt>::default();
        let worker = device.activate(activation(&memory, 0, &[&receive, &transmit], &interrupt)).unwrap();
        let worker = NodeSpawner::new("0".parse().unwrap()).spawn("vsock", worker, Box::new(|_| ())).unwrap();
        Self { memory, receive, transmit, counters: device.counters(), worker: Some(worker) }
    }

    fn send(&mut self, operation: u16, host: u32, guest: u32, flags: u32, data: &[u8]) {
        let end = Instant::now() + Duration::from_secs(10);
        let mut header = Vec::new();
        header.extend(CID.to_le_bytes());
        header.extend(2_u64.to_le_bytes());
        header.extend(guest.to_le_bytes());
        header.extend(host.to_le_bytes());
        header.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        header.extend(1_u16.to_le_bytes());
        header.extend(operation.to_le_bytes());
        header.extend(flags.to_le_bytes());
        header.extend((1_u32 << 30).to_le_bytes());
        header.extend([0; 4]);
        self.memory.write_slice(&header, GuestAddress(BUFFERS)).unwrap();
        self.memory.write_slice(data, GuestAddress(BUFFERS + 0x100)).unwrap();
        let length = u32::try_from(data.len()).unwrap();
        self.transmit.add(&[(BUFFERS, 44, false), (BUFFERS + 0x100, length, false)]).unwrap();
        self.transmit.kick();
        while self.transmit.used().is_none() {
            assert!(Instant::now() < end, "{:?}", self.counters);
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn receive(&mut self) -> Packet {
        let end = Instant::now() + Duration::from_secs(10);
        let (head, written) = loop {
            if let Some(used) = self.receive.used() {
                break used;
            }
            assert!(Instant::now() < end, "{:?}", self.counters);
            std::thread::sleep(Duration::from_micros(100));
        };
        let address = self.receive.address_of(head);
        let mut bytes = vec![0; written as usize];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        self.receive.add(&[(address, 4096, true)]).unwrap();
        self.receive.kick();
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        (u16::from_le_bytes([bytes[30], bytes[31]]), word(16), word(20), bytes[HEADER..].to_vec())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.worker.take().and_then(|worker| worker.stop()));
    }
}

fn read_line(stream: &mut UnixStream) -> String {
    let (mut line, mut byte) = (String::new(), [0]);
    while stream.read(&mut byte).unwrap() > 0 && byte != *b"\n" {
        line.push(char::from(byte[0]));
    }
    line
}

#[test]
fn a_host_process_reaches_a_service_in_the_guest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.sock");
    let host = SocketHost::unix(CID, &path, &Janitor::default()).unwrap();
    let mut guest = Guest::new(&host);
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    client.write_all(b"CONNECT 1234\n").unwrap();
    let (operation, host_port, guest_port, _) = guest.receive();
    assert_eq!((operation, guest_port), (REQUEST, 1234));
    guest.send(RESPONSE, host_port, 1234, 0, &[]);
    assert_eq!(read_line(&mut client), format!("OK {host_port}"));
    client.write_all(b"question").unwrap();
    assert_eq!(guest.receive(), (DATA, host_port, 1234, b"question".to_vec()));
    guest.send(DATA, host_port, 1234, 0, b"answer");
    let mut answer = [0; 6];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
    // A process that goes tells the guest that both directions end.
    drop(client);
    assert_eq!(guest.receive().0, SHUTDOWN);
    guest.send(RESET, host_port, 1234, 0, &[]);
    assert_eq!(guest.counters.broken.get(), 0);
}

#[test]
fn the_guest_reaches_a_service_of_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.sock");
    let host = SocketHost::unix(CID, &path, &Janitor::default()).unwrap();
    let mut guest = Guest::new(&host);
    guest.send(REQUEST, 52, 999, 0, &[]);
    assert_eq!(guest.receive(), (RESET, 52, 999, vec![]));
    let service = UnixListener::bind(dir.path().join("v.sock_52")).unwrap();
    guest.send(REQUEST, 52, 999, 0, &[]);
    assert_eq!(guest.receive(), (RESPONSE, 52, 999, vec![]));
    let (mut stream, _) = service.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let data: Vec<u8> = (0..60_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    guest.send(DATA, 52, 999, 0, &data);
    let mut got = vec![0; data.len()];
    stream.read_exact(&mut got).unwrap();
    assert!(got == data);
    stream.write_all(&data).unwrap();
    let mut got = Vec::new();
    while got.len() < data.len() {
        let (operation, _, _, part) = guest.receive();
        assert!(operation == DATA || part.is_empty());
        got.extend(part);
    }
    assert!(got == data);
    // The guest writes no more: the service reads the end, and may still answer.
    guest.send(SHUTDOWN, 52, 999, 2, &[]);
    assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0);
    stream.write_all(b"late").unwrap();
    assert_eq!(guest.receive(), (DATA, 52, 999, b"late".to_vec()));
    guest.send(SHUTDOWN, 52, 999, 3, &[]);
    assert_eq!(guest.receive().0, RESET);
}

#[test]
fn a_listener_whose_backlog_is_full_does_not_hold_the_device_up() {
    let dir = tempfile::tempdir().unwrap();
    let sockets = Sockets::bind(&dir.path().join("v.sock"), &Janitor::default()).unwrap();
    let _service = UnixListener::bind(dir.path().join("v.sock_1")).unwrap();
    let mut streams = Vec::new();
    let begin = Instant::now();
    while let Ok(stream) = sockets.connect(1) {
        streams.push(stream);
        assert!(streams.len() < 10_000);
    }
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_stream_is_hung_up_only_when_both_directions_ended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.sock");
    let sockets = Sockets::bind(&path, &Janitor::default()).unwrap();
    assert!(sockets.accept().is_err());
    let client = UnixStream::connect(&path).unwrap();
    let stream = sockets.accept().unwrap();
    assert!(!stream.is_hung_up());
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(!stream.is_hung_up());
    drop(client);
    assert!(stream.is_hung_up());
}

#[test]
fn the_socket_is_for_its_user_alone_and_goes_with_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.sock");
    let sockets = Sockets::bind(&path, &Janitor::default()).unwrap();
    assert_eq!(sockets.path(), path);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(
        Sockets::bind(&path, &Janitor::default()),
        Err(NetError::Socket(SocketFileError::InUse(_)))
    ));
    // Somebody else's is left alone.
    std::fs::remove_file(&path).unwrap();
    let other = Sockets::bind(&path, &Janitor::default()).unwrap();
    drop(sockets);
    assert!(path.exists());
    drop(other);
    assert!(!path.exists());
}

#[test]
fn what_a_dead_process_left_is_replaced_and_other_files_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(Sockets::bind(&path, &Janitor::default()).unwrap());
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(
        Sockets::bind(&path, &Janitor::default()),
        Err(NetError::Socket(SocketFileError::NotASocket(_)))
    ));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    for cid in [0, 2, u64::from(u32::MAX), u64::MAX] {
        let error = SocketHost::unix(cid, Path::new("/nonexistent/v.sock"), &Janitor::default()).unwrap_err();
        assert!(matches!(error, NetError::Cid(bad) if bad == cid));
        let found = error.diagnosis();
        assert_eq!((found.kind, found.field.as_deref()), (ErrorKind::Invalid, Some("vsock.cid")));
    }
    let long = Path::new("/tmp").join("x".repeat(100));
    assert!(matches!(
        SocketHost::unix(3, &long, &Janitor::default()),
        Err(NetError::SocketPath { max: 96, .. })
    ));
    let error = SocketHost::unix(3, Path::new("/nonexistent/v.sock"), &Janitor::default()).unwrap_err();
    assert!(error.to_string().starts_with("vsock.socket: /nonexistent: open: "), "{error}");
    if Path::new("/dev/vhost-vsock").exists() {
        assert!(SocketHost::kernel(3, 1).is_ok());
    } else {
        testing::skip("no /dev/vhost-vsock");
        assert!(matches!(SocketHost::kernel(3, 1), Err(NetError::Host(_))));
    }
}

#[test]
fn a_device_fits_behind_the_transport_with_the_memory_of_a_machine() {
    let dir = tempfile::tempdir().unwrap();
    let host = SocketHost::unix(CID, &dir.path().join("v.sock"), &Janitor::default()).unwrap();
    let device: Box<dyn VirtioDevice<crate::pci::GuestMemory>> = host.device().boxed();
    assert_eq!(device.kind().id, 19);
    let interface = |interface: &super::Interface| -> Box<dyn VirtioDevice<crate::pci::GuestMemory>> {
        Box::new(interface.device().unwrap())
    };
    let _ = interface;
}
