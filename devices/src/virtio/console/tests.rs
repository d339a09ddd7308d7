//! Tests of the console.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::test_terminal::TestTerminal;
use super::{BACKLOG_BYTES, Console, ConsoleCounters};
use crate::figures::counted;
use crate::virtio::test_driver::{
    BUFFERS, MEMORY_BYTES, TestInterrupt, TestMemory, TestQueue, activation, memory,
};
use crate::virtio::{Interest, QueueFault, VirtioDevice, Worker};

const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
const TIMER: u32 = 2;
const LISTENER: u32 = 3;
/// The first who attaches.
const FIRST: u32 = 17;

struct Bench {
    memory: TestMemory,
    receive: TestQueue,
    transmit: TestQueue,
    interrupt: Arc<TestInterrupt>,
    terminal: TestTerminal,
    counters: Arc<ConsoleCounters>,
    device: Console,
    worker: Box<dyn Worker>,
}

fn bench() -> Bench {
    let (memory, terminal) = (memory(), TestTerminal::new());
    let (receive, transmit) = (TestQueue::new(&memory, 0, 8), TestQueue::new(&memory, 1, 8));
    let interrupt = Arc::new(TestInterrupt::default());
    let mut device = Console::new(Box::new(terminal.clone()));
    let counters = device.counters();
    let mut worker = device.activate(activation(&memory, 0, &[&receive, &transmit], &interrupt)).unwrap();
    worker.start();
    Bench { memory, receive, transmit, interrupt, terminal, counters, device, worker }
}

impl Bench {
    /// Somebody attaches.
    fn comes(&mut self) -> bool {
        self.terminal.desk().comes = true;
        self.worker.ready(LISTENER)
    }

    /// The guest prints; true when the device took it.
    fn prints(&mut self, text: &[u8]) -> bool {
        self.memory.write_slice(text, GuestAddress(BUFFERS)).unwrap();
        self.transmit.add(&[(BUFFERS, u32::try_from(text.len()).unwrap(), false)]).unwrap();
        self.worker.ready(TRANSMIT);
        self.transmit.used().is_some()
    }

    /// The guest makes room for what is typed.
    fn listens(&mut self, bytes: u32) {
        self.receive.add(&[(BUFFERS + 0x8000, bytes, true)]).unwrap();
        self.worker.ready(RECEIVE);
    }

    /// What the guest was typed into its next buffer.
    fn hears(&mut self) -> Option<Vec<u8>> {
        let (_, written) = self.receive.used()?;
        let mut data = vec![0; usize::try_from(written).unwrap()];
        self.memory.read_slice(&mut data, GuestAddress(BUFFERS + 0x8000)).unwrap();
        Some(data)
    }

    fn read(&self) -> Vec<u8> {
        std::mem::take(&mut self.terminal.desk().read)
    }

    /// What is waited for of who is attached.
    fn interest(&self) -> Option<(u32, Interest)> {
        let mut sources = self.worker.sources().into_iter().filter(|source| source.token > LISTENER);
        sources.next().map(|source| (source.token, source.interest))
    }
}

#[test]
fn one_who_attaches_reads_what_was_said_before_and_types() {
    let mut bench = bench();
    assert!(bench.prints(b"Linux version 6"));
    assert_eq!((bench.read(), bench.interest()), (vec![], None));
    bench.comes();
    assert_eq!(bench.read(), b"Linux version 6");
    assert!(bench.prints(b"login: "));
    assert_eq!(bench.read(), b"login: ");

    bench.terminal.desk().typed.extend(b"root\n");
    // The guest has no room yet, so nobody looks.
    assert_eq!(bench.interest(), None);
    bench.listens(3);
    assert_eq!(bench.hears(), Some(b"roo".to_vec()));
    bench.listens(64);
    assert_eq!(bench.hears(), Some(b"t\n".to_vec()));
    bench.listens(64);
    assert_eq!((bench.hears(), bench.interest()), (None, Some((FIRST, Interest::Readable))));
    assert_eq!(bench.interrupt.take(), [1, 1, 0, 0]);
    let counters = &bench.counters;
    assert_eq!(
        (counters.printed_bytes.get(), counters.typed_bytes.get(), counters.attached.get()),
        (22, 5, 1)
    );
}

