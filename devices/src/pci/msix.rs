//! MSI-X (PCI Express Base Specification 6.0, 6.1.4 and 7.7.2): the table and the pending bits, and when a vector is
//! sent. Who carries the messages is the host's business ([`MsixVectors`]).
//!
//! Every vector has a lock of its own, held for moments and inside of the function's: workers trigger without the
//! function's lock, and not waiting for each other's vectors.

mod state;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::host::MsixVectors;
use crate::bus::fill_ones;
use crate::interrupt::{InterruptError, MsiMessage};

pub use state::{MsixState, VectorState};

/// The capability's ID (PCI Code and ID Assignment Specification 1.16, 2).
pub const MSIX_CAPABILITY: u8 = 0x11;
/// Most vectors of a function.
pub const MSIX_VECTORS_MAX: u16 = 2048;

const ENTRY_BYTES: u64 = 16;
const ENTRY_SIZE: usize = 16;
/// Message control, in the high byte: MSI-X enable and function mask.
const CONTROL_HIGH_ENABLE: u8 = 1 << 7;
const CONTROL_HIGH_MASK: u8 = 1 << 6;
/// Vector control: the vector is masked.
const VECTOR_MASKED: u32 = 1;
/// Messages to other addresses are memory writes, which no interrupt controller sees (Intel SDM volume 3, "Message
/// Address Register Format").
const INTERRUPT_ADDRESSES: u64 = 0xFEE;
const INTERRUPT_ADDRESS_SHIFT: u32 = 20;
/// Bits 1:0 of the address are reserved.
const ADDRESS_RESERVED: u64 = 0b11;

/// What the function as a whole lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// MSI-X is off: what is triggered is lost.
    Off,
    /// The function is masked, or may not write to memory: what is triggered becomes pending.
    Held,
    /// Each vector decides.
    Open,
}

#[derive(Debug)]
struct Vector {
    message: MsiMessage,
    masked: bool,
    pending: bool,
    gate: Gate,
    /// What the host knows.
    sent: Option<MsiMessage>,
}

impl Vector {
    const RESET: Self = Self {
        message: MsiMessage { address: 0, data: 0 },
        masked: true,
        pending: false,
        gate: Gate::Off,
        sent: None,
    };

    fn live(&self) -> Option<MsiMessage> {
        let interrupt = self.message.address >> INTERRUPT_ADDRESS_SHIFT == INTERRUPT_ADDRESSES;
        (self.gate == Gate::Open && !self.masked && interrupt).then_some(self.message)
    }

    fn bytes(&self) -> [u8; ENTRY_SIZE] {
        let control = if self.masked { VECTOR_MASKED } else { 0 };
        let low = u128::from(self.message.address) | u128::from(self.message.data) << 64;
        (low | u128::from(control) << 96).to_le_bytes()
    }

    fn set_bytes(&mut self, bytes: [u8; ENTRY_SIZE]) {
        let [a0, a1, a2, a3, a4, a5, a6, a7, d0, d1, d2, d3, control, ..] = bytes;
        let address = u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
        self.message =
            MsiMessage { address: address & !ADDRESS_RESERVED, data: u32::from_le_bytes([d0, d1, d2, d3]) };
        self.masked = u32::from(control) & VECTOR_MASKED != 0;
    }
}

/// The MSI-X vectors of one function. All are masked in the beginning.
pub struct Msix {
    vectors: Box<[Mutex<Vector>]>,
    host: Arc<dyn MsixVectors>,
    enabled: AtomicBool,
    /// The host refused to route or to send.
    failures: AtomicU64,
}

impl Msix {
    /// `count` vectors, at most [`MSIX_VECTORS_MAX`].
    #[must_use]
    pub fn new(count: u16, host: Arc<dyn MsixVectors>) -> Self {
        let count = count.clamp(1, MSIX_VECTORS_MAX);
        Self {
            vectors: (0..count).map(|_| Mutex::new(Vector::RESET)).collect(),
            host,
            enabled: AtomicBool::new(false),
            failures: AtomicU64::new(0),
        }
    }

    /// How many vectors there are.
    #[must_use]
    pub fn count(&self) -> u16 {
        u16::try_from(self.vectors.len()).unwrap_or(MSIX_VECTORS_MAX)
    }

    /// Bytes of a BAR that has the table and behind it the pending bits.
    #[must_use]
    pub fn bar_bytes(&self) -> u64 {
        (self.pba_offset() + self.pba_bytes()).next_power_of_two().max(1 << 12)
    }

    /// Where in that BAR the pending bits begin.
    fn pba_offset(&self) -> u64 {
        u64::from(self.count()) * ENTRY_BYTES
    }

    fn pba_bytes(&self) -> u64 {
        u64::from(self.count()).div_ceil(64) * 8
    }

