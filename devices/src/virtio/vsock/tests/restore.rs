//! A guest whose socket device was restored: its connections are gone, and it is told so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};

use super::super::packet::{Operation, Ports};
use super::bench::{Bench, CID};
use crate::state::Section;
use crate::virtio::test_driver::{BUFFERS, TestMemory, TestQueue, activation};
use crate::virtio::vsock::{GuestCid, KernelVsock, Vsock, VsockState};
use crate::virtio::{KernelDatapath, KernelQueue, VirtioDevice};

const EVENTS: u16 = 2;
const EVENT: u64 = BUFFERS + 0x20_0000;

/// The bench's device, saved and restored into another one whose driver has an event queue.
fn restored(bench: &mut Bench) -> TestQueue {
    let worker = bench.worker.take().unwrap();
    let saved = VirtioDevice::<TestMemory>::save(&bench.device, Some(&*worker)).unwrap();
    let events = TestQueue::new(&bench.memory, EVENTS, 16);
    let mut device = Vsock::new(GuestCid::new(CID).unwrap(), Arc::clone(&bench.sockets));
    let mut queues =
        activation(&bench.memory, 0, &[&bench.receive, &bench.transmit, &events], &bench.interrupt);
    for (index, position) in worker.positions() {
        queues.queues[usize::from(index)].set_position(position);
    }
    drop(worker);
    let mut worker = device.activate(queues).unwrap();
    VirtioDevice::<TestMemory>::restore(&mut device, saved, Some(&mut *worker)).unwrap();
    bench.goes_on_with(device, worker);
    events
}

/// The event in the only buffer, if there is one.
fn event(bench: &Bench, events: &mut TestQueue) -> Option<[u8; 4]> {
    let (_, written) = events.used()?;
    assert_eq!(written, 4);
    Some(bench.memory.read_obj(GuestAddress(EVENT)).unwrap())
}

#[test]
fn a_guest_is_told_that_its_connections_are_gone_once_it_has_a_buffer_and_no_more_than_once() {
    let mut bench = Bench::new(0);
    let ports = Ports { host: 5, guest: 1000 };
    let mut host = bench.connect(ports);
    let mut events = restored(&mut bench);
    assert_eq!(host.read(), (vec![], true));
    bench.memory.write_obj(u32::MAX, GuestAddress(EVENT)).unwrap();
    // Too small for an event: given back, and the guest waits on.
    events.add(&[(EVENT, 0, true)]).unwrap();
    bench.run();
    assert_eq!(events.used().map(|(_, written)| written), Some(0));
    events.add(&[(EVENT, 4, true)]).unwrap();
    events.add(&[(EVENT + 4, 4, true)]).unwrap();
    bench.run();
    assert_eq!((event(&bench, &mut events), event(&bench, &mut events)), (Some([0; 4]), None));
    // It says something on a connection that was, and makes another one.
    let answers = bench.say(ports, Operation::Data, b"hello?");
    let operations: Vec<_> = answers.iter().map(|packet| packet.operation()).collect();
    assert_eq!(operations, [Operation::Reset]);
    bench.connect(Ports { host: 5, guest: 1001 });
}

#[test]
fn a_driver_that_has_not_started_the_device_is_told_nothing() {
    let bench = Bench::new(0);
    let mut device = Vsock::new(GuestCid::new(CID).unwrap(), Arc::clone(&bench.sockets));
    let section = Section::of(&VsockState {}).unwrap();
    VirtioDevice::<TestMemory>::restore(&mut device, section, None).unwrap();
    let mut events = TestQueue::new(&bench.memory, EVENTS, 16);
    events.add(&[(EVENT, 4, true)]).unwrap();
    let queues = activation(&bench.memory, 0, &[&bench.receive, &bench.transmit, &events], &bench.interrupt);
    device.activate(queues).unwrap().start();
    assert_eq!(events.used(), None);
}

/// Has used this much of each queue.
struct FakeKernel(u16);

impl KernelDatapath<TestMemory> for FakeKernel {
    fn start(&mut self, _: &TestMemory, _: u64, queues: &[KernelQueue<'_>]) -> std::io::Result<()> {
        assert!(queues.iter().all(|queue| queue.queue.next_avail() == self.0));
        Ok(())
    }

    fn stop(&mut self) -> std::io::Result<Vec<u16>> {
        self.0 += 3;
        Ok(vec![self.0; 2])
    }
}

#[test]
fn the_kernel_goes_on_where_it_was_and_the_guest_is_told_all_the_same() {
    let bench = Bench::new(0);
    bench.interrupt.has_calls.store(true, Ordering::Relaxed);
    let mut events = TestQueue::new(&bench.memory, EVENTS, 16);
    events.add(&[(EVENT, 4, true)]).unwrap();
    let queues = [&bench.receive, &bench.transmit, &events];
    let [queues, mut again] = [(); 2].map(|()| activation(&bench.memory, 0, &queues, &bench.interrupt));
    let device = |used| KernelVsock::new(GuestCid::new(CID).unwrap(), Box::new(FakeKernel(used)));
    let mut old = device(0);
    let mut worker = old.activate(queues).unwrap();
    worker.start();
    worker.stop(&AtomicBool::new(false));
    let saved = old.save(Some(&*worker)).unwrap();
    let positions = worker.positions();
    let counted: Vec<_> =
        positions.iter().map(|(_, position)| (position.next_available, position.next_used)).collect();
    assert_eq!(counted, [(3, 3), (3, 3), (0, 0)]);
    let mut new = device(3);
    for (index, position) in positions {
        again.queues[usize::from(index)].set_position(position);
    }
    let mut worker = new.activate(again).unwrap();
    new.restore(saved, Some(&mut *worker)).unwrap();
    worker.start();
    assert_eq!(event(&bench, &mut events), Some([0; 4]));
    assert_eq!(bench.interrupt.take().last(), Some(&EVENTS));
}
