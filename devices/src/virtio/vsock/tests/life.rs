//! How connections begin and end.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::super::packet::{Header, Operation, Ports, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::{Bench, Packet};
use crate::virtio::test_driver::{ReadConfig, TestMemory, activation};
use crate::virtio::vsock::{GuestCid, KernelVsock, MAX_CONNECTIONS};
use crate::virtio::{ActivationError, KernelDatapath, KernelQueue, VirtioDevice};

const PORTS: Ports = Ports { host: 7, guest: 5000 };
const BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

fn operations(packets: &[Packet]) -> Vec<Operation> {
    packets.iter().map(Packet::operation).collect()
}

#[test]
fn a_guest_connects_talks_and_closes() {
    let mut bench = Bench::new(0);
    let mut host = bench.connect(PORTS);
    assert_eq!(bench.say(PORTS, Operation::Data, b"hello"), []);
    assert_eq!(host.read(), (b"hello".to_vec(), false));
    host.write(b"world");
    let packets = bench.exchange();
    assert_eq!(operations(&packets), [Operation::Data]);
    assert_eq!(
        (packets[0].data.as_slice(), packets[0].header.ports()),
        (&b"world"[..], Ports { host: 5000, guest: 7 })
    );
    let header = Header { flags: BOTH, ..Bench::header(PORTS, Operation::Shutdown) };
    assert!(bench.send(header, &[]));
    assert_eq!(operations(&bench.exchange()), [Operation::Reset]);
    assert_eq!(host.read(), (vec![], true));
    let counters = &bench.counters;
    assert_eq!((counters.connections.get(), counters.guest_connects.get(), counters.broken.get()), (0, 1, 0));
    assert_eq!((counters.to_host_bytes.get(), counters.to_guest_bytes.get()), (5, 5));
}

#[test]
fn a_port_where_nobody_listens_is_refused() {
    let mut bench = Bench::new(0);
    let packets = bench.say(Ports { host: 100, guest: 1 }, Operation::Request, &[]);
    assert_eq!(operations(&packets), [Operation::Reset]);
    assert_eq!((packets[0].header.source_port, packets[0].header.destination_port), (100, 1));
    assert_eq!(bench.counters.refused.get(), 1);
}

#[test]
fn a_host_process_connects_and_hears_its_port() {
    let mut bench = Bench::new(0);
    let mut host = bench.sockets.arrive();
    host.write(b"CONN");
    assert_eq!(bench.exchange(), []);
    // What follows the line is data already.
    host.write(b"ECT 22\nearly");
    let packets = bench.exchange();
    assert_eq!(operations(&packets), [Operation::Request]);
    let ports = Ports { host: packets[0].header.source_port, guest: 22 };
    assert_eq!((packets[0].header.destination_port, ports.host >= 1 << 30), (22, true));
    assert_eq!(host.read(), (vec![], false));
    let packets = bench.say(ports, Operation::Response, &[]);
    assert_eq!(packets.last().map(|packet| packet.data.clone()), Some(b"early".to_vec()));
    assert_eq!(host.read(), (format!("OK {}\n", ports.host).into_bytes(), false));
    assert_eq!(bench.counters.host_connects.get(), 1);
    // A second one has another port.
    let mut other = bench.sockets.arrive();
    other.write(b"CONNECT 22\n");
    assert_ne!(bench.exchange()[0].header.source_port, ports.host);
}

#[test]
fn a_host_process_that_the_guest_refuses_or_that_talks_nonsense_is_let_go() {
    let mut bench = Bench::new(0);
    let mut refused = bench.sockets.arrive();
    refused.write(b"CONNECT 22\n");
    let request = bench.exchange()[0].header;
    let ports = Ports { host: request.source_port, guest: 22 };
    assert_eq!(bench.say(ports, Operation::Reset, &[]), []);
    assert_eq!(refused.read(), (vec![], true));
    for line in ["GET / HTTP/1.1\r\n", "CONNECT 4294967296\n", "\n", &"x".repeat(1000)] {
        let mut host = bench.sockets.arrive();
        host.write(line.as_bytes());
        assert_eq!(bench.exchange(), []);
        assert!(host.read().1, "{line:?}");
    }
    let mut silent = bench.sockets.arrive();
    silent.write(b"CONN");
    bench.run();
    drop(silent);
    bench.run();
    assert_eq!((bench.counters.refused.get(), bench.counters.connections.get()), (6, 0));
}

