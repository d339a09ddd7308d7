//! A guest that writes whatever it likes, wherever it likes, as the bytes of a fuzzer say; and afterwards a driver within
//! the rules, which must find the device as good as new. Each device has a function here, with a host of its own; the
//! transport's is the device that echoes.
//!
//! Between any two of its steps the device may be held, saved, and restored into a new one on the same host. Neither the
//! guest nor the driver after it may find a difference.
#![expect(clippy::unwrap_used, reason = "a test's own mistakes end the test")]

use std::cell::RefCell;
use std::io::{self, Read};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arbitrary::{Result, Unstructured};
use serde_json::Value;
use vm_memory::{Bytes, GuestAddress};

use super::VirtioDevice;
use super::balloon::test_host::TestHost;
use super::balloon::{Balloon, BalloonHandle, BalloonOptions};
use super::blk::test_disk::{Mischief, SHAPE, TestDisk};
use super::blk::{Blk, BlkHandle, BlkOptions, Serial};
use super::console::Console;
use super::console::test_terminal::TestTerminal;
use super::net::test_tap::{FakeTap, Reply, frame};
use super::net::{Net, NetConfig, NetQueues};
use super::pci::test_echo::Echo;
use super::pci::test_machine::{Machine, VERSION_1, WINDOW, WINDOW_BYTES};
use super::rng::Rng;
use super::test_driver::{BUFFERS, MEMORY_BYTES, QUEUE_BYTES, TestMemory, accesses};
use super::vsock::test_sockets::{FakeSockets, HostEnd};
use super::vsock::{GuestCid, Vsock, VsockCounters};

/// Most steps of one run.
const STEPS: usize = 256;
/// Most accesses to guest memory of one step, whatever the guest says: a round of each queue of the device with the most
/// (the transport's, 5 of 16 Ki units of work, each with a few accesses).
const ACCESSES: u64 = 1 << 19;
/// Descriptors of a chain that is as it should be.
const CHAIN: usize = 6;

const STATUS: u64 = 0x14;
const DRIVER_OK: u8 = 4;
const NEEDS_RESET: u8 = 64;

/// Does something on the host's side of a device.
type Outside<'a> = dyn FnMut(&mut Unstructured<'_>) -> Result<()> + 'a;

/// Makes the device, another one for each restore, always on the same host.
type Make<'a> = dyn FnMut() -> Box<dyn VirtioDevice<TestMemory>> + 'a;

/// What becomes of the device before a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Save {
    /// Nothing.
    No,
    /// It is saved and restored.
    Whole,
    /// The state gets into wrong hands meanwhile, which change one value of it, as this number says.
    Damaged(u64),
}

/// The first entry is for the first step, and after the last one they begin again.
pub type Saves<'a> = &'a [Save];

/// The transport, with the device that echoes.
pub fn transport(bytes: &[u8], saves: Saves<'_>) {
    drive(&mut || Box::new(Echo(Arc::default())), bytes, saves, &mut |_| Ok(()));
}

/// The block device, on a disk of 64 KiB that fails at times.
pub fn blk(bytes: &[u8], saves: Saves<'_>) {
    let disk = TestDisk::new(vec![0x5A; 64 << 10], SHAPE);
    let options = BlkOptions {
        queues: NonZeroU16::new(2).unwrap(),
        serial: Serial::new("HOSTILE").unwrap(),
        ..BlkOptions::default()
    };
    let handle = RefCell::<Option<BlkHandle>>::default();
    let mut make = || -> Box<dyn VirtioDevice<TestMemory>> {
        let device = Blk::<TestMemory>::new(Arc::new(disk.clone()), options).unwrap();
        *handle.borrow_mut() = Some(device.handle());
        Box::new(device)
    };
    drive(&mut make, bytes, saves, &mut |u| {
        disk.set_mischief(
            u.arbitrary()?,
            Mischief { fail: u.int_in_range(0..=8)?, hold: u.int_in_range(0..=8)? },
        );
        if u.arbitrary()? {
            disk.state().length = Ok(u.int_in_range(1..=128)? * 512);
            handle.borrow().as_ref().unwrap().resize(None, || true).unwrap();
        }
        Ok(())
    });
}

