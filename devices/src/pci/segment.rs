//! A PCI segment with one bus: its configuration space (PCI Express Base Specification 6.0, 7.2.2) and the window in
//! which its functions' BARs answer. Where both lie is `resources`' arithmetic, what a function does is its own.
//!
//! Every function has a lock of its own, so vCPUs that talk to two functions do not wait for each other. A change of
//! decoding takes the segment's lock first, then that of one function at a time. A vCPU that waits for a function's
//! requests in flight holds neither.

mod state;

use std::any::Any;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use thiserror::Error;

use super::config::{CONFIG_BYTES, touches_decoding};
use super::decode::{self, Decoded, Wish};
use super::function::PciFunction;
use super::host_bridge::HostBridge;
use crate::bus::{ConcurrentBusDevice, SharedDevice, fill_ones};

pub use state::{DecodedBar, FunctionState, SegmentState};

/// Bytes of a segment's configuration space: one bus of 32 devices of 8 functions.
pub const ECAM_BYTES: u64 = 1 << 20;
/// Devices of a bus; the first is the host bridge.
pub const SLOTS: u8 = 32;

const SLOT_COUNT: usize = SLOTS as usize;
/// Bits 19:15 of an ECAM offset are the device, 14:12 the function, 11:0 the register.
const FUNCTION_SHIFT: u32 = 12;
const FUNCTIONS_PER_SLOT: u64 = 8;

/// Why a segment cannot be as asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SegmentError {
    /// The slot does not exist or has a function already.
    #[error("segment {segment}: slot {slot} is taken, must be a free one of 1 to 31")]
    SlotTaken {
        /// The segment.
        segment: u16,
        /// The slot asked for.
        slot: u8,
    },
    /// All slots are taken.
    #[error("segment {segment}: all slots are taken, at most 31 devices fit")]
    Full {
        /// The segment.
        segment: u16,
    },
    /// The window has no room for a BAR.
    #[error(
        "segment {segment}: slot {slot}: no room for a bar of {size:#x} bytes in {first:#x} to {last:#x}"
    )]
    WindowFull {
        /// The segment.
        segment: u16,
        /// The function's slot.
        slot: u8,
        /// Bytes of the BAR.
        size: u64,
        /// First address of the window.
        first: u64,
        /// Last address of the window.
        last: u64,
    },
}

impl SegmentError {
    /// A name for the error that does not change between versions.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::SlotTaken { .. } => "pci_slot_taken",
            Self::Full { .. } => "pci_segment_full",
            Self::WindowFull { .. } => "pci_window_full",
        }
    }
}

/// Between two looks at a function whose requests are in flight.
const LOOK_AGAIN: Duration = Duration::from_micros(200);
/// Looks at a function after a write to one of its BARs: a worker without requests in flight stops within these, so that
/// drivers which do not wait for a reset to be complete mostly need not.
const LOOKS_AFTER_WRITE: u32 = 25;

type Function = Mutex<Box<dyn PciFunction>>;

/// Collects the functions of a segment and gives their BARs addresses, as firmware does.
pub struct PciSegmentBuilder {
    number: u16,
    window: RangeInclusive<u64>,
    /// Others, where a guest may move them.
    more: Vec<RangeInclusive<u64>>,
    functions: [Option<Box<dyn PciFunction>>; SLOT_COUNT],
    /// First address of the window that no BAR has; `None` when the window reaches the end of all addresses.
    free: Option<u64>,
}

impl PciSegmentBuilder {
    /// Segment `number`, whose BARs answer in `window` (guest-physical addresses). It has a host bridge in slot 0.
    #[must_use]
    pub fn new(number: u16, window: RangeInclusive<u64>) -> Self {
        let mut functions = [const { None }; SLOT_COUNT];
        functions[0] = Some(Box::new(HostBridge::new()) as Box<dyn PciFunction>);
        let free = Some(*window.start());
        Self { number, window, more: Vec::new(), functions, free }
    }

    /// BARs answer in `window` too, if the guest moves them there.
    #[must_use]
    pub fn with_window(mut self, window: RangeInclusive<u64>) -> Self {
        self.more.push(window);
        self
    }

    /// Puts `function` in `slot`, or in the first free one, and says which that is.
    ///
    /// # Errors
    /// [`SegmentError`] if there is no such slot or no room; the segment is then unchanged.
    pub fn add(&mut self, slot: Option<u8>, mut function: Box<dyn PciFunction>) -> Result<u8, SegmentError> {
        let slot = self.choose(slot)?;
        let mut free = self.free;
        for bar in function.config().bars().to_vec() {
            let full = SegmentError::WindowFull {
                segment: self.number,
                slot,
                size: bar.size,
                first: *self.window.start(),
                last: *self.window.end(),
            };
            let address = free.and_then(|free| free.checked_next_multiple_of(bar.size));
            let last = address.and_then(|address| address.checked_add(bar.size - 1));
            let (Some(address), Some(last)) = (address, last) else { return Err(full) };
            if last > *self.window.end() {
                return Err(full);
            }
            function.config_mut().place_bar(bar.index, address);
            free = last.checked_add(1);
        }
        self.free = free;
        self.functions[usize::from(slot)] = Some(function);
        Ok(slot)
    }

