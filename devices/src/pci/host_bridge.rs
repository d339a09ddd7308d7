//! Function 00:00.0 of every segment: the host bridge as seen from its own bus, which software expects to find and
//! has nothing to do with. The bridge as such is announced by `acpi`.

use super::config::{ConfigSpace, Identity};
use super::function::PciFunction;

/// Intel's vendor ID and a device ID that no driver claims; Firecracker and Cloud Hypervisor use the same.
const VENDOR: u16 = 0x8086;
const DEVICE: u16 = 0x0D57;
/// Bridge, host bridge (PCI Code and ID Assignment Specification 1.16, 1.7).
const CLASS: u32 = 0x06_00_00;

/// The host bridge's function.
#[derive(Debug)]
pub struct HostBridge {
    config: ConfigSpace,
}

impl HostBridge {
    /// A host bridge.
    #[must_use]
    pub fn new() -> Self {
        let identity = Identity {
            vendor: VENDOR,
            device: DEVICE,
            revision: 0,
            class: CLASS,
            subsystem_vendor: 0,
            subsystem: 0,
        };
        Self { config: ConfigSpace::new(identity) }
    }
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl PciFunction for HostBridge {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
}