/// The network device, with two pairs of queues on an interface that fails at times.
pub fn net(bytes: &[u8], saves: Saves<'_>) {
    let taps = [FakeTap::new(), FakeTap::new()];
    let config = NetConfig { mac: "52:54:00:12:34:56".parse().unwrap(), mtu: None };
    let mut make = || -> Box<dyn VirtioDevice<TestMemory>> {
        let queues = taps.iter().map(|tap| NetQueues { tap: Arc::clone(tap), kernel: None }).collect();
        Box::new(Net::<TestMemory, _>::new(config, queues).unwrap())
    };
    drive(&mut make, bytes, saves, &mut |u| {
        let mut state = taps[u.choose_index(taps.len())?].state.lock().unwrap();
        match u.int_in_range(0..=2)? {
            0 => state.send_script.push_back(*u.choose(&[Reply::Fail(5), Reply::Fail(11), Reply::Short])?),
            1 => state.receive_script.push_back(Reply::Fail(*u.choose(&[5, 11])?)),
            _ => {
                let bytes = frame(1, usize::from(u.arbitrary::<u16>()?));
                state.incoming.push_back(bytes);
            }
        }
        Ok(())
    });
}

/// The socket device, with host processes that come, write, read and go.
pub fn vsock(bytes: &[u8], saves: Saves<'_>) {
    let sockets = FakeSockets::new();
    let counters = RefCell::<Option<Arc<VsockCounters>>>::default();
    let mut make = || -> Box<dyn VirtioDevice<TestMemory>> {
        let device = Vsock::new(GuestCid::new(42).unwrap(), Arc::clone(&sockets));
        *counters.borrow_mut() = Some(device.counters());
        Box::new(device)
    };
    let mut hosts: Vec<HostEnd> = Vec::new();
    drive(&mut make, bytes, saves, &mut |u| {
        hosts.extend(std::iter::from_fn(|| sockets.connected()).map(|(_, host)| host));
        match u.int_in_range(0..=3)? {
            0 => {
                let mut host = sockets.arrive();
                host.write(format!("CONNECT {}\nhello", u.int_in_range(0..=9)?).as_bytes());
                hosts.push(host);
            }
            1 => hosts.truncate(u.choose_index(hosts.len() + 1)?),
            2 => {
                for host in &mut hosts {
                    host.write(b"some data");
                }
            }
            _ => {
                for host in &mut hosts {
                    host.read();
                }
            }
        }
        let connections = counters.borrow().as_ref().unwrap().connections.get();
        assert!(connections <= super::vsock::MAX_CONNECTIONS as u64);
        Ok(())
    });
}

/// The entropy device, with a source that gives nothing at times.
pub fn rng(bytes: &[u8], saves: Saves<'_>) {
    struct Moody(u8);

    impl Read for Moody {
        fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
            self.0 = self.0.wrapping_add(1);
            if self.0.is_multiple_of(7) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            data.fill(self.0);
            Ok(data.len())
        }
    }

    drive(&mut || Box::new(Rng::new(Box::new(Moody(0)), None)), bytes, saves, &mut |_| Ok(()));
}

/// The console, with somebody who comes, types, reads or does not, and goes.
pub fn console(bytes: &[u8], saves: Saves<'_>) {
    let terminal = TestTerminal::new();
    drive(&mut || Box::new(Console::new(Box::new(terminal.clone()))), bytes, saves, &mut |u| {
        let mut desk = terminal.desk();
        match u.int_in_range(0..=5_u8)? {
            0 => desk.comes = true,
            1 => desk.left = desk.here,
            2 => desk.typed.extend(b"ls -l\n"),
            3 => (desk.typed_all, desk.is_locked) = (u.arbitrary()?, u.arbitrary()?),
            4 => desk.room = u.int_in_range(0..=8192)?,
            _ => desk.refuses = u.arbitrary()?,
        }
        desk.read.clear();
        Ok(())
    });
}

/// The balloon, with a controller that asks for this and that.
pub fn balloon(bytes: &[u8], saves: Saves<'_>) {
    let host = TestHost::new();
    let options = BalloonOptions {
        apic_ids: vec![0, 1],
        statistics: true,
        hinting: true,
        reporting: true,
        must_tell: false,
    };
    let handle = RefCell::<Option<BalloonHandle>>::default();
    let mut make = || -> Box<dyn VirtioDevice<TestMemory>> {
        let device = Balloon::new(options.clone(), Arc::clone(&host) as _, Arc::default()).unwrap();
        *handle.borrow_mut() = Some(device.handle());
        Box::new(device)
    };
    // As long as the host has no memory for what the last driver gave, the next one waits.
    let pays = || host.poor.store(false, Ordering::Relaxed);
    drive_until(&mut make, bytes, saves, &pays, &mut |u| {
        let handle = handle.borrow().clone().unwrap();
        // Refused without a driver that can be interrupted.
        let _ = handle.ask(u.int_in_range(0..=2200)?, u.arbitrary()?);
        if u.arbitrary()? {
            let _ = handle.begin_hints();
        }
        host.poor.store(u.arbitrary()?, Ordering::Relaxed);
        host.asked();
        let view = handle.view();
        assert!(view.off_node <= view.held && view.returned <= view.held, "{view:?}");
        Ok(())
    });
}

