//! The device as its transport and its driver see it: features, queue numbers, configuration, and the order in which
//! things happen.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::interrupt::InterruptError;
use crate::virtio::balloon::test_host::{Asked, TestHost, message, run};
use crate::virtio::balloon::{
    Balloon, BalloonHandle, BalloonHost, BalloonOptions, MAX_ARRAY_PAGES, NotReady, Steering,
};
use crate::virtio::test_driver::{
    BUFFERS, ReadConfig, TestInterrupt, TestMemory, TestQueue, activation, memory,
};
use crate::virtio::{ActivationError, VirtioDevice, VirtioInterrupt, Worker};

const MUST_TELL_HOST: u64 = 1 << 0;
const STATS: u64 = 1 << 1;
const DEFLATE_ON_OOM: u64 = 1 << 2;
const PAGE_POISON: u64 = 1 << 4;
const REPORTING: u64 = 1 << 5;

pub struct Bench {
    pub memory: TestMemory,
    pub host: Arc<TestHost>,
    pub device: Balloon,
    pub handle: BalloonHandle,
    pub interrupt: Arc<TestInterrupt>,
    pub queues: Vec<TestQueue>,
    pub worker: Option<Box<dyn Worker>>,
}

fn as_device(balloon: &mut Balloon) -> &mut dyn VirtioDevice<TestMemory> {
    balloon
}

pub fn bench(options: BalloonOptions, queues: u16, features: u64) -> Bench {
    let (memory, host) = (memory(), TestHost::new());
    let mut device =
        Balloon::new(options, Arc::clone(&host) as Arc<dyn BalloonHost>, Arc::default()).unwrap();
    let queues: Vec<TestQueue> = (0..queues).map(|index| TestQueue::new(&memory, index, 16)).collect();
    let interrupt = Arc::new(TestInterrupt::default());
    as_device(&mut device).config_message_changed(message(2));
    let all: Vec<&TestQueue> = queues.iter().collect();
    let worker = device.activate(activation(&memory, features, &all, &interrupt)).unwrap();
    assert_eq!(host.asked(), [Asked::Begin(features & MUST_TELL_HOST != 0)]);
    Bench { memory, host, handle: device.handle(), device, interrupt, queues, worker: Some(worker) }
}

/// For a vnode with one CPU.
fn steered() -> BalloonOptions {
    BalloonOptions { apic_ids: vec![2], ..BalloonOptions::default() }
}

pub fn plain() -> Bench {
    bench(steered(), 2, 0)
}

impl Bench {
    /// An array of pages on queue `index`; true when the device used it.
    pub fn array(&mut self, index: u16, pfns: &[u32]) -> bool {
        let bytes: Vec<u8> = pfns.iter().flat_map(|pfn| pfn.to_le_bytes()).collect();
        self.memory.write_slice(&bytes, GuestAddress(BUFFERS)).unwrap();
        self.buffer(index, u32::try_from(bytes.len()).unwrap(), false)
    }

    pub fn buffer(&mut self, index: u16, length: u32, writable: bool) -> bool {
        let queue = &mut self.queues[usize::from(index)];
        queue.add(&[(BUFFERS, length, writable)]).unwrap();
        queue.kick();
        self.worker.as_mut().unwrap().ready(u32::from(index));
        self.queues[usize::from(index)].used().is_some()
    }

    fn config(&mut self) -> [u8; 16] {
        let mut data = [0xFF; 16];
        as_device(&mut self.device).read_config(0, &mut data);
        data
    }
}