#[test]
fn one_direction_can_end_before_the_other() {
    let mut bench = Bench::new(0);
    let mut host = bench.connect(PORTS);
    host.write(b"last");
    host.stream.shutdown(Shutdown::Write).unwrap();
    let packets = bench.exchange();
    assert_eq!(operations(&packets), [Operation::Data, Operation::Shutdown]);
    assert_eq!(packets[1].header.flags, SHUTDOWN_SEND);
    // A stream that has ended is watched no more; the other direction works.
    assert_eq!(bench.watched(), []);
    bench.say(PORTS, Operation::Data, b"still");
    assert_eq!(host.read(), (b"still".to_vec(), false));
    let header = Header { flags: SHUTDOWN_SEND, ..Bench::header(PORTS, Operation::Shutdown) };
    assert!(bench.send(header, &[]));
    assert_eq!(bench.exchange(), []);
    assert_eq!(host.read(), (vec![], true));
    let header = Header { flags: SHUTDOWN_RECEIVE, ..Bench::header(PORTS, Operation::Shutdown) };
    assert!(bench.send(header, &[]));
    assert_eq!(operations(&bench.exchange()), [Operation::Reset]);
}

#[test]
fn a_guest_may_read_on_what_a_host_process_sent_before_it_went() {
    let mut bench = Bench::new(0);
    let mut host = bench.connect(PORTS);
    host.write(b"last words");
    drop(host);
    let packets = bench.exchange();
    assert_eq!(operations(&packets), [Operation::Data, Operation::Shutdown]);
    assert_eq!(packets[1].header.flags, BOTH);
    // It tells of its room as it reads; a reset as an answer would make Linux drop the rest.
    assert_eq!(bench.say(PORTS, Operation::CreditUpdate, &[]), []);
    assert_eq!(bench.say(PORTS, Operation::Reset, &[]), []);
    assert_eq!((bench.counters.connections.get(), bench.counters.broken.get()), (0, 0));
}

#[test]
fn connections_are_bounded_and_those_that_nobody_needs_make_room() {
    let mut bench = Bench::new(0);
    let mut hosts = Vec::new();
    for guest in 0..u32::try_from(MAX_CONNECTIONS).unwrap() {
        hosts.push(bench.connect(Ports { host: 7, guest }));
    }
    let packets = bench.say(Ports { host: 7, guest: 9999 }, Operation::Request, &[]);
    assert_eq!(operations(&packets), [Operation::Reset]);
    // Nobody is let in either, and the listener is not watched in vain.
    let mut waiting = bench.sockets.arrive();
    waiting.write(b"CONNECT 1\n");
    assert_eq!(bench.exchange(), []);
    assert!(bench.worker().sources().iter().all(|source| source.token != 2));
    // A host process goes, the guest does not finish: the next one gets the place.
    hosts.remove(3);
    assert_eq!(operations(&bench.exchange()), [Operation::Shutdown]);
    let packets = bench.say(Ports { host: 7, guest: 10_000 }, Operation::Request, &[]);
    assert_eq!(operations(&packets), [Operation::Reset, Operation::Response]);
    let _host = bench.sockets.connected().unwrap();
    // The guest ends one: the host process that waits is let in.
    let packets = bench.say(Ports { host: 7, guest: 9 }, Operation::Reset, &[]);
    assert_eq!(operations(&packets), [Operation::Request]);
}

#[test]
fn a_host_without_descriptors_is_not_asked_again_and_again() {
    let mut bench = Bench::new(0);
    bench.sockets.accept_fails.store(true, Ordering::Relaxed);
    let _host = bench.sockets.arrive();
    let before = bench.worker().sources().len();
    assert_ne!(bench.ready(2), []);
    assert_eq!(bench.worker().sources().len(), before - 1);
    assert_eq!(bench.ready(0), []);
    assert_eq!(bench.worker().sources().len(), before - 1);
    // Something that moves may mean that there are some again.
    assert_ne!(bench.ready(1), []);
    assert_eq!(bench.worker().sources().len(), before);
}

#[test]
fn a_reset_of_the_device_closes_everything_and_the_device_works_again() {
    let mut bench = Bench::new(0);
    let mut host = bench.connect(PORTS);
    bench.worker().stop(&AtomicBool::new(false));
    let worker = bench.worker.take();
    VirtioDevice::<TestMemory>::reset(&mut bench.device, worker);
    assert_eq!(host.read(), (vec![], true));
    let (receive, transmit) = (
        crate::virtio::test_driver::TestQueue::new(&bench.memory, 2, 64),
        crate::virtio::test_driver::TestQueue::new(&bench.memory, 3, 64),
    );
    let mut queues = activation(&bench.memory, 0, &[&receive, &transmit], &bench.interrupt);
    queues.queues.iter_mut().for_each(|queue| queue.index -= 2);
    assert!(bench.device.activate(queues).is_ok());
}

