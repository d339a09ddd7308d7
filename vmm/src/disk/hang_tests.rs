//! Storage that hangs: a read that never ends, and a driver, other devices and the end of the machine that do not wait
//! for it.

use super::engine::Engine;
use super::helpers::{Call, Calls, Files, Helpers};
use super::lock::LockedFile;
use super::transfer::IoContext;
use crate::pci::{NodeSpawner, Segments};
use crate::sys::{IoVec, Ring};
use devices::pci::{IoEvents, MsixVectors, PciSegmentBuilder};
use devices::virtio::blk::{Blk, BlkHandle, BlkOptions, Disk, DiskBackend, DiskEngine, DiskShape};
use devices::virtio::test_driver::{BUFFERS, MEMORY_BYTES, TestMemory, TestQueue, memory};
use devices::virtio::{VirtioPci, VirtioPciHost};
use devices::{InterruptError, MsiMessage, SharedDevice};
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

const WINDOW: u64 = 0x80_0000_0000;
const SECTORS: u64 = 64;
/// The registers of slot 1, behind those of the host bridge.
const SLOT: u64 = 1 << 15;
const COMMAND: u64 = 4;
const STATUS: u64 = 0x14;
const READY: u8 = 0xF;

/// A disk whose reads do not end: of a pipe, which can be cancelled, or in helper threads, which cannot.
enum Hung {
    Pipe(Arc<LockedFile>),
    Threads(Arc<Helpers>),
}

/// Storage that never answers.
struct Nowhere;

impl Calls for Nowhere {
    fn call(&self, _: Call, _: Option<&IoVec>) -> io::Result<usize> {
        loop {
            std::thread::park();
        }
    }
}

impl Disk for Hung {
    fn shape(&self) -> DiskShape {
        DiskShape {
            read_only: true,
            logical_block: 512,
            physical_block: 512,
            alignment: 0,
            minimum_io: 0,
            optimal_io: 0,
            discard: None,
        }
    }

    fn length(&self) -> io::Result<u64> {
        Ok(SECTORS * 512)
    }

    fn name(&self) -> String {
        "hung".into()
    }
}

impl DiskBackend<TestMemory> for Hung {
    /// Nobody looks at what is read, so memory of the same addresses does.
    fn engine(&self, _: &TestMemory, depth: u16) -> Box<dyn DiskEngine> {
        let range = [(GuestAddress(0), usize::try_from(MEMORY_BYTES).unwrap())];
        let memory: Arc<GuestMemoryMmap> = Arc::new(GuestMemoryMmap::from_ranges(&range).unwrap());
        let context = IoContext {
            memory,
            direct: None,
            device_block: None,
            length: Arc::default(),
            order: None,
            spare: RefCell::default(),
        };
        let (ring, helpers) = match self {
            Self::Pipe(locked) => {
                let files = Files { locked: Arc::clone(locked), buffered: None };
                (Some(Ring::new(locked.file(), depth).unwrap()), Arc::new(Helpers::new(files)))
            }
            Self::Threads(helpers) => (None, Arc::clone(helpers)),
        };
        Box::new(Engine::new("hung".into(), context, ring, helpers, depth).unwrap())
    }
}

struct Host;

impl MsixVectors for Host {
    fn set(&self, _: u16, _: Option<MsiMessage>) -> Result<(), InterruptError> {
        Ok(())
    }

    fn trigger(&self, _: u16) -> Result<(), InterruptError> {
        Ok(())
    }

    fn eventfd(&self, _: u16) -> Option<EventFd> {
        None
    }
}

impl IoEvents for Host {
    fn register(&self, _: u64, _: &EventFd) -> io::Result<()> {
        Ok(())
    }

    fn unregister(&self, _: u64, _: &EventFd) -> io::Result<()> {
        Ok(())
    }
}

/// A machine with a disk, and its driver.
struct Machine {
    segments: Segments,
    ecam: SharedDevice,
    bars: SharedDevice,
    queue: TestQueue,
    disk: BlkHandle,
}

impl Machine {
    /// On a pipe; `None` without io_uring.
    fn on_pipe() -> Option<(Self, io::PipeWriter)> {
        let (reader, writer) = io::pipe().unwrap();
        let locked = LockedFile::new(File::from(OwnedFd::from(reader)), true).unwrap().unwrap();
        if let Err(error) = Ring::new(locked.file(), 1) {
            eprintln!("skipped: no io_uring here: {error}");
            return None;
        }
        Some((Self::new(Hung::Pipe(Arc::new(locked))), writer))
    }

