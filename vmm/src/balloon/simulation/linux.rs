//! The balloon driver of Linux 6.1 and 6.12 as far as a device can tell: last in, first out, arrays of at most 256 pages
//! in reverse order of allocation, local node first down to the low watermark, then the others, a retry every 200 ms.

use devices::MsiMessage;
use devices::virtio::balloon::{Balloon, BalloonHandle, BalloonHost, BalloonOptions, PagePlace, PageRun};
use devices::virtio::test_driver::{
    BUFFERS, ReadConfig, TestInterrupt, TestMemory, TestQueue, activation, memory,
};
use devices::virtio::{VirtioDevice, Worker};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress};

/// Pages of an array.
pub const ARRAY: usize = 256;
const RETRY: Duration = Duration::from_millis(200);
/// Runs between DRIVER_OK and the driver's first look at its target.
const LOOKS: u32 = 50;
/// Page numbers of one node.
pub const NODE_PAGES: u32 = 1 << 18;

/// A node of the guest.
pub struct Node {
    pub free: Vec<u32>,
    pub low: usize,
}

impl Node {
    pub fn new(number: u32, free: u32, low: usize) -> Self {
        let first = number * NODE_PAGES;
        // The lowest is taken first.
        Self { free: (first..first + free).rev().collect(), low }
    }
}

/// The host of a balloon on node 0: which pages it has.
#[derive(Default)]
pub struct Pages {
    pub taken: Mutex<BTreeSet<u32>>,
    /// It has no memory to give.
    pub poor: AtomicBool,
}

impl Pages {
    fn each(runs: &[PageRun]) -> impl Iterator<Item = u32> + '_ {
        runs.iter().flat_map(|run| run.first..run.first + run.count)
    }
}

impl BalloonHost for Pages {
    fn place(&self, pfn: u32) -> PagePlace {
        match pfn / NODE_PAGES {
            0 => PagePlace::OnNode,
            1 => PagePlace::OffNode,
            _ => PagePlace::Outside,
        }
    }

    fn take(&self, runs: &[PageRun]) {
        let mut taken = self.taken.lock().unwrap();
        Self::each(runs).for_each(|pfn| assert!(taken.insert(pfn), "page {pfn} taken twice"));
    }

    fn give(&self, runs: &[PageRun]) -> bool {
        if self.poor.load(Ordering::Relaxed) {
            return false;
        }
        let mut taken = self.taken.lock().unwrap();
        Self::each(runs).for_each(|pfn| assert!(taken.remove(&pfn), "page {pfn} given but not taken"));
        true
    }

    fn reported(&self, _: &[PageRun], _: bool) {}

    fn forget(&self) {
        self.taken.lock().unwrap().clear();
    }
}

/// A guest with one balloon, on node 0.
pub struct Linux {
    pub nodes: Vec<Node>,
    pub silent: bool,
    /// It has no use for interrupts and looks for its target as often, as OSv's does.
    pub polls: Option<Duration>,
    pub handle: BalloonHandle,
    pub host: Arc<Pages>,
    device: Balloon,
    list: Vec<u32>,
    memory: TestMemory,
    interrupt: Arc<TestInterrupt>,
    queues: [TestQueue; 2],
    worker: Option<Box<dyn Worker>>,
    interrupts: u64,
    /// What comes meanwhile comes when it is no longer.
    masked: bool,
    runnable_at: Option<Duration>,
    /// Its work runs on a CPU of this node.
    local: usize,
    /// How often it runs after its first look at its target until it has started.
    pub starts: u32,
    /// It starts until it has run as often.
    starting: u32,
    /// An interrupt came meanwhile.
    late: bool,
    /// Sleeps until the buffer on this queue is used.
    sleeping: Option<usize>,
}

fn transport(device: &mut Balloon) -> &mut dyn VirtioDevice<TestMemory> {
    device
}

impl Linux {
    /// A guest whose driver is not loaded.
    pub fn new(nodes: Vec<Node>) -> Self {
        let (memory, host) = (memory(), Arc::<Pages>::default());
        let options = BalloonOptions { apic_ids: vec![0, 1], ..BalloonOptions::default() };
        let device =
            Balloon::new(options, Arc::clone(&host) as Arc<dyn BalloonHost>, Arc::default()).unwrap();
        let queues = [0, 1].map(|index| TestQueue::new(&memory, index, 16));
        Self {
            nodes,
            silent: false,
            polls: None,
            handle: device.handle(),
            host,
            device,
            list: Vec::new(),
            memory,
            interrupt: Arc::default(),
            queues,
            worker: None,
            interrupts: 0,
            masked: false,
            runnable_at: None,
            local: 0,
            starts: 20,
            starting: 0,
            late: false,
            sleeping: None,
        }
    }

    /// Loads the driver, on a CPU of node 1; its interrupt goes to the CPU with this APIC ID.
    pub fn load(&mut self, apic_id: u64) {
        self.queues = [0, 1].map(|index| TestQueue::new(&self.memory, index, 16));
        self.queues.iter().for_each(TestQueue::clear);
        self.steer(apic_id);
        let queues: Vec<&TestQueue> = self.queues.iter().collect();
        let active = activation(&self.memory, 0, &queues, &self.interrupt);
        self.worker = Some(self.device.activate(active).unwrap());
        (self.starting, self.late, self.runnable_at) = (LOOKS + self.starts, false, None);
    }

    /// Its interrupt goes nowhere.
    pub fn mask(&mut self) {
        self.masked = true;
        transport(&mut self.device).config_message_changed(None);
    }

