//! Tests of queues in a worker's hands.

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::super::test_driver::{BUFFERS, TestInterrupt, TestMemory, TestQueue, accesses, memory};
use super::*;

const SIZE: u16 = 8;

struct Bench {
    driver: TestQueue,
    device: WorkerQueue<TestMemory>,
    interrupt: Arc<TestInterrupt>,
    memory: TestMemory,
    kicks: Epoll,
}

fn bench_with(size: u16, event_idx: bool) -> Bench {
    let memory = memory();
    let driver = TestQueue::new(&memory, 0, size);
    let interrupt = Arc::new(TestInterrupt::default());
    let mut active = driver.active();
    active.queue.set_event_idx(event_idx);
    let handle = Arc::clone(&interrupt) as Arc<dyn VirtioInterrupt>;
    let device = WorkerQueue::new(active, &memory, &handle, 0);
    let kicks = Epoll::new().unwrap();
    let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0);
    kicks.ctl(ControlOperation::Add, device.source(0).fd, event).unwrap();
    Bench { driver, device, interrupt, memory, kicks }
}

fn bench() -> Bench {
    bench_with(SIZE, false)
}

impl Bench {
    fn faults(&self) -> Vec<QueueFault> {
        self.interrupt.faults.lock().unwrap().iter().map(|(_, fault)| *fault).collect()
    }

    /// Since the last time this was asked.
    fn kicked(&self) -> bool {
        self.kicks.wait(0, &mut [EpollEvent::default()]).unwrap() > 0
    }
}

#[test]
fn notifications_are_off_while_there_is_work_and_on_when_there_is_none() {
    let mut bench = bench();
    bench.driver.add(&[(BUFFERS, 4, true)]);
    let chain = bench.device.pop().unwrap();
    assert!(!bench.driver.wants_kick());
    bench.device.used(chain, 0);
    assert_eq!(bench.device.pop(), None);
    assert!(bench.driver.wants_kick());
}

#[test]
fn a_poll_asks_for_no_notification() {
    let mut bench = bench();
    bench.driver.add(&[(BUFFERS, 4, true)]);
    let chain = bench.device.poll().unwrap();
    bench.device.used(chain, 0);
    assert_eq!(bench.device.poll(), None);
    assert!(!bench.driver.wants_kick());
    assert_eq!(bench.device.pop(), None);
    assert!(bench.driver.wants_kick());
}

#[test]
fn chains_may_be_used_in_any_order_with_one_interrupt_for_all() {
    let mut bench = bench();
    let heads: Vec<_> = (0..3).map(|_| bench.driver.add(&[(BUFFERS, 4, true)]).unwrap()).collect();
    let chains: Vec<_> = std::iter::from_fn(|| bench.device.pop()).collect();
    for (written, chain) in (1..).zip(chains.into_iter().rev()) {
        bench.device.used(chain, written);
    }
    bench.device.signal();
    bench.device.signal();
    assert_eq!(bench.interrupt.take(), [0]);
    let used: Vec<_> = std::iter::from_fn(|| bench.driver.used()).collect();
    assert_eq!(used, [(heads[2], 1), (heads[1], 2), (heads[0], 3)]);
}

#[test]
fn a_driver_that_wants_no_interrupt_gets_none() {
    let mut bench = bench();
    bench.driver.set_wants_interrupt(false);
    bench.driver.add(&[(BUFFERS, 4, true)]);
    let chain = bench.device.pop().unwrap();
    bench.device.used(chain, 0);
    bench.device.signal();
    assert!(bench.interrupt.take().is_empty());
}

#[test]
fn with_event_indexes_the_interrupt_comes_with_the_entry_that_the_driver_named() {
    let mut bench = bench_with(SIZE, true);
    bench.driver.set_used_event(2);
    for expected in [vec![], vec![], vec![0], vec![]] {
        bench.driver.add(&[(BUFFERS, 4, true)]);
        let chain = bench.device.pop().unwrap();
        bench.device.used(chain, 0);
        bench.device.signal();
        assert_eq!(bench.interrupt.take(), expected);
    }
}

#[test]
fn a_chain_that_was_put_back_comes_again() {
    let mut bench = bench();
    let heads: Vec<_> = (0..2).map(|_| bench.driver.add(&[(BUFFERS, 4, true)]).unwrap()).collect();
    let chain = bench.device.pop().unwrap();
    bench.device.put_back(chain);
    let chains: Vec<_> = std::iter::from_fn(|| bench.device.pop()).collect();
    assert_eq!(chains.iter().map(Chain::head).collect::<Vec<_>>(), heads);
}