    /// The body of the capability, with table and pending bits in BAR `bar`, and the bits of it that the guest may
    /// change.
    #[must_use]
    pub fn capability(&self, bar: u8) -> ([u8; 10], [u8; 10]) {
        let [size0, size1] = (self.count() - 1).to_le_bytes();
        let table = u32::from(bar).to_le_bytes();
        let pba = u32::try_from(self.pba_offset()).unwrap_or(0) | u32::from(bar);
        let mut body = [0; 10];
        body[0] = size0;
        body[1] = size1;
        body[2..6].copy_from_slice(&table);
        body[6..].copy_from_slice(&pba.to_le_bytes());
        let mut writable = [0; 10];
        writable[1] = CONTROL_HIGH_ENABLE | CONTROL_HIGH_MASK;
        (body, writable)
    }

    /// Takes what now allows or forbids vectors: the message control register and the bus master bit.
    pub fn set_control(&self, control: u16, bus_master: bool) {
        let [_, high] = control.to_le_bytes();
        let enabled = high & CONTROL_HIGH_ENABLE != 0;
        let gate = match (enabled, high & CONTROL_HIGH_MASK != 0 || !bus_master) {
            (false, _) => Gate::Off,
            (true, true) => Gate::Held,
            (true, false) => Gate::Open,
        };
        self.enabled.store(enabled, Ordering::Relaxed);
        for (number, vector) in (0..).zip(&self.vectors) {
            let mut vector = lock(vector);
            vector.pending &= gate != Gate::Off;
            if vector.gate != gate {
                vector.gate = gate;
                self.apply(number, &mut vector);
            }
        }
    }

    /// Whether MSI-X is on.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// Answers a read of the BAR, of any width.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        fill_ones(data);
        for (byte, offset) in data.iter_mut().zip(offset..) {
            *byte = match self.entry(offset) {
                Some((_, vector, position)) => lock(vector).bytes()[position],
                None => self.pending_byte(offset),
            };
        }
    }

    /// Takes a write to the BAR, of any width: an entry takes all of its bytes at once. Pending bits are read-only.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let (mut offset, mut data) = (offset, data);
        while let Some((number, vector, position)) = self.entry(offset) {
            let length = data.len().min(ENTRY_SIZE - position);
            let (now, later) = data.split_at(length);
            if now.is_empty() {
                return;
            }
            let mut vector = lock(vector);
            let mut bytes = vector.bytes();
            bytes[position..position + length].copy_from_slice(now);
            vector.set_bytes(bytes);
            self.apply(number, &mut vector);
            data = later;
            offset += u64::try_from(length).unwrap_or(ENTRY_BYTES);
        }
    }

    /// Sends `vector`, or leaves it pending while masked. Without such a vector, or with MSI-X off, nothing happens.
    ///
    /// # Errors
    /// [`InterruptError`] if the host refused.
    pub fn trigger(&self, vector: u16) -> Result<(), InterruptError> {
        let Some(entry) = self.vectors.get(usize::from(vector)) else { return Ok(()) };
        let mut entry = lock(entry);
        match (entry.gate, entry.sent) {
            (Gate::Off, _) => Ok(()),
            (Gate::Open, Some(_)) => self.host.trigger(vector).inspect_err(|_| self.count_failure()),
            (Gate::Open | Gate::Held, _) => {
                // An unmasked vector whose address is no interrupt's goes nowhere, now or later.
                entry.pending |= entry.masked || entry.gate == Gate::Held || entry.live().is_some();
                Ok(())
            }
        }
    }

    /// What `vector` sends now; `None` while it is masked or off.
    #[must_use]
    pub fn message(&self, vector: u16) -> Option<MsiMessage> {
        lock(self.vectors.get(usize::from(vector))?).sent
    }

    /// An eventfd that raises `vector` without going through here.
    #[must_use]
    pub fn eventfd(&self, vector: u16) -> Option<EventFd> {
        self.vectors.get(usize::from(vector))?;
        self.host.eventfd(vector)
    }

    /// How often the host refused to route or to send.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Tells the host what changed, and sends what was waiting.
    fn apply(&self, number: u16, vector: &mut Vector) {
        let live = vector.live();
        if live != vector.sent {
            match self.host.set(number, live) {
                Ok(()) => vector.sent = live,
                // The old route is still in force, so what is sent would go to the wrong place.
                Err(_) => {
                    self.count_failure();
                    vector.sent = None;
                }
            }
        }
        if vector.sent.is_some() && std::mem::take(&mut vector.pending) && self.host.trigger(number).is_err()
        {
            self.count_failure();
        }
    }

    fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    fn entry(&self, offset: u64) -> Option<(u16, &Mutex<Vector>, usize)> {
        let number = u16::try_from(offset / ENTRY_BYTES).ok()?;
        let vector = self.vectors.get(usize::from(number))?;
        Some((number, vector, usize::try_from(offset % ENTRY_BYTES).ok()?))
    }

    fn pending_byte(&self, offset: u64) -> u8 {
        let Some(byte) = offset.checked_sub(self.pba_offset()) else { return 0 };
        let Ok(first) = usize::try_from(byte * 8) else { return 0 };
        let vectors = self.vectors.iter().skip(first).take(8);
        vectors.zip(0_u32..).fold(0, |bits, (vector, bit)| bits | u8::from(lock(vector).pending) << bit)
    }
}

fn lock(vector: &Mutex<Vector>) -> MutexGuard<'_, Vector> {
    vector.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "msix_tests.rs"]
mod tests;
