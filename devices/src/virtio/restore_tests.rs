//! A driver within the rules, whose device is saved and restored between its steps, or is not: what comes of its requests
//! is the same.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::num::NonZeroU16;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::VirtioDevice;
use super::balloon::test_host::{Asked, TestHost};
use super::balloon::{Balloon, BalloonHandle, BalloonOptions};
use super::blk::test_disk::{Mischief, SHAPE, TestDisk};
use super::blk::{Blk, BlkHandle, BlkOptions};
use super::console::Console;
use super::console::test_terminal::TestTerminal;
use super::net::test_tap::{FakeTap, frame};
use super::net::{HEADER_BYTES, Net, NetConfig, NetQueues};
use super::pci::test_echo::Echo;
use super::pci::test_machine::{Machine, register};
use super::rng::Rng;
use super::test_driver::{BUFFERS, TestBuffer, TestMemory, TestQueue};

const QUEUE_SIZE: u16 = 16;

type Device = Box<dyn VirtioDevice<TestMemory>>;
type Make<'a> = Box<dyn FnMut() -> Device + 'a>;
/// Whether the device is saved and restored at a point between two steps.
type Saves = Vec<bool>;

/// What comes of a script.
type Outcome = Vec<String>;

struct Bench<'a> {
    machine: Machine,
    queues: Vec<TestQueue>,
    make: Make<'a>,
    saves: Box<dyn Iterator<Item = bool> + 'a>,
    next: u64,
}

impl<'a> Bench<'a> {
    fn new(mut make: Make<'a>, saves: &'a Saves) -> Self {
        let device = make();
        let count = u16::try_from(device.queue_sizes().len()).unwrap();
        let machine = Machine::of(device);
        machine.enable_interrupts();
        assert!(machine.negotiate(machine.offered()));
        machine.set_common_16(register::CONFIG_VECTOR, 0);
        let queues: Vec<_> =
            (0..count).map(|index| TestQueue::new(&machine.memory, index, QUEUE_SIZE)).collect();
        for (index, queue) in (0..).zip(&queues) {
            machine.set_queue(queue, index, index + 1);
        }
        machine.drive();
        let saves = Box::new(saves.iter().copied().cycle());
        Self { machine, queues, make, saves, next: 0 }
    }

    /// A point between two steps.
    fn point(&mut self) {
        if !self.saves.next().unwrap_or(false) {
            return;
        }
        let saved = self.machine.save();
        assert_eq!(self.machine.save(), saved, "a save changes nothing");
        let next = self.machine.successor((self.make)());
        self.machine = next;
        self.machine.restore(&saved);
        self.machine.segment.hold();
        assert_eq!(self.machine.counters.queue_faults.get(), 0);
        self.machine.segment.resume();
    }

    /// The worker serves what there is.
    fn serve(&mut self) {
        for _ in 0..4 {
            self.machine.spawner.poke();
        }
        self.point();
    }

    /// Room for a buffer that no other has had for long.
    fn place(&mut self) -> u64 {
        self.next += 1;
        BUFFERS + (self.next % 64) * 0x1_0000
    }