    fn choose(&self, slot: Option<u8>) -> Result<u8, SegmentError> {
        let free = |slot: u8| self.functions.get(usize::from(slot)).is_some_and(Option::is_none);
        match slot {
            Some(slot) if free(slot) => Ok(slot),
            Some(slot) => Err(SegmentError::SlotTaken { segment: self.number, slot }),
            None => (0..SLOTS).find(|slot| free(*slot)).ok_or(SegmentError::Full { segment: self.number }),
        }
    }

    /// The segment; its functions can be used from here on.
    #[must_use]
    pub fn build(self) -> Arc<PciSegment> {
        let Self { number, window, more, functions, free: _ } = self;
        let windows: Box<[_]> = std::iter::once(window).chain(more).collect();
        let mut wishes = Vec::new();
        for (slot, function) in (0..SLOTS).zip(&functions) {
            let Some(function) = function else { continue };
            wishes.extend(function.config().bars().iter().map(|bar| Wish {
                slot,
                bar: bar.index,
                size: bar.size,
                address: None,
                granted: None,
            }));
        }
        let segment = PciSegment {
            number,
            windows,
            functions: functions.map(|function| function.map(Mutex::new)),
            wishes: Mutex::new(wishes),
            decoded: RwLock::new(Vec::new()),
            ending: AtomicBool::new(false),
        };
        segment.decode_all(&mut lock(&segment.wishes));
        Arc::new(segment)
    }
}

/// A segment. Shared by all vCPU threads.
pub struct PciSegment {
    number: u16,
    windows: Box<[RangeInclusive<u64>]>,
    functions: [Option<Function>; SLOT_COUNT],
    wishes: Mutex<Vec<Wish>>,
    decoded: RwLock<Vec<Decoded>>,
    /// No vCPU waits for requests in flight any more.
    ending: AtomicBool,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PciSegment {
    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Where its BARs may answer, beginning with where they are at first.
    #[must_use]
    pub fn windows(&self) -> &[RangeInclusive<u64>] {
        &self.windows
    }

    /// What answers in the [`ECAM_BYTES`] of configuration space.
    #[must_use]
    pub fn ecam(self: &Arc<Self>) -> SharedDevice {
        Arc::new(Ecam(Arc::clone(self)))
    }

    /// What answers in each of the [windows](Self::windows).
    pub fn bar_windows(self: &Arc<Self>) -> impl Iterator<Item = SharedDevice> + '_ {
        let window = |window: &RangeInclusive<u64>| BarWindow(Arc::clone(self), *window.start());
        self.windows.iter().map(move |range| Arc::new(window(range)) as SharedDevice)
    }

    /// What answers in the first of them.
    #[cfg(any(test, feature = "test-driver"))]
    pub(crate) fn bar_window(self: &Arc<Self>) -> SharedDevice {
        Arc::new(BarWindow(Arc::clone(self), *self.windows[0].start()))
    }

    /// The machine ends: vCPUs that wait for requests in flight go on.
    pub fn release_vcpus(&self) {
        self.ending.store(true, Ordering::Release);
    }

    /// The machine ends: resets all functions. Their workers stop, and their BARs are where they were in the beginning.
    /// Once all of it [is settled](Self::is_settled), nothing of them touches guest memory any more. No vCPU may run
    /// meanwhile, otherwise a guest could start a device again.
    pub fn reset(&self) {
        let mut wishes = lock(&self.wishes);
        for function in self.functions.iter().flatten() {
            lock(function).reset();
        }
        self.decode_all(&mut wishes);
    }

    /// The same where another machine takes over the devices in these `slots`, which are ready for its guest then.
    pub fn reset_for_next(&self, slots: &[u8]) {
        let mut wishes = lock(&self.wishes);
        for (slot, function) in (0..).zip(&self.functions) {
            let Some(function) = function else { continue };
            match slots.contains(&slot) {
                true => lock(function).reset_for_next(),
                false => lock(function).reset(),
            }
        }
        self.decode_all(&mut wishes);
    }

    /// The device in a slot, after [`reset_for_next`](Self::reset_for_next) once all [is settled](Self::is_settled).
    #[must_use]
    pub fn take_device(&self, slot: u8) -> Option<Box<dyn Any + Send>> {
        lock(self.functions.get(usize::from(slot))?.as_ref()?).take_device()
    }

