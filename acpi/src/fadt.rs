//! FADT of a hardware-reduced machine: power off, reset, and what legacy is not there (ACPI 6.5, 5.2.9).
//! Leaves every device to the DSDT, whose address it carries.

use crate::error::Error;
use crate::platform::{IoPort, Platform};
use crate::tables::{HEADER_LENGTH, encode};

const SIGNATURE: [u8; 4] = *b"FACP";
/// ACPI 6.5, table 5.9: revision 6.5.
const REVISION: u8 = 6;
const MINOR_VERSION: u8 = 5;
/// Length of the whole table (ACPI 6.5, table 5.9).
const LENGTH: usize = 276;

/// Offsets in the table (ACPI 6.5, table 5.9).
const PREFERRED_PM_PROFILE_AT: usize = 45;
const IAPC_BOOT_ARCH_AT: usize = 109;
const FLAGS_AT: usize = 112;
const RESET_REG_AT: usize = 116;
const RESET_VALUE_AT: usize = 128;
const MINOR_VERSION_AT: usize = 131;
const X_DSDT_AT: usize = 140;
const SLEEP_CONTROL_REG_AT: usize = 244;
const SLEEP_STATUS_REG_AT: usize = 256;
const HYPERVISOR_VENDOR_AT: usize = 268;

/// Enterprise server (ACPI 6.5, table 5.9, `Preferred_PM_Profile`).
const PM_PROFILE: u8 = 4;

/// `IAPC_BOOT_ARCH` (ACPI 6.5, table 5.11).
const BOOT_ARCH_8042: u16 = 1 << 1;
const BOOT_ARCH_VGA_NOT_PRESENT: u16 = 1 << 2;
const BOOT_ARCH_CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;

/// Fixed feature flags (ACPI 6.5, table 5.10).
const FLAG_WBINVD: u32 = 1;
/// The power button is not a fixed feature.
const FLAG_PWR_BUTTON: u32 = 1 << 4;
/// There is no fixed sleep button.
const FLAG_SLP_BUTTON: u32 = 1 << 5;
/// There is no wake status of a clock in a fixed register.
const FLAG_FIX_RTC: u32 = 1 << 6;
const FLAG_RESET_REG_SUP: u32 = 1 << 10;
const FLAG_HW_REDUCED_ACPI: u32 = 1 << 20;

/// Generic address structure (ACPI 6.5, table 5.1): I/O space, 8 bits from bit 0, byte access.
const GAS_SYSTEM_IO: u8 = 1;
const GAS_BIT_WIDTH: u8 = 8;
const GAS_BIT_OFFSET: u8 = 0;
const GAS_BYTE_ACCESS: u8 = 1;

/// Hypervisor vendor identity (ACPI 6.5, table 5.9).
const HYPERVISOR_VENDOR: [u8; 8] = *b"NUMAVSOR";

pub(crate) fn build(platform: &Platform, dsdt_address: u64) -> Result<Vec<u8>, Error> {
    let boot_arch = BOOT_ARCH_VGA_NOT_PRESENT
        | BOOT_ARCH_CMOS_RTC_NOT_PRESENT
        | if platform.keyboard_controller { BOOT_ARCH_8042 } else { 0 };
    let flags = FLAG_WBINVD
        | FLAG_PWR_BUTTON
        | FLAG_SLP_BUTTON
        | FLAG_FIX_RTC
        | FLAG_RESET_REG_SUP
        | FLAG_HW_REDUCED_ACPI;
    let mut body = [0; LENGTH - HEADER_LENGTH];
    put(&mut body, PREFERRED_PM_PROFILE_AT, &[PM_PROFILE]);
    put(&mut body, IAPC_BOOT_ARCH_AT, &boot_arch.to_le_bytes());
    put(&mut body, FLAGS_AT, &flags.to_le_bytes());
    put(&mut body, RESET_REG_AT, &register(platform.power.reset));
    put(&mut body, RESET_VALUE_AT, &[platform.power.reset_value]);
    put(&mut body, MINOR_VERSION_AT, &[MINOR_VERSION]);
    put(&mut body, X_DSDT_AT, &dsdt_address.to_le_bytes());
    put(&mut body, SLEEP_CONTROL_REG_AT, &register(platform.power.sleep_control));
    put(&mut body, SLEEP_STATUS_REG_AT, &register(platform.power.sleep_status));
    put(&mut body, HYPERVISOR_VENDOR_AT, &HYPERVISOR_VENDOR);
    encode(SIGNATURE, REVISION, &body)
}

/// `at` is an offset in the table, constants above that all lie within it.
fn put(body: &mut [u8; LENGTH - HEADER_LENGTH], at: usize, bytes: &[u8]) {
    let at = at - HEADER_LENGTH;
    body[at..at + bytes.len()].copy_from_slice(bytes);
}

fn register(port: IoPort) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&[GAS_SYSTEM_IO, GAS_BIT_WIDTH, GAS_BIT_OFFSET, GAS_BYTE_ACCESS]);
    bytes[4..6].copy_from_slice(&port.0.to_le_bytes());
    bytes
}