    fn submit(&mut self, queue: usize, buffers: &[TestBuffer]) -> Option<u16> {
        let head = self.queues[queue].add(buffers);
        self.point();
        head
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        self.machine.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.machine.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// A request of readable bytes and as many writable ones as told: the bytes that were written.
    fn request(&mut self, queue: usize, readable: &[u8], writable: u32) -> Option<Vec<u8>> {
        let address = self.place();
        self.write(address, readable);
        self.write(address + 0x8000, &vec![0xEE; writable as usize]);
        let mut buffers = Vec::new();
        if !readable.is_empty() {
            buffers.push((address, u32::try_from(readable.len()).unwrap(), false));
        }
        if writable > 0 {
            buffers.push((address + 0x8000, writable, true));
        }
        let head = self.submit(queue, &buffers).unwrap();
        self.serve();
        let (used, written) = self.queues[queue].used()?;
        assert_eq!(used, head);
        Some(self.read(address + 0x8000, written as usize))
    }
}

fn echo(script: &[u8], saves: &Saves) -> Outcome {
    let mut bench = Bench::new(Box::new(|| Box::new(Echo(Arc::default()))), saves);
    let requests = script.iter().map(|byte| {
        let data = vec![*byte; usize::from(*byte) + 1];
        let answer = bench.request(usize::from(byte % 2), &data, 300).unwrap();
        assert_eq!(answer, vec![!byte; data.len()]);
        format!("{answer:?}")
    });
    requests.collect()
}

fn blk(script: &[u8], saves: &Saves) -> Outcome {
    const READ: u8 = 0;
    const WRITE: u8 = 1;
    let disk = TestDisk::new(vec![0x5A; 64 << 10], SHAPE);
    // Half of what has ended is not told at once: so requests are in flight.
    disk.set_mischief(7, Mischief { fail: 0, hold: 8 });
    let handles = RefCell::<Vec<BlkHandle>>::default();
    let make = || -> Device {
        let options = BlkOptions { queues: NonZeroU16::new(2).unwrap(), ..BlkOptions::default() };
        let device = Blk::<TestMemory>::new(Arc::new(disk.clone()), options).unwrap();
        handles.borrow_mut().push(device.handle());
        Box::new(device)
    };
    let mut bench = Bench::new(Box::new(make), saves);
    let mut outcome = Vec::new();
    for (round, bytes) in script.chunks(3).enumerate() {
        let mut expected = Vec::new();
        for (number, byte) in bytes.iter().enumerate() {
            // Sectors that no other request of the round has, as the order is the disk's.
            let sector = (byte / 2) / 3 * 3 + u8::try_from(number).unwrap();
            let kind = if byte.is_multiple_of(2) { READ } else { WRITE };
            let (header, data, status) = (bench.place(), bench.place(), bench.place());
            bench.write(header, &[kind, 0, 0, 0, 0, 0, 0, 0, sector, 0, 0, 0, 0, 0, 0, 0]);
            bench.write(data, &[u8::try_from(round % 256).unwrap(); 512]);
            let buffers = [(header, 16, false), (data, 512, kind == READ), (status, 1, true)];
            let head = bench.submit(round % 2, &buffers).unwrap();
            expected.push((head, data, status));
        }
        let mut used = BTreeSet::new();
        for _ in 0..100 {
            bench.serve();
            used.extend(std::iter::from_fn(|| bench.queues[round % 2].used()).map(|(head, _)| head));
        }
        for (head, data, status) in expected {
            assert!(used.remove(&head), "request {head} was not answered");
            outcome.push(format!("{:?} {:?}", bench.read(status, 1), bench.read(data, 512)));
        }
        assert!(used.is_empty(), "answered twice: {used:?}");
    }
    let counted = handles.borrow().iter().fold((0, 0), |(reads, writes), handle| {
        (reads + handle.counters().reads.get(), writes + handle.counters().writes.get())
    });
    outcome.push(format!("{counted:?} {:?}", disk.state().content));
    outcome
}

fn net(script: &[u8], saves: &Saves) -> Outcome {
    let taps = [FakeTap::new(), FakeTap::new()];
    let make = || -> Device {
        let config = NetConfig { mac: "52:54:00:12:34:56".parse().unwrap(), mtu: None };
        let queues = taps.iter().map(|tap| NetQueues { tap: Arc::clone(tap), kernel: None }).collect();
        Box::new(Net::<TestMemory, _>::new(config, queues).unwrap())
    };
    let mut bench = Bench::new(Box::new(make), saves);
    let (mut outcome, mut posted) = (Vec::new(), Vec::new());
    // A driver that had more buffers ready once is waited for: no frame is lost because it has few. In the end there is room
    // for all of them.
    for _ in 0..QUEUE_SIZE {
        let address = bench.place();
        posted.push((bench.submit(0, &[(address, 0x400, true)]).unwrap(), address));
    }
    bench.serve();
    let script = script.iter().copied().chain([3; 100]);
    for (number, byte) in script.enumerate() {
        match byte % 5 {
            0 => {
                let frame = frame(number, usize::from(byte) + 1);
                assert_eq!(bench.request(1, &frame, 0), Some(vec![]));
            }
            // A frame of several buffers, for which there may not be enough yet.
            1 | 2 => {
                let frame = frame(number, usize::from(byte) * 8 + 1);
                taps[0].state.lock().unwrap().incoming.push_back(frame);
                bench.serve();
            }
            3 => {
                let address = bench.place();
                if let Some(head) = bench.submit(0, &[(address, 0x400, true)]) {
                    posted.push((head, address));
                }
                bench.serve();
            }
            // So many pairs, or offloads: checksums, and then segments.
            _ if byte.is_multiple_of(2) => {
                let pairs = byte / 10 % 2 + 1;
                assert_eq!(bench.request(4, &[4, 0, pairs, 0], 1), Some(vec![0]));
            }
            _ => {
                let [low, high] = if byte / 10 % 2 == 0 { [2, 0] } else { [0x82, 1] };
                assert_eq!(bench.request(4, &[5, 0, low, high, 0, 0, 0, 0, 0, 0], 1), Some(vec![0]));
            }
        }
        while let Some((head, written)) = bench.queues[0].used() {
            let (expected, address) = posted.remove(0);
            assert_eq!(head, expected);
            outcome.push(format!("received {:?}", bench.read(address, written as usize)));
        }
    }
    for tap in &taps {
        let state = tap.state.lock().unwrap();
        assert!(state.sent.iter().all(|frame| frame.len() > HEADER_BYTES));
        outcome.push(format!("sent {:?}, offloads {:?}, {:?}", state.sent, state.offloads, state.enabled));
    }
    outcome
}

fn console(script: &[u8], saves: &Saves) -> Outcome {
    let terminal = TestTerminal::new();
    let make = || -> Device { Box::new(Console::new(Box::new(terminal.clone()))) };
    let mut bench = Bench::new(Box::new(make), saves);
    let (mut typed, mut posted) = (Vec::new(), Vec::new());
    for (number, byte) in script.iter().enumerate() {
        match byte % 4 {
            0 => assert_eq!(bench.request(1, format!("line {number}\n").as_bytes(), 0), Some(vec![])),
            1 => terminal.desk().comes = true,
            2 => {
                let mut desk = terminal.desk();
                if desk.here {
                    desk.typed.extend(format!("command {number}\n").as_bytes());
                }
            }
            _ => {
                let address = bench.place();
                if let Some(head) = bench.submit(0, &[(address, 10, true)]) {
                    posted.push((head, address));
                }
            }
        }
        bench.serve();
        while let Some((head, written)) = bench.queues[0].used() {
            let (expected, address) = posted.remove(0);
            assert_eq!(head, expected);
            typed.extend(bench.read(address, written as usize));
        }
    }
    // Somebody who reads all there is.
    terminal.desk().comes = true;
    bench.serve();
    bench.serve();
    let desk = terminal.desk();
    let left: Vec<_> = desk.typed.iter().copied().collect();
    vec![format!("{:?} {:?} {:?}", String::from_utf8(desk.read.clone()), typed, left)]
}

fn rng(script: &[u8], saves: &Saves) -> Outcome {
    #[derive(Clone, Default)]
    struct Counting(Arc<Mutex<u8>>);

    impl Read for Counting {
        fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
            let mut count = self.0.lock().unwrap();
            *count = count.wrapping_add(1);
            data.fill(*count);
            Ok(data.len())
        }
    }