    /// Whether no function waits for requests in flight.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.functions.iter().flatten().all(|function| lock(function).is_settled())
    }

    /// Has all functions that wait for requests in flight cancel what can be cancelled.
    pub fn cancel(&self) {
        self.functions.iter().flatten().for_each(|function| lock(function).cancel());
    }

    /// Leaves requests that do not end to themselves. They keep the memory that they use, which must not be used for
    /// anything else.
    pub fn abandon(&self) {
        self.functions.iter().flatten().for_each(|function| lock(function).abandon());
    }

    /// Waits, with nothing locked, until the function's requests in flight have ended, if it is waiting for any: at most
    /// `looks` times, or as long as the machine runs.
    fn await_requests(&self, function: &Function, looks: Option<u32>) {
        let mut looked = 0;
        while looks.is_none_or(|most| looked < most)
            && !self.ending.load(Ordering::Acquire)
            && !lock(function).is_settled()
        {
            looked += 1;
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn function(&self, offset: u64) -> Option<(u8, u16, &Function)> {
        let register = u16::try_from(offset % (1 << FUNCTION_SHIFT)).ok()?;
        let number = offset >> FUNCTION_SHIFT;
        if !number.is_multiple_of(FUNCTIONS_PER_SLOT) {
            return None;
        }
        let slot = u8::try_from(number / FUNCTIONS_PER_SLOT).ok()?;
        let function = self.functions.get(usize::from(slot))?.as_ref()?;
        Some((slot, register, function))
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        match self.function(offset) {
            Some((_, register, function)) if fits(register, data.len()) => {
                lock(function).config_read(register, data);
            }
            _ => fill_ones(data),
        }
    }

    fn config_write(&self, offset: u64, data: &[u8]) {
        let Some((slot, register, function)) = self.function(offset) else { return };
        if !fits(register, data.len()) {
            return;
        }
        if !touches_decoding(register, data.len()) {
            lock(function).config_write(register, data);
            return;
        }
        let bus_master = {
            let mut wishes = lock(&self.wishes);
            let bus_master = {
                let mut function = lock(function);
                function.config_write(register, data);
                note(&mut wishes, slot, &**function);
                function.config().command().bus_master
            };
            self.decode(&mut wishes);
            bus_master
        };
        // A driver that takes bus mastering away relies on it that memory is not touched any more.
        if !bus_master {
            self.await_requests(function, None);
        }
    }

    fn decode_all(&self, wishes: &mut [Wish]) {
        for (slot, function) in (0..SLOTS).zip(&self.functions) {
            if let Some(function) = function {
                note(wishes, slot, &**lock(function));
            }
        }
        self.decode(wishes);
    }

    /// Brings what answers in line with what the registers ask for. A function hears that a BAR is gone before any
    /// hears that one is there, so no address has two.
    fn decode(&self, wishes: &mut [Wish]) {
        let granted = decode::grant(&self.windows, wishes);
        let changed: Vec<_> = wishes
            .iter_mut()
            .zip(granted)
            .filter(|(wish, granted)| wish.granted != *granted)
            .map(|(wish, granted)| {
                let before = std::mem::replace(&mut wish.granted, granted);
                (*wish, before)
            })
            .collect();
        if changed.is_empty() {
            return;
        }
        let list = decode::decoded(wishes);
        for (wish, before) in &changed {
            if before.is_some() {
                self.tell(wish, None);
            }
        }
        *self.decoded.write().unwrap_or_else(PoisonError::into_inner) = list;
        for (wish, _) in &changed {
            if wish.granted.is_some() {
                self.tell(wish, wish.granted);
            }
        }
    }

    fn tell(&self, wish: &Wish, address: Option<u64>) {
        if let Some(Some(function)) = self.functions.get(usize::from(wish.slot)) {
            lock(function).bar_decoded(wish.bar, address);
        }
    }

    /// The function, BAR and offset that a BAR access hits.
    fn target(&self, address: u64, length: usize) -> Option<(&Function, u8, u64)> {
        let decoded = {
            let list = self.decoded.read().unwrap_or_else(PoisonError::into_inner);
            decode::find(&list, address, u64::try_from(length).ok()?)?
        };
        let function = self.functions.get(usize::from(decoded.slot))?.as_ref()?;
        Some((function, decoded.bar, address - decoded.first))
    }
}

fn fits(register: u16, length: usize) -> bool {
    usize::from(register) + length <= CONFIG_BYTES
}

fn note(wishes: &mut [Wish], slot: u8, function: &dyn PciFunction) {
    for wish in wishes.iter_mut().filter(|wish| wish.slot == slot) {
        wish.address = function.config().bar_address(wish.bar);
    }
}

struct Ecam(Arc<PciSegment>);

impl ConcurrentBusDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.config_read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.config_write(offset, data);
    }
}

/// Of a segment, from an address on.
struct BarWindow(Arc<PciSegment>, u64);

impl BarWindow {
    fn target(&self, offset: u64, length: usize) -> Option<(&Function, u8, u64)> {
        self.0.target(self.1.checked_add(offset)?, length)
    }
}

impl ConcurrentBusDevice for BarWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self.target(offset, data.len()) {
            Some((function, bar, offset)) => lock(function).bar_read(bar, offset, data),
            None => fill_ones(data),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((function, bar, offset)) = self.target(offset, data.len()) {
            let settled = {
                let mut function = lock(function);
                function.bar_write(bar, offset, data);
                function.is_settled()
            };
            if !settled {
                self.0.await_requests(function, Some(LOOKS_AFTER_WRITE));
            }
        }
    }
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
