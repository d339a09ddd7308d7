//! Tests of the entropy device.

use std::sync::Arc;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::QueueFault;
use super::super::test_driver::{
    BUFFERS, MEMORY_BYTES, TestInterrupt, TestMemory, TestQueue, activation, memory,
};
use super::Rng;
use super::*;
use crate::figures::counted;

const SIZE: u16 = 8;

/// Gives 1, 2, 3 and so on, in pieces; nothing while told so.
#[derive(Default)]
struct Counting {
    next: u8,
    piece: usize,
}

impl Read for Counting {
    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        let length = data.len().min(self.piece);
        for byte in &mut data[..length] {
            self.next = self.next.wrapping_add(1);
            *byte = self.next;
        }
        Ok(length)
    }
}

/// A source that gives 0x5A, unless the switch says it fails.
struct Switched(Arc<Mutex<bool>>);

impl Read for Switched {
    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        if *self.0.lock().unwrap() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        data.fill(0x5A);
        Ok(data.len())
    }
}

struct Bench {
    memory: TestMemory,
    queue: TestQueue,
    interrupt: Arc<TestInterrupt>,
    counters: Arc<RngCounters>,
    worker: Box<dyn Worker>,
}

fn bench(source: EntropySource, rate: Option<u64>) -> Bench {
    bench_of(SIZE, source, rate)
}

fn bench_of(size: u16, source: EntropySource, rate: Option<u64>) -> Bench {
    let memory = memory();
    let queue = TestQueue::new(&memory, 0, size);
    let interrupt = Arc::new(TestInterrupt::default());
    let mut rng = Rng::new(source, rate.and_then(NonZeroU64::new));
    let counters = rng.counters();
    let worker = rng.activate(activation(&memory, 0, &[&queue], &interrupt)).unwrap();
    Bench { memory, queue, interrupt, counters, worker }
}

#[test]
fn a_request_is_filled_from_the_source_across_its_buffers() {
    let mut bench = bench(Box::new(Counting { next: 0, piece: 3 }), None);
    let head = bench.queue.add(&[(BUFFERS, 5, true), (BUFFERS + 0x1000, 4, true)]).unwrap();
    bench.worker.start();
    assert_eq!(bench.queue.used(), Some((head, 9)));
    assert_eq!(bench.interrupt.take(), [0]);
    let mut bytes = [0; 9];
    bench.memory.read_slice(&mut bytes[..5], GuestAddress(BUFFERS)).unwrap();
    bench.memory.read_slice(&mut bytes[5..], GuestAddress(BUFFERS + 0x1000)).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(counted(&*bench.counters), [("bytes", 9), ("requests", 1)]);
}

#[test]
fn an_absurd_request_gets_a_bounded_answer() {
    let mut bench = bench(Box::new(Counting { next: 0, piece: 4096 }), None);
    bench.queue.add(&[(BUFFERS, 0x10_0000, true)]).unwrap();
    bench.worker.ready(QUEUE_TOKEN);
    assert_eq!(bench.queue.used().unwrap().1, u32::try_from(RNG_REQUEST_BYTES_MAX).unwrap());
}

#[test]
fn a_round_gives_a_bounded_number_of_bytes_and_the_next_goes_on() {
    let mut bench = bench_of(64, Box::new(Counting { next: 0, piece: 4096 }), None);
    for _ in 0..64 {
        bench.queue.add(&[(BUFFERS, 0x1_0000, true)]).unwrap();
    }
    bench.worker.ready(QUEUE_TOKEN);
    let first: u64 = std::iter::from_fn(|| bench.queue.used()).map(|(_, bytes)| u64::from(bytes)).sum();
    assert_eq!(first, 1 << 20);
    for _ in 0..3 {
        bench.worker.ready(QUEUE_TOKEN);
    }
    assert_eq!(std::iter::from_fn(|| bench.queue.used()).count(), 48);
}

#[test]
fn a_request_without_room_is_used_empty() {
    let mut bench = bench(Box::new(Counting { next: 0, piece: 4096 }), None);
    let head = bench.queue.add(&[(BUFFERS, 16, false)]).unwrap();
    bench.worker.start();
    assert_eq!(bench.queue.used(), Some((head, 0)));
}

#[test]
fn a_source_that_gives_nothing_is_asked_again_later() {
    let failing = Arc::new(Mutex::new(true));
    let mut bench = bench(Box::new(Switched(Arc::clone(&failing))), None);
    let head = bench.queue.add(&[(BUFFERS, 16, true)]).unwrap();
    bench.worker.start();
    assert_eq!(bench.queue.used(), None);
    assert_eq!(counted(&*bench.counters), [("failures", 1)]);
    *failing.lock().unwrap() = false;
    bench.worker.ready(TIMER_TOKEN);
    assert_eq!(bench.queue.used(), Some((head, 16)));
    assert_eq!(bench.interrupt.take(), [0]);
}

#[test]
fn the_rate_limit_gives_what_is_left_and_then_lets_the_driver_wait() {
    let mut bench = bench(Box::new(Counting { next: 0, piece: 4096 }), Some(10));
    bench.queue.add(&[(BUFFERS, 16, true)]).unwrap();
    let second = bench.queue.add(&[(BUFFERS, 16, true)]).unwrap();
    bench.worker.start();
    assert_eq!(bench.queue.used().unwrap().1, 10);
    assert_eq!(bench.queue.used(), None);
    assert_eq!(bench.counters.waits.get(), 1);
    // The kick of an impatient driver changes nothing, time does.
    bench.worker.ready(QUEUE_TOKEN);
    assert_eq!(bench.queue.used(), None);
    std::thread::sleep(Duration::from_millis(150));
    bench.worker.ready(TIMER_TOKEN);
    let (head, written) = bench.queue.used().unwrap();
    assert_eq!(head, second);
    assert!(written >= 1);
}

#[test]
fn a_buffer_outside_of_memory_is_a_fault_and_gets_nothing() {
    let mut bench = bench(Box::new(Counting { next: 0, piece: 4096 }), None);
    bench.queue.add(&[(MEMORY_BYTES - 8, 16, true)]).unwrap();
    bench.worker.start();
    bench.queue.add(&[(BUFFERS, 16, true)]).unwrap();
    bench.worker.ready(QUEUE_TOKEN);
    assert_eq!(bench.queue.used(), None);
    let fault = QueueFault::BufferOutside { address: MEMORY_BYTES - 8, length: 16 };
    assert_eq!(*bench.interrupt.faults.lock().unwrap(), [(0, fault)]);
}

#[test]
fn the_device_does_not_start_without_its_queue() {
    let (memory, interrupt) = (memory(), Arc::new(TestInterrupt::default()));
    let mut rng = Rng::new(Box::new(Counting::default()), None);
    let error = rng.activate(activation(&memory, 0, &[], &interrupt)).err().unwrap();
    assert_eq!(error.to_string(), "rng: queue 0 is not enabled, the device needs it");
}

proptest! {
    #[test]
    fn no_more_than_the_rate_is_ever_given(
        rate in 1_u64..100_000,
        steps in proptest::collection::vec((0_u64..300, 0_usize..50_000), 1..100),
    ) {
        let start = Instant::now();
        let mut allowance = Allowance::new(NonZeroU64::new(rate).unwrap(), start);
        let (mut millis, mut total) = (0, 0);
        for (step, wanted) in steps {
            millis += step;
            let allowed = allowance.allowed(wanted, start + Duration::from_millis(millis));
            allowance.take(allowed);
            total += u64::try_from(allowed).unwrap();
            prop_assert!(total <= rate + rate * millis / 1000);
        }
    }
}