#[test]
fn a_driver_that_never_stops_adding_does_not_keep_the_worker() {
    let mut bench = bench();
    bench.device.begin();
    let mut rounds = 0;
    loop {
        bench.driver.add(&[(BUFFERS, 4, true)]);
        let Some(chain) = bench.device.pop() else { break };
        bench.device.used(chain, 0);
        bench.driver.used().unwrap();
        rounds += 1;
    }
    assert_eq!(rounds, MAX_CHAINS_PER_ROUND);
    // It is called again at once.
    assert!(bench.kicked());
    bench.device.begin();
    assert!(!bench.kicked());
    assert!(bench.device.pop().is_some());
}

#[test]
fn a_round_follows_so_many_descriptors_whatever_chains_they_are_in() {
    const TABLE: u64 = 0x8_0000;
    let mut bench = bench();
    bench.device = WorkerQueue::new(
        bench.driver.active(),
        &bench.memory,
        &(Arc::clone(&bench.interrupt) as _),
        1 << VIRTIO_RING_F_INDIRECT_DESC,
    );
    bench.device.begin();
    let before = accesses(&bench.memory);
    let mut chains = 0;
    loop {
        // Nothing but empty buffers, other ones each time.
        bench.driver.add_indirect(TABLE, &[(BUFFERS, 0, true); 1024]).unwrap();
        let cost = accesses(&bench.memory);
        let Some(chain) = bench.device.pop() else { break };
        assert!(accesses(&bench.memory) - cost < 1100);
        bench.device.used(chain, 0);
        bench.driver.used().unwrap();
        chains += 1;
    }
    assert!(accesses(&bench.memory) > before);
    assert_eq!((chains, bench.device.is_broken()), (MAX_WORK_PER_ROUND / 1024, false));
    assert!(bench.kicked());
    bench.device.begin();
    assert!(bench.device.pop().is_some());
    // What a device does with a chain counts as well.
    bench.driver.add(&[(BUFFERS, 4, true)]);
    bench.device.charge(usize::MAX);
    assert!(bench.device.pop().is_none() && bench.kicked());
}

#[test]
fn an_index_that_ran_away_breaks_the_queue_once() {
    let mut bench = bench();
    for _ in 0..=SIZE {
        bench.driver.make_available(0);
    }
    assert_eq!(bench.device.available(), 0);
    assert_eq!(bench.device.pop(), None);
    assert_eq!(bench.device.pop(), None);
    assert!(bench.device.is_broken());
    assert_eq!(bench.faults(), [QueueFault::AvailableIndex { available: 9, next: 0, size: 8 }]);
}

#[test]
fn a_broken_queue_is_not_touched_any_more() {
    let mut bench = bench();
    bench.driver.add(&[(BUFFERS, 4, true)]);
    let chain = bench.device.pop().unwrap();
    bench.driver.make_available(SIZE);
    assert_eq!(bench.device.pop(), None);
    bench.device.used(chain, 4);
    bench.device.signal();
    assert_eq!((bench.driver.used(), bench.interrupt.take()), (None, vec![]));
    assert_eq!(bench.faults(), [QueueFault::DescriptorIndex { index: 8, size: 8 }]);
}

#[test]
fn the_same_chain_made_available_twice_is_served_twice() {
    let mut bench = bench();
    let head = bench.driver.add(&[(BUFFERS, 4, true)]).unwrap();
    bench.driver.make_available(head);
    let chains: Vec<_> = std::iter::from_fn(|| bench.device.pop()).collect();
    assert_eq!(chains.iter().map(Chain::head).collect::<Vec<_>>(), [head, head]);
}

#[test]
fn indexes_wrap_around() {
    let mut bench = bench();
    for round in 0..70_000_u32 {
        bench.device.begin();
        let head = bench.driver.add(&[(BUFFERS, 4, true)]).unwrap();
        let chain = bench.device.pop().unwrap();
        bench.device.used(chain, round);
        assert_eq!(bench.driver.used(), Some((head, round)));
    }
    assert!(bench.faults().is_empty());
}

#[test]
fn rings_that_vanished_are_a_fault_and_nothing_else() {
    let bench = bench();
    let (mut active, handle) = (bench.driver.active(), Arc::clone(&bench.interrupt) as _);
    active.queue.try_set_avail_ring_address(GuestAddress(u64::MAX - 1)).unwrap();
    let mut device = WorkerQueue::new(active, &bench.memory, &handle, 0);
    assert_eq!((device.available(), device.pop()), (0, None));
    let mut active = bench.driver.active();
    active.queue.try_set_used_ring_address(GuestAddress(u64::MAX - 3)).unwrap();
    let mut device = WorkerQueue::new(active, &bench.memory, &handle, 0);
    assert_eq!(device.pop(), None);
    assert_eq!(bench.faults(), [QueueFault::RingOutside; 2]);
}
