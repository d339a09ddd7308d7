//! DSDT, the devices of the machine as AML: processors, serial port, power button, events, PCI host bridges.
//! Each device's words are in a module below; where it is, is in the platform.

mod pci;
mod power;
mod processors;
mod serial;

pub(crate) use pci::{MAX_BRIDGES, ecam_range};
pub use power::{EVENT_POWER_BUTTON, POWER_OFF_VALUE, SLEEP_TYPE_S5};

use crate::error::Error;
use crate::platform::{Platform, ProximityDomain};
use crate::tables::encode;
use acpi_tables::aml::{Method, Path, Return, Scope};
use acpi_tables::{Aml, AmlSink};

const SIGNATURE: [u8; 4] = *b"DSDT";
/// From 2 on AML integers have 64 bits (ACPI 6.5, table 5.16).
const REVISION: u8 = 2;

pub(crate) fn build(platform: &Platform) -> Result<Vec<u8>, Error> {
    let mut devices = Vec::new();
    processors::push(&mut devices, &platform.processors);
    if let Some(serial) = &platform.serial {
        serial::push(&mut devices, serial);
    }
    power::push_devices(&mut devices, &platform.power);
    pci::push(&mut devices, &platform.pci);
    let mut body = Scope::raw(Path::new("_SB_"), devices);
    power::push_sleep_states(&mut body);
    encode(SIGNATURE, REVISION, &body)
}

/// A device's `_PXM` as a method: Linux evaluates it again at each hot-add, so one day it may read a register.
struct Proximity(ProximityDomain);

impl Aml for Proximity {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        Method::new(Path::new("_PXM"), 0, false, vec![&Return::new(&self.0.0)]).to_aml_bytes(sink);
    }
}

/// A letter and three hexadecimal digits. Lists that are numbered this way have at most 4096 members.
fn numbered_name(letter: char, index: usize) -> Path {
    Path::new(&format!("{letter}{:03X}", index & 0xfff))
}
