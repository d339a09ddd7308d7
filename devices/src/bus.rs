//! The port and memory-mapped I/O buses: from an address to the device that answers there.
//!
//! Which device sits where is decided by `vmm`; what a register means is left to each device.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

use crate::SharedCounter;

/// A device that answers accesses of the guest. Called from vCPU threads, one at a time.
///
/// The bus only passes accesses of 1, 2, 4 or 8 bytes that lie wholly in the registered range; a device that is
/// called otherwise answers all-ones and ignores writes.
pub trait BusDevice: Send {
    /// Fills `data` with what is read `offset` bytes into the device's range, little-endian.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Takes what the guest writes `offset` bytes into the device's range, little-endian.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device that several vCPU threads may access at once; it locks what it must by itself. Otherwise as [`BusDevice`].
pub trait ConcurrentBusDevice: Send + Sync {
    /// Fills `data` with what is read `offset` bytes into the device's range, little-endian.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Takes what the guest writes `offset` bytes into the device's range, little-endian.
    fn write(&self, offset: u64, data: &[u8]);
}

/// One lock around a whole device.
impl<T: BusDevice> ConcurrentBusDevice for Mutex<T> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
    }
}

/// A device as the bus keeps it: mostly an `Arc<Mutex<_>>` of which its owner holds a clone.
pub type SharedDevice = Arc<dyn ConcurrentBusDevice>;

/// An address of a bus: `u16` for ports, `u64` for memory.
pub trait Address: Copy + Ord + Into<u64> {}

impl Address for u16 {}
impl Address for u64 {}

/// The I/O port bus.
pub type PioBus = Bus<u16>;
/// The memory-mapped I/O bus; addresses are guest-physical.
pub type MmioBus = Bus<u64>;
/// Collects the devices of a [`PioBus`].
pub type PioBusBuilder = BusBuilder<u16>;
/// Collects the devices of an [`MmioBus`].
pub type MmioBusBuilder = BusBuilder<u64>;

/// Why a device could not be put on a bus.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BusError {
    /// The range ends before it begins.
    #[error("{device}: the range {first:#x} to {last:#x} is empty")]
    Empty {
        /// Name of the device that was to be registered.
        device: &'static str,
        /// First address asked for.
        first: u64,
        /// Last address asked for.
        last: u64,
    },
    /// Another device already answers at one of the addresses.
    #[error(
        "{device}: {first:#x} to {last:#x} overlaps {other} at {other_first:#x} to {other_last:#x}, \
         an address must have one device"
    )]
    Overlap {
        /// Name of the device that was to be registered.
        device: &'static str,
        /// First address asked for.
        first: u64,
        /// Last address asked for.
        last: u64,
        /// Name of the device that is already there.
        other: &'static str,
        /// Its first address.
        other_first: u64,
        /// Its last address.
        other_last: u64,
    },
}

impl BusError {
    /// A name for the error that does not change between versions.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty { .. } => "bus_range_empty",
            Self::Overlap { .. } => "bus_range_overlap",
        }
    }
}

struct Slot {
    name: &'static str,
    first: u64,
    last: u64,
    device: SharedDevice,
}

/// Collects devices until the bus is complete. Sorted by address, never overlapping.
pub struct BusBuilder<A> {
    slots: Vec<Slot>,
    unclaimed: Arc<UnclaimedAccesses>,
    address: std::marker::PhantomData<A>,
}

impl<A: Address> BusBuilder<A> {
    /// A bus without devices.
    #[must_use]
    pub fn new() -> Self {
        Self::counting_in(Arc::default())
    }

    /// As [`new`](Self::new), but accesses that no device answers are counted in `unclaimed`, which may be other buses' too.
    #[must_use]
    pub fn counting_in(unclaimed: Arc<UnclaimedAccesses>) -> Self {
        Self { slots: Vec::new(), unclaimed, address: std::marker::PhantomData }
    }

