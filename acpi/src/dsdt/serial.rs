//! The serial port `\_SB.COM1`.
//! Whether the guest uses it as a console is said on its command line.

use crate::platform::Serial;
use acpi_tables::Aml;
use acpi_tables::aml::{Device, EISAName, IO, Interrupt, Name, Path, ResourceTemplate, ZERO};

/// A 16550A-compatible port (PnP device ids, PNP05xx).
const HID: &str = "PNP0501";
/// Registers of a 16550.
const PORTS: u8 = 8;

pub(super) fn push(aml: &mut Vec<u8>, serial: &Serial) {
    let base = serial.io_base.0;
    let ports = IO::new(base, base, 1, PORTS);
    // Consumer, edge, active high, exclusive.
    let interrupt = Interrupt::new(true, true, false, false, serial.irq);
    Device::new(
        Path::new("COM1"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new(HID)),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&ports, &interrupt])),
        ],
    )
    .to_aml_bytes(aml);
}