#[test]
fn a_round_looks_at_a_bounded_number_of_pages_and_the_next_goes_on() {
    let mut bench = plain();
    let bytes = u32::try_from(MAX_ARRAY_PAGES * 4).unwrap();
    for index in 0..2_u16 {
        let queue = &mut bench.queues[usize::from(index)];
        for _ in 0..16 {
            queue.add(&[(BUFFERS, bytes, false)]).unwrap();
        }
        let mut rounds = Vec::new();
        for _ in 0..3 {
            bench.worker.as_mut().unwrap().ready(u32::from(index));
            let queue = &mut bench.queues[usize::from(index)];
            rounds.push(std::iter::from_fn(|| queue.used()).count());
        }
        assert_eq!(rounds, [8, 8, 0], "queue {index}");
    }
}

#[test]
fn a_driver_that_came_is_seen_to_read_its_target() {
    let mut bench = plain();
    let read_at = |bench: &mut Bench, offset| {
        as_device(&mut bench.device).read_config(offset, &mut [0; 4]);
        bench.handle.view().target_read
    };
    assert!(!bench.handle.view().target_read);
    assert!(!read_at(&mut bench, 4) && !read_at(&mut bench, 8));
    assert!(read_at(&mut bench, 0));
    // The next driver has not, and what is read before it runs is not its look.
    as_device(&mut bench.device).reset(None);
    assert!(!read_at(&mut bench, 0));
    let queues: Vec<&TestQueue> = bench.queues.iter().collect();
    let again = activation(&bench.memory, 0, &queues, &bench.interrupt);
    bench.worker = Some(bench.device.activate(again).unwrap());
    assert!(!bench.handle.view().target_read);
    assert!(read_at(&mut bench, 3));
}

#[test]
fn only_what_was_asked_for_is_offered() {
    let host = TestHost::new();
    let offer = |statistics, reporting| {
        let options = BalloonOptions { statistics, reporting, ..BalloonOptions::default() };
        let mut device = Balloon::new(options, Arc::clone(&host) as _, Arc::default()).unwrap();
        let device = as_device(&mut device);
        (device.kind().id, device.features(), device.queue_sizes())
    };
    let always = MUST_TELL_HOST | DEFLATE_ON_OOM;
    assert_eq!(offer(false, false), (5, always, vec![128; 2]));
    assert_eq!(offer(true, false), (5, always | STATS, vec![128; 3]));
    assert_eq!(offer(true, true), (5, always | STATS | REPORTING | PAGE_POISON, vec![128; 4]));
}

#[test]
fn a_driver_that_does_not_tell_is_refused_where_the_host_depends_on_it() {
    for must_tell in [false, true] {
        let options = BalloonOptions { must_tell, ..BalloonOptions::default() };
        let mut device = Balloon::new(options, TestHost::new() as _, Arc::default()).unwrap();
        let device = as_device(&mut device);
        assert!(device.accepts(MUST_TELL_HOST) && device.accepts(device.features()));
        assert_eq!([0, DEFLATE_ON_OOM].map(|features| device.accepts(features)), [!must_tell; 2]);
    }
}