struct FakeKernel(Arc<AtomicU64>);

struct BrokenKernel;

impl KernelDatapath<TestMemory> for BrokenKernel {
    fn start(&mut self, _: &TestMemory, _: u64, _: &[KernelQueue<'_>]) -> std::io::Result<()> {
        // E2BIG
        Err(std::io::Error::from_raw_os_error(7))
    }

    fn stop(&mut self) -> std::io::Result<Vec<u16>> {
        panic!("never started")
    }
}

#[test]
fn a_driver_is_told_that_the_kernel_does_not_serve_its_queues() {
    let bench = Bench::new(0);
    let mut device = KernelVsock::new(GuestCid::new(3).unwrap(), Box::new(BrokenKernel));
    // Without anything that interrupts the driver, and with the kernel's refusal.
    for (calls, why) in [(false, "no eventfd"), (true, "Argument list too long")] {
        bench.interrupt.has_calls.store(calls, Ordering::Relaxed);
        let queues = activation(&bench.memory, 0, &[&bench.receive, &bench.transmit], &bench.interrupt);
        let mut worker = device.activate(queues).unwrap();
        worker.start();
        let failures = std::mem::take(&mut *bench.interrupt.failures.lock().unwrap());
        assert!(failures.len() == 1 && failures[0].contains(why), "{failures:?}");
        worker.stop(&AtomicBool::new(false));
        device.reset(Some(worker));
    }
}

impl KernelDatapath<TestMemory> for FakeKernel {
    fn start(&mut self, _: &TestMemory, _: u64, queues: &[KernelQueue<'_>]) -> std::io::Result<()> {
        assert_eq!(queues.len(), 2);
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn stop(&mut self) -> std::io::Result<Vec<u16>> {
        self.0.fetch_add(100, Ordering::Relaxed);
        Ok(vec![1, 2])
    }
}

#[test]
fn a_device_in_the_kernel_hands_its_queues_over_and_takes_them_back() {
    let bench = Bench::new(0);
    let log = Arc::<AtomicU64>::default();
    let mut device = KernelVsock::new(GuestCid::new(3).unwrap(), Box::new(FakeKernel(Arc::clone(&log))));
    let running = device.running();
    bench.interrupt.has_calls.store(true, Ordering::Relaxed);
    for round in 1..3 {
        let queues = activation(&bench.memory, 0, &[&bench.receive, &bench.transmit], &bench.interrupt);
        let mut worker = device.activate(queues).unwrap();
        assert!(worker.sources().is_empty());
        worker.start();
        assert!(running.load(Ordering::Relaxed));
        worker.stop(&AtomicBool::new(false));
        worker.stop(&AtomicBool::new(false));
        assert!(!running.load(Ordering::Relaxed));
        device.reset(Some(worker));
        assert_eq!(log.load(Ordering::Relaxed), 101 * round);
    }
    // A worker that died has the kernel's side with it.
    let queues = || activation(&bench.memory, 0, &[&bench.receive, &bench.transmit], &bench.interrupt);
    drop(device.activate(queues()));
    device.reset(None);
    assert!(matches!(device.activate(queues()), Err(ActivationError::Host { device: "vsock", .. })));
}

#[test]
fn streams_are_offered_and_a_driver_that_wants_none_is_refused() {
    const STREAM: u64 = 1 << 0;
    const NO_IMPLIED_STREAM: u64 = 1 << 2;
    let bench = Bench::new(0);
    let device: &dyn VirtioDevice<TestMemory> = &bench.device;
    assert_eq!(device.features(), STREAM | NO_IMPLIED_STREAM);
    for (features, good) in
        [(0, true), (STREAM, true), (STREAM | NO_IMPLIED_STREAM, true), (NO_IMPLIED_STREAM, false)]
    {
        assert_eq!(device.accepts(features), good, "{features:#x}");
    }
}

#[test]
fn context_ids_are_those_that_a_guest_can_have() {
    for bad in [0, 1, 2, u64::from(u32::MAX), 1 << 32, u64::MAX] {
        assert_eq!(GuestCid::new(bad), None);
    }
    let bench = Bench::new(0);
    let mut data = [0xff; 12];
    ReadConfig::<TestMemory>::read_config(&bench.device, 0, &mut data);
    assert_eq!(data, [42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}
