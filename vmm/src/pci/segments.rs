//! The PCI segments of a machine: one per vnode, with the functions that sit there.

use super::{DeviceHandle, Doorbells, HostDevice, NodeSpawner, Vectors};
use crate::interrupts::Routes;
use crate::memory::GuestRam;
use crate::sys::{GuestVm, HostError};
use devices::pci::{
    MECHANISM1_PORTS, Mechanism1, PciSegment, PciSegmentBuilder, SegmentError, WorkerSpawner,
};
use devices::virtio::{VirtioDevice, VirtioPci, VirtioPciError, VirtioPciHost};
use devices::{BusError, MmioBusBuilder, PioBusBuilder};
use resources::pci_map::Window;
use resources::{CpuSet, Plan, VnodeId};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::GuestMemory;

/// How long the end of a machine waits for requests in flight. A guest that has powered off has none.
const REQUESTS_END_WITHIN: Duration = Duration::from_secs(3);
/// And for those that it has cancelled. More than [`crate::disk`] waits, which then leaves them.
const CANCELLED_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks at workers that stop.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Why a device cannot be put on its segment.
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    /// No slot or no room.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// Not as a function.
    #[error(transparent)]
    Function(#[from] VirtioPciError),
    /// No such vnode.
    #[error("device {name}: vnode {vnode} does not exist")]
    NoSuchVnode {
        /// The device.
        name: String,
        /// As asked.
        vnode: VnodeId,
    },
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Segments that take functions.
pub struct SegmentsBuilder {
    routes: Arc<Routes>,
    doorbells: Arc<Doorbells>,
    memory: GuestMemory,
    segments: Vec<PciSegmentBuilder>,
    ecams: Vec<Window>,
    spawners: Vec<Arc<NodeSpawner>>,
    handles: Vec<DeviceHandle>,
    kept: Vec<Kept>,
}

/// A device that outlives the machine.
struct Kept {
    slot: u8,
    handle: DeviceHandle,
}

/// The threads of a machine's devices, by vnode.
#[derive(Clone, Default)]
pub struct DeviceThreads(Arc<[Arc<NodeSpawner>]>);

impl DeviceThreads {
    /// Has the kernel's threads that serve in place of a vnode's devices run where the devices' own do. Reads `/proc`: not
    /// for the control loop.
    pub fn kernel_threads_follow(&self, vnode: VnodeId) {
        if let Some(spawner) = self.0.get(vnode.index()) {
            spawner.kernel_threads_follow();
        }
    }
}

/// The segments of a machine.
pub struct Segments {
    segments: Vec<Arc<PciSegment>>,
    ecams: Vec<Window>,
    threads: DeviceThreads,
    handles: Vec<DeviceHandle>,
    kept: Vec<Kept>,
}

impl SegmentsBuilder {
    /// An empty segment for every vnode.
    pub fn new(plan: &Plan, vm: &Arc<GuestVm>, routes: &Arc<Routes>, ram: &GuestRam) -> Self {
        let mut this = Self {
            routes: Arc::clone(routes),
            doorbells: Arc::new(Doorbells::new(Arc::clone(vm))),
            memory: Arc::new(ram.memory().clone()),
            segments: Vec::new(),
            ecams: Vec::new(),
            spawners: Vec::new(),
            handles: Vec::new(),
            kept: Vec::new(),
        };
        for segment in plan.pci.segments() {
            let number = u16::try_from(segment.vnode.0).unwrap_or(u16::MAX);
            let cpus =
                plan.placement.vnodes.get(segment.vnode.index()).map(|placement| placement.cpus.clone());
            this.segments.push(
                PciSegmentBuilder::new(number, range(segment.mmio64)).with_window(range(segment.mmio32)),
            );
            this.ecams.push(segment.ecam);
            this.spawners.push(Arc::new(NodeSpawner::new(cpus.unwrap_or_default())));
        }
        this
    }

    /// Puts a device on its vnode's segment that [outlives the machine](Segments::take_devices).
    pub fn add_host_device(&mut self, device: HostDevice) -> Result<(), PciError> {
        let handle = device.handle.clone();
        let slot = self.add(device)?;
        self.kept.push(Kept { slot, handle });
        Ok(())
    }

    /// Puts a virtio device on its vnode's segment, and gives its slot.
    pub fn add(&mut self, device: HostDevice) -> Result<u8, PciError> {
        let HostDevice { handle, device } = device;
        let no_such = || PciError::NoSuchVnode { name: handle.name.clone(), vnode: handle.vnode };
        let segment = self.segments.get_mut(handle.vnode.index()).ok_or_else(no_such)?;
        let spawner = self.spawners.get(handle.vnode.index()).ok_or_else(no_such)?;
        let vectors = Vectors::new(&self.routes, VirtioPci::vectors(&*device))?;
        let host = VirtioPciHost {
            vectors: Arc::new(vectors),
            io_events: Arc::clone(&self.doorbells) as _,
            spawner: Arc::clone(spawner) as Arc<dyn WorkerSpawner>,
            counters: Arc::clone(&handle.transport),
        };
        let function = VirtioPci::new(&handle.name, device, Arc::clone(&self.memory), host)?;
        self.handles.push(handle);
        Ok(segment.add(None, Box::new(function))?)
    }

    /// Nothing can be added any more.
    pub fn build(self) -> Segments {
        let Self { segments, ecams, spawners, handles, kept, .. } = self;
        Segments {
            segments: segments.into_iter().map(PciSegmentBuilder::build).collect(),
            ecams,
            threads: DeviceThreads(spawners.into()),
            handles,
            kept,
        }
    }
}

impl Segments {
    /// Has the bus reach their configuration spaces and BARs.
    pub fn register(&self, mmio: &mut MmioBusBuilder) -> Result<(), BusError> {
        for (segment, ecam) in self.segments.iter().zip(&self.ecams) {
            mmio.register("pci configuration", range(*ecam), segment.ecam())?;
            for (window, bars) in segment.windows().iter().zip(segment.bar_windows()) {
                mmio.register("pci bars", window.clone(), bars)?;
            }
        }
        Ok(())
    }

    /// Has ports reach segment 0's configuration space too.
    pub fn register_ports(&self, pio: &mut PioBusBuilder) -> Result<(), BusError> {
        match self.segments.first() {
            Some(segment) => {
                let ports = Arc::new(Mechanism1::new(segment.ecam()));
                pio.register("pci configuration", MECHANISM1_PORTS, ports)
            }
            None => Ok(()),
        }
    }

    /// These, of a machine that has nothing else.
    #[cfg(test)]
    pub fn of(segments: Vec<Arc<PciSegment>>) -> Self {
        Self {
            segments,
            ecams: Vec::new(),
            threads: DeviceThreads::default(),
            handles: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// The machine ends: no vCPU waits for a device any more.
    pub fn release_vcpus(&self) {
        self.segments.iter().for_each(|segment| segment.release_vcpus());
    }

    /// Stops every device: nothing of them touches guest memory afterwards, unless storage hangs. Then this returns all the
    /// same, and the requests that do not end keep the memory that they use. No vCPU may run any more.
    pub fn end(&self) {
        self.end_within(REQUESTS_END_WITHIN, CANCELLED_WITHIN);
    }

    /// Stops every device as [`end`](Self::end) does, and gives those of the host, ready for the guest of another machine,
    /// in the order in which they were added; `None` if requests in flight do not end.
    pub fn take_devices(&self) -> Option<Vec<HostDevice>> {
        for (number, segment) in (0..).zip(&self.segments) {
            let slots: Vec<u8> = self
                .kept
                .iter()
                .filter(|kept| kept.handle.vnode == VnodeId(number))
                .map(|kept| kept.slot)
                .collect();
            segment.reset_for_next(&slots);
        }
        if !self.settle_within(REQUESTS_END_WITHIN) {
            return None;
        }
        let take = |Kept { slot, handle }: &Kept| {
            let device = self.segments.get(handle.vnode.index())?.take_device(*slot)?;
            let device = device.downcast::<Box<dyn VirtioDevice<GuestMemory>>>().ok()?;
            Some(HostDevice { handle: handle.clone(), device: *device })
        };
        self.kept.iter().map(take).collect()
    }

    pub fn end_within(&self, requests: Duration, cancelled: Duration) {
        self.segments.iter().for_each(|segment| segment.reset());
        if self.settle_within(requests) {
            return;
        }
        tracing::warn!("device requests do not complete, cancelling them");
        self.segments.iter().for_each(|segment| segment.cancel());
        if !self.settle_within(cancelled) {
            self.segments.iter().for_each(|segment| segment.abandon());
        }
    }

    fn settle_within(&self, time: Duration) -> bool {
        let start = Instant::now();
        loop {
            // Not `all`: every worker that has stopped is taken back.
            let waiting = self.segments.iter().filter(|segment| !segment.is_settled()).count();
            if waiting == 0 || start.elapsed() > time {
                return waiting == 0;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Has the threads of a vnode's devices, and those that come, run on `cpus`: all, or none.
    pub fn follow(&self, vnode: VnodeId, cpus: &CpuSet) -> Result<(), HostError> {
        self.threads.0.get(vnode.index()).map_or(Ok(()), |spawner| spawner.follow(cpus))
    }

    /// Where they run.
    pub fn cpus(&self, vnode: VnodeId) -> CpuSet {
        self.threads.0.get(vnode.index()).map(|spawner| spawner.cpus()).unwrap_or_default()
    }

    /// Has all devices finish what is in flight and begin nothing. Does not wait for it: see [`active`](Self::active).
    pub fn hold(&self) {
        self.threads.0.iter().for_each(|spawner| spawner.hold());
    }

    /// Devices go on where they were.
    pub fn go_on(&self) {
        self.threads.0.iter().for_each(|spawner| spawner.go_on());
    }

    /// How many threads of devices may still touch guest memory.
    pub fn active(&self) -> usize {
        self.threads.0.iter().map(|spawner| spawner.active()).sum()
    }

    /// Those threads.
    pub fn threads(&self) -> &DeviceThreads {
        &self.threads
    }

    /// The handles of all devices.
    pub fn handles(&self) -> &[DeviceHandle] {
        &self.handles
    }
}

fn range(window: Window) -> RangeInclusive<u64> {
    window.start.0..=window.end().0 - 1
}