fn drive(make: &mut Make<'_>, bytes: &[u8], saves: Saves<'_>, outside: &mut Outside<'_>) {
    drive_until(make, bytes, saves, &|| {}, outside);
}

/// The same; the host's side does `last` before a driver within the rules comes.
fn drive_until(
    make: &mut Make<'_>,
    bytes: &[u8],
    saves: Saves<'_>,
    last: &dyn Fn(),
    outside: &mut Outside<'_>,
) {
    let mut driver = HostileDriver::new(make());
    let mut script = Unstructured::new(bytes);
    let mut saves = saves.iter().copied().cycle();
    for _ in 0..STEPS {
        if script.is_empty() {
            break;
        }
        match saves.next().unwrap_or(Save::No) {
            Save::No => {}
            Save::Whole => driver.go_on_with(make()),
            Save::Damaged(how) => driver.go_on_damaged(make(), how),
        }
        if driver.step(&mut script, outside).is_err() {
            break;
        }
    }
    driver.look_everywhere();
    last();
    driver.finds_it_new();
}

struct HostileDriver {
    machine: Machine,
    sizes: Vec<u16>,
    /// What is offered.
    features: u64,
    /// Of each queue, what it made available in order.
    available: Vec<u16>,
}

impl HostileDriver {
    fn new(device: Box<dyn VirtioDevice<TestMemory>>) -> Self {
        let sizes = device.queue_sizes();
        let machine = Machine::of(device);
        machine.enable_interrupts();
        let features = machine.offered();
        let available = vec![0; sizes.len()];
        let mut driver = Self { machine, sizes, features, available };
        driver.bring_up(u64::MAX);
        driver
    }

    /// What the guest does not see: its device is saved, and another one goes on from there.
    fn go_on_with(&mut self, device: Box<dyn VirtioDevice<TestMemory>>) {
        let saved = self.machine.save();
        self.machine = self.machine.successor(device);
        self.machine.restore(&saved);
    }

    /// The same, with a state that may make no sense: the device is as at power-on then, or as the state says.
    fn go_on_damaged(&mut self, device: Box<dyn VirtioDevice<TestMemory>>, how: u64) {
        let mut state: Value = serde_json::from_str(&self.machine.save()).unwrap();
        let leaves = damage(&mut state, &mut u64::MAX.clone(), how);
        damage(&mut state, &mut (how % leaves), how / leaves);
        self.machine = self.machine.successor(device);
        if !self.machine.try_restore(&state.to_string()) {
            // The segment may have functions of both states then.
            self.machine.segment.reset();
        }
        self.machine.segment.resume();
    }

    fn step(&mut self, u: &mut Unstructured<'_>, outside: &mut Outside<'_>) -> Result<()> {
        let before = accesses(&self.machine.memory);
        let done = self.act(u, outside);
        let cost = accesses(&self.machine.memory) - before;
        assert!(cost <= ACCESSES, "{cost} accesses to memory in one step");
        done
    }