#[test]
fn a_round_prints_a_bounded_number_of_bytes_and_the_next_goes_on() {
    let mut bench = bench();
    for _ in 0..8 {
        bench.transmit.add(&[(BUFFERS, 256 << 10, false)]).unwrap();
    }
    let mut rounds = Vec::new();
    for _ in 0..3 {
        bench.worker.ready(TRANSMIT);
        rounds.push(std::iter::from_fn(|| bench.transmit.used()).count());
    }
    assert_eq!(rounds, [4, 4, 0]);
}

#[test]
fn a_second_one_is_not_taken_while_one_is_there_and_is_another_afterwards() {
    let mut bench = bench();
    bench.listens(64);
    assert!(bench.comes() && !bench.comes());
    bench.terminal.desk().left = true;
    assert!(bench.worker.ready(FIRST));
    assert_eq!(bench.interest(), None);
    assert!(bench.prints(b"hello?"));
    assert!(bench.comes());
    assert_eq!((bench.read(), bench.interest()), (b"hello?".to_vec(), Some((FIRST + 1, Interest::Readable))));
}

#[test]
fn one_who_cannot_be_let_in_is_looked_for_again_after_a_while() {
    let mut bench = bench();
    bench.terminal.desk().is_locked = true;
    assert_eq!(bench.worker.sources().len(), 4);
    assert!(bench.comes());
    assert_eq!((bench.worker.sources().len(), bench.counters.attached.get()), (3, 0));
    bench.terminal.desk().is_locked = false;
    assert!(bench.worker.ready(TIMER));
    assert_eq!(bench.worker.sources().len(), 4);
    bench.comes();
    assert_eq!(bench.counters.attached.get(), 1);
}

#[test]
fn one_who_types_no_more_still_reads() {
    let mut bench = bench();
    bench.terminal.desk().typed.extend(b"ls");
    bench.terminal.desk().typed_all = true;
    bench.comes();
    bench.listens(8);
    bench.listens(8);
    assert_eq!((bench.hears(), bench.hears()), (Some(b"ls".to_vec()), None));
    assert_eq!(bench.interest(), None);
    assert!(bench.prints(b"bin etc"));
    assert_eq!(bench.read(), b"bin etc");
    // That he left shows when something is printed, and is there for who comes next.
    bench.terminal.desk().left = true;
    assert!(bench.prints(b"$ "));
    bench.comes();
    assert_eq!(bench.read(), b"$ ");
}

#[test]
fn a_slow_reader_holds_the_guest_up_for_a_moment_and_loses_the_oldest_then() {
    let mut bench = bench();
    bench.comes();
    bench.terminal.desk().room = 10;
    let text = vec![b'a'; BACKLOG_BYTES];
    assert!(bench.prints(&text));
    assert_eq!((bench.read().len(), bench.interest()), (10, Some((FIRST, Interest::Writable))));
    // There is room for ten bytes and not for eleven.
    assert!(bench.prints(b"0123456789"));
    assert!(!bench.prints(b"x"));
    assert!(!bench.worker.ready(TRANSMIT));
    assert_eq!(bench.transmit.used(), None);
    bench.terminal.desk().room = 1;
    bench.worker.ready(FIRST);
    assert!(bench.transmit.used().is_some());
    assert_eq!(bench.counters.lost_bytes.get(), 0);

    assert!(!bench.prints(b"yz"));
    bench.worker.ready(TIMER);
    assert!(bench.transmit.used().is_some());
    assert!(bench.prints(b"!"), "he is not waited for again");
    assert_eq!(bench.counters.lost_bytes.get(), 3);
    bench.terminal.desk().room = usize::MAX;
    bench.worker.ready(FIRST);
    let all = bench.read();
    assert_eq!(all.len(), 1 + BACKLOG_BYTES);
    assert!(all.ends_with(b"a0123456789xyz!"));
    assert_eq!(bench.interest(), None);
}