    let source = Counting::default();
    let make = || -> Device { Box::new(Rng::new(Box::new(source.clone()), None)) };
    let mut bench = Bench::new(Box::new(make), saves);
    let requests =
        script.iter().map(|byte| format!("{:?}", bench.request(0, &[], u32::from(*byte) + 1).unwrap()));
    requests.collect()
}

/// Pages whose memory the host has, by what it was asked so far.
fn released(host: &TestHost, pages: &mut BTreeSet<u32>) {
    for asked in host.asked() {
        match asked {
            Asked::Take(runs) => pages.extend(runs.iter().flat_map(|run| run.first..run.first + run.count)),
            Asked::Give(runs) => {
                for page in runs.iter().flat_map(|run| run.first..run.first + run.count) {
                    assert!(pages.remove(&page), "page {page} is given and was not taken");
                }
            }
            Asked::Begin(_)
            | Asked::Reported(_)
            | Asked::Poisoned(_)
            | Asked::Sweep
            | Asked::Hinting
            | Asked::Hinted(_)
            | Asked::Forget
            | Asked::End => {}
        }
    }
}

fn balloon(script: &[u8], saves: &Saves) -> Outcome {
    const STATISTICS: usize = 2;
    let host = TestHost::new();
    let handle = RefCell::<Option<BalloonHandle>>::default();
    let make = || -> Device {
        let options = BalloonOptions { apic_ids: vec![0], statistics: true, ..BalloonOptions::default() };
        let device = Balloon::new(options, Arc::clone(&host) as _, Arc::default()).unwrap();
        *handle.borrow_mut() = Some(device.handle());
        Box::new(device)
    };
    let mut bench = Bench::new(Box::new(make), saves);
    let (mut outcome, mut pages) = (Vec::new(), BTreeSet::new());
    let mut deflating = None;
    for (number, byte) in script.iter().enumerate() {
        let handle = handle.borrow().clone().unwrap();
        // Some of them of another vnode.
        let first = u32::from(*byte) * 5;
        let array: Vec<u8> = (first..first + 4).rev().flat_map(u32::to_le_bytes).collect();
        match byte % 6 {
            0 => handle.ask(u32::from(*byte), byte.is_multiple_of(4)).unwrap(),
            1 | 2 => assert_eq!(bench.request(0, &array, 0), Some(vec![])),
            3 if deflating.is_none() => {
                let address = bench.place();
                bench.write(address, &array);
                deflating = bench.submit(1, &[(address, 16, false)]);
                bench.serve();
            }
            4 => host.poor.store(byte % 4 == 0, Ordering::Relaxed),
            // Its figures, which the worker keeps the buffer of until it wants new ones.
            5 => {
                let address = bench.place();
                bench.write(address, &[4, 0, *byte, 1, 0, 0, 0, 0, 0, 0]);
                bench.submit(STATISTICS, &[(address, 10, false)]).unwrap();
                bench.serve();
                let used = std::iter::from_fn(|| bench.queues[STATISTICS].used()).count();
                outcome.push(format!("{number}: {used} of figures"));
            }
            _ => bench.serve(),
        }
        bench.serve();
        if let Some(head) = deflating
            && let Some((used, 0)) = bench.queues[1].used()
        {
            assert_eq!(used, head);
            deflating = None;
            outcome.push(format!("{number}: taken back"));
        }
        released(&host, &mut pages);
    }
    host.poor.store(false, Ordering::Relaxed);
    bench.serve();
    released(&host, &mut pages);
    let view = handle.borrow().as_ref().unwrap().view();
    outcome.push(format!("{pages:?} {:?}", (view.asked, view.actual, view.held)));
    outcome.push(format!("{:?}", (view.off_node, view.returned, view.dry, view.owing, view.target_read)));
    outcome
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]
    #[test]
    fn what_comes_of_requests_is_the_same_whenever_the_device_is_saved_and_restored(
        script in prop::collection::vec(any::<u8>(), 0..40),
        saves in prop::collection::vec(any::<bool>(), 1..16),
    ) {
        type Run = fn(&[u8], &Saves) -> Outcome;
        let devices: [(&str, Run); 6] =
            [("echo", echo), ("blk", blk), ("net", net), ("console", console), ("rng", rng), ("balloon", balloon)];
        for (name, run) in devices {
            let (plain, restored) = (run(&script, &vec![]), run(&script, &saves));
            prop_assert_eq!(plain, restored, "{}", name);
        }
    }
}