    fn new(disk: Hung) -> Self {
        let memory = memory();
        let device = Blk::new(Arc::new(disk), BlkOptions::default()).unwrap();
        let disk = device.handle();
        let host = VirtioPciHost {
            vectors: Arc::new(Host),
            io_events: Arc::new(Host),
            spawner: Arc::new(NodeSpawner::new("0".parse().unwrap())),
            counters: Arc::default(),
        };
        let function = VirtioPci::new("blk0", Box::new(device), Arc::clone(&memory), host).unwrap();
        let mut builder = PciSegmentBuilder::new(0, WINDOW..=WINDOW + 0xFFFF_FFFF);
        assert_eq!(builder.add(None, Box::new(function)).unwrap(), 1);
        let segment = builder.build();
        let queue = TestQueue::new(&memory, 0, 16);
        let (ecam, bars) = (segment.ecam(), segment.bar_windows().next().unwrap());
        memory.write_slice(&[0; 16], GuestAddress(BUFFERS)).unwrap();
        Self { segments: Segments::of(vec![segment]), ecam, bars, queue, disk }
    }

    fn write(&self, register: u64, data: &[u8]) {
        let mut bar = [0; 8];
        self.ecam.read(SLOT + 0x10, &mut bar[..4]);
        self.ecam.read(SLOT + 0x14, &mut bar[4..]);
        self.bars.write((u64::from_le_bytes(bar) & !0xF) - WINDOW + register, data);
    }

    fn status(&self) -> u8 {
        let (mut bar, mut status) = ([0; 8], [0]);
        self.ecam.read(SLOT + 0x10, &mut bar[..4]);
        self.ecam.read(SLOT + 0x14, &mut bar[4..]);
        self.bars.read((u64::from_le_bytes(bar) & !0xF) - WINDOW + STATUS, &mut status);
        status[0]
    }

    /// Up to DRIVER_OK, with a read of the first sector that does not end.
    fn start_reading(&mut self) {
        self.ecam.write(SLOT + COMMAND, &[6, 0]);
        for status in [1, 3] {
            self.write(STATUS, &[status]);
        }
        // VIRTIO_F_VERSION_1.
        self.write(0x08, &1_u32.to_le_bytes());
        self.write(0x0C, &1_u32.to_le_bytes());
        self.write(STATUS, &[0xB]);
        self.write(0x18, &self.queue.size.to_le_bytes());
        for (register, address) in [
            (0x20, self.queue.descriptors()),
            (0x28, self.queue.available_ring()),
            (0x30, self.queue.used_ring()),
        ] {
            self.write(register, &address.to_le_bytes());
        }
        self.write(0x1C, &[1, 0]);
        self.write(STATUS, &[READY]);
        assert_eq!(self.status(), READY);
        self.queue.add(&[(BUFFERS, 16, false), (BUFFERS + 0x1000, 513, true)]).unwrap();
        self.write(0x3000, &[0, 0]);
        while self.disk.counters().batches.get() == 0 {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_driver_that_resets_a_disk_whose_storage_hangs_reads_0_when_it_answers() {
    let Some((mut machine, mut writer)) = Machine::on_pipe() else { return };
    machine.start_reading();
    machine.write(STATUS, &[0]);
    machine.ecam.write(COMMAND, &[2, 0]);
    assert_eq!(machine.status(), READY);
    writer.write_all(&[7; 512]).unwrap();
    while machine.status() != 0 {
        std::thread::yield_now();
    }
    assert!(machine.queue.used().is_some(), "before the status was 0");
}

/// A vCPU waits, the machine ends.
fn end(machine: &Machine) {
    std::thread::scope(|scope| {
        let vcpu = scope.spawn(|| machine.ecam.write(SLOT + COMMAND, &[2, 0]));
        machine.segments.release_vcpus();
        vcpu.join().unwrap();
    });
    machine.segments.end_within(Duration::ZERO, Duration::from_secs(60));
    assert_eq!(machine.status(), 0, "reset");
}

#[test]
fn a_machine_ends_although_storage_hangs() {
    let Some((mut machine, _writer)) = Machine::on_pipe() else { return };
    machine.start_reading();
    end(&machine);
    assert_eq!(machine.disk.counters().host_errors.get(), 1, "cancelled, and not left to itself");
}

#[test]
fn a_machine_ends_although_requests_cannot_even_be_cancelled() {
    let mut machine = Machine::new(Hung::Threads(Arc::new(Helpers::new(Nowhere))));
    machine.start_reading();
    end(&machine);
    assert_eq!(machine.disk.counters().host_errors.get(), 0, "it has not ended");
}
