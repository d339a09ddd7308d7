//! Device models: what the guest finds at its ports and addresses, register by register.
//!
//! They ask for host effects through traits ([`InterruptLine`], [`MsiRouter`], [`PowerSink`], [`SerialHost`]) and
//! leave KVM, threads, event loops and the choice of addresses to `vmm`, and the tables that announce them to
//! `acpi`.
//!
//! Every part with state that a guest can see saves and restores it: [`state`].
//!
//! Whatever the guest does, a device neither panics nor blocks on it nor logs without bound: it answers as its
//! data sheet says and counts.
#![forbid(unsafe_code)]

mod bus;
mod figures;
mod i8042;
mod interrupt;
mod ioapic;
mod log_limit;
pub mod pci;
mod power;
mod redirection_entry;
mod serial;
mod serial_output;
pub mod state;
pub mod virtio;

#[cfg(test)]
mod testing;

pub use bus::{
    Address, Bus, BusBuilder, BusDevice, BusError, ConcurrentBusDevice, MmioBus, MmioBusBuilder, PioBus,
    PioBusBuilder, SharedDevice, UnclaimedAccesses,
};
pub use figures::{Counter, Figure, FigureKind, Figures, Gauge, SharedCounter};
pub use i8042::{I8042, I8042_COMMAND_PORTS};
pub use interrupt::{InterruptError, InterruptLine, MsiMessage, MsiRouter};
pub use ioapic::{IOAPIC_ADDRESSES, IOAPIC_ID, IOAPIC_PINS, IoApic, IoApicState, PinState};
pub use log_limit::LogLimit;
pub use power::{
    POWER_BUTTON_EVENT, POWER_PORTS, Power, PowerPorts, PowerRequest, PowerSink, PowerState, RESET_VALUE,
    SLEEP_TYPE_S5,
};
pub use serial::{COM1_IRQ, COM1_PORTS, Serial, SerialCounters, SerialHost, SerialState};