#[test]
fn without_anybody_the_newest_is_kept_and_the_guest_never_waits() {
    let mut bench = bench();
    for _ in 0..3 {
        assert!(bench.prints(&vec![b'a'; BACKLOG_BYTES / 2]));
    }
    assert!(bench.prints(b"end"));
    let lost = u64::try_from(BACKLOG_BYTES / 2 + 3).unwrap();
    assert_eq!(bench.counters.lost_bytes.get(), lost);
    bench.comes();
    let all = bench.read();
    assert!(all.len() == BACKLOG_BYTES && all.ends_with(b"aend"));
}

#[test]
fn a_file_takes_all_or_it_is_lost() {
    let mut bench = bench();
    bench.terminal.desk().is_file = true;
    assert_eq!(bench.worker.sources().len(), 3);
    assert!(bench.prints(b"one"));
    assert_eq!(bench.read(), b"one");
    bench.terminal.desk().refuses = true;
    assert!(bench.prints(b"two"));
    bench.terminal.desk().refuses = false;
    assert!(bench.prints(b"three"));
    assert_eq!((bench.read(), bench.counters.lost_bytes.get()), (b"three".to_vec(), 3));
}

#[test]
fn who_is_attached_stays_when_the_guest_resets() {
    let mut bench = bench();
    bench.comes();
    let worker = std::mem::replace(&mut bench.worker, {
        let again = activation(&bench.memory, 0, &[&bench.receive, &bench.transmit], &bench.interrupt);
        bench.device.activate(again).unwrap()
    });
    drop(worker);
    bench.worker.start();
    assert!(bench.prints(b"again"));
    assert_eq!((bench.read(), bench.counters.attached.get()), (b"again".to_vec(), 1));
}

#[test]
fn buffers_that_make_no_sense_are_used_and_counted() {
    let mut bench = bench();
    bench.comes();
    bench.terminal.desk().typed.extend(b"x");
    let readable = bench.receive.add(&[(BUFFERS, 16, false)]).unwrap();
    bench.worker.ready(RECEIVE);
    assert_eq!(bench.receive.used(), Some((readable, 0)));
    let writable = bench.transmit.add(&[(BUFFERS, 16, true)]).unwrap();
    bench.worker.ready(TRANSMIT);
    assert_eq!(bench.transmit.used(), Some((writable, 0)));
    let all = u32::try_from(MEMORY_BYTES - BUFFERS).unwrap();
    bench.transmit.add(&[(BUFFERS, all, false)]).unwrap();
    bench.worker.ready(TRANSMIT);
    assert!(bench.transmit.used().is_some());
    assert_eq!(bench.read().len(), BACKLOG_BYTES, "the end of a buffer of absurd size");
    let lost = u64::from(all) - u64::try_from(BACKLOG_BYTES).unwrap();
    let expected = [("printed_bytes", all.into()), ("lost_bytes", lost), ("attached", 1), ("malformed", 2)];
    assert_eq!(counted(&*bench.counters), expected);

    bench.transmit.add(&[(MEMORY_BYTES - 8, 16, false)]).unwrap();
    bench.worker.ready(TRANSMIT);
    let fault = QueueFault::BufferOutside { address: MEMORY_BYTES - 8, length: 16 };
    assert_eq!(*bench.interrupt.faults.lock().unwrap(), [(1, fault)]);
}

#[test]
fn the_device_does_not_start_without_a_queue() {
    let mut bench = bench();
    for (queue, missing) in [(&bench.receive, 1), (&bench.transmit, 0)] {
        let error =
            bench.device.activate(activation(&bench.memory, 0, &[queue], &bench.interrupt)).err().unwrap();
        assert_eq!(
            error.to_string(),
            format!("console: queue {missing} is not enabled, the device needs it")
        );
    }
}