    pub fn steer(&mut self, apic_id: u64) {
        self.masked = false;
        let message = MsiMessage { address: 0xFEE0_0000 | apic_id << 12, data: 0x30 };
        transport(&mut self.device).config_message_changed(Some(message));
    }

    /// Removes the module: it takes everything back, then resets the device.
    pub fn unload(&mut self) {
        while !self.list.is_empty() {
            self.leak(ARRAY);
        }
        let worker = self.worker.take();
        transport(&mut self.device).reset(worker);
        transport(&mut self.device).config_message_changed(None);
    }

    /// The guest is out of memory: 256 pages come back, and nothing else is told.
    pub fn run_out_of_memory(&mut self) {
        self.leak(ARRAY);
        self.write_actual();
    }

    /// Compaction moves the balloon's page at `index` of its list to another one of node `to`.
    pub fn migrate(&mut self, index: usize, to: usize) {
        let new = self.nodes[to].free.pop().unwrap();
        let old = self.list.remove(index);
        self.list.push(new);
        self.send(0, &[new]);
        self.send(1, &[old]);
        self.free(old);
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Runs the driver's work: an array at most.
    pub fn run(&mut self, now: Duration) {
        let interrupts = self.interrupt.config.load(Ordering::Relaxed);
        let interrupted = !self.masked && std::mem::replace(&mut self.interrupts, interrupts) != interrupts;
        if self.starting > 0 && !self.silent {
            self.starting -= 1;
            // `virtballoon_probe`, and `virtio_config_enable` after it with what came until then: both on the CPU that
            // loads the module.
            self.late |= interrupted;
            let looks = self.starting == self.starts && self.target() > 0;
            if looks || (self.starting == 0 && self.late) {
                self.wake(now, 1);
            }
        } else if interrupted && self.polls.is_none() {
            self.wake(now, 0);
        }
        if let (Some(every), None) = (self.polls, self.runnable_at) {
            self.runnable_at = Some(now + every);
        }
        let due = self.runnable_at.is_some_and(|at| at <= now);
        if self.silent || self.worker.is_none() || !due || self.sleeps() {
            return;
        }
        self.runnable_at = None;
        let target = usize::try_from(self.target()).unwrap();
        let came = if target > self.list.len() {
            self.fill(target - self.list.len())
        } else {
            self.leak(self.list.len() - target)
        };
        self.write_actual();
        if usize::try_from(self.target()).unwrap() != self.list.len() {
            self.runnable_at = Some(if came { now } else { now + RETRY });
        }
    }

    /// `queue_work`: where it is called, unless it waits already.
    fn wake(&mut self, now: Duration, local: usize) {
        if self.runnable_at.is_none() {
            (self.runnable_at, self.local) = (Some(now), local);
        }
    }

    fn target(&mut self) -> u32 {
        let mut data = [0; 4];
        transport(&mut self.device).read_config(0, &mut data);
        u32::from_le_bytes(data)
    }

    fn write_actual(&mut self) {
        let actual = u32::try_from(self.list.len()).unwrap();
        transport(&mut self.device).write_config(4, &actual.to_le_bytes());
    }

    fn allocate(&mut self) -> Option<u32> {
        let (others, own) = self.nodes.split_at_mut(self.local);
        let mut nodes = own.iter_mut().chain(others);
        nodes.find(|node| node.free.len() > node.low).and_then(|node| node.free.pop())
    }

    fn free(&mut self, pfn: u32) {
        self.nodes[usize::try_from(pfn / NODE_PAGES).unwrap()].free.push(pfn);
    }

    /// `fill_balloon`.
    fn fill(&mut self, pages: usize) -> bool {
        let mut array = Vec::new();
        while array.len() < pages.min(ARRAY) {
            let Some(page) = self.allocate() else { break };
            array.push(page);
        }
        array.reverse();
        self.list.extend(&array);
        if !array.is_empty() {
            self.send(0, &array);
        }
        !array.is_empty()
    }

    /// `leak_balloon`.
    fn leak(&mut self, pages: usize) -> bool {
        let keep = self.list.len() - pages.min(ARRAY).min(self.list.len());
        let array: Vec<u32> = self.list.drain(keep..).rev().collect();
        if !array.is_empty() {
            self.send(1, &array);
        }
        array.iter().for_each(|pfn| self.free(*pfn));
        !array.is_empty()
    }

    /// `tell_host`: sleeps until the buffer is used.
    fn send(&mut self, index: usize, pfns: &[u32]) {
        let bytes: Vec<u8> = pfns.iter().flat_map(|pfn| pfn.to_le_bytes()).collect();
        self.memory.write_slice(&bytes, GuestAddress(BUFFERS)).unwrap();
        let queue = &mut self.queues[index];
        queue.add(&[(BUFFERS, u32::try_from(bytes.len()).unwrap(), false)]).unwrap();
        queue.kick();
        self.worker.as_mut().unwrap().ready(u32::try_from(index).unwrap());
        self.sleeping = Some(index);
        assert!(!self.sleeps() || self.handle.view().owing, "the driver sleeps for ever");
    }

    fn sleeps(&mut self) -> bool {
        let Some(index) = self.sleeping else { return false };
        let mut used = self.queues[index].used().is_some();
        if !used && self.handle.view().owing {
            // As its timer would have it.
            self.worker.as_mut().unwrap().ready(1);
            used = self.queues[index].used().is_some();
        }
        self.sleeping = Some(index).filter(|_| !used);
        !used
    }
}
