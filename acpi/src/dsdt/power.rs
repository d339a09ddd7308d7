//! The power button `\_SB.PWRB`, the generic event device `\_SB.GED_` that notifies it, and `\_S5_`.
//! The registers that stand behind sleep and reset are in the FADT.

use crate::platform::Power;
use acpi_tables::Aml;
use acpi_tables::aml::{
    And, Device, EISAName, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If, Interrupt,
    Local, Method, Name, Notify, ONE, OpRegion, OpRegionSpace, Package, Path, ResourceTemplate, Store, ZERO,
};

/// `SLP_TYP` of S5, "soft off" (ACPI 6.5, 7.4.2): any number the machine knows again.
pub const SLEEP_TYPE_S5: u8 = 5;
/// What a guest that powers off writes to the sleep control register: `SLP_TYP` from bit 2, `SLP_EN` in bit 5
/// (ACPI 6.5, 4.8.3.7).
pub const POWER_OFF_VALUE: u8 = SLEEP_TYPE_S5 << 2 | 1 << 5;
/// Bit of the event status register: the power button was pressed.
pub const EVENT_POWER_BUTTON: u8 = 1;

/// Control method power button (ACPI 6.5, 4.8.2.2.1.2).
const HID_POWER_BUTTON: &str = "PNP0C0C";
/// Generic event device (ACPI 6.5, 5.6.9).
const HID_GENERIC_EVENT_DEVICE: &str = "ACPI0013";
/// The power button was pressed (ACPI 6.5, 5.6.6).
const NOTIFY_POWER_BUTTON: u8 = 0x80;

pub(super) fn push_devices(aml: &mut Vec<u8>, power: &Power) {
    Device::new(
        Path::new("PWRB"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new(HID_POWER_BUTTON)),
            &Name::new(Path::new("_UID"), &ZERO),
        ],
    )
    .to_aml_bytes(aml);
    push_event_device(aml, power);
}

/// `_EVT` reads the status once, which clears it, and notifies a device for each bit.
fn push_event_device(aml: &mut Vec<u8>, power: &Power) {
    // Consumer, edge, active high, exclusive.
    let interrupt = Interrupt::new(true, true, false, false, power.event_gsi);
    let button = Path::new(r"\_SB_.PWRB");
    Device::new(
        Path::new("GED_"),
        vec![
            &Name::new(Path::new("_HID"), &HID_GENERIC_EVENT_DEVICE),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&interrupt])),
            &OpRegion::new(Path::new("EREG"), OpRegionSpace::SystemIO, &power.event_status.0, &ONE),
            &Field::new(
                Path::new("EREG"),
                FieldAccessType::Byte,
                FieldLockRule::NoLock,
                FieldUpdateRule::WriteAsZeroes,
                vec![FieldEntry::Named(*b"EVST", 8)],
            ),
            &Method::new(
                Path::new("_EVT"),
                1,
                true,
                vec![
                    &Store::new(&Local(0), &Path::new("EVST")),
                    &If::new(
                        &And::new(&ZERO, &Local(0), &EVENT_POWER_BUTTON),
                        vec![&Notify::new(&button, &NOTIFY_POWER_BUTTON)],
                    ),
                ],
            ),
        ],
    )
    .to_aml_bytes(aml);
}

/// `SLP_TYPa` and `SLP_TYPb`; the rest is reserved (ACPI 6.5, 7.4.2).
pub(super) fn push_sleep_states(aml: &mut Vec<u8>) {
    Name::new(Path::new("_S5_"), &Package::new(vec![&SLEEP_TYPE_S5, &ZERO, &ZERO, &ZERO])).to_aml_bytes(aml);
}