    fn act(&mut self, u: &mut Unstructured<'_>, outside: &mut Outside<'_>) -> Result<()> {
        let machine = &self.machine;
        match u.int_in_range(0..=19)? {
            0 => machine.set_config(u.int_in_range(0..=0xAF)?, &data(u)?),
            1 => machine.mmio_write(WINDOW + u.int_in_range(0..=0x5FFF)?, &data(u)?),
            // In the common configuration, with a value that is likely to mean something.
            2 | 3 => {
                let offset: u64 = u.int_in_range(0..=0x3F)?;
                machine.mmio_write(WINDOW + offset, &value(u)?.to_le_bytes()[..width(u)?]);
            }
            4 => self.write(u.int_in_range(0..=MEMORY_BYTES - 9)?, &data(u)?),
            // In the rings.
            5 | 6 => {
                let offset: u64 = u.int_in_range(0..=QUEUE_BYTES * self.sizes.len() as u64)?;
                let value = if u.arbitrary()? { u.int_in_range(0..=19)? } else { u.arbitrary::<u16>()? };
                self.write(offset & !1, &value.to_le_bytes());
            }
            7 => self.bring_up(*u.choose(&[0, u64::MAX, 1 << 28, 1 << 29])? | u.arbitrary::<u64>()? & 0xFF),
            8..=14 => self.chain(u)?,
            15 => self.kick(u.choose_index(self.sizes.len())?),
            16..=18 => machine.spawner.poke(),
            _ => outside(u)?,
        }
        Ok(())
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        self.machine.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    /// A chain as it should be, of pieces here and there, and a kick. One in a table may be without an end or far too
    /// long, of empty pieces, and its table said to be larger than all memory.
    fn chain(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let queue = u.choose_index(self.sizes.len())?;
        let (size, available) = (self.sizes[queue], self.available[queue]);
        let base = queue as u64 * QUEUE_BYTES;
        let head = available.wrapping_mul(4) % size;
        let indirect = u.ratio(1, 8)?;
        let (table, entries, first) = if indirect { (BUFFERS - 0x1000, 255, 0) } else { (base, size, head) };
        let count = u.int_in_range(1..=CHAIN)?;
        let endless = indirect && u.ratio(1, 3)?;
        for i in 0..count {
            let at = (first + u16::try_from(i).unwrap()) % entries;
            let address = BUFFERS + u.int_in_range(0..=0xFFF)? * 16;
            let length = if u.ratio(1, 16)? { u.arbitrary()? } else { u.int_in_range(0..=4096)? };
            let more = i + 1 < count || endless;
            let length = if endless && u.arbitrary()? { 0 } else { length };
            let next = if i + 1 < count { (at + 1) % entries } else { first };
            let flags = u16::from(more) | u16::from(u.arbitrary::<bool>()?) << 1;
            self.describe(table + u64::from(at) * 16, address, length, flags, next);
            let content = u.int_in_range(0..=48)?;
            self.write(address, u.bytes(content.min(u.len()))?);
        }
        if indirect {
            let bytes = if endless { 0xFFFF_FFF0 } else { u32::try_from(count * 16).unwrap() };
            self.describe(base + u64::from(head) * 16, table, bytes, 4, 0);
        }
        self.write(base + 0x1004 + u64::from(available % size) * 2, &head.to_le_bytes());
        self.available[queue] = available.wrapping_add(1);
        self.write(base + 0x1002, &self.available[queue].to_le_bytes());
        self.kick(queue);
        Ok(())
    }

    fn describe(&self, at: u64, address: u64, length: u32, flags: u16, next: u16) {
        self.write(at, &address.to_le_bytes());
        self.write(at + 8, &length.to_le_bytes());
        self.write(at + 12, &flags.to_le_bytes());
        self.write(at + 14, &next.to_le_bytes());
    }

    fn kick(&self, queue: usize) {
        for address in self.machine.events.addresses() {
            self.machine.events.write(address);
        }
        self.machine.mmio_write(WINDOW + 0x3000 + queue as u64 * 4, &[0, 0]);
    }

    /// Resets the device and sets it up, as well as it lets us.
    fn bring_up(&mut self, features: u64) {
        let wanted = (features & self.features) | VERSION_1;
        let common = |offset: u64, bytes: &[u8]| self.machine.mmio_write(WINDOW + offset, bytes);
        common(STATUS, &[0]);
        for (select, half) in [(0_u32, wanted), (1, wanted >> 32)] {
            let [a, b, c, d, ..] = half.to_le_bytes();
            common(8, &select.to_le_bytes());
            common(12, &[a, b, c, d]);
        }
        common(STATUS, &[3]);
        common(STATUS, &[11]);
        for (index, available) in (0_u16..).zip(&mut self.available) {
            let base = u64::from(index) * QUEUE_BYTES;
            self.machine
                .memory
                .write_slice(&vec![0; usize::try_from(QUEUE_BYTES).unwrap()], GuestAddress(base))
                .unwrap();
            *available = 0;
            common(0x16, &index.to_le_bytes());
            common(0x1A, &(index + 1).to_le_bytes());
            common(0x20, &base.to_le_bytes());
            common(0x28, &(base + 0x1000).to_le_bytes());
            common(0x30, &(base + 0x2000).to_le_bytes());
            common(0x1C, &[1, 0]);
        }
        common(STATUS, &[15]);
    }

    /// Reads all there is to read.
    fn look_everywhere(&self) {
        let mut read = [0; 8];
        for offset in (0..WINDOW_BYTES).step_by(0x3FF) {
            self.machine.bars.read(offset.min(WINDOW_BYTES - 8), &mut read);
            self.machine.ecam.read(offset.min(WINDOW_BYTES - 8), &mut read);
        }
    }

    /// After a reset of the machine the device starts as on its first day.
    fn finds_it_new(&mut self) {
        self.machine.segment.reset();
        self.machine.vectors.take();
        self.machine.enable_interrupts();
        assert_eq!(self.machine.mmio_read::<1>(WINDOW + STATUS), [0]);
        self.bring_up(u64::MAX);
        self.machine.spawner.poke();
        let [status] = self.machine.mmio_read(WINDOW + STATUS);
        assert_eq!(status & (DRIVER_OK | NEEDS_RESET), DRIVER_OK, "status {status:#x}");
    }
}

/// Changes leaf `at` of a state, counted from 0; how many there are.
fn damage(state: &mut Value, at: &mut u64, how: u64) -> u64 {
    match state {
        Value::Array(values) if !values.is_empty() => {
            values.iter_mut().map(|value| damage(value, at, how)).sum()
        }
        Value::Object(fields) if !fields.is_empty() => {
            fields.values_mut().map(|value| damage(value, at, how)).sum()
        }
        leaf => {
            if *at == 0 {
                *leaf = other(leaf, how);
            }
            *at = at.wrapping_sub(1);
            1
        }
    }
}

/// Another value in the place of one.
fn other(value: &Value, how: u64) -> Value {
    let bits = how / 8;
    match (how % 8, value) {
        (0, _) => Value::Null,
        (1, _) => Value::from(bits % 70_000),
        (2, _) => Value::from(!bits),
        (3, _) => Value::from(bits.is_multiple_of(2)),
        (4, _) => Value::from("00".repeat(usize::try_from(bits % 40).unwrap())),
        (5, Value::Number(number)) => Value::from(number.as_u64().unwrap_or(0).wrapping_add(bits % 3)),
        (6, Value::Number(number)) => Value::from(number.as_u64().unwrap_or(0) ^ 1 << (bits % 64)),
        (_, Value::Bool(is)) => Value::from(!is),
        (_, Value::Number(number)) => Value::from(number.as_u64().unwrap_or(0).wrapping_sub(1)),
        _ => Value::Array(vec![]),
    }
}

fn width(u: &mut Unstructured<'_>) -> Result<usize> {
    Ok(*u.choose(&[1, 2, 4, 8])?)
}

fn data(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let width = width(u)?;
    Ok(u.arbitrary::<[u8; 8]>()?[..width].to_vec())
}

fn value(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=4)? {
        0 => u.int_in_range(0..=39)?,
        1 => u.arbitrary()?,
        2 => 1 << u.int_in_range(0..=63)?,
        3 => u.int_in_range(0..=MEMORY_BYTES)? & !0xF,
        _ => u64::MAX - u.int_in_range::<u64>(0..=63)?,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::{Save, Saves};

    type Run = fn(&[u8], Saves<'_>);
    const DEVICES: [(&str, Run); 7] = [
        ("transport", super::transport),
        ("blk", super::blk),
        ("net", super::net),
        ("vsock", super::vsock),
        ("rng", super::rng),
        ("console", super::console),
        ("balloon", super::balloon),
    ];

    #[test]
    fn what_fuzzers_found_worth_keeping_harms_nobody() {
        for (name, run) in DEVICES {
            let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(name);
            let mut seeds = 0;
            for entry in std::fs::read_dir(&at).unwrap() {
                let seed = std::fs::read(entry.unwrap().path()).unwrap();
                run(&seed, &[]);
                run(&seed, &[Save::Whole]);
                seeds += 1;
            }
            assert!(seeds > 0, "no seeds for {name}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn nonsense_neither_panics_nor_lasts(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
            for (_, run) in DEVICES {
                run(&bytes, &[]);
            }
        }

    }

    proptest! {
        // Each with some hundred saves.
        #![proptest_config(ProptestConfig::with_cases(100))]
        /// On whichever step it is saved and restored.
        #[test]
        fn a_restored_device_takes_nonsense_as_the_one_before(
            bytes in proptest::collection::vec(any::<u8>(), 0..4000),
            saves in saves(Just(Save::Whole)),
        ) {
            for (_, run) in DEVICES {
                run(&bytes, &saves);
            }
        }

        #[test]
        fn a_state_that_was_tampered_with_harms_nobody(
            bytes in proptest::collection::vec(any::<u8>(), 0..4000),
            saves in saves(any::<u64>().prop_map(Save::Damaged)),
        ) {
            for (_, run) in DEVICES {
                run(&bytes, &saves);
            }
        }
    }

    /// One in five or so.
    fn saves(save: impl Strategy<Value = Save>) -> impl Strategy<Value = Vec<Save>> {
        proptest::collection::vec(prop_oneof![4 => Just(Save::No), 1 => save], 1..64)
    }
}