#[test]
fn the_driver_reads_its_target_and_writes_only_what_it_gave() {
    let mut bench = plain();
    bench.handle.ask(0x1_2345, false).unwrap();
    as_device(&mut bench.device).write_config(0, &[9, 9, 9, 9]);
    as_device(&mut bench.device).write_config(4, &7_u32.to_le_bytes());
    as_device(&mut bench.device).write_config(6, &[1]);
    as_device(&mut bench.device).write_config(7, &[1, 1]);
    as_device(&mut bench.device).write_config(u64::MAX, &[1]);
    assert_eq!(bench.config(), [0x45, 0x23, 1, 0, 7, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let view = bench.handle.view();
    assert_eq!((view.actual, bench.handle.counters().ignored_writes.get()), (0x1_0007, 3));
}

#[test]
fn nothing_is_asked_without_a_driver_or_from_another_vnodes_cpu() {
    let host = TestHost::new();
    let options = steered();
    let mut device = Balloon::new(options, host as _, Arc::default()).unwrap();
    let handle = device.handle();
    assert_eq!(handle.ask(1, true), Err(NotReady::NoDriver));
    as_device(&mut device).config_message_changed(message(2));
    assert_eq!(handle.ask(1, true), Err(NotReady::NoDriver));
    let mut bench = plain();
    as_device(&mut bench.device).config_message_changed(message(7));
    assert_eq!(bench.handle.ask(1, false), Err(NotReady::OffNode(7)));
    assert_eq!(bench.handle.ask(0, false), Ok(()));
    as_device(&mut bench.device).config_message_changed(None);
    assert_eq!(bench.handle.ask(1, false), Ok(()), "it may look by itself");
    as_device(&mut bench.device).config_message_changed(message(2));
    assert_eq!(bench.handle.ask(1, false), Ok(()));
}

#[test]
fn each_change_of_the_target_is_followed_by_an_interrupt_even_if_it_is_the_same() {
    let bench = plain();
    for _ in 0..3 {
        bench.handle.ask(100, true).unwrap();
    }
    assert_eq!(bench.interrupt.config.load(Ordering::Relaxed), 3);
}

#[test]
fn pages_are_taken_as_runs_and_given_back() {
    let mut bench = plain();
    bench.handle.ask(6, true).unwrap();
    assert!(bench.array(0, &[7, 6, 5, 30, 2]));
    assert!(bench.array(1, &[2, 30]));
    let taken = Asked::Take(vec![run(2, 1), run(5, 3), run(30, 1)]);
    assert_eq!(bench.host.asked(), [taken, Asked::Give(vec![run(2, 1), run(30, 1)])]);
    assert_eq!(bench.interrupt.take(), [0, 1]);
}

#[test]
fn a_driver_waits_with_its_pages_until_the_host_has_memory_for_them() {
    let mut bench = bench(BalloonOptions { must_tell: true, ..steered() }, 2, MUST_TELL_HOST);
    bench.handle.ask(3, true).unwrap();
    assert!(bench.array(0, &[3, 2, 1]));
    bench.host.poor.store(true, Ordering::Relaxed);
    assert!(!bench.array(1, &[1]));
    assert!(bench.handle.view().owing);
    // What comes after it waits too, but for arrays of pages to take.
    assert!(bench.array(0, &[8]));
    assert!(!bench.array(1, &[2]));
    bench.host.asked();
    bench.host.poor.store(false, Ordering::Relaxed);
    bench.worker.as_mut().unwrap().ready(5);
    assert_eq!(bench.host.asked(), [1, 2].map(|page| Asked::Give(vec![run(page, 1)])));
    assert!(!bench.handle.view().owing);
}

#[test]
fn a_driver_that_waits_goes_on_as_soon_as_the_host_says_so() {
    let mut bench = plain();
    bench.handle.ask(3, true).unwrap();
    assert!(bench.array(0, &[3, 2, 1]));
    bench.host.poor.store(true, Ordering::Relaxed);
    assert!(!bench.array(1, &[1]));
    bench.host.asked();
    bench.host.poor.store(false, Ordering::Relaxed);
    bench.handle.retry();
    let worker = bench.worker.as_mut().unwrap();
    let ready = |token| {
        let source = worker.sources().into_iter().find(|source| source.token == token).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", source.fd)).unwrap();
        let count = stat.lines().find_map(|line| line.strip_prefix("eventfd-count:")).unwrap();
        u64::from_str_radix(count.trim(), 16).unwrap() > 0
    };
    assert!(ready(8));
    bench.worker.as_mut().unwrap().ready(8);
    assert_eq!(bench.host.asked(), [Asked::Give(vec![run(1, 1)])]);
    assert!(bench.queues[1].used().is_some());
}

#[test]
fn a_reset_with_pages_out_is_over_when_the_host_has_memory_for_them() {
    let mut bench = plain();
    bench.handle.ask(3, true).unwrap();
    assert!(bench.array(0, &[3, 2, 1]));
    bench.host.poor.store(true, Ordering::Relaxed);
    assert!(!bench.array(1, &[1]));
    let device = as_device(&mut bench.device);
    device.reset(bench.worker.take());
    assert!(device.is_resetting());
    bench.host.poor.store(false, Ordering::Relaxed);
    assert!(!device.is_resetting());
    // What waited then is gone with its queue.
    assert!(bench.queues[1].used().is_none());
    assert_eq!((bench.handle.view().held, bench.handle.view().owing), (0, false));
}

/// Notes in one list what the driver is told.
struct Order(Arc<Mutex<Vec<&'static str>>>);

impl VirtioInterrupt for Order {
    fn queue_used(&self, _: u16) -> Result<(), InterruptError> {
        self.0.lock().unwrap().push("used");
        Ok(())
    }

    fn config_changed(&self) -> Result<(), InterruptError> {
        self.0.lock().unwrap().push("config");
        Ok(())
    }

    fn queue_call(&self, _: u16) -> Option<EventFd> {
        None
    }
}

#[test]
fn the_host_sweeps_after_arrays_while_it_has_to() {
    let mut bench = plain();
    let armed = |bench: &mut Bench| {
        let sources = bench.worker.as_mut().unwrap().sources();
        let fd = sources.iter().find(|source| source.token == 7).unwrap().fd;
        let mut left = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        left.retain(|c| c != ' ');
        !left.contains("it_value:(0,0)")
    };
    assert!(!armed(&mut bench));
    bench.array(0, &[1, 2]);
    assert!(!armed(&mut bench), "a timer although there is nothing to sweep");
    bench.host.torn.store(true, Ordering::Relaxed);
    bench.array(0, &[3]);
    assert!(armed(&mut bench));
    for (part, torn) in [(false, true), (true, false), (false, false)] {
        bench.host.asked();
        bench.host.part.store(part, Ordering::Relaxed);
        bench.host.torn.store(torn, Ordering::Relaxed);
        bench.worker.as_mut().unwrap().ready(7);
        assert_eq!((bench.host.asked(), armed(&mut bench)), (vec![Asked::Sweep], part || torn));
    }
    // Armed, and then the guest takes back what made it so.
    bench.host.torn.store(true, Ordering::Relaxed);
    bench.array(0, &[4]);
    bench.host.torn.store(false, Ordering::Relaxed);
    bench.array(1, &[4]);
    assert!(!armed(&mut bench));
}

#[test]
fn a_driver_whose_target_is_not_told_is_asked_all_the_same_and_finds_it() {
    let mut bench = plain();
    as_device(&mut bench.device).config_message_changed(None);
    let view = bench.handle.view();
    assert_eq!((view.active, view.ready, view.steering), (true, false, Steering::NoInterrupt));
    bench.handle.ask(3, true).unwrap();
    assert_eq!(bench.config()[..4], 3_u32.to_le_bytes());
    assert!(bench.array(0, &[1, 2, 3]));
    assert_eq!(bench.handle.view().held, 3);
}

#[test]
fn changes_that_nobody_asked_for_are_told() {
    let mut bench = plain();
    let count = Arc::new(AtomicU32::new(0));
    let counts = Arc::clone(&count);
    bench.handle.on_change(Arc::new(move || {
        counts.fetch_add(1, Ordering::Relaxed);
    }));
    let told = || count.swap(0, Ordering::Relaxed);
    bench.handle.ask(3, true).unwrap();
    bench.array(0, &[1, 2, 3]);
    bench.handle.ask(2, true).unwrap();
    bench.array(1, &[3]);
    assert_eq!(told(), 0, "what was asked for");
    bench.array(1, &[2]);
    assert_eq!(told(), 1, "a page that was to stay out");
    as_device(&mut bench.device).config_message_changed(None);
    assert_eq!(told(), 1);
    let worker = bench.worker.take();
    as_device(&mut bench.device).reset(worker);
    assert_eq!(told(), 1);
    let queues: Vec<&TestQueue> = bench.queues.iter().collect();
    let again = activation(&bench.memory, 0, &queues, &bench.interrupt);
    bench.worker = Some(bench.device.activate(again).unwrap());
    assert_eq!(told(), 1);
}

#[test]
fn the_end_of_the_vm_makes_nothing_ready_for_a_guest() {
    let mut bench = plain();
    bench.handle.ask(3, true).unwrap();
    bench.array(0, &[3, 2, 1]);
    bench.host.asked();
    let worker = bench.worker.take();
    as_device(&mut bench.device).end(worker);
    assert_eq!(bench.host.asked(), [Asked::End]);
    assert_eq!(bench.handle.ask(1, true), Err(NotReady::NoDriver));
}

#[test]
fn reported_pages_keep_what_the_driver_fills_them_with_unless_that_is_zeros() {
    let options = || BalloonOptions { reporting: true, ..steered() };
    for (features, poison, poisoned) in [
        (REPORTING, 0xAAAA_AAAA_u32, false),
        (REPORTING | PAGE_POISON, 0, false),
        (REPORTING | PAGE_POISON, 0xAAAA_AAAA, true),
        (REPORTING | PAGE_POISON, 1 << 24, true),
    ] {
        let mut bench = bench(options(), 3, features);
        // As Linux has it, before DRIVER_OK; the first driver left something else.
        let worker = bench.worker.take();
        as_device(&mut bench.device).write_config(12, &[7; 4]);
        as_device(&mut bench.device).reset(worker);
        assert_eq!(bench.config()[12..], [0; 4]);
        as_device(&mut bench.device).write_config(12, &poison.to_le_bytes());
        let queues: Vec<&TestQueue> = bench.queues.iter().collect();
        let again = activation(&bench.memory, features, &queues, &bench.interrupt);
        bench.worker = Some(bench.device.activate(again).unwrap());
        assert_eq!(bench.config()[12..], poison.to_le_bytes());
        bench.host.asked();
        bench.queues[2].add(&[(0x20_0000, 0x20_0000, true)]).unwrap();
        bench.queues[2].kick();
        bench.worker.as_mut().unwrap().ready(3);
        let all = vec![run(0x200, 0x200)];
        let asked = if poisoned { Asked::Poisoned(all) } else { Asked::Reported(all) };
        assert_eq!(bench.host.asked(), [asked], "{features:#x} {poison:#x}");
    }
    // Where nothing is reported there is no such field.
    let mut plain = plain();
    as_device(&mut plain.device).write_config(12, &[1; 4]);
    assert_eq!((&plain.config()[12..], plain.handle.counters().ignored_writes.get()), (&[0; 4][..], 1));
}

#[test]
fn the_driver_is_told_to_turn_round_before_its_array_is_used() {
    let mut bench = plain();
    let order = Arc::new(Mutex::new(Vec::new()));
    let all: Vec<&TestQueue> = bench.queues.iter().collect();
    let mut again = activation(&bench.memory, 0, &all, &bench.interrupt);
    again.interrupt = Arc::new(Order(Arc::clone(&order)));
    bench.worker = Some(bench.device.activate(again).unwrap());
    bench.handle.ask(100, true).unwrap();
    assert!(bench.array(0, &[1000, 5]));
    assert_eq!(*order.lock().unwrap(), ["config", "config", "used"]);
    assert_eq!(bench.host.asked(), [Asked::Begin(false)]);
    assert_eq!(bench.config()[..4], [0; 4]);
}

#[test]
fn reporting_without_statistics_is_queue_2() {
    let options = BalloonOptions { statistics: true, reporting: true, ..steered() };
    let mut bench = bench(options, 3, REPORTING);
    // The worker knows it by another token than that of the queue's number.
    bench.queues[2].add(&[(0x20_1000, 0x20_0000, true), (0x40_0800, 0x1000, true)]).unwrap();
    bench.queues[2].kick();
    bench.worker.as_mut().unwrap().ready(3);
    assert!(bench.queues[2].used().is_some());
    assert_eq!(bench.host.asked(), [Asked::Reported(vec![run(0x201, 0x200)])]);
}

#[test]
fn hints_between_the_number_of_a_round_and_a_stop_count_and_end_it() {
    const HINT: u64 = 1 << 3;
    let options = BalloonOptions { statistics: true, hinting: true, ..steered() };
    let mut bench = bench(options, 3, HINT);
    assert_eq!(as_device(&mut bench.device).queue_sizes().len(), 4);
    bench.handle.begin_hints().unwrap();
    assert_eq!(bench.config()[8..12], 2_u32.to_le_bytes());
    let send = |bench: &mut Bench, buffer: (u64, u32, bool)| {
        bench.queues[2].add(&[buffer]).unwrap();
        bench.queues[2].kick();
        bench.worker.as_mut().unwrap().ready(6);
        assert!(bench.queues[2].used().is_some());
    };
    let block = (0x40_0000, 0x40_0000, true);
    send(&mut bench, block);
    for number in [2_u32, 0] {
        bench.memory.write_slice(&number.to_le_bytes(), GuestAddress(BUFFERS)).unwrap();
        send(&mut bench, (BUFFERS, 4, false));
        send(&mut bench, block);
    }
    assert_eq!(bench.host.asked(), [Asked::Hinting, Asked::Hinted(vec![run(0x400, 0x400)])]);
    assert_eq!((bench.handle.view().hints, &bench.config()[8..12]), (1, &1_u32.to_le_bytes()[..]));
    // Once to begin, once to have the driver take its pages back.
    assert_eq!(bench.interrupt.config.load(Ordering::Relaxed), 2);
    assert_eq!(plain().handle.begin_hints(), Err(NotReady::NoDriver));
}

#[test]
fn the_guests_figures_are_asked_by_using_its_buffer() {
    let options = BalloonOptions { statistics: true, ..steered() };
    let mut bench = bench(options, 3, STATS);
    let mut data = Vec::new();
    for (tag, value) in [(4_u16, 1_000_u64), (10, 3), (99, 5)] {
        data.extend(tag.to_le_bytes());
        data.extend(value.to_le_bytes());
    }
    bench.memory.write_slice(&data, GuestAddress(BUFFERS)).unwrap();
    assert!(!bench.buffer(2, 30, false));
    let guest = bench.handle.view().guest;
    assert_eq!(guest.values, BTreeMap::from([(4, 1_000), (10, 3), (99, 5)]));
    assert_eq!(guest.named().collect::<Vec<_>>(), [("free-memory", 1_000), ("oom-kills", 3)]);
    bench.handle.refresh();
    bench.worker.as_mut().unwrap().ready(4);
    assert!(bench.queues[2].used().is_some());
}

#[test]
fn a_reset_gives_every_page_back_to_the_guest() {
    let mut bench = plain();
    bench.handle.ask(3, true).unwrap();
    bench.array(0, &[3, 2, 1]);
    let worker = bench.worker.take();
    as_device(&mut bench.device).reset(worker);
    assert_eq!(bench.host.asked().last(), Some(&Asked::Forget));
    let view = bench.handle.view();
    assert_eq!((view.ready, view.asked, view.held), (false, 0, 0));
    assert_eq!(bench.handle.ask(1, true), Err(NotReady::NoDriver));
}

#[test]
fn a_driver_without_both_queues_is_refused() {
    let (memory, host) = (memory(), TestHost::new());
    let mut device = Balloon::new(BalloonOptions::default(), host as _, Arc::default()).unwrap();
    let queue = TestQueue::new(&memory, 0, 16);
    let refused = device.activate(activation(&memory, 0, &[&queue], &Arc::default()));
    assert!(matches!(refused, Err(ActivationError::QueueMissing { index: 1, .. })));
}