    /// Lets `device` answer at `range`. `name` is used in errors only.
    ///
    /// # Errors
    /// [`BusError`] if the range is empty or touches one that is already taken; the bus is then unchanged.
    pub fn register(
        &mut self,
        name: &'static str,
        range: RangeInclusive<A>,
        device: SharedDevice,
    ) -> Result<(), BusError> {
        let (first, last): (u64, u64) = ((*range.start()).into(), (*range.end()).into());
        if first > last {
            return Err(BusError::Empty { device: name, first, last });
        }
        // The first slot that does not end before the new range is the only one that can overlap it.
        let index = self.slots.partition_point(|slot| slot.last < first);
        if let Some(other) = self.slots.get(index).filter(|slot| slot.first <= last) {
            return Err(BusError::Overlap {
                device: name,
                first,
                last,
                other: other.name,
                other_first: other.first,
                other_last: other.last,
            });
        }
        self.slots.insert(index, Slot { name, first, last, device });
        Ok(())
    }

    /// The complete bus; it does not change any more, so vCPU threads share it without a lock.
    #[must_use]
    pub fn build(self) -> Bus<A> {
        Bus { slots: self.slots.into_boxed_slice(), unclaimed: self.unclaimed, address: self.address }
    }
}

impl<A: Address> Default for BusBuilder<A> {
    fn default() -> Self {
        Self::new()
    }
}

/// Accesses that no device answered.
#[derive(Debug, Default)]
pub struct UnclaimedAccesses {
    /// Reads, answered with all-ones.
    pub reads: SharedCounter,
    /// Writes, ignored.
    pub writes: SharedCounter,
}

/// A complete bus. Lookup takes O(log n) in the number of devices and no lock; a [`BusDevice`]'s own lock is held
/// for the length of the access.
///
/// An access belongs to a device only if all its bytes lie in the device's range and it is 1, 2, 4 or 8 bytes
/// long. All others are unclaimed: a read gives all-ones, a write is ignored, both are counted. In particular a
/// string instruction, which KVM may hand over as one exit, has to be split by the caller.
pub struct Bus<A> {
    slots: Box<[Slot]>,
    unclaimed: Arc<UnclaimedAccesses>,
    address: std::marker::PhantomData<A>,
}

impl<A: Address> Bus<A> {
    /// Answers a read of `data.len()` bytes at `address`. Says whether a device answered it.
    pub fn read(&self, address: A, data: &mut [u8]) -> bool {
        let Some((offset, device)) = self.find(address, data.len()) else {
            fill_ones(data);
            self.unclaimed.reads.one();
            return false;
        };
        device.read(offset, data);
        true
    }

    /// Hands a write of `data` at `address` to its device. Says whether there was one.
    pub fn write(&self, address: A, data: &[u8]) -> bool {
        let Some((offset, device)) = self.find(address, data.len()) else {
            self.unclaimed.writes.one();
            return false;
        };
        device.write(offset, data);
        true
    }

    fn find(&self, address: A, length: usize) -> Option<(u64, &SharedDevice)> {
        let length = match length {
            1 | 2 | 4 | 8 => u64::try_from(length).ok()?,
            _ => return None,
        };
        let first: u64 = address.into();
        let last = first.checked_add(length - 1)?;
        let index = self.slots.partition_point(|slot| slot.last < first);
        let slot = self.slots.get(index).filter(|slot| slot.first <= first && last <= slot.last)?;
        Some((first - slot.first, &slot.device))
    }
}

/// What a bus that nobody drives reads as.
pub(crate) fn fill_ones(data: &mut [u8]) {
    data.fill(0xFF);
}

/// Answers a read of 1, 2, 4 or 8 bytes with the low bytes of `value`, any other with all-ones.
pub(crate) fn answer(data: &mut [u8], value: u64) {
    match data.len() {
        1 | 2 | 4 | 8 => data.copy_from_slice(&value.to_le_bytes()[..data.len()]),
        _ => fill_ones(data),
    }
}

/// The value of a write of 1, 2, 4 or 8 bytes, extended with zeros; `None` for any other length.
pub(crate) fn written(data: &[u8]) -> Option<u64> {
    match data.len() {
        1 | 2 | 4 | 8 => {
            let mut bytes = [0; 8];
            bytes[..data.len()].copy_from_slice(data);
            Some(u64::from_le_bytes(bytes))
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "bus_tests.rs"]
mod tests;
