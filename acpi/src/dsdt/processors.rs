//! Processor devices: `\_SB.C000` and so on, with the uid that MADT has and their proximity domain.
//! Power management states are the hypervisor's business and not told.

use super::{Proximity, numbered_name};
use crate::platform::Processor;
use acpi_tables::Aml;
use acpi_tables::aml::{Device, Name, Path, ZERO};

/// Processor device (ACPI 6.5, 8.4).
const HID: &str = "ACPI0007";

pub(super) fn push(aml: &mut Vec<u8>, processors: &[Processor]) {
    for (index, processor) in processors.iter().enumerate() {
        let hid = Name::new(Path::new("_HID"), &HID);
        let uid = Name::new(Path::new("_UID"), &processor.uid);
        let proximity = Proximity(processor.domain);
        let absent = Name::new(Path::new("_STA"), &ZERO);
        let mut children: Vec<&dyn Aml> = vec![&hid, &uid, &proximity];
        // Without `_STA` a device is present and works (ACPI 6.5, 6.3.7).
        if !processor.present {
            children.push(&absent);
        }
        Device::new(numbered_name('C', index), children).to_aml_bytes(aml);
    }
}
